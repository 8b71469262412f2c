/**
 * What a program keeps for the next generation.
 *
 * @module
 */

import type { Fd } from "../ffi/fd.ts";
import { type DescriptorLike, findAny, isLate, settled } from "./descriptor.ts";

/**
 * What can be kept under a name: whatever has a descriptor that can be sent, or bytes, or a function that is
 * asked for them.
 */
export type Keepable = DescriptorLike | Uint8Array | (() => Uint8Array);

/** One thing that is kept: a descriptor of its own, or state. */
export class Kept implements Disposable {
  /** The bytes, if it is state. */
  readonly state: (() => Uint8Array) | undefined;
  /** The descriptor, on loan, if it has one and that has been found. */
  fd: Fd | undefined;
  /** Resolves when it is known whether the descriptor can be found. */
  settled: Promise<void> | undefined;
  #passOn: (() => void) | undefined;
  #isOver = false;

  /**
   * Duplicates the descriptor at once: what is closed meanwhile goes along all the same.
   *
   * @param fail Called when a descriptor that could not be told yet cannot be told later either.
   * @throws {NoDescriptorError} When its descriptor cannot be told for certain, or it is a TLS connection.
   */
  constructor(value: Keepable, fail: (error: unknown) => void) {
    if (value instanceof Uint8Array) this.state = () => value;
    else if (typeof value === "function") this.state = value;
    else this.#find(value, fail);
  }

  #find(value: DescriptorLike, fail: (error: unknown) => void): void {
    const own = ({ fd, passOn }: ReturnType<typeof findAny>) => {
      if (this.#isOver) return fd[Symbol.dispose]();
      this.fd = fd;
      this.#passOn = passOn;
    };
    try {
      own(findAny(value));
    } catch (error) {
      if (!isLate(value, error)) throw error;
      this.settled = settled(() => findAny(value)).then(own).catch(fail);
    }
  }

  /** Leaves it to the next generation: nothing that is done to the object here has an effect there. */
  passOn(): void {
    this.#passOn?.();
  }

  /** Closes what is kept; the object stays the program's. */
  [Symbol.dispose](): void {
    this.#isOver = true;
    this.fd?.[Symbol.dispose]();
  }
}
