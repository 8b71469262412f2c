/**
 * The messages of the Go library's sender, a model of a unix socket's queue, and the way through Batch and
 * RecordReader.
 *
 * @module
 */

import { assert } from "@std/assert";
import { Batch, RecordReader } from "../../lib/wire/record.ts";
import vectors from "../data/vectors.json" with { type: "json" };
import { joined } from "../support/raw.ts";

/** The metas that the Go library's sender was given, and the messages that it sent. */
export interface Frame {
  name: string;
  metas: string[];
  messages: {
    bytes: number;
    fds: number;
    hex?: string;
    hex_first_24?: string;
    hex_last_8?: string;
  }[];
  write_errors?: string[];
}

/** One message: its data and the numbers of its descriptors. */
export interface Message {
  bytes: Uint8Array;
  descriptors: number[];
}

export const frames: Frame[] = vectors.frames;
/** The limits of the Go library's sender for one message. */
export const goBytes = 4096;
export const goDescriptors = 170;

/**
 * A model of a unix socket's receive queue, as Linux behaves: a read of any byte of a message brings all
 * its descriptors, ends after a message with descriptors, and otherwise goes on into the next message.
 */
export class SocketQueue {
  readonly #queue: Message[];

  constructor(messages: Message[]) {
    this.#queue = messages.map(({ bytes, descriptors }) => ({ bytes, descriptors }));
  }

  /** One recvmsg(2) with room for `most` bytes; undefined at the end. */
  read(most: number): Message | undefined {
    const parts: Uint8Array[] = [];
    const descriptors: number[] = [];
    while (most > 0 && this.#queue.length > 0) {
      const first = this.#queue[0];
      parts.push(first.bytes.subarray(0, most));
      most -= parts.at(-1)!.length;
      const arrived = first.descriptors;
      descriptors.push(...arrived);
      first.descriptors = [];
      first.bytes = first.bytes.subarray(parts.at(-1)!.length);
      if (first.bytes.length === 0) this.#queue.shift();
      if (arrived.length > 0) break;
    }
    return parts.length === 0 ? undefined : { bytes: joined(...parts), descriptors };
  }
}

/** A copy of a record that RecordReader returned. */
export interface Pair {
  descriptor: number;
  meta: Uint8Array | null;
}

/**
 * Reads `queue` to its end through a RecordReader. The i-th read, after `read` bytes, has room for
 * `size(read, i)` bytes.
 */
export function readThrough(queue: SocketQueue, size: (read: number, i: number) => number): Pair[] {
  const reader = new RecordReader();
  const records: Pair[] = [];
  let bytes = 0;
  for (let i = 0;; i++) {
    const read = queue.read(size(bytes, i));
    if (!read) break;
    bytes += read.bytes.length;
    reader.push(read.bytes, read.descriptors);
    records.push(...drained(reader));
  }
  reader.end();
  return records;
}

/** The records that are whole now. */
export function drained(reader: RecordReader): Pair[] {
  const records: Pair[] = [];
  for (let record = reader.next(); record; record = reader.next()) records.push({ ...record });
  return records;
}

/** The messages that carry `metas` with descriptors 0, 1, 2, ... */
export function batched(metas: Uint8Array[], room = goBytes, most = goDescriptors): Message[] {
  const data = new Uint8Array(room);
  const descriptors = new Int32Array(most);
  const batch = new Batch(data, descriptors);
  const messages: Message[] = [];
  const flush = () => {
    if (batch.count === 0) return;
    messages.push({
      bytes: data.slice(0, batch.length),
      descriptors: [...descriptors.subarray(0, batch.count)],
    });
    batch.clear();
  };
  for (const [i, meta] of metas.entries()) {
    if (batch.add(i, meta)) continue;
    flush();
    assert(batch.add(i, meta));
  }
  flush();
  return messages;
}

/** The pairs that RecordReader returns for `metas` with descriptors 0, 1, 2, ... */
export function expected(metas: Uint8Array[]): Pair[] {
  return metas.map((meta, descriptor) => ({ descriptor, meta: meta.length === 0 ? null : meta }));
}

/** Compares as assertEquals() does, but fast. */
export function areSame(a: Pair[], b: Pair[]): boolean {
  return a.length === b.length && a.every(({ descriptor, meta }, i) => {
    const other = b[i].meta;
    if (descriptor !== b[i].descriptor || meta?.length !== other?.length) return false;
    return meta === null || meta.every((byte, at) => byte === other![at]);
  });
}

/** The metas of a frame, which are written as "nil", "6d6e", "4093 x 6d" or "170 x (nil)". */
export function metasOf({ metas }: Frame): Uint8Array[] {
  return metas.flatMap((meta) => {
    const [, times, repeated] = /^(\d+) x (.+)$/.exec(meta) ?? [];
    if (repeated === "(nil)") return Array.from({ length: Number(times) }, () => new Uint8Array());
    if (repeated) return [new Uint8Array(Number(times)).fill(parseInt(repeated, 16))];
    return [meta === "nil" ? new Uint8Array() : bytesOfHex(meta)];
  });
}

/** The bytes of a frame's first message, in hexadecimal. */
export function golden(name: string): string {
  return frames.find((frame) => frame.name === name)!.messages[0].hex!;
}

export function descriptorCount({ messages }: Frame): number {
  return messages.reduce((all, { fds }) => all + fds, 0);
}

export function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function bytesOfHex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g)!, (byte) => parseInt(byte, 16));
}

export function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function text(bytes: Uint8Array | null): string {
  return new TextDecoder().decode(bytes!);
}

/** Bytes that depend on their offset: a byte in the wrong position shows. */
export function pattern(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) + seed) & 0xff);
}
