/**
 * Both directions against Python's own `socket.send_fds` and `recvmsg`: nothing here is our code on
 * both ends, so what agrees is the wire format and the kernel.
 *
 * @module
 */

import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import {
  connect,
  connHandler,
  EmptyControlMessageError,
  type Fd,
  fdConn,
  fdFile,
  fdListener,
  fileHandler,
  type Handler,
  listen,
  listenAndServe,
  listenerHandler,
  packetConnHandler,
  receive,
  receiveAllFrom,
  receiveFrom,
  send,
  sendConnTo,
  sendFileTo,
  sendListenerTo,
  sendPacketConnTo,
  sendTo,
  sequenceHandler,
  SurplusDescriptorsError,
  UnexpectedEofError,
} from "../../mod.ts";
import { fileDescriptor } from "../../lib/native/file_descriptor.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const python = await findPython();
if (!python) console.log("No python3 with socket.send_fds (3.9): tests with Python are skipped");
const withPython = { ignore: python === undefined };

/** What Python's `receive` says of one record. */
interface Reported {
  meta: string;
  kind: "file" | "listener" | "connection" | "datagram" | "other";
  inode?: number;
  content?: string;
  family?: string;
  local?: unknown;
  peer?: unknown;
}

/** What Python says on a line. */
interface PythonEvent {
  event: string;
  listens: boolean;
  plain: string;
  messages: number[];
  records: Reported[];
  bytes: string;
  descriptors: number;
}

/** One step of a conversation: a sendmsg, or a wait for `Python.go()`. */
type Step = { data: string; files?: string[] } | { wait: string };

/** A record on its way: the name of the file its descriptor is open on, and its meta. */
type Item = [file: string, meta: Uint8Array | null];

// Shapes of streams: messages of records.

function text(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

/** Every byte value in turn: nothing on the way may care what is in a meta. */
function bytes(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => i * 7);
}

/** `count` records of descriptors that differ from their neighbours. */
function items(count: number, meta: (i: number) => Uint8Array | null): Item[] {
  return Array.from({ length: count }, (_, i) => [fileNames[i % fileNames.length], meta(i)]);
}

const fileNames = ["a", "b", "c", "d", "e", "f", "g"];

const shapes: Record<string, Item[][]> = {
  "nothing at all": [],
  "one without meta": [items(1, () => null)],
  "one with meta": [items(1, () => text("listener"))],
  "some of each": [items(3, (i) => [null, text("a"), bytes(20)][i])],
  "the longest meta that Go understands": [items(1, () => bytes(4092))],
  "the most descriptors that a message carries": [items(253, () => null)],
  "that many with meta": [items(253, (i) => text(`number ${i}`))],
  "more messages than one read brings": Array.from(
    { length: 40 },
    (_, i) => items(1 + i % 3, (j) => text(`${i}/${j}`)),
  ),
  "full messages in a row": Array.from({ length: 3 }, () => items(253, (i) => text(`${i}`))),
  "a meta of many reads": [
    items(2, () => text("before")),
    items(1, () => bytes(300_000)),
    items(2, () => text("after")),
  ],
};

/** The stream that is cut: a null meta, one of a byte, one of twenty. */
const cutItems = items(3, (i) => [null, text("a"), bytes(20)][i]);
const cutStream = encode(cutItems);

