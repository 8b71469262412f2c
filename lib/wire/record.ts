/**
 * What goes over the wire: records of a little-endian u32 length and that many bytes of meta, one per
 * descriptor; a message is whole records with as many descriptors, in the same order; a stream is
 * messages to the end. No hello, no count, no answer.
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
 * The longest meta that every peer understands: the Go client reads a message into 4096 bytes, and
 * cuts silently what is longer.
 */
export const maxMetaBytes = 4096 - headerBytes;

/**
 * How many descriptors a message carries, at most: as many as the Go library's. The kernel would take
 * 253 (net/scm.h, `SCM_MAX_FD`). But a receiver that has just started has a table of 256, which already
 * holds some of its own, and if it has threads it waits ten milliseconds or more for a larger one
 * (fs/file.c, `expand_fdtable`); one that closes what it gets, message by message, needs none.
 */
export const maxDescriptors = 170;

/** The longest meta a receiver takes unless told otherwise. */
export const defaultMaxReceivedMeta: number = 1 << 20;

/** One message in the making, in buffers of the caller's. */
export class Batch {
  /** Bytes of `data` in use. */
  length = 0;
  /** Descriptors in use. */
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
   * Adds a record; gives false when this message has no room for it and must go out first.
   *
   * @throws {LongWriteError} When no message has room for it.
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

/** A descriptor's number and what came with it; null when nothing did. */
export interface WireRecord {
  descriptor: number;
  meta: Uint8Array<ArrayBuffer> | null;
}

/**
 * The most descriptors that may wait for their records: those of a message read in part, and those
 * of the one that the read of the rest ran into.
 */
const maxWaitingDescriptors = 2 * 253;

/**
 * Bytes and descriptors as they arrive, in whatever pieces; records as they become whole.
 *
 * The kernel glues and cuts: a read may end inside a record, bring the descriptors of records that
 * are still to come, or the rest of one message with the descriptors of the next.
 */
export class RecordReader {
  #maxMetaBytes = defaultMaxReceivedMeta;
  /** Made when something arrives: who only sends needs none. */
  #bytes = new Uint8Array(0);
  #view = new DataView(this.#bytes.buffer);
  #start = 0;
  #end = 0;
  /** Those that wait are the ones from `#first` to `#last`; the array stays as long as it once was. */
  readonly #descriptors: number[] = [];
  #first = 0;
  #last = 0;
  readonly #record: WireRecord = { descriptor: -1, meta: null };
  /** Whether records are still to come whose descriptors were surrendered. */
  #owed = false;

  /** From here on refuses records whose meta is longer. */
  limit(maxMetaBytes: number): void {
    this.#maxMetaBytes = maxMetaBytes;
  }

  /** Whether nothing waits and nothing is owed: the stream is between two messages. */
  get empty(): boolean {
    return this.#start === this.#end && this.#waiting === 0 && !this.#owed;
  }

  /**
   * Takes in what one read brought; the bytes are copied, the descriptors owned until `next` or
   * `surrender` hands them out.
   *
   * @throws {SurplusDescriptorsError} When more descriptors wait than a correct sender causes.
   * @throws {EmptyControlMessageError} When bytes pile up that no descriptor came for.
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
   * The next record if it and its descriptor are whole. The object is the same each time: thousands
   * arrive at once, and one for each would be most of what there is to collect.
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

  /** How many descriptors wait for their records. */
  get #waiting(): number {
    return this.#last - this.#first;
  }

  #shift(): number {
    const descriptor = this.#descriptors[this.#first++];
    if (this.#waiting === 0) this.#first = this.#last = 0;
    return descriptor;
  }

  /** Moves waiting bytes into `into` as plain data; gives how many. */
  read(into: Uint8Array): number {
    const n = Math.min(into.length, this.#end - this.#start);
    into.set(this.#bytes.subarray(this.#start, this.#start + n));
    this.#start += n;
    return n;
  }

  /**
   * Every descriptor that waits, to be closed by the caller. The whole records among what waits go
   * with theirs: if that was all, the next message can follow.
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
   * Says that the stream has ended.
   *
   * @throws {UnexpectedEofError} Inside a record.
   * @throws {EmptyControlMessageError} With records that no descriptor came for.
   * @throws {SurplusDescriptorsError} With descriptors that no record came for.
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

  /** What the next record announces, once that has arrived. */
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
 * @throws {RangeError} When it is no length that a meta may be limited to.
 *
 * @ignore
 */
export function checkMaxMetaBytes(maxMetaBytes: number): void {
  if (Number.isInteger(maxMetaBytes) && maxMetaBytes >= 0 && maxMetaBytes < 2 ** 31) return;
  throw new RangeError(`maxMetaBytes is a number of bytes, not ${maxMetaBytes}`);
}
