/**
 * The clients of a generation at the moment in which it stops accepting.
 *
 * @module
 */

import { Clients, clientsOf, hangUpOnTold, threadSockets } from "../http/drain.ts";
import type { SocketResource } from "./socket_resource.ts";

/** The clients that were connected to the listeners of a generation when it stopped accepting. */
export class ConnectedClients {
  readonly #byListener: Promise<Map<SocketResource, Clients>>;
  /** The same clients, as far as they were found. */
  #found: Clients[] = [];
  #isStopped = false;

  /** Finds the clients, and hangs up on those that had `Connection: close` and are idle, until `stop()`. */
  constructor(listeners: SocketResource[]) {
    this.#byListener = this.#find(listeners);
    // of() awaits the same promise, and throws its error.
    this.#hangUpOnTold().catch(() => {});
  }

  async #find(listeners: SocketResource[]): Promise<Map<SocketResource, Clients>> {
    const clients = this.#found = await clientsOf(listeners, threadSockets());
    return new Map(listeners.map((listener, i) => [listener, clients[i]]));
  }

  async #hangUpOnTold(): Promise<void> {
    const isOver = () => this.#isStopped;
    const hangingUp = [...await this.#byListener].map(([{ serving }, clients]) =>
      serving && hangUpOnTold(serving, clients, isOver)
    );
    await Promise.all(hangingUp);
  }

  /** The clients of one listener; none of a socket that was not among the listeners. */
  async of(socket: SocketResource): Promise<Clients> {
    return (await this.#byListener).get(socket) ?? new Clients();
  }

  /** The number of clients that are still connected. */
  get remaining(): number {
    return this.#found.reduce((sum, clients) => sum + clients.left().length, 0);
  }

  /** Stops hanging up. */
  stop(): void {
    this.#isStopped = true;
  }
}