test("a client receives from Python, however the stream is split", withPython, async (t) => {
  using directory = new Files();
  const ways: Record<string, (path: string) => Promise<Item[]>> = {
    "receive() with a callback": (path) => collect((note) => receive(path, note)),
    "receive() as an iterator": async (path) => await drained(receive(path)),
    "receiveAllFrom() with a callback": async (path) => {
      using conn = await connect(path);
      return await collect((note) => receiveAllFrom(conn, note));
    },
    "receiveAllFrom() as an iterator": async (path) => {
      using conn = await connect(path);
      return await drained(receiveAllFrom(conn));
    },
    "receiveFrom() until the end": async (path) => {
      using conn = await connect(path);
      const all: Item[] = [];
      for (;;) {
        const some = await collect((note) => receiveFrom(conn, note));
        if (some.length === 0) return all;
        all.push(...some);
      }
    },
  };
  for (const [shape, messages] of Object.entries(shapes)) {
    await t.step(shape, async (t) => {
      const conversation = messages.map((message) => directory.message(message));
      await using peer = await Python.send(
        directory.socket,
        Object.values(ways).map(() => conversation),
      );
      for (const [way, receiveBy] of Object.entries(ways)) {
        await t.step(way, async () => {
          assertEquals(await receiveBy(directory.socket), messages.flat());
          assertEquals(directory.held(), 0);
        });
      }
      await peer.finished();
    });
  }
});

test("receiveFrom() resolves message by message", withPython, async () => {
  using directory = new Files();
  const counts = [1, 253, 2];
  await using peer = await Python.send(directory.socket, [
    counts.map((count) => directory.message(items(count, () => text("m")))),
  ]);
  using conn = await connect(directory.socket);
  const resolved = [];
  for (let i = 0; i <= counts.length; i++) resolved.push(await receiveFrom(conn, () => {}));
  assertEquals(resolved, [...counts, 0]);
  await peer.finished();
});

test("a file from Python is read through its descriptor", withPython, async () => {
  using directory = new Files();
  await using peer = await Python.send(directory.socket, [[
    directory.message(items(1, () => null)),
  ]]);
  let content = "";
  await receive(directory.socket, async (fd) => {
    using file = fdFile(fd);
    content = await new Response(file.readable).text();
  });
  assertEquals(content, directory.content("a"));
  await peer.finished();
});

test("readFull() leaves the descriptors that follow plain data whole", withPython, async (t) => {
  using directory = new Files();
  const greeting = text("three descriptors follow\n");
  const message = directory.message(cutItems);
  const all = message.files!;
  const glued = hex(greeting) + message.data;
  const plain = { data: hex(greeting) };
  const conversations: Record<string, Step[]> = {
    "which are a message of their own": [plain, message, { wait: "sent" }],
    "which came with the first plain byte": [{ data: glued, files: all }, { wait: "sent" }],
    "which came in the middle of it": [
      { data: glued.slice(0, 8) },
      { data: glued.slice(8), files: all },
      { wait: "sent" },
    ],
    "whose plain data came byte by byte": [
      ...Array.from(greeting, (byte) => ({ data: hex([byte]) })),
      message,
      { wait: "sent" },
    ],
  };
  for (const [name, conversation] of Object.entries(conversations)) {
    await t.step(name, async () => {
      await using peer = await Python.send(directory.socket, [conversation]);
      using conn = await connect(directory.socket);
      await peer.next("sent");
      assertEquals(await conn.readFull(new Uint8Array(greeting.length)), greeting);
      const received = collect((note) => receiveAllFrom(conn, note));
      await peer.go();
      assertEquals(await received, cutItems);
      await peer.finished();
    });
  }
});

test("plain data after the descriptors stays plain", withPython, async () => {
  using directory = new Files();
  const goodbye = text("that was all");
  await using peer = await Python.send(directory.socket, [
    [directory.message(cutItems), { data: hex(goodbye) }, { wait: "sent" }],
  ]);
  using conn = await connect(directory.socket);
  await peer.next("sent");
  assertEquals(await collect((note) => receiveFrom(conn, note)), cutItems);
  assertEquals(await conn.readFull(new Uint8Array(goodbye.length)), goodbye);
  await peer.go();
  assertEquals(await conn.read(new Uint8Array(1)), null);
  await peer.finished();
});

