/**
 * Streams of records that Python sends or receives, and the records that the library receives.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import type { Fd } from "../../mod.ts";
import { bytes, hex, text } from "./bytes.ts";
import { fileNames, type Files, nameOf } from "./files.ts";
import type { Reported } from "./python_peer.ts";

/** A record: the name of the file that its descriptor is open on, and its meta. */
export type Item = [file: string, meta: Uint8Array | null];

/** `count` records, the descriptors of neighbors open on different files. */
export function items(count: number, meta: (i: number) => Uint8Array | null): Item[] {
  return Array.from({ length: count }, (_, i) => [fileNames[i % fileNames.length], meta(i)]);
}

/** The records of the streams that are cut: with no meta, one byte, twenty bytes. */
export const threeRecords = items(3, (i) => [null, text("a"), bytes(20)][i]);

/** The bytes of records, written without the library: so that its format is not checked against itself. */
export function encode(items: Item[]): Uint8Array {
  const parts: number[] = [];
  for (const [, meta] of items) {
    const length = meta?.length ?? 0;
    for (const shift of [0, 8, 16, 24]) parts.push((length >> shift) & 0xff);
    for (const byte of meta ?? []) parts.push(byte);
  }
  return Uint8Array.from(parts);
}

/** The step that sends these records as one message. */
export function message(files: Files, items: Item[]): { data: string; files: string[] } {
  return { data: hex(encode(items)), files: items.map(([name]) => files.join(name)) };
}

/** The fields of Python's report on a descriptor of a file. */
export function reported(files: Files, name: string): Omit<Reported, "meta"> {
  const { ino } = Deno.statSync(files.join(name));
  return { kind: "file", inode: ino!, content: files.content(name) };
}

/** Calls a function that receives with a callback; returns the received records. */
export async function collect(
  receiving: (note: (fd: Fd, meta: Uint8Array | null) => void) => Promise<number>,
): Promise<Item[]> {
  const received: Item[] = [];
  const count = await receiving((fd, meta) => note(received, fd, meta));
  assertEquals(count, received.length);
  return received;
}

/** The records of an iterator that receives. */
export async function drained(
  all: AsyncIterable<{ fd: Fd; meta: Uint8Array | null }>,
): Promise<Item[]> {
  const received: Item[] = [];
  for await (const { fd, meta } of all) note(received, fd, meta);
  return received;
}

/** Appends a received record. */
export function note(received: Item[], fd: Fd, meta: Uint8Array | null): void {
  received.push([nameOf(fd), meta]);
}

/** An address as Python reports it. */
export function inet(addr: Deno.Addr): [string, number] {
  const { hostname, port } = addr as Deno.NetAddr;
  return [hostname, port];
}
