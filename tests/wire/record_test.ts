import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import {
  EmptyControlMessageError,
  type GracefulError,
  LongReadError,
  LongWriteError,
  SurplusDescriptorsError,
  UnexpectedEofError,
} from "../../lib/errors.ts";
import {
  Batch,
  defaultMaxReceivedMeta,
  headerBytes,
  maxMetaBytes,
  RecordReader,
} from "../../lib/wire/record.ts";
import { connect, listenAndServe, ResponseWriter, sendTo } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { captureMessages, connectedPair, joined, record, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";
import vectors from "../data/vectors.json" with { type: "json" };

/** A frame of the Go library's sender: what was written, and the messages that came of it. */
interface Frame {
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

interface Message {
  bytes: Uint8Array;
  descriptors: number[];
}

const frames: Frame[] = vectors.frames;
const goBytes = 4096;
const goDescriptors = 170;

for (const frame of frames) {
  test(`Batch makes the messages of Go's sender: ${frame.name}`, () => {
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
      [...metasOf(frame).keys()].slice(0, sum(frame)),
    );
  });
}

for (const frame of frames.filter(({ messages }) => messages.length > 0)) {
  test(`RecordReader reads the messages of Go's sender: ${frame.name}`, () => {
    const reader = new RecordReader();
    const records = [];
    for (const { bytes, descriptors } of batched(metasOf(frame))) {
      reader.push(bytes, descriptors);
      records.push(...drained(reader));
    }
    reader.end();
    assert(reader.empty);
    assertEquals(records, expected(metasOf(frame)));
  });

  test(`RecordReader does not mind where a read ends: ${frame.name}`, () => {
    const messages = batched(metasOf(frame));
    const length = messages.reduce((all, { bytes }) => all + bytes.length, 0);
    const wanted = expected(metasOf(frame));
    for (let split = 1; split < length; split++) {
      const records = received(
        new Kernel(messages),
        (read) => read < split ? split - read : 1 << 16,
      );
      // A comparison of a thousand records at each of four thousand places is cheaper by hand.
      if (!same(records, wanted)) assertEquals(records, wanted, `split at ${split}`);
    }
    const random = seeded(1);
    for (let round = 0; round < 20; round++) {
      const sizes = Array.from({ length: 400 }, () => 1 + random(round < 10 ? 9 : 3000));
      const records = received(new Kernel(messages), (_, i) => sizes[i] ?? 1 << 16);
      assertEquals(records, wanted, `sizes ${sizes}`);
    }
  });
}

test("Batch leaves a message that has no room for a meta as it was", () => {
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

test("Batch writes into the part of a buffer that it was given", () => {
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

test("Batch takes no more descriptors than it has room for", () => {
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

const header = (length: number) => new Uint8Array(Uint32Array.of(length).buffer);
type Verdict = new (message: string) => GracefulError;
type EofRow = [
  name: string,
  bytes: Uint8Array,
  descriptors: number,
  verdict?: Verdict,
];
const eof: EofRow[] = [
  ["nothing", new Uint8Array(), 0],
  ["whole records", joined(record("a"), record()), 2],
  ["one byte of a length", header(0).subarray(0, 1), 0, UnexpectedEofError],
  ["three bytes of a length and its descriptor", header(9).subarray(0, 3), 1, UnexpectedEofError],
  ["a length without its meta", header(9), 0, UnexpectedEofError],
  ["a length without its meta, and the descriptor", header(9), 1, UnexpectedEofError],
  ["all but the last byte", record("abc").subarray(0, 6), 1, UnexpectedEofError],
  ["a whole record, then half of one", joined(record("a"), header(1)), 2, UnexpectedEofError],
  ["a record without a descriptor", record("abc"), 0, EmptyControlMessageError],
  ["an empty record without a descriptor", record(), 0, EmptyControlMessageError],
  [
    "three records with two descriptors",
    joined(record(), record(), record()),
    2,
    EmptyControlMessageError,
  ],
  ["a descriptor without a record", new Uint8Array(), 1, SurplusDescriptorsError],
  ["two records with three descriptors", joined(record(), record("b")), 3, SurplusDescriptorsError],
];
for (const [name, bytes, descriptors, verdict] of eof) {
  test(`the end of the stream after ${name} is ${verdict?.name ?? "no error"}`, () => {
    const reader = new RecordReader();
    const numbers = Array.from({ length: descriptors }, (_, i) => 100 + i);
    reader.push(bytes, numbers);
    const records = drained(reader);
    if (verdict) assertInstanceOf(assertThrows(() => reader.end()), verdict);
    else reader.end();
    assertEquals(reader.empty, verdict === undefined);
    // Each descriptor was either handed out, or is left to be closed.
    assertEquals([...records.map(({ descriptor }) => descriptor), ...reader.surrender()], numbers);
    assertEquals(reader.surrender(), []);
  });
}

test("the errors at the end of the stream say how far it came", () => {
  const message = (bytes: Uint8Array, descriptors: number[] = []) => {
    const reader = new RecordReader();
    reader.push(bytes, descriptors);
    return assertThrows(() => reader.end(), Error).message;
  };
  assertEquals(
    message(header(9).subarray(0, 3)),
    "The sender gave up: the stream ended after 3 of the 4 bytes of a record's length",
  );
  assertEquals(
    message(joined(header(9), bytesOf("ab"))),
    "The sender gave up: the stream ended after 2 of the 9 bytes of a record's meta",
  );
  assertEquals(message(record("a")), "The stream ended with 5 bytes that no descriptor came for");
  assertEquals(
    message(new Uint8Array(), [1]),
    "The stream ended with 1 descriptor that no record came for",
  );
});

// What an unchanged Go client makes of odd streams, and what ours does: never a wrong pair, never
// silence about something lost.
const meta4093 = new Uint8Array(4093).fill(0x6d);
const odd: Record<string, { sent: Message[]; lengths: number[]; verdict?: Verdict }> = {
  "253 nil metas + 253 fds in one message": {
    sent: [{ bytes: new Uint8Array(4 * 253), descriptors: numbers(253) }],
    lengths: Array(253).fill(0),
  },
  "253 x 12-byte metas (4048 bytes) + 253 fds": {
    sent: [{
      bytes: joined(...Array(253).fill(record(new Uint8Array(12)))),
      descriptors: numbers(253),
    }],
    lengths: Array(253).fill(12),
  },
  "4096 bytes + 1 fd": {
    sent: [{ bytes: record(meta4093.subarray(1)), descriptors: [0] }],
    lengths: [4092],
  },
  "4097 bytes + 1 fd": {
    sent: [{ bytes: record(meta4093), descriptors: [0] }],
    lengths: [4093],
  },
  "4097 bytes + 1 fd, then 4 bytes + 1 fd": {
    sent: [{ bytes: record(meta4093), descriptors: [0] }, { bytes: record(), descriptors: [1] }],
    lengths: [4093, 0],
  },
  "headers for 2, 3 fds": {
    sent: [{ bytes: joined(record(), record()), descriptors: [0, 1, 2] }],
    lengths: [0, 0],
    verdict: SurplusDescriptorsError,
  },
  "headers for 3, 2 fds": {
    sent: [{ bytes: joined(record(), record(), record()), descriptors: [0, 1] }],
    lengths: [0, 0],
    verdict: EmptyControlMessageError,
  },
  "record header with 1 fd, meta bytes in a second write without fds": {
    sent: [{ bytes: header(5), descriptors: [0] }, { bytes: bytesOf("hello"), descriptors: [] }],
    lengths: [5],
  },
  "plain bytes only": {
    sent: [{ bytes: joined(header(5), bytesOf("hello")), descriptors: [] }],
    lengths: [],
    verdict: EmptyControlMessageError,
  },
  "nothing, close": { sent: [], lengths: [] },
};
for (const { sent: name } of vectors.interop_go_client) {
  test(`the receiver delivers a stream that tests Go's client: ${name}`, () => {
    const { sent, lengths, verdict } = odd[name];
    for (const most of [4096, 5000, 7, 1]) {
      const reader = new RecordReader();
      const kernel = new Kernel(sent);
      const records = [];
      for (let read = kernel.read(most); read; read = kernel.read(most)) {
        reader.push(read.bytes, read.descriptors);
        records.push(...drained(reader));
      }
      assertEquals(records.map(({ meta }) => meta?.length ?? 0), lengths);
      assertEquals(records.map(({ descriptor }) => descriptor), numbers(lengths.length));
      if (verdict) assertInstanceOf(assertThrows(() => reader.end()), verdict);
      else reader.end();
    }
  });
}

test("plain text where records belong is refused as the length that it spells", () => {
  const reader = new RecordReader();
  reader.push(bytesOf("GET / HTTP/1.1\r\n"));
  assertThrows(() => reader.next(), LongReadError, "542393671 bytes");
});

test("a length over the limit is refused as soon as its four bytes have arrived, for every limit", () => {
  for (const [limit, length] of [[0, 1], [10, 11], [1 << 20, (1 << 20) + 1], [10, 0xffff_ffff]]) {
    const reader = new RecordReader();
    reader.limit(limit);
    reader.push(header(length).subarray(0, 3), [1]);
    assertEquals(reader.next(), undefined);
    reader.push(header(length).subarray(3));
    assertThrows(() => reader.next(), LongReadError, `limit is ${limit}`);
    assertEquals(reader.surrender(), [1]);
  }
});

test("a length of just the limit is waited for, and read", () => {
  const reader = new RecordReader();
  const meta = pattern(defaultMaxReceivedMeta);
  reader.push(header(meta.length), [1]);
  for (let at = 0; at < meta.length; at += 1 << 16) {
    assertEquals(reader.next(), undefined);
    reader.push(meta.subarray(at, at + (1 << 16)));
  }
  const { descriptor, meta: read } = reader.next()!;
  assertEquals(descriptor, 1);
  assert(read!.every((byte, i) => byte === meta[i]));
  reader.end();
});

test("a length over the limit makes no room for itself", () => {
  const before = Deno.memoryUsage().external;
  const readers = Array.from({ length: 8 }, () => new RecordReader());
  for (const reader of readers) {
    reader.limit(0x7fff_ffff);
    reader.push(header(0x4000_0000), [1]);
    assertEquals(reader.next(), undefined);
    reader.limit(1);
    assertThrows(() => reader.next(), LongReadError);
  }
  // Eight gigabytes were announced.
  assert(Deno.memoryUsage().external - before < 1 << 24);
});

test("as many descriptors may wait as a correct sender causes, and no more", () => {
  const reader = new RecordReader();
  // One byte of a message with all its descriptors; then its rest, glued to all of the next.
  reader.push(record().subarray(0, 1), numbers(253));
  assertEquals(reader.next(), undefined);
  reader.push(new Uint8Array(4 * 253 - 1), numbers(253));
  assertEquals(drained(reader).length, 253);
  assertEquals(reader.surrender().length, 253);

  const flooded = new RecordReader();
  flooded.push(record().subarray(0, 1), numbers(253));
  flooded.push(new Uint8Array(1), numbers(253));
  assertThrows(
    () => flooded.push(new Uint8Array(1), [506]),
    SurplusDescriptorsError,
    "507 descriptors arrived ahead of their records",
  );
  assertEquals(flooded.surrender().length, 507);
});

test("bytes may not pile up without a descriptor", () => {
  const reader = new RecordReader();
  reader.limit(1000);
  const push = () => {
    for (let i = 0; i < 100; i++) reader.push(new Uint8Array(1 << 16));
  };
  assertThrows(push, EmptyControlMessageError, "bytes arrived without a descriptor");
});

test("bytes may pile up while their descriptor waits with them", () => {
  const reader = new RecordReader();
  const metas = Array.from({ length: 253 }, () => pattern(1 << 12));
  reader.push(joined(...metas.map(record)), numbers(253));
  assertEquals(drained(reader).length, 253);
  reader.end();
});

test("a delivered record does not change when the reader uses its buffer again", () => {
  const reader = new RecordReader();
  const source = record("first");
  reader.push(source, [1]);
  source.fill(0);
  const { meta } = reader.next()!;
  for (let i = 0; i < 3000; i++) {
    reader.push(record("later"), [2]);
    assertEquals(reader.next()!.descriptor, 2);
  }
  reader.push(record(pattern(100_000)), [3]);
  assertEquals(reader.next()!.meta!.length, 100_000);
  reader.push(record("small"), [4]);
  assertEquals(text(reader.next()!.meta), "small");
  assertEquals(text(meta), "first");
  reader.end();
});

test("a null meta and an empty one arrive as null", () => {
  const reader = new RecordReader();
  reader.push(joined(record(new Uint8Array()), record("x")), [1, 2]);
  assertEquals(reader.next(), { descriptor: 1, meta: null });
  assertEquals(text(reader.next()!.meta), "x");
});

test("read() takes plain bytes and leaves the descriptors that came with them", () => {
  const reader = new RecordReader();
  reader.push(joined(bytesOf("hello"), record("m")), [7]);
  const into = new Uint8Array(5);
  assertEquals(reader.read(into), 5);
  assertEquals(text(into), "hello");
  assertEquals(reader.empty, false);
  assertEquals(text(reader.next()!.meta), "m");
  assertEquals(reader.read(into), 0);
  assert(reader.empty);
});

test("surrender() gives up whole records with their descriptors, and the next message follows", () => {
  const reader = new RecordReader();
  reader.push(joined(record("a"), record("b"), record("c")), [1, 2, 3]);
  assertEquals(reader.next()!.descriptor, 1);
  assertEquals(reader.surrender(), [2, 3]);
  assert(reader.empty);
  reader.push(record("d"), [4]);
  assertEquals(text(reader.next()!.meta), "d");
  reader.end();
});

test("surrender() inside a message leaves the reader between nothing", () => {
  const whole = joined(record("a"), record("b"), record("c"));
  for (let cut = 1; cut < whole.length; cut++) {
    const reader = new RecordReader();
    reader.push(whole.subarray(0, cut), [1, 2, 3]);
    assertEquals(reader.surrender(), [1, 2, 3]);
    assertEquals(reader.empty, false, `cut at ${cut}`);
    assertEquals(reader.surrender(), []);
    // Whole by now; but the descriptors that are its own are closed.
    reader.push(whole.subarray(cut));
    assertEquals(reader.empty, false, `cut at ${cut}`);
  }
});

test("records batched in any sizes are read back by reads of any sizes", () => {
  const random = seeded(20_24);
  for (let round = 0; round < 150; round++) {
    const room = headerBytes + random(5000);
    const most = 1 + random(253);
    const metas = Array.from({ length: 1 + random(300) }, () => {
      const length = random(3) === 0
        ? 0
        : random(Math.min(room - headerBytes + 1, 1 + random(400)));
      return pattern(length, random(256));
    });
    const messages = batched(metas, room, most);
    assert(
      messages.every(({ bytes, descriptors }) =>
        bytes.length <= room && descriptors.length <= most && descriptors.length > 0
      ),
    );
    const sizes = Array.from({ length: 50 }, () => 1 + random(1 + random(6000)));
    const records = received(new Kernel(messages), (_, i) => sizes[i] ?? 1 << 16);
    const wanted = expected(metas);
    if (!same(records, wanted)) assertEquals(records, wanted, `round ${round}`);
  }
});

for (const frame of frames.filter(({ messages }) => messages.length > 0)) {
  test(`a connection carries the messages of Go's sender: ${frame.name}`, async () => {
    using sockets = new Sockets(3);
    const [sender, receiver] = connectedPair();
    using _receiver = receiver;
    const metas = metasOf(frame);
    const raws = metas.map((_, i) => sockets.raws[i % 3]);
    {
      using _sender = sender;
      using response = new ResponseWriter(sender);
      for (const [i, meta] of metas.entries()) await response.write(raws[i], meta);
      await response.flush();
    }
    const messages = await captureMessages(receiver);
    const wanted = batched(metas);
    assertEquals(
      messages.map(({ bytes }) => hexOf(bytes)),
      wanted.map(({ bytes }) => hexOf(bytes)),
    );
    assertEquals(
      messages.flatMap(({ cookies }) => cookies),
      metas.map((_, i) => sockets.cookies[i % 3]),
    );
    for (const [i, { bytes, fds, hex, hex_first_24 }] of frame.messages.entries()) {
      assertEquals([messages[i].bytes.length, messages[i].cookies.length], [bytes, fds]);
      assert(hexOf(messages[i].bytes).startsWith((hex ?? hex_first_24)!));
    }
  });
}

test("sendTo() puts the golden bytes on the wire", async () => {
  using sockets = new Sockets(2);
  const [sender, receiver] = connectedPair();
  using _receiver = receiver;
  {
    using _sender = sender;
    await sendTo(sender, sockets.raws[0], bytesOf("a"));
    await sendTo(sender, sockets.raws[1]);
  }
  const messages = await captureMessages(receiver);
  assertEquals(messages.map(({ bytes }) => hexOf(bytes)), [
    golden("one_byte_meta"),
    golden("nil_meta"),
  ]);
  assertEquals(messages.map(({ cookies }) => cookies), sockets.cookies.map((cookie) => [cookie]));
});

test("listenAndServe() puts the golden bytes on the wire", async () => {
  using directory = new Directory();
  using sockets = new Sockets(3);
  const path = directory.join("app.sock");
  const frame = frames.find(({ name }) => name === "batch_nil_a_gob")!;
  await using _server = listenAndServe(path, async (_conn, response) => {
    for (const [i, meta] of metasOf(frame).entries()) await response.write(sockets.raws[i], meta);
  });
  using conn = await connect(path);
  const messages = await captureMessages(conn);
  assertEquals(messages.map(({ bytes }) => hexOf(bytes)), [golden("batch_nil_a_gob")]);
  assertEquals(messages[0].cookies, sockets.cookies);
});

test("a meta that no message has room for is refused, and nothing of it goes out", async () => {
  using sockets = new Sockets(1);
  const [sender, receiver] = connectedPair();
  using _receiver = receiver;
  {
    using _sender = sender;
    const [raw] = sockets.raws;
    const error = await sendTo(sender, raw, new Uint8Array(4093)).catch((error) => error);
    assertInstanceOf(error, LongWriteError);
    await sendTo(sender, raw, meta4093, { maxMetaBytes: 4093 });
  }
  const messages = await captureMessages(receiver);
  assertEquals(messages.map(({ bytes }) => bytes.length), [4097]);
});

/**
 * What a socket's queue does to messages, as WIRE has it: all descriptors come with the first byte of
 * theirs, a read stops behind one that brought some, and a rest is glued to the next.
 */
class Kernel {
  readonly #queue: Message[];

  constructor(messages: Message[]) {
    this.#queue = messages.map(({ bytes, descriptors }) => ({ bytes, descriptors }));
  }

  read(most: number): Message | undefined {
    const parts: Uint8Array[] = [];
    const descriptors: number[] = [];
    while (most > 0 && this.#queue.length > 0) {
      const first = this.#queue[0];
      parts.push(first.bytes.subarray(0, most));
      most -= parts.at(-1)!.length;
      const brought = first.descriptors;
      descriptors.push(...brought);
      first.descriptors = [];
      first.bytes = first.bytes.subarray(parts.at(-1)!.length);
      if (first.bytes.length === 0) this.#queue.shift();
      if (brought.length > 0) break;
    }
    return parts.length === 0 ? undefined : { bytes: joined(...parts), descriptors };
  }
}

interface Pair {
  descriptor: number;
  meta: Uint8Array | null;
}

/** What is read of `kernel`, when after so many bytes the i-th read asks for `size` of them. */
function received(kernel: Kernel, size: (read: number, i: number) => number): Pair[] {
  const reader = new RecordReader();
  const records: Pair[] = [];
  let bytes = 0;
  for (let i = 0;; i++) {
    const read = kernel.read(size(bytes, i));
    if (!read) break;
    bytes += read.bytes.length;
    reader.push(read.bytes, read.descriptors);
    records.push(...drained(reader));
  }
  reader.end();
  return records;
}

function drained(reader: RecordReader): Pair[] {
  const records: Pair[] = [];
  for (let record = reader.next(); record; record = reader.next()) records.push({ ...record });
  return records;
}

/** The messages that carry `metas` with descriptors 0, 1, 2, ... */
function batched(metas: Uint8Array[], room = goBytes, most = goDescriptors): Message[] {
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

function expected(metas: Uint8Array[]): Pair[] {
  return metas.map((meta, descriptor) => ({ descriptor, meta: meta.length === 0 ? null : meta }));
}

function same(a: Pair[], b: Pair[]): boolean {
  return a.length === b.length && a.every(({ descriptor, meta }, i) => {
    const other = b[i].meta;
    if (descriptor !== b[i].descriptor || meta?.length !== other?.length) return false;
    return meta === null || meta.every((byte, at) => byte === other![at]);
  });
}

/** "nil", "6d6e", "4093 x 6d" or "170 x (nil)". */
function metasOf({ metas }: Frame): Uint8Array[] {
  return metas.flatMap((meta) => {
    const [, times, what] = /^(\d+) x (.+)$/.exec(meta) ?? [];
    if (what === "(nil)") return Array.from({ length: Number(times) }, () => new Uint8Array());
    if (what) return [new Uint8Array(Number(times)).fill(parseInt(what, 16))];
    return [meta === "nil" ? new Uint8Array() : bytesOfHex(meta)];
  });
}

function golden(name: string): string {
  return frames.find((frame) => frame.name === name)!.messages[0].hex!;
}

function sum({ messages }: Frame): number {
  return messages.reduce((all, { fds }) => all + fds, 0);
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function bytesOfHex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g)!, (byte) => parseInt(byte, 16));
}

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function text(bytes: Uint8Array | null): string {
  return new TextDecoder().decode(bytes!);
}

/** Bytes that tell where they belong. */
function pattern(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) + seed) & 0xff);
}

/** The same numbers for the same seed (mulberry32); each below `limit`. */
function seeded(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  };
}