test("a message that arrives in two parts is whole, wherever it was cut", withPython, async (t) => {
  using directory = new Files();
  const { data, files } = directory.message(cutItems);
  const cuts = Array.from({ length: cutStream.length - 1 }, (_, i) => i + 1);
  const parts = (cut: number) => [data.slice(0, 2 * cut), data.slice(2 * cut)];
  const wait = { wait: "sent" };

  // The second part is sent when the first was read.
  const separate: Record<string, (cut: number) => Step[]> = {
    "the descriptors with the first part, which is read first": (cut) => {
      const [first, rest] = parts(cut);
      return [{ data: first, files }, wait, { data: rest }];
    },
    "the descriptors with the second part, the first is read first": (cut) => {
      const [first, rest] = parts(cut);
      return [{ data: first }, wait, { data: rest, files }];
    },
  };
  for (const [name, conversation] of Object.entries(separate)) {
    await t.step(name, async () => {
      await using peer = await Python.send(directory.socket, cuts.map(conversation));
      for (const cut of cuts) {
        using conn = await connect(directory.socket);
        const received = collect((note) => receiveAllFrom(conn, note));
        await peer.next("sent");
        await until(() => unreadBytes(conn.fd.raw) === 0);
        await peer.go();
        assertEquals(await received, cutItems, `cut at ${cut}`);
      }
      await peer.finished();
    });
  }

  // Both parts wait in the socket before the first read.
  const next = directory.message(items(2, (i) => text(`next ${i}`)));
  const glued: Record<string, (cut: number) => Step[]> = {
    "the descriptors with the first part, both before a read": (cut) => {
      const [first, rest] = parts(cut);
      return [{ data: first, files }, { data: rest }, next, wait];
    },
    "the descriptors with the second part, both before a read": (cut) => {
      const [first, rest] = parts(cut);
      return [{ data: first }, { data: rest, files }, next, wait];
    },
  };
  for (const [name, conversation] of Object.entries(glued)) {
    await t.step(name, async () => {
      await using peer = await Python.send(directory.socket, cuts.map(conversation));
      for (const cut of cuts) {
        using conn = await connect(directory.socket);
        await peer.next("sent");
        const received = collect((note) => receiveAllFrom(conn, note));
        await peer.go();
        const expected = [...cutItems, ...items(2, (i) => text(`next ${i}`))];
        assertEquals(await received, expected, `cut at ${cut}`);
      }
      await peer.finished();
    });
  }
});

/** How a stream ends that is cut after `from` to `to` of its bytes. */
interface Ending {
  from: number;
  to: number;
  /** How many records are delivered. */
  delivered: number;
  /** What the receiver throws; undefined when the end looks like any other. */
  thrown?: ErrorClass;
  says?: (cut: number) => string;
}

// deno-lint-ignore no-explicit-any -- what assertRejects takes
type ErrorClass = new (...args: any[]) => Error;

const inHeader = (start: number) => (cut: number) =>
  `ended after ${cut - start} of the 4 bytes of a record's length`;
const inMeta = (start: number, length: number) => (cut: number) =>
  `ended after ${cut - start} of the ${length} bytes of a record's meta`;
const bytesLeft = (start: number) => (cut: number) => `ended with ${cut - start} bytes that`;

/**
 * The cut stream is 00000000 01000000 'a' 14000000 and twenty bytes: its records end at 4, 9 and 33.
 * All the descriptors that it has come with its first byte, so none come with no bytes.
 */
