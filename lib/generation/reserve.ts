/**
 * A descriptor in reserve, for the moment in which the process has reached its limit (RLIMIT_NOFILE).
 *
 * @module
 */

import { closeAll } from "../../ffi/fd.ts";
import { deafDatagramSocket } from "../../ffi/socket.ts";

/**
 * One descriptor that is open for nothing but its number, which something else gets when it is needed. It is
 * a precaution: that it cannot be held or closed is never an error.
 */
export class Reserve implements Disposable {
  #held: number | undefined;

  /** Holds one from here on, if there is one. */
  constructor() {
    this.refill();
  }

  /** Frees the number for what is opened next, in the same turn; gives whether there was one. */
  spend(): boolean {
    const held = this.#held;
    if (held === undefined) return false;
    this.#held = undefined;
    closeAll([held]);
    return true;
  }

  /** Holds one again, if there is one to be had. */
  refill(): void {
    if (this.#held !== undefined) return;
    try {
      this.#held = deafDatagramSocket();
    } catch {
      // EMFILE, ENFILE, ENOBUFS, ENOMEM (socket(2)): the next refill may succeed.
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
