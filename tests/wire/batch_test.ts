import { assert, assertEquals, assertThrows } from "@std/assert";
import { LongWriteError } from "../../lib/errors.ts";
import { Batch, maxMetaBytes } from "../../lib/wire/record.ts";
import { test } from "../support/guard.ts";
import {
  batched,
  bytesOf,
  descriptorCount,
  frames,
  goBytes,
  hexOf,
  type Message,
  metasOf,
} from "./records.ts";

for (const frame of frames) {
  test(`Batch composes the messages of Go's sender: ${frame.name}`, () => {
    const messages: Message[] = [];
    const make = () => messages.push(...batched(metasOf(frame)));
    if (frame.write_errors) assertThrows(make, LongWriteError, "4093 bytes of meta");
    else make();

    assertEquals(messages.map(({ bytes }) => bytes.length), frame.messages.map((m) => m.bytes));
    for (const [i, { fds, hex, hex_first_24, hex_last_8 }] of frame.messages.entries()) {
      const { bytes, descriptors } = messages[i];
      assertEquals(descriptors.length, fds);
      if (hex !== undefined) assertEquals(hexOf(bytes), hex);
      else {
        assertEquals(hexOf(bytes.subarray(0, 24)), hex_first_24);
        assertEquals(hexOf(bytes.subarray(-8)), hex_last_8);
      }
    }
    assertEquals(
      messages.flatMap((m) => m.descriptors),
      [...metasOf(frame).keys()].slice(0, descriptorCount(frame)),
    );
  });
}

test("Batch.add() leaves the message unchanged when it has no room for a meta", () => {
  const batch = new Batch(new Uint8Array(goBytes), new Int32Array(253));
  assert(batch.add(7, bytesOf("a")));
  assertThrows(() => batch.add(8, new Uint8Array(maxMetaBytes + 1)), LongWriteError);
  assertEquals([batch.length, batch.count], [5, 1]);
  assertEquals(batch.add(8, new Uint8Array(maxMetaBytes)), false);
  assertEquals([batch.length, batch.count], [5, 1]);
  batch.clear();
  assertEquals([batch.length, batch.count], [0, 0]);
  assert(batch.add(8, new Uint8Array(maxMetaBytes)));
  assertEquals([batch.length, batch.count], [goBytes, 1]);
});

test("Batch writes only into its part of a larger buffer", () => {
  const buffer = new Uint8Array(32).fill(0xee);
  const batch = new Batch(buffer.subarray(8, 24), new Int32Array(2));
  assert(batch.add(1, bytesOf("abc")));
  assert(batch.add(2, bytesOf("defgh")));
  assertEquals(hexOf(buffer), "ee".repeat(8) + "03000000616263050000006465666768" + "ee".repeat(8));
  batch.clear();
  assert(batch.add(1, new Uint8Array(12)));
  assertEquals(batch.add(2, new Uint8Array()), false);
  assertThrows(() => batch.add(1, new Uint8Array(13)), LongWriteError, "a message carries 12");
});

test("Batch.add() returns false when the message has no room for a descriptor", () => {
  const descriptors = new Int32Array(3);
  const batch = new Batch(new Uint8Array(goBytes), descriptors);
  assertEquals([5, 6, 7, 8].map((raw) => batch.add(raw, new Uint8Array())), [
    true,
    true,
    true,
    false,
  ]);
  assertEquals([...descriptors], [5, 6, 7]);
});