const endings: Record<string, Ending[]> = {
  "3": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, says: inHeader(0) },
    {
      from: 4,
      to: 4,
      delivered: 1,
      thrown: SurplusDescriptorsError,
      says: () => "2 descriptors that",
    },
    { from: 5, to: 7, delivered: 1, thrown: UnexpectedEofError, says: inHeader(4) },
    { from: 8, to: 8, delivered: 1, thrown: UnexpectedEofError, says: inMeta(8, 1) },
    {
      from: 9,
      to: 9,
      delivered: 2,
      thrown: SurplusDescriptorsError,
      says: () => "1 descriptor that",
    },
    { from: 10, to: 12, delivered: 2, thrown: UnexpectedEofError, says: inHeader(9) },
    { from: 13, to: 32, delivered: 2, thrown: UnexpectedEofError, says: inMeta(13, 20) },
    { from: 33, to: 33, delivered: 3 },
  ],
  "2": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, says: inHeader(0) },
    {
      from: 4,
      to: 4,
      delivered: 1,
      thrown: SurplusDescriptorsError,
      says: () => "1 descriptor that",
    },
    { from: 5, to: 7, delivered: 1, thrown: UnexpectedEofError, says: inHeader(4) },
    { from: 8, to: 8, delivered: 1, thrown: UnexpectedEofError, says: inMeta(8, 1) },
    { from: 9, to: 9, delivered: 2 },
    { from: 10, to: 12, delivered: 2, thrown: UnexpectedEofError, says: inHeader(9) },
    { from: 13, to: 32, delivered: 2, thrown: UnexpectedEofError, says: inMeta(13, 20) },
    { from: 33, to: 33, delivered: 2, thrown: EmptyControlMessageError, says: bytesLeft(9) },
  ],
  "1": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, says: inHeader(0) },
    { from: 4, to: 4, delivered: 1 },
    { from: 5, to: 7, delivered: 1, thrown: UnexpectedEofError, says: inHeader(4) },
    { from: 8, to: 8, delivered: 1, thrown: UnexpectedEofError, says: inMeta(8, 1) },
    { from: 9, to: 33, delivered: 1, thrown: EmptyControlMessageError, says: bytesLeft(4) },
  ],
  "0": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, says: inHeader(0) },
    { from: 4, to: 33, delivered: 0, thrown: EmptyControlMessageError, says: bytesLeft(0) },
  ],
};

test(
  "a stream that ends anywhere delivers what was whole and says what was not",
  withPython,
  async (t) => {
    using directory = new Files();
    const { data, files } = directory.message(cutItems);
    for (const [descriptors, table] of Object.entries(endings)) {
      await t.step(`with ${descriptors} of its 3 descriptors`, async () => {
        const cuts = table.flatMap((ending) =>
          Array.from({ length: ending.to - ending.from + 1 }, (_, i) => ({
            cut: ending.from + i,
            ending,
          }))
        );
        // The table speaks of every position once.
        assertEquals(cuts.map(({ cut }) => cut), [...Array(cutStream.length + 1).keys()]);
        await using peer = await Python.send(
          directory.socket,
          cuts.map(({ cut }): Step[] =>
            cut === 0
              ? []
              : [{ data: data.slice(0, 2 * cut), files: files!.slice(0, Number(descriptors)) }]
          ),
        );
        for (const { cut, ending: { delivered, thrown, says } } of cuts) {
          using conn = await connect(directory.socket);
          const received: Item[] = [];
          const receiving = receiveAllFrom(conn, (fd, meta) => note(received, fd, meta));
          if (thrown) await assertRejects(() => receiving, thrown, says!(cut), `cut at ${cut}`);
          else assertEquals(await receiving, delivered, `cut at ${cut}`);
          assertEquals(received, cutItems.slice(0, delivered), `cut at ${cut}`);
          assertEquals(directory.held(), 0, `cut at ${cut}`);
        }
        await peer.finished();
      });
    }
  },
);

test("a sender that is killed inside a record delivers nothing of it", withPython, async () => {
  using directory = new Files();
  const { data, files } = directory.message(cutItems);
  await using peer = await Python.send(directory.socket, [
    [{ data: data.slice(0, -2), files }, { wait: "sent" }],
  ]);
  const received: Item[] = [];
  const receiving = assertRejects(
    () => receive(directory.socket, (fd, meta) => note(received, fd, meta)),
    UnexpectedEofError,
    "after 19 of the 20 bytes",
  );
  await peer.next("sent");
  peer.kill();
  await receiving;
  assertEquals(received, cutItems.slice(0, 2));
});

test(
  "a Python peer that closes with unread bytes ends the stream like any other",
  withPython,
  async () => {
    using directory = new Files();
    await using peer = await Python.send(directory.socket, [
      [directory.message(cutItems), { wait: "sent" }],
    ]);
    using conn = await connect(directory.socket);
    await peer.next("sent");
    await conn.write(text("never read"));
    await peer.go();
    // So that the reset is certain to be there before the first read.
    await peer.finished();
    assertEquals(await collect((note) => receiveAllFrom(conn, note)), cutItems);
  },
);

