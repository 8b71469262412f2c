/**
 * The clients at the other ends of connections of a node server.
 *
 * @module
 */

import { clientKey } from "../http/connections.ts";
import type { Emitter, HttpSocket } from "./node_objects.ts";

/** The clients of some connections, each until its connection is closed. */
export class Clients {
  readonly #owners = new Map<string, Emitter>();

  /** Adds the client of a socket. @param owner Emits "close": the socket, or its session. */
  add(socket: HttpSocket, owner: Emitter = socket): void {
    const client = keyOf(socket);
    // A unix socket has none.
    if (client === undefined) return;
    this.#owners.set(client, owner);
    owner.once("close", () => {
      // The next connection of the same address and port may be here already.
      if (this.#owners.get(client) === owner) this.#owners.delete(client);
    });
  }

  /** Whether a client is one of them. */
  has(client: string): boolean {
    return this.#owners.has(client);
  }
}

/** The `clientKey` of the peer of a socket. */
export function keyOf({ remoteAddress, remotePort }: HttpSocket): string | undefined {
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return clientKey({ transport: "tcp", hostname: remoteAddress, port: remotePort });
}
