/**
 * The previous generation, as the new process sees it over the connection between the two.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { HandoverError } from "../errors.ts";
import type { Channel } from "./channel.ts";
import { encodeFrame, unexpected } from "./frame.ts";
import type { Frame } from "./protocol.ts";

/** A connection that the previous generation has moved here. */
export interface Arrival {
  /** The name under which it was moved. */
  name: string;
  /** The connection: `fdConn` makes it a native one. */
  fd: Fd;
  /** The state that came with it: bytes that the previous generation had read, or knows of it. */
  state: Uint8Array | null;
}

/** The previous generation: its frames, and the connections that it moves here, until it has ended. */
export class Predecessor implements Disposable {
  /** Its process number. */
  readonly pid: number;
  /** Its generation number. */
  readonly generation: number;
  /** The unit that it speaks for. */
  readonly invocation: string | undefined;
  readonly #channel: Channel;
  readonly #withdrawn = Promise.withResolvers<void>();
  readonly #arrivals: Arrival[] = [];
  #arrived = Promise.withResolvers<void>();
  #connections = 0;
  #gone = false;
  #hasTakenBack = false;

  /** Takes the channel over. */
  constructor(
    channel: Channel,
    { pid, generation, invocation }: { pid: number; generation: number; invocation?: string },
  ) {
    this.#channel = channel;
    this.invocation = invocation;
    this.pid = pid;
    this.generation = generation;
    // A rejection before ready() awaits it must not end the process.
    this.#withdrawn.promise.catch(() => {});
  }

  /** Has the connection to it not keep this process running. */
  unref(): void {
    this.#channel.conn.unref();
  }

  /** Resolves when it has stopped accepting, or has ended; rejects when it has taken the offer back. */
  get withdrawn(): Promise<void> {
    return this.#withdrawn.promise;
  }

  /** The number of connections that it has left, as its last report says. */
  get connections(): number {
    return this.#connections;
  }

  /** Whether its end of the connection is closed: it has ended, or has taken the offer back. */
  get gone(): boolean {
    return this.#gone;
  }

  /** Whether it has taken the offer back, and goes on. */
  get hasTakenBack(): boolean {
    return this.#hasTakenBack;
  }

  /** Sends it a frame. */
  async send(frame: Frame): Promise<void> {
    await this.#channel.send(frame);
  }

  /** Sends it a frame in this turn of the event loop, which may be the last one of this process; errors are ignored. */
  sendNow(frame: Frame): void {
    if (this.#gone || !this.#channel.conn.fd.owned) return;
    // The predecessor may have ended: no other process is to be told then.
    this.#channel.conn.write(encodeFrame(frame)).catch(() => {});
  }

  /**
   * Reads its frames, to its end; gives the error with which it took the offer back, if it did.
   *
   * @param restart Called when it passes on a request for one more restart.
   */
  async follow(restart: () => void): Promise<HandoverError | undefined> {
    try {
      for (let frame; (frame = await this.#channel.receive());) {
        if (frame.type === "withdrawn") this.#withdrawn.resolve();
        else if (frame.type === "progress") this.#connections = frame.connections;
        else if (frame.type === "moved") await this.#receive(frame.name);
        else if (frame.type === "restart") restart();
        else if (frame.type === "rollback") {
          const error = new HandoverError(
            `The previous generation goes on: ${frame.reason}`,
            "ERR_HANDOVER_ROLLED_BACK",
          );
          this.#hasTakenBack = true;
          this.#withdrawn.reject(error);
          return error;
        } else throw unexpected(frame);
      }
    } finally {
      this.#gone = true;
      this.#withdrawn.resolve();
      this.#arrived.resolve();
      this.#channel[Symbol.dispose]();
    }
  }

  async #receive(name: string): Promise<void> {
    const [{ fd, meta }] = await this.#channel.receiveDescriptors(1);
    this.#arrivals.push({ name, fd, state: meta });
    this.#arrived.resolve();
    this.#arrived = Promise.withResolvers();
  }

  /**
   * The connections that it moves here, until it has ended; a connection that the loop body does not take is closed.
   */
  async *arrivals(): AsyncGenerator<Arrival> {
    for (;;) {
      const arrival = this.#arrivals.shift();
      if (arrival) {
        using _fd = arrival.fd;
        yield arrival;
      } else if (!this.#gone) {
        await this.#arrived.promise;
      } else {
        return;
      }
    }
  }

  /** Closes the connection to it, and the connections that have arrived and were not taken. */
  [Symbol.dispose](): void {
    for (const { fd } of this.#arrivals.splice(0)) fd[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
  }
}
