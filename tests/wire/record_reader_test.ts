import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import {
  EmptyControlMessageError,
  type GracefulError,
  LongReadError,
  SurplusDescriptorsError,
  UnexpectedEofError,
} from "../../lib/errors.ts";
import { defaultMaxReceivedMeta, headerBytes, RecordReader } from "../../lib/wire/record.ts";
import vectors from "../data/vectors.json" with { type: "json" };
import { Chance } from "../support/chance.ts";
import { joined, record } from "../support/raw.ts";
import { test } from "../support/guard.ts";
import {
  areSame,
  batched,
  bytesOf,
  drained,
  expected,
  frames,
  type Message,
  metasOf,
  numbers,
  pattern,
  readThrough,
  SocketQueue,
  text,
} from "./records.ts";

for (const frame of frames.filter(({ messages }) => messages.length > 0)) {
  test(`RecordReader reads the messages of Go's sender: ${frame.name}`, () => {
    const reader = new RecordReader();
    const records = [];
    for (const { bytes, descriptors } of batched(metasOf(frame))) {
      reader.push(bytes, descriptors);
      records.push(...drained(reader));
    }
    reader.end();
    assert(reader.isBetweenMessages);
    assertEquals(records, expected(metasOf(frame)));
  });

  test(`RecordReader reads the same records wherever a read ends: ${frame.name}`, () => {
    const messages = batched(metasOf(frame));
    const length = messages.reduce((all, { bytes }) => all + bytes.length, 0);
    const wanted = expected(metasOf(frame));
    for (let split = 1; split < length; split++) {
      const records = readThrough(
        new SocketQueue(messages),
        (read) => read < split ? split - read : 1 << 16,
      );
      // areSame() first: assertEquals() of a thousand records at each of four thousand splits is slow.
      if (!areSame(records, wanted)) assertEquals(records, wanted, `split at ${split}`);
    }
    const chance = new Chance(1, 0);
    for (let round = 0; round < 20; round++) {
      const sizes = Array.from({ length: 400 }, () => 1 + chance.below(round < 10 ? 9 : 3000));
      const records = readThrough(new SocketQueue(messages), (_, i) => sizes[i] ?? 1 << 16);
      assertEquals(records, wanted, `sizes ${sizes}`);
    }
  });
}

/** The length that precedes a meta. */
const header = (length: number) => new Uint8Array(Uint32Array.of(length).buffer);
type ErrorClass = new (message: string) => GracefulError;
type Ending = [
  name: string,
  bytes: Uint8Array,
  descriptors: number,
  error?: ErrorClass,
];

