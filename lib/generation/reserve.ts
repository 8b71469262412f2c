/**
 * A spare descriptor for when the process has reached its limit (RLIMIT_NOFILE).
 *
 * @module
 */

import { closeAll } from "../../ffi/fd.ts";
import { deafDatagramSocket } from "../../ffi/socket.ts";

/** A spare descriptor, closed to make room for another one. Failing to open or close it is never an error. */
export class Reserve implements Disposable {
  #held: number | undefined;

  /** Opens it, if the process may open another descriptor. */
  constructor() {
    this.refill();
  }

  /** Closes it: the next descriptor of the same turn gets its number. Returns whether it was open. */
  spend(): boolean {
    const held = this.#held;
    if (held === undefined) return false;
    this.#held = undefined;
    closeAll([held]);
    return true;
  }

  /** Opens it again, if it is closed and the process may open another descriptor. */
  refill(): void {
    if (this.#held !== undefined) return;
    try {
      this.#held = deafDatagramSocket();
    } catch {
      // EMFILE, ENFILE, ENOBUFS, ENOMEM (socket(2)): the next refill may succeed.
    }
  }

  /** Closes it for good. */
  [Symbol.dispose](): void {
    this.spend();
  }
}

/** Whether a call failed because the process, or the system, may not open another descriptor. */
export function isOutOfDescriptors(error: unknown): boolean {
  const { code } = (error ?? {}) as { code?: string };
  return code === "EMFILE" || code === "ENFILE";
}
