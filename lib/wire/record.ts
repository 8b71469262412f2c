/**
 * The wire format: a record is a little-endian u32 length and that many bytes of meta, one record per
 * descriptor. A message is whole records and as many descriptors, in the same order. A stream is messages
 * to its end: no greeting, no count, no acknowledgement.
 *
 * Pure: bytes and numbers, no Deno namespace, no ffi.
 *
 * @module
 */

import {
  EmptyControlMessageError,
  LongReadError,
  LongWriteError,
  SurplusDescriptorsError,
  UnexpectedEofError,
} from "../errors.ts";

/** The size of the length that precedes each meta. */
export const headerBytes = 4;

/**
 * The longest meta that every peer receives whole: the Go client reads a message into 4096 bytes and
 * truncates a longer one without an error.
 */
export const maxMetaBytes = 4096 - headerBytes;

/**
 * The most descriptors that a message is sent with: as many as the Go library sends. The kernel's limit
 * is 253 (net/scm.h, `SCM_MAX_FD`). But the descriptor table of a new process has 256 entries, some of
 * them in use: 253 more would make it grow, for which a process with threads waits ten milliseconds or
 * more (fs/file.c, `expand_fdtable`). With 170, a receiver that closes the descriptors of a message
 * before it reads the next never needs a larger table.
 */
export const maxSentDescriptors = 170;

/** The longest meta that a receiver accepts by default. */
export const defaultMaxReceivedMeta: number = 1 << 20;

/** Collects the records of one message in the caller's buffers. */
export class Batch {
  /** The bytes of `data` in use. */
  length = 0;
  /** The number of descriptors in use. */
  count = 0;
  readonly #data: Uint8Array;
  readonly #view: DataView;
  readonly #descriptors: Int32Array;

  /** Has room for `descriptors.length` records in `data.length` bytes. */
  constructor(data: Uint8Array, descriptors: Int32Array) {
    this.#data = data;
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.#descriptors = descriptors;
  }

  /**
   * Adds a record; returns false if the message has no room left: send it, `clear()`, and add again.
   *
   * @throws {LongWriteError} If the record is too long for an empty message.
   */
  add(descriptor: number, meta: Uint8Array): boolean {
    const size = headerBytes + meta.length;
    if (size > this.#data.length) {
      throw new LongWriteError(
        `Cannot send ${meta.length} bytes of meta with a descriptor: a message carries ` +
          `${this.#data.length - headerBytes}; send the data over the connection first, or raise ` +
          `maxMetaBytes if the receiver is not the Go library`,
      );
    }
    if (this.count === this.#descriptors.length || this.length + size > this.#data.length) {
      return false;
    }
    this.#view.setUint32(this.length, meta.length, true);
    if (meta.length > 0) this.#data.set(meta, this.length + headerBytes);
    this.#descriptors[this.count++] = descriptor;
    this.length += size;
    return true;
  }

  /** Empties the batch for the next message. */
  clear(): void {
    this.length = 0;
    this.count = 0;
  }
}

/** A received descriptor and its meta; null if it came without one. */
export interface WireRecord {
  descriptor: number;
  meta: Uint8Array<ArrayBuffer> | null;
}

/**
 * The most descriptors that a correct sender causes to wait for their records. Two messages of 253: the
 * first read of a message brings all its descriptors, and the read of its last bytes may bring all
 * descriptors of the next message.
 */
const maxWaitingDescriptors = 2 * 253;

/**
 * How many bytes beyond the longest meta may wait without a descriptor: more than a header and the 64 KiB
 * of one read.
 */
const plainAllowance = 1 << 17;

/**
 * Turns received bytes and descriptors into records.
 *
 * Reads do not match messages: a read may end inside a record, may bring the descriptors of records whose
 * bytes follow later, or the rest of one message with the descriptors of the next.
 */
export class RecordReader {
  #maxMetaBytes = defaultMaxReceivedMeta;
  /** Allocated by the first `push()`: a connection that only sends needs no buffer. */
  #bytes = new Uint8Array(0);
  #view = new DataView(this.#bytes.buffer);
  #start = 0;
  #end = 0;
  /** The descriptors without a record yet are those from `#first` to `#last`; the array never shrinks. */
  readonly #descriptors: number[] = [];
  #first = 0;
  #last = 0;
  readonly #record: WireRecord = { descriptor: -1, meta: null };
  /** Whether bytes of records whose descriptors were released are still to arrive. */
  #isMessageTorn = false;

  /** Sets the longest meta that `next()` accepts. */
  limit(maxMetaBytes: number): void {
    this.#maxMetaBytes = maxMetaBytes;
  }

  /** Whether the stream is between two messages: no bytes and no descriptors wait, and none are due. */
  get isBetweenMessages(): boolean {
    return this.#start === this.#end && this.#waiting === 0 && !this.#isMessageTorn;
  }