/** Received bytes and descriptors, and the error of end() after them. */
const endings: Ending[] = [
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
for (const [name, bytes, descriptors, error] of endings) {
  test(`end() after ${name} throws ${error?.name ?? "nothing"}`, () => {
    const reader = new RecordReader();
    const raws = Array.from({ length: descriptors }, (_, i) => 100 + i);
    reader.push(bytes, raws);
    const records = drained(reader);
    if (error) assertInstanceOf(assertThrows(() => reader.end()), error);
    else reader.end();
    assertEquals(reader.isBetweenMessages, error === undefined);
    // Each descriptor was returned exactly once: with a record, or to be closed.
    assertEquals(
      [...records.map(({ descriptor }) => descriptor), ...reader.releaseDescriptors()],
      raws,
    );
    assertEquals(reader.releaseDescriptors(), []);
  });
}

test("the errors of end() count the bytes and descriptors that are left", () => {
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
  assertEquals(message(record("a")), "The stream ended with 5 bytes without a descriptor");
  assertEquals(
    message(new Uint8Array(), [1]),
    "The stream ended with 1 descriptor without a record",
  );
});

const meta4093 = new Uint8Array(4093).fill(0x6d);

/**
 * Streams that were sent to Go's client (`interop_go_client` of the vectors), with the lengths of the metas
 * that RecordReader returns: never a wrong pair, and an error if anything is lost.
 */
const clientStreams: Record<string, { sent: Message[]; lengths: number[]; error?: ErrorClass }> = {
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
    error: SurplusDescriptorsError,
  },
  "headers for 3, 2 fds": {
    sent: [{ bytes: joined(record(), record(), record()), descriptors: [0, 1] }],
    lengths: [0, 0],
    error: EmptyControlMessageError,
  },
  "record header with 1 fd, meta bytes in a second write without fds": {
    sent: [{ bytes: header(5), descriptors: [0] }, { bytes: bytesOf("hello"), descriptors: [] }],
    lengths: [5],
  },
  "plain bytes only": {
    sent: [{ bytes: joined(header(5), bytesOf("hello")), descriptors: [] }],
    lengths: [],
    error: EmptyControlMessageError,
  },
  "nothing, close": { sent: [], lengths: [] },
};
for (const { sent: name } of vectors.interop_go_client) {
  test(`RecordReader reads a stream that was sent to Go's client: ${name}`, () => {
    const { sent, lengths, error } = clientStreams[name];
    for (const most of [4096, 5000, 7, 1]) {
      const reader = new RecordReader();
      const queue = new SocketQueue(sent);
      const records = [];
      for (let read = queue.read(most); read; read = queue.read(most)) {
        reader.push(read.bytes, read.descriptors);
        records.push(...drained(reader));
      }
      assertEquals(records.map(({ meta }) => meta?.length ?? 0), lengths);
      assertEquals(records.map(({ descriptor }) => descriptor), numbers(lengths.length));
      if (error) assertInstanceOf(assertThrows(() => reader.end()), error);
      else reader.end();
    }
  });
}

test("next() refuses plain text instead of a record: its first bytes are a length over the limit", () => {
  const reader = new RecordReader();
  reader.push(bytesOf("GET / HTTP/1.1\r\n"));
  assertThrows(() => reader.next(), LongReadError, "542393671 bytes");
});

test("next() refuses a length over the limit as soon as its four bytes have arrived", () => {
  for (const [limit, length] of [[0, 1], [10, 11], [1 << 20, (1 << 20) + 1], [10, 0xffff_ffff]]) {
    const reader = new RecordReader();
    reader.limit(limit);
    reader.push(header(length).subarray(0, 3), [1]);
    assertEquals(reader.next(), undefined);
    reader.push(header(length).subarray(3));
    assertThrows(() => reader.next(), LongReadError, `limit is ${limit}`);
    assertEquals(reader.releaseDescriptors(), [1]);
  }
});

