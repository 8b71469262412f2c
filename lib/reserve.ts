/**
 * A descriptor in reserve, for the moment in which the process has reached its limit (RLIMIT_NOFILE).
 *
 * @module
 */

import { Fd } from "../ffi/fd.ts";
import { deafDatagramSocket } from "../ffi/socket.ts";

/** One descriptor that is open for nothing but its number, which something else gets when it is needed. */
export class Reserve implements Disposable {
  #held: Fd | undefined;

  /** Holds one from here on, if there is one. */
  constructor() {
    this.refill();
  }

  /** Frees the number for what is opened next, in the same turn; gives whether there was one. */
  spend(): boolean {
    const held = this.#held;
    this.#held = undefined;
    held?.[Symbol.dispose]();
    return held !== undefined;
  }

  /** Holds one again, if there is one to be had. */
  refill(): void {
    if (this.#held) return;
    try {
      this.#held = new Fd(deafDatagramSocket());
    } catch (error) {
      // At the limit, the next thing that is closed makes room.
      if (!isOutOfDescriptors(error)) throw error;
    }
  }

  /** Frees the number for good. */
  [Symbol.dispose](): void {
    this.spend();
  }
}

/** Whether a call failed because the process, or the system, has no descriptor left. */
export function isOutOfDescriptors(error: unknown): boolean {
  const { code } = (error ?? {}) as { code?: string };
  return code === "EMFILE" || code === "ENFILE";
}
