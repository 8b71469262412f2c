/**
 * What a program keeps for the next generation.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { quoted } from "../../ffi/quote.ts";
import { type DescriptorLike, findAny, isLate, settled } from "../native/descriptor.ts";
import { NoDescriptorError } from "../errors.ts";
import { maxStateBytes } from "./protocol.ts";

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

  /** The same; an error names what was to be kept. */
  static of(name: string, value: Keepable, fail: (error: unknown) => void): Kept {
    try {
      return new Kept(value, fail);
    } catch (error) {
      if (error instanceof NoDescriptorError) {
        error.message = `Cannot keep ${quoted(name)}: ${error.message}`;
      }
      throw error;
    }
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

/** @throws {TypeError} When that cannot be handed over, which the next generation would be the one to find out. */
export function checkKeepable(name: unknown, value: unknown): void {
  if (typeof name !== "string") {
    throw new TypeError(`Cannot keep a value: its name is of type ${typeof name}, not a text`);
  }
  const what = typeof value !== "function"
    ? misfit(value)
    : value.constructor.name === "AsyncFunction"
    ? "its function is async, and the next generation does not wait for it; have it give the bytes themselves"
    : undefined;
  if (what !== undefined) throw new TypeError(`Cannot keep ${quoted(name)}: ${what}`);
}

/** Why something is neither bytes nor a descriptor, as far as that shows without looking for one. */
export function misfit(value: unknown): string | undefined {
  if (value instanceof Uint8Array) {
    if (value.length <= maxStateBytes) return undefined;
    return `it has ${value.length} bytes, and ${maxStateBytes} at most are handed over under one name; ` +
      "keep it in parts, or in a file that you keep";
  }
  const isBuffer = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
  if (
    typeof value === "number" ||
    typeof value === "object" && value !== null && !isBuffer
  ) {
    if (!(value instanceof Promise)) return undefined;
    return "it is a promise; await it before, for the next generation does not wait for it";
  }
  const kind = isBuffer ? value.constructor.name : value === null ? "null" : typeof value;
  return `it is of type ${kind}; bytes (a Uint8Array), a function that gives them, or a descriptor can be kept. ` +
    "A text is made bytes by new TextEncoder().encode(text)";
}
