/**
 * The generation before, as the one that takes over from it sees it.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import type { Channel } from "./channel.ts";
import { HandoverError } from "../errors.ts";
import { encodeFrame, type Frame, unexpected } from "./protocol.ts";

/** A connection that moved here from the generation before. */
export interface Arrival {
  /** The name it was moved under. */
  name: string;
  /** The connection: `fdConn` makes it a native one. */
  fd: Fd;
  /** What the other generation had read, or knows of it. */
  state: Uint8Array | null;
}

/** The generation before: what it says, and the connections it moves, until it has gone. */
export class Predecessor implements Disposable {
  /** Its process. */
  readonly pid: number;
  /** Its number. */
  readonly generation: number;
  readonly #channel: Channel;
  readonly #withdrawn = Promise.withResolvers<void>();
  readonly #arrivals: Arrival[] = [];
  #arrived = Promise.withResolvers<void>();
  #connections = 0;
  #gone = false;

  /** Takes the channel over. */
  constructor(channel: Channel, { pid, generation }: { pid: number; generation: number }) {
    this.#channel = channel;
    this.pid = pid;
    this.generation = generation;
    // Who has not come to wait for it yet will be told.
    this.#withdrawn.promise.catch(() => {});
  }

  /** Resolves when it has stopped accepting, or ended; rejects when it has taken the offer back. */
  get withdrawn(): Promise<void> {
    return this.#withdrawn.promise;
  }

  /** How many connections it still has, by its own account. */
  get connections(): number {
    return this.#connections;
  }

  /** Whether it has hung up: it has left, or was ended, or has taken the offer back. */
  get gone(): boolean {
    return this.#gone;
  }

  /** Tells it something. */
  async say(frame: Frame): Promise<void> {
    await this.#channel.send(frame);
  }

  /** Tells it something in this very turn, which may be the last one of this process, if it is there and reads. */
  mention(frame: Frame): void {
    if (this.#gone || !this.#channel.conn.fd.owned) return;
    this.#channel.conn.write(encodeFrame(frame)).catch(() => {});
  }

  /**
   * Reads what it has to say, to its end; gives the error with which it took the offer back, if so.
   *
   * @param restart Called when it passes on that one more restart was asked for.
   */
  async follow(restart: () => void): Promise<HandoverError | undefined> {
    try {
      for (let frame; (frame = await this.#channel.receive());) {
        if (frame.type === "draining") this.#withdrawn.resolve();
        else if (frame.type === "progress") this.#connections = frame.connections;
        else if (frame.type === "moved") await this.#receive(frame.name);
        else if (frame.type === "restart") restart();
        else if (frame.type === "rollback") {
          const error = new HandoverError(
            `The generation before goes on: ${frame.reason}`,
            "ERR_HANDOVER_ROLLED_BACK",
          );
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

  /** The connections that it moves here, until it has gone; one that is not taken is closed. */
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

  /** Hangs up, and closes the connections that nobody has asked for. */
  [Symbol.dispose](): void {
    for (const { fd } of this.#arrivals.splice(0)) fd[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
  }
}