test("Python receives the descriptors of a server's handlers", withPython, async () => {
  using directory = new Files();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using unixListener = listen(directory.join("other.sock"));
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: origin.addr.port });
  using _accepted = await origin.accept();
  const { localAddr, remoteAddr } = conn;
  const datagrams = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  using file = directory.open("a");

  await using _server = listenAndServe(
    directory.socket,
    sequenceHandler(
      listenerHandler(listener, text("listener")),
      listenerHandler(unixListener),
      connHandler(conn, text("conn")),
      packetConnHandler(datagrams, bytes(300)),
      fileHandler(file, { encode: () => text("file") }),
    ),
  );
  await using peer = Python.start("receive", directory.socket);
  const { records, bytes: left, descriptors } = await peer.next("received");
  assertEquals(records, [
    {
      meta: hex(text("listener")),
      kind: "listener",
      family: "AF_INET",
      local: inet(listener.addr),
    },
    { meta: "", kind: "listener", family: "AF_UNIX", local: unixListener.addr.path },
    {
      meta: hex(text("conn")),
      kind: "connection",
      family: "AF_INET",
      local: inet(localAddr),
      peer: inet(remoteAddr),
    },
    { meta: hex(bytes(300)), kind: "datagram", family: "AF_INET", local: inet(datagrams.addr) },
    { meta: hex(text("file")), ...directory.reported("a") },
  ]);
  assertEquals([left, descriptors], ["", 0]);
  await peer.finished();
  datagrams.close();
});

test(
  "Python receives what the functions that send to a connection or a path send",
  withPython,
  async () => {
    using directory = new Files();
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const datagrams = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    using file = directory.open("b");
    const greeting = text("plain data first");

    await using byPath = Python.start("receive", "--listen", directory.socket);
    await byPath.next("listening");
    using fd = directory.descriptor("a");
    await send(directory.socket, fd, text("by path"));
    const { records, messages } = await byPath.next("received");
    assertEquals(records, [{ meta: hex(text("by path")), ...directory.reported("a") }]);
    assertEquals(messages, [1]);
    await byPath.finished();
    await Deno.remove(directory.socket);

    await using byConn = Python.start(
      "receive",
      "--listen",
      `--plain=${greeting.length}`,
      directory.socket,
    );
    await byConn.next("listening");
    {
      using conn = await connect(directory.socket);
      await conn.write(greeting);
      await sendListenerTo(conn, listener, text("listener"));
      await sendPacketConnTo(conn, datagrams);
      await sendFileTo(conn, file, text("file"));
      await sendTo(conn, fd, bytes(4092));
    }
    const received = await byConn.next("received");
    assertEquals(received.plain, hex(greeting));
    assertEquals(received.messages, [1, 1, 1, 1]);
    assertEquals(received.records, [
      {
        meta: hex(text("listener")),
        kind: "listener",
        family: "AF_INET",
        local: inet(listener.addr),
      },
      { meta: "", kind: "datagram", family: "AF_INET", local: inet(datagrams.addr) },
      { meta: hex(text("file")), ...directory.reported("b") },
      { meta: hex(bytes(4092)), ...directory.reported("a") },
    ]);
    await byConn.finished();
    datagrams.close();
  },
);

