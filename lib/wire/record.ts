/**
 * The wire format of the Go library: a record is a little-endian u32 length and that many bytes of meta, one for each
 * descriptor; a message has whole records and as many descriptors, in the same order; a stream has messages to its
 * end. There is no greeting, no count and no answer.
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

/** Bytes of the length in front of each meta. */
export const headerBytes = 4;

/**
 * The longest meta that every receiver takes: the Go client reads a message into 4096 bytes, and cuts longer ones
 * without an error.
 */
export const maxMetaBytes = 4096 - headerBytes;

/**
 * How many descriptors a message has at most, as in the Go library. The kernel allows 253 (net/scm.h, `SCM_MAX_FD`).
 * But a receiver that has just started has a table of 256 descriptors, some of which are in use; a process with
 * threads waits ten milliseconds or more for a larger table (fs/file.c, `expand_fdtable`). With fewer descriptors a
 * message, a receiver that closes them needs none.
 */
export const maxDescriptors = 170;

/** The default of the longest meta that a receiver takes. */
export const defaultMaxReceivedMeta: number = 1 << 20;

/** A message that is being made, in buffers of the caller. */
export class Batch {
  /** The number of bytes of `data` that are used. */
  length = 0;
  /** The number of descriptors that are used. */
  count = 0;
  readonly #data: Uint8Array;
  readonly #view: DataView;
  readonly #descriptors: Int32Array;

  /** At most `descriptors.length` records in `data.length` bytes. */
  constructor(data: Uint8Array, descriptors: Int32Array) {
    this.#data = data;
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.#descriptors = descriptors;
  }

  /**
   * Adds a record; gives false if the message has no room for it, and has to be sent first.
   *
   * @throws {LongWriteError} When the record is longer than a message may be.
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

  /** Empties it for the next message. */
  clear(): void {
    this.length = 0;
    this.count = 0;
  }
}

/** A descriptor's number and its meta; null if none was sent. */
export interface WireRecord {
  descriptor: number;
  meta: Uint8Array<ArrayBuffer> | null;
}

/**
 * The most descriptors that may be queued without a record: those of a message that was read in part, and those of
 * the next message, which the read of the rest may reach.
 */
const maxWaitingDescriptors = 2 * 253;

/**
 * Takes bytes and descriptors in any pieces, and gives whole records. The kernel joins and splits: one read may end
 * inside a record, may have the descriptors of later records, or the rest of one message with the descriptors of the
 * next.
 */
export class RecordReader {
  #maxMetaBytes = defaultMaxReceivedMeta;
  /** Made at the first arrival: a connection that only sends needs none. */
  #bytes = new Uint8Array(0);
  #view = new DataView(this.#bytes.buffer);
  #start = 0;
  #end = 0;
  /** The queued descriptors are those from `#first` to `#last`; the array keeps its greatest length. */
  readonly #descriptors: number[] = [];
  #first = 0;
  #last = 0;
  readonly #record: WireRecord = { descriptor: -1, meta: null };
  /** Whether records are still to come whose descriptors were surrendered. */
  #owed = false;

  /** Sets the longest meta of further records. */
  limit(maxMetaBytes: number): void {
    this.#maxMetaBytes = maxMetaBytes;
  }

  /**
   * Whether the stream is between two messages: nothing is queued, and no record of a surrendered descriptor is
   * missing.
   */
  get empty(): boolean {
    return this.#start === this.#end && this.#waiting === 0 && !this.#owed;
  }

  /**
   * Queues the bytes and descriptors of one read; the bytes are copied, the descriptors owned until `next` or
   * `surrender` gives them out.
   *
   * @throws {SurplusDescriptorsError} When more descriptors are queued than a correct sender causes.
   * @throws {EmptyControlMessageError} When bytes arrive for which no descriptor came.
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
    if (this.#waiting === 0 && waiting > this.#maxMetaBytes + (1 << 17)) {
      throw new EmptyControlMessageError(`${waiting} bytes arrived without a descriptor`);
    }
  }

  /**
   * The next record, if it is whole. The object is the same each time: thousands arrive at once, and one object for
   * each would be most of the garbage.
   *
   * @throws {LongReadError} When its length is over the limit, before anything is allocated for it.
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

  /** The number of queued descriptors. */
  get #waiting(): number {
    return this.#last - this.#first;
  }

  #shift(): number {
    const descriptor = this.#descriptors[this.#first++];
    if (this.#waiting === 0) this.#first = this.#last = 0;
    return descriptor;
  }

  /** Moves queued bytes into `into` as plain data; gives their number. */
  read(into: Uint8Array): number {
    const n = Math.min(into.length, this.#end - this.#start);
    into.set(this.#bytes.subarray(this.#start, this.#start + n));
    this.#start += n;
    return n;
  }

  /**
   * Gives every queued descriptor, for the caller to close. Whole records among the queued bytes are dropped with
   * theirs: if nothing else was queued, the next message can follow.
   */
  surrender(): number[] {
    const descriptors = this.#descriptors.slice(this.#first, this.#last);
    for (let length = this.#metaLength(); this.#isWhole(length); length = this.#metaLength()) {
      this.#start += headerBytes + length;
      this.#shift();
    }
    this.#owed ||= this.#waiting > 0;
    this.#first = this.#last = 0;
    return descriptors;
  }

  /**
   * Ends the stream.
   *
   * @throws {UnexpectedEofError} Inside a record.
   * @throws {EmptyControlMessageError} When a record has no descriptor.
   * @throws {SurplusDescriptorsError} When a descriptor has no record.
   */
  end(): void {
    const waiting = this.#end - this.#start;
    const descriptors = this.#waiting;
    if (waiting === 0 && descriptors === 0) return;
    if (waiting === 0) {
      throw new SurplusDescriptorsError(
        `The stream ended with ${count(descriptors, "descriptor")} that no record came for`,
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
      `The stream ended with ${count(waiting, "byte")} that no descriptor came for`,
    );
  }

  /** The length of the next record, when that has arrived. */
  #metaLength(): number | undefined {
    return this.#end - this.#start < headerBytes
      ? undefined
      : this.#view.getUint32(this.#start, true);
  }

  #isWhole(length: number | undefined): length is number {
    return length !== undefined && this.#end - this.#start >= headerBytes + length &&
      this.#waiting > 0;
  }

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
 * @throws {RangeError} When it is not a number of bytes.
 *
 * @ignore
 */
export function checkMaxMetaBytes(maxMetaBytes: number): void {
  if (Number.isInteger(maxMetaBytes) && maxMetaBytes >= 0 && maxMetaBytes < 2 ** 31) return;
  throw new RangeError(`maxMetaBytes is a number of bytes, not ${maxMetaBytes}`);
}
