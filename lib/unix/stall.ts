/**
 * The time limit of a write: it begins anew whenever the peer reads some of the queued bytes.
 *
 * @module
 */

import { inFlightError } from "../../ffi/message.ts";
import { either, longestPause, pause } from "../time.ts";

/** A time in which nothing can be written. */
export class Stall {
  #end: number;
  #waiting: number;
  readonly #milliseconds: number;
  readonly #waitingNow: () => number;
  #delay = 1;

  /** @param waitingNow Gives the number of bytes that are queued for the peer. */
  constructor(milliseconds: number, waitingNow: () => number) {
    this.#milliseconds = milliseconds;
    this.#waitingNow = waitingNow;
    this.#waiting = waitingNow();
    this.#end = performance.now() + milliseconds;
  }

  /** Milliseconds until the limit, if the peer goes on reading nothing. */
  #left(): number {
    const left = this.#end - performance.now();
    if (left > 0) return left;
    // EPOLLOUT is reported only when most of the buffer is free: much later than the peer has read some of it.
    const waiting = this.#waitingNow();
    if (waiting >= this.#waiting) return 0;
    this.#waiting = waiting;
    this.#end = performance.now() + this.#milliseconds;
    return this.#milliseconds;
  }

  /** Waits, twice as long each time. */
  async pause(signal: AbortSignal | undefined): Promise<void> {
    const left = this.#left();
    if (left === 0) throw inFlightError(this.#milliseconds);
    await pause(Math.min(this.#delay, left), signal);
    this.#delay = Math.min(2 * this.#delay, 100);
  }

  /** Runs a wait, and ends it at the limit. */
  async limit(
    signal: AbortSignal | undefined,
    wait: (signal: AbortSignal | undefined) => Promise<void>,
  ): Promise<void> {
    if (this.#milliseconds === Infinity) return await wait(signal);
    const late = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = () => {
      const left = this.#left();
      if (left > 0) {
        timer = setTimeout(look, Math.min(left, longestPause));
        return;
      }
      late.abort(
        new Deno.errors.TimedOut(
          `Cannot write: the peer has read nothing for ${this.#milliseconds} ms`,
        ),
      );
    };
    look();
    try {
      await wait(either(late.signal, signal));
    } finally {
      clearTimeout(timer);
    }
  }
}