test(
  "a thousand descriptors reach Python in messages as full as they may be",
  withPython,
  async (t) => {
    using directory = new Files();
    const fds = fileNames.map((name) => directory.descriptor(name));
    const handler: Handler = async (_conn, response) => {
      for (let i = 0; i < 1000; i++) {
        const meta = i % 10 === 0 ? null : text(`${i}`);
        await response.write(fds[i % fds.length], meta);
      }
    };
    const expected = Array.from({ length: 1000 }, (_, i) => ({
      meta: i % 10 === 0 ? "" : hex(text(`${i}`)),
      ...directory.reported(fileNames[i % fds.length]),
    }));
    await using _server = listenAndServe(directory.socket, handler);
    // With little room the kernel gives a message's descriptors with its first bytes.
    for (const room of [65536, 4096, 100, 3, 1]) {
      await t.step(`read by ${room} ${room === 1 ? "byte" : "bytes"}`, async () => {
        await using peer = Python.start("receive", `--data-bytes=${room}`, directory.socket);
        const { messages, records, bytes, descriptors } = await peer.next("received");
        assertEquals(messages, [170, 170, 170, 170, 170, 150]);
        assertEquals(records, expected);
        assertEquals([bytes, descriptors], ["", 0]);
        await peer.finished();
      });
    }
    for (const fd of fds) fd.close();
  },
);

test("concurrent sends reach Python unmixed", withPython, async () => {
  using directory = new Files();
  using fd = directory.descriptor("a");
  const maxMetaBytes = 600_000;
  const letters = ["a", "b", "c"].map((letter) => text(letter.repeat(maxMetaBytes)));
  await using peer = Python.start("receive", "--listen", directory.socket);
  await peer.next("listening");
  {
    using conn = await connect(directory.socket);
    await Promise.all(letters.map((meta) => sendTo(conn, fd, meta, { maxMetaBytes })));
  }
  const { records, bytes, descriptors } = await peer.next("received");
  assertEquals(
    records.map(({ meta }) => `${meta.length / 2} of ${[...new Set(meta.match(/../g))]}`),
    [
      "600000 of 61",
      "600000 of 62",
      "600000 of 63",
    ],
  );
  assertEquals([bytes, descriptors], ["", 0]);
  await peer.finished();
});

test("a handler that throws leaves Python inside a record", withPython, async () => {
  using directory = new Files();
  const failure = new Error("on purpose");
  const logged: unknown[] = [];
  await using _server = listenAndServe(
    directory.socket,
    sequenceHandler(
      async (_conn, response) => {
        await response.write(0, text("sent"));
        await response.flush();
        await response.write(0, text("not sent"));
      },
      () => Promise.reject(failure),
    ),
    { logger: { error: (_message, error) => logged.push(error) } },
  );
  await using peer = Python.start("receive", directory.socket);
  const { records, bytes, descriptors } = await peer.next("received");
  assertEquals(records.map(({ meta }) => meta), [hex(text("sent"))]);
  assert(bytes.length > 0 && bytes.length < 8, `"${bytes}" is not a part of a record's length`);
  assertEquals(descriptors, 0);
  assertEquals(logged, [failure]);
  await peer.finished();
});

test(
  "a listener that Python was given accepts there when it is closed here",
  withPython,
  async () => {
    using directory = new Files();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    using control = listen(directory.socket);
    await using peer = Python.start("answer", directory.socket);
    {
      using conn = await control.accept();
      await sendListenerTo(conn, listener);
    }
    listener.close();
    assertEquals((await peer.next("received")).listens, true);
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(text("hello\n"));
    assertEquals(await readAll(conn), "Python read: hello\n");
    await peer.finished();
  },
);

test(
  "a listener of a path that Python was given accepts there when it is closed here",
  withPython,
  async () => {
    using directory = new Files();
    const path = directory.join("moved.sock");
    const listener = listen(path);
    using control = listen(directory.socket);
    await using peer = Python.start("answer", directory.socket);
    {
      using conn = await control.accept();
      await sendListenerTo(conn, listener);
    }
    listener.close();
    assertEquals((await peer.next("received")).listens, true);
    using conn = await Deno.connect({ transport: "unix", path });
    await conn.write(text("hello\n"));
    assertEquals(await readAll(conn), "Python read: hello\n");
    await peer.finished();
  },
);