  /**
   * Adds the result of one read. Copies the bytes; owns the descriptors until `next()` or
   * `releaseDescriptors()` returns them.
   *
   * @throws {SurplusDescriptorsError} If more descriptors wait than a correct sender causes.
   * @throws {EmptyControlMessageError} If too many bytes wait without a descriptor.
   */
  push(bytes: Uint8Array, descriptors: ArrayLike<number> = []): void {
    this.#makeRoom(bytes.length);
    this.#bytes.set(bytes, this.#end);
    this.#end += bytes.length;
    for (let i = 0; i < descriptors.length; i++) this.#descriptors[this.#last++] = descriptors[i];
    if (this.#waiting > maxWaitingDescriptors) {
      throw new SurplusDescriptorsError(
        `${this.#waiting} descriptors arrived ahead of their records`,
      );
    }
    const waiting = this.#end - this.#start;
    if (this.#waiting === 0 && waiting > this.#maxMetaBytes + plainAllowance) {
      throw new EmptyControlMessageError(`${waiting} bytes arrived without a descriptor`);
    }
  }

  /**
   * Returns the next record once all its bytes and its descriptor have arrived. Returns the same object
   * each time: thousands of records arrive at once, and an object for each would be most of the garbage.
   *
   * @throws {LongReadError} If its length is over the limit; nothing is allocated for it.
   */
  next(): WireRecord | undefined {
    const length = this.#metaLength();
    if (length !== undefined && length > this.#maxMetaBytes) {
      throw new LongReadError(
        `A record announces ${length} bytes of meta; the receiver's limit is ${this.#maxMetaBytes}`,
      );
    }
    if (!this.#isWhole(length)) return undefined;
    const from = this.#start + headerBytes;
    this.#record.meta = length === 0 ? null : this.#bytes.slice(from, from + length);
    this.#start = from + length;
    this.#record.descriptor = this.#shift();
    return this.#record;
  }

  /** The number of descriptors that wait for their records. */
  get #waiting(): number {
    return this.#last - this.#first;
  }

  #shift(): number {
    const descriptor = this.#descriptors[this.#first++];
    if (this.#waiting === 0) this.#first = this.#last = 0;
    return descriptor;
  }

  /** Moves waiting bytes into `into`, as plain data; returns their number. */
  read(into: Uint8Array): number {
    const n = Math.min(into.length, this.#end - this.#start);
    into.set(this.#bytes.subarray(this.#start, this.#start + n));
    this.#start += n;
    return n;
  }

  /**
   * Returns all waiting descriptors, which the caller closes, and drops their records as far as these have
   * arrived. If all have arrived whole, the reader is between messages and can read the next one.
   */
  releaseDescriptors(): number[] {
    const descriptors = this.#descriptors.slice(this.#first, this.#last);
    for (let length = this.#metaLength(); this.#isWhole(length); length = this.#metaLength()) {
      this.#start += headerBytes + length;
      this.#shift();
    }
    this.#isMessageTorn ||= this.#waiting > 0;
    this.#first = this.#last = 0;
    return descriptors;
  }

  /**
   * Checks that the stream may end here.
   *
   * @throws {UnexpectedEofError} If it ends inside a record.
   * @throws {EmptyControlMessageError} If records are left without descriptors.
   * @throws {SurplusDescriptorsError} If descriptors are left without records.
   */
  end(): void {
    const waiting = this.#end - this.#start;
    const descriptors = this.#waiting;
    if (waiting === 0 && descriptors === 0) return;
    if (waiting === 0) {
      throw new SurplusDescriptorsError(
        `The stream ended with ${count(descriptors, "descriptor")} without a record`,
      );
    }
    if (waiting < headerBytes) {
      throw new UnexpectedEofError(
        `The sender gave up: the stream ended after ${waiting} of the ${headerBytes} bytes of a ` +
          `record's length`,
      );
    }
    const length = this.#view.getUint32(this.#start, true);
    if (waiting < headerBytes + length) {
      throw new UnexpectedEofError(
        `The sender gave up: the stream ended after ${waiting - headerBytes} of the ${length} ` +
          `bytes of a record's meta`,
      );
    }
    throw new EmptyControlMessageError(
      `The stream ended with ${count(waiting, "byte")} without a descriptor`,
    );
  }

  /** The length in the next record's header; undefined until the header has arrived. */
  #metaLength(): number | undefined {
    return this.#end - this.#start < headerBytes
      ? undefined
      : this.#view.getUint32(this.#start, true);
  }

  #isWhole(length: number | undefined): length is number {
    return length !== undefined && this.#end - this.#start >= headerBytes + length &&
      this.#waiting > 0;
  }

  /** Makes room for `more` bytes: moves the waiting bytes to the front of the buffer, or to a larger one. */
  #makeRoom(more: number): void {
    if (this.#end + more <= this.#bytes.length) return;
    const waiting = this.#end - this.#start;
    let capacity = this.#bytes.length || 64;
    while (capacity < waiting + more) capacity *= 2;
    const bytes = capacity === this.#bytes.length ? this.#bytes : new Uint8Array(capacity);
    bytes.set(this.#bytes.subarray(this.#start, this.#end));
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
    this.#start = 0;
    this.#end = waiting;
  }
}

function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

/**
 * Checks the option `maxMetaBytes`.
 *
 * @throws {RangeError} If it is not an integer from 0 to 2147483647.
 *
 * @ignore
 */
export function checkMaxMetaBytes(maxMetaBytes: number): void {
  if (Number.isInteger(maxMetaBytes) && maxMetaBytes >= 0 && maxMetaBytes < 2 ** 31) return;
  throw new RangeError(`maxMetaBytes must be an integer from 0 to 2147483647, not ${maxMetaBytes}`);
}
