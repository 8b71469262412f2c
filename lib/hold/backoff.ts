/**
 * How long to wait before the command is started again.
 *
 * @module
 */

/** Milliseconds between two starts: the second time, and at most. */
const shortest = 100;
const longest = 10_000;

/** Milliseconds after which a service has run for long enough: its next start is at once. */
const steady = 3000;

/** The time between two starts: 0, then `shortest`, and twice as long each further time. */
export class Backoff {
  #between = 0;
  #started = -Infinity;

  /** Notes a start. */
  started(): void {
    this.#started = performance.now();
  }

  /** Milliseconds since the last start. */
  get ran(): number {
    return performance.now() - this.#started;
  }

  /** Milliseconds to wait now. */
  next(): number {
    const { ran } = this;
    if (ran >= steady) this.#between = 0;
    const wait = Math.max(0, this.#between - ran);
    this.#between = Math.min(2 * this.#between || shortest, longest);
    return wait;
  }
}