test("a connection that Python was given goes on there", withPython, async () => {
  using directory = new Files();
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using client = await Deno.connect({ hostname: "127.0.0.1", port: origin.addr.port });
  const moving = await origin.accept();
  using control = listen(directory.socket);
  await using peer = Python.start("answer", directory.socket);
  {
    using conn = await control.accept();
    await sendConnTo(conn, moving);
  }
  assertEquals((await peer.next("received")).listens, false);
  await client.write(text("hello\n"));
  assertEquals(await readAll(client), "Python read: hello\n");
  await peer.finished();
});

test("listeners that Python made accept here when Python is gone", withPython, async (t) => {
  using directory = new Files();
  const kinds: Record<string, string[]> = {
    TCP: ["listener"],
    unix: ["unix-listener", `--at=${directory.path}/made.sock`],
  };
  for (const [name, args] of Object.entries(kinds)) {
    await t.step(name, async () => {
      await using peer = Python.start("give", directory.socket, ...args);
      await peer.next("listening");
      const listeners: { listener: Deno.Listener; said: unknown }[] = [];
      const count = await receive(directory.socket, (fd, meta) => {
        const said = JSON.parse(new TextDecoder().decode(meta!));
        listeners.push({ listener: fdListener(fd), said });
      });
      await peer.finished();
      assertEquals(count, 1);
      const [{ listener, said }] = listeners;
      using adopted = listener;
      using client = adopted.addr.transport === "tcp"
        ? await Deno.connect({ hostname: "127.0.0.1", port: adopted.addr.port })
        : await Deno.connect({ transport: "unix", path: directory.join("made.sock") });
      assertEquals(
        adopted.addr.transport === "tcp" ? inet(adopted.addr) : directory.join("made.sock"),
        said,
      );
      {
        using accepted = await adopted.accept();
        await accepted.write(text("accepted here"));
      }
      assertEquals(await readAll(client), "accepted here");
      await Deno.remove(directory.socket);
    });
  }
});

test("a connection that Python made goes on here when Python is gone", withPython, async () => {
  using directory = new Files();
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using peer = Python.start(
    "give",
    directory.socket,
    "connection",
    `--at=${origin.addr.port}`,
  );
  await peer.next("listening");
  using accepted = await origin.accept();
  const conns: Deno.Conn[] = [];
  await receive(directory.socket, async (fd, meta) => {
    const conn = await fdConn(fd);
    conns.push(conn);
    assertEquals(inet(conn.localAddr), JSON.parse(new TextDecoder().decode(meta!)));
  });
  await peer.finished();
  const [conn] = conns;
  assertEquals(inet(conn.localAddr), inet(accepted.remoteAddr));
  await conn.write(text("and Deno is here"));
  await accepted.write(text("hello to both"));
  await accepted.closeWrite();
  assertEquals(await readAll(conn), "hello to both");
  conn.close();
  assertEquals(await readAll(accepted), "Python was here\nand Deno is here");
});

/** A directory with files that differ, for descriptors, and a place for a socket. */
class Files extends Directory {
  readonly socket = this.join("app.sock");

  constructor() {
    super();
    for (const name of fileNames) Deno.writeTextFileSync(this.join(name), this.content(name));
  }

  content(name: string): string {
    return `content of ${name}`;
  }

  open(name: string): Deno.FsFile {
    return Deno.openSync(this.join(name));
  }

  /** A descriptor of one of its files, which the caller closes. */
  descriptor(name: string): Fd {
    using file = this.open(name);
    return fileDescriptor(file);
  }

  /** The step that sends these records as a message. */
  message(items: Item[]): { data: string; files?: string[] } {
    return { data: hex(encode(items)), files: items.map(([name]) => this.join(name)) };
  }

  /** What Python should say of a descriptor of this file. */
  reported(name: string): { kind: "file"; inode: number; content: string } {
    const { ino } = Deno.statSync(this.join(name));
    return { kind: "file", inode: ino!, content: this.content(name) };
  }

  /** How many descriptors of its files this process holds. */
  held(): number {
    return openDescriptors().filter((raw) => describeDescriptor(raw)?.startsWith(`${this.path}/`))
      .length;
  }
}