test("next() returns a record whose length is the limit", () => {
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

test("next() allocates nothing for a length over the limit", () => {
  const before = Deno.memoryUsage().external;
  const readers = Array.from({ length: 8 }, () => new RecordReader());
  for (const reader of readers) {
    reader.limit(0x7fff_ffff);
    reader.push(header(0x4000_0000), [1]);
    assertEquals(reader.next(), undefined);
    reader.limit(1);
    assertThrows(() => reader.next(), LongReadError);
  }
  // The lengths add up to eight gigabytes.
  assert(Deno.memoryUsage().external - before < 1 << 24);
});

test("push() throws when more descriptors wait than a correct sender causes", () => {
  const reader = new RecordReader();
  // One byte of a message with all its descriptors; then its rest with all descriptors of the next.
  reader.push(record().subarray(0, 1), numbers(253));
  assertEquals(reader.next(), undefined);
  reader.push(new Uint8Array(4 * 253 - 1), numbers(253));
  assertEquals(drained(reader).length, 253);
  assertEquals(reader.releaseDescriptors().length, 253);

  const flooded = new RecordReader();
  flooded.push(record().subarray(0, 1), numbers(253));
  flooded.push(new Uint8Array(1), numbers(253));
  assertThrows(
    () => flooded.push(new Uint8Array(1), [506]),
    SurplusDescriptorsError,
    "507 descriptors arrived ahead of their records",
  );
  assertEquals(flooded.releaseDescriptors().length, 507);
});

test("push() throws when too many bytes wait without a descriptor", () => {
  const reader = new RecordReader();
  reader.limit(1000);
  const push = () => {
    for (let i = 0; i < 100; i++) reader.push(new Uint8Array(1 << 16));
  };
  assertThrows(push, EmptyControlMessageError, "bytes arrived without a descriptor");
});

test("push() accepts as many bytes when their descriptors wait with them", () => {
  const reader = new RecordReader();
  const metas = Array.from({ length: 253 }, () => pattern(1 << 12));
  reader.push(joined(...metas.map(record)), numbers(253));
  assertEquals(drained(reader).length, 253);
  reader.end();
});

test("a meta stays unchanged when the reader reuses its buffer", () => {
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

test("next() returns null for an empty meta", () => {
  const reader = new RecordReader();
  reader.push(joined(record(new Uint8Array()), record("x")), [1, 2]);
  assertEquals(reader.next(), { descriptor: 1, meta: null });
  assertEquals(text(reader.next()!.meta), "x");
});

test("read() returns plain bytes and keeps the descriptors that arrived with them", () => {
  const reader = new RecordReader();
  reader.push(joined(bytesOf("hello"), record("m")), [7]);
  const into = new Uint8Array(5);
  assertEquals(reader.read(into), 5);
  assertEquals(text(into), "hello");
  assertEquals(reader.isBetweenMessages, false);
  assertEquals(text(reader.next()!.meta), "m");
  assertEquals(reader.read(into), 0);
  assert(reader.isBetweenMessages);
});

test("releaseDescriptors() drops whole records, and the next message can follow", () => {
  const reader = new RecordReader();
  reader.push(joined(record("a"), record("b"), record("c")), [1, 2, 3]);
  assertEquals(reader.next()!.descriptor, 1);
  assertEquals(reader.releaseDescriptors(), [2, 3]);
  assert(reader.isBetweenMessages);
  reader.push(record("d"), [4]);
  assertEquals(text(reader.next()!.meta), "d");
  reader.end();
});

test("after releaseDescriptors() inside a message the reader is never between messages", () => {
  const whole = joined(record("a"), record("b"), record("c"));
  for (let cut = 1; cut < whole.length; cut++) {
    const reader = new RecordReader();
    reader.push(whole.subarray(0, cut), [1, 2, 3]);
    assertEquals(reader.releaseDescriptors(), [1, 2, 3]);
    assertEquals(reader.isBetweenMessages, false, `cut at ${cut}`);
    assertEquals(reader.releaseDescriptors(), []);
    // The records are whole now, but their descriptors are closed.
    reader.push(whole.subarray(cut));
    assertEquals(reader.isBetweenMessages, false, `cut at ${cut}`);
  }
});

test("RecordReader reads what Batch composed, for messages and reads of any size", () => {
  const chance = new Chance(20_24, 0);
  for (let round = 0; round < 150; round++) {
    const room = headerBytes + chance.below(5000);
    const most = 1 + chance.below(253);
    const metas = Array.from({ length: 1 + chance.below(300) }, () => {
      const length = chance.below(3) === 0
        ? 0
        : chance.below(Math.min(room - headerBytes + 1, 1 + chance.below(400)));
      return pattern(length, chance.below(256));
    });
    const messages = batched(metas, room, most);
    assert(
      messages.every(({ bytes, descriptors }) =>
        bytes.length <= room && descriptors.length <= most && descriptors.length > 0
      ),
    );
    const sizes = Array.from({ length: 50 }, () => 1 + chance.below(1 + chance.below(6000)));
    const records = readThrough(new SocketQueue(messages), (_, i) => sizes[i] ?? 1 << 16);
    const wanted = expected(metas);
    if (!areSame(records, wanted)) assertEquals(records, wanted, `round ${round}`);
  }
});
