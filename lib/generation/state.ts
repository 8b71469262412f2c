/**
 * The values that a program keeps for the next generation: `app.keep(name, value)`.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { quoted } from "../../ffi/quote.ts";
import type { DescriptorLike } from "../native/objects.ts";
import { findAny, isLate, settled } from "../native/descriptor.ts";
import { NoDescriptorError } from "../errors.ts";
import { maxStateBytes } from "./protocol.ts";

/** A value for `keep()`: an object with a descriptor that can be sent, bytes, or a function that returns the bytes. */
export type Keepable = DescriptorLike | Uint8Array | (() => Uint8Array);

/** A kept value: a duplicate of its descriptor, or state. */
export class KeptValue implements Disposable {
  /** Returns the bytes; undefined for a descriptor. */
  readonly state: (() => Uint8Array) | undefined;
  /** The duplicate, on loan; undefined for state, and until it has been found. */
  fd: Fd | undefined;
  /** Resolves when the descriptor has been found, or cannot be; undefined when that is known at once. */
  settled: Promise<void> | undefined;
  #detach: (() => void) | undefined;
  #isClosed = false;

  /**
   * Duplicates the descriptor at once: the program may close the object before the handover.
   *
   * @param fail Called when a descriptor cannot be found now, but may be later, and then is not.
   * @throws {NoDescriptorError} When the descriptor cannot be found for certain, or it is a TLS connection.
   */
  constructor(value: Keepable, fail: (error: unknown) => void) {
    if (value instanceof Uint8Array) this.state = () => value;
    else if (typeof value === "function") this.state = value;
    else this.#find(value, fail);
  }

  /** Keeps a value under a name, which an error mentions. */
  static of(name: string, value: Keepable, fail: (error: unknown) => void): KeptValue {
    try {
      return new KeptValue(value, fail);
    } catch (error) {
      if (error instanceof NoDescriptorError) {
        error.message = `Cannot keep ${quoted(name)}: ${error.message}`;
      }
      throw error;
    }
  }

  #find(value: DescriptorLike, fail: (error: unknown) => void): void {
    const set = ({ fd, passOn }: ReturnType<typeof findAny>) => {
      if (this.#isClosed) return fd[Symbol.dispose]();
      this.fd = fd;
      this.#detach = passOn;
    };
    try {
      set(findAny(value));
    } catch (error) {
      if (!isLate(value, error)) throw error;
      this.settled = settled(() => findAny(value)).then(set).catch(fail);
    }
  }

  /** Detaches the object from its socket: closing it here has no effect on the connection in the next generation. */
  detach(): void {
    this.#detach?.();
  }

  /** Closes the duplicate; the object stays the program's. */
  [Symbol.dispose](): void {
    this.#isClosed = true;
    this.fd?.[Symbol.dispose]();
  }
}

/** @throws {TypeError} When a value cannot be kept: an error in the next generation would come too late. */
export function checkKeepable(name: unknown, value: unknown): void {
  if (typeof name !== "string") {
    throw new TypeError(`Cannot keep a value: its name is of type ${typeof name}, not a text`);
  }
  const reason = typeof value !== "function"
    ? whyNotKeepable(value)
    : value.constructor.name === "AsyncFunction"
    ? "its function is async, and the next generation does not wait for it; have it return the bytes themselves"
    : undefined;
  if (reason !== undefined) throw new TypeError(`Cannot keep ${quoted(name)}: ${reason}`);
}

/** The reason why a value is neither bytes nor an object with a descriptor, as far as its type shows it. */
export function whyNotKeepable(value: unknown): string | undefined {
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
    return "it is a promise; await it before: the next generation does not wait for it";
  }
  const kind = isBuffer ? value.constructor.name : value === null ? "null" : typeof value;
  return `it is of type ${kind}; bytes (a Uint8Array), a function that returns them, or a descriptor can be kept. ` +
    "A text is made bytes by new TextEncoder().encode(text)";
}