/** A Python process with a subcommand of `python_peer.py`; ended when disposed of. */
class Python implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #text = "";
  #ended = false;

  private constructor(args: string[]) {
    const script = new URL("python_peer.py", import.meta.url).pathname;
    this.#child = new Deno.Command(python!, {
      // Isolated and without site: only the standard library, and a quick start.
      args: ["-I", "-S", decodeURIComponent(script), ...args],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  static start(...args: string[]): Python {
    return new Python(args);
  }

  /** A process that has each client at `path` in one of these conversations. */
  static async send(path: string, conversations: Step[][]): Promise<Python> {
    await Deno.remove(path).catch(() => {});
    const peer = new Python(["send", path]);
    await peer.#input.write(text(`${JSON.stringify(conversations)}\n`));
    await peer.next("listening");
    return peer;
  }

  /** What it says next, which is to be this event. */
  async next(event: string): Promise<PythonEvent> {
    while (!this.#text.includes("\n")) {
      const { done, value } = await this.#output.read();
      if (done) throw new Error(`Python ended before it said "${event}"`);
      this.#text += value;
    }
    const [line] = this.#text.split("\n", 1);
    this.#text = this.#text.slice(line.length + 1);
    const said = JSON.parse(line) as PythonEvent;
    assertEquals(said.event, event);
    return said;
  }

  /** Ends its wait. */
  async go(): Promise<void> {
    await this.#input.write(text("\n"));
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  /** Waits for its end, which is to be a success. */
  async finished(): Promise<void> {
    const { code } = await this.#child.status;
    this.#ended = true;
    assertEquals(code, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) {
      try {
        this.kill();
      } catch (error) {
        assertInstanceOf(error, TypeError, "it has ended already, says Deno with a TypeError");
      }
    }
    await this.#child.status;
    await this.#input.close().catch(() => {});
    await this.#output.cancel();
  }
}

/** A Python whose standard library passes descriptors, as its own path: version managers' are slow. */
async function findPython(): Promise<string | undefined> {
  const program = "import socket, sys; socket.send_fds; print(sys.executable)";
  try {
    const { success, stdout } = await new Deno.Command("python3", {
      args: ["-c", program],
      stderr: "null",
    }).output();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** The wire format in the plainest words, so that it is not checked against itself. */
function encode(items: Item[]): Uint8Array {
  const parts: number[] = [];
  for (const [, meta] of items) {
    const length = meta?.length ?? 0;
    for (const shift of [0, 8, 16, 24]) parts.push((length >> shift) & 0xff);
    for (const byte of meta ?? []) parts.push(byte);
  }
  return Uint8Array.from(parts);
}

function hex(bytes: Iterable<number>): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Runs what receives, and gives the records that came. */
async function collect(
  receiving: (note: (fd: Fd, meta: Uint8Array | null) => void) => Promise<number>,
): Promise<Item[]> {
  const received: Item[] = [];
  const count = await receiving((fd, meta) => note(received, fd, meta));
  assertEquals(count, received.length);
  return received;
}

async function drained(
  all: AsyncIterable<{ fd: Fd; meta: Uint8Array | null }>,
): Promise<Item[]> {
  const received: Item[] = [];
  for await (const { fd, meta } of all) note(received, fd, meta);
  return received;
}

/** Writes down which file a descriptor is open on. */
function note(received: Item[], fd: Fd, meta: Uint8Array | null): void {
  const path = describeDescriptor(fd.raw) ?? "";
  received.push([path.slice(path.lastIndexOf("/") + 1), meta]);
}

/** An address as Python words it. */
function inet(addr: Deno.Addr): [string, number] {
  const { hostname, port } = addr as Deno.NetAddr;
  return [hostname, port];
}

async function readAll(conn: Deno.Conn): Promise<string> {
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(4096);
  let all = "";
  for (let n = await conn.read(chunk); n !== null; n = await conn.read(chunk)) {
    all += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  return all;
}
