/**
 * How the library receives streams that Python sends: records, messages, plain data.
 *
 * Python shares no code with the library: the tests check the wire format and the behavior of the kernel.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { unreadBytes } from "../../ffi/socket_options.ts";
import { connect, fdFile, receive, receiveAllFrom, receiveFrom } from "../../mod.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";
import { bytes, hex, text } from "./bytes.ts";
import { Files } from "./files.ts";
import { PythonPeer, type Step, withPython } from "./python_peer.ts";
import {
  collect,
  drained,
  encode,
  type Item,
  items,
  message,
  threeRecords,
} from "./python_streams.ts";

/** Streams: lists of messages. */
const shapes: Record<string, Item[][]> = {
  "no message": [],
  "a record without meta": [items(1, () => null)],
  "a record with meta": [items(1, () => text("listener"))],
  "records with and without meta": [items(3, (i) => [null, text("a"), bytes(20)][i])],
  "the longest meta that Go receives whole": [items(1, () => bytes(4092))],
  "the most descriptors that a message carries": [items(253, () => null)],
  "the most descriptors, with metas": [items(253, (i) => text(`number ${i}`))],
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

test(
  "every receiving function receives a stream of any shape from Python",
  withPython,
  async (t) => {
    using files = new Files();
    const receiveBy: Record<string, (path: string) => Promise<Item[]>> = {
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
      "receiveFrom() to the end": async (path) => {
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
        const conversation = messages.map((records) => message(files, records));
        await using peer = await PythonPeer.send(
          files.socket,
          Object.values(receiveBy).map(() => conversation),
        );
        for (const [way, receiveStream] of Object.entries(receiveBy)) {
          await t.step(way, async () => {
            assertEquals(await receiveStream(files.socket), messages.flat());
            assertEquals(files.held(), 0);
          });
        }
        await peer.finished();
      });
    }
  },
);

test("receiveFrom() resolves after each message", withPython, async () => {
  using files = new Files();
  const counts = [1, 253, 2];
  await using peer = await PythonPeer.send(files.socket, [
    counts.map((count) => message(files, items(count, () => text("m")))),
  ]);
  using conn = await connect(files.socket);
  const resolved = [];
  for (let i = 0; i <= counts.length; i++) resolved.push(await receiveFrom(conn, () => {}));
  assertEquals(resolved, [...counts, 0]);
  await peer.finished();
});

test("fdFile() reads a file of Python", withPython, async () => {
  using files = new Files();
  await using peer = await PythonPeer.send(files.socket, [[
    message(files, items(1, () => null)),
  ]]);
  let content = "";
  await receive(files.socket, async (fd) => {
    using file = fdFile(fd);
    content = await new Response(file.readable).text();
  });
  assertEquals(content, files.content("a"));
  await peer.finished();
});

test("readFull() loses no descriptor that arrives after plain data", withPython, async (t) => {
  using files = new Files();
  const greeting = text("three descriptors follow\n");
  const step = message(files, threeRecords);
  const paths = step.files;
  const glued = hex(greeting) + step.data;
  const plain = { data: hex(greeting) };
  const conversations: Record<string, Step[]> = {
    "in a message of their own": [plain, step, { wait: "sent" }],
    "in one message with the plain data": [{ data: glued, files: paths }, { wait: "sent" }],
    "in one message with a part of the plain data": [
      { data: glued.slice(0, 8) },
      { data: glued.slice(8), files: paths },
      { wait: "sent" },
    ],
    "after plain data that arrives byte by byte": [
      ...Array.from(greeting, (byte) => ({ data: hex([byte]) })),
      step,
      { wait: "sent" },
    ],
  };
  for (const [name, conversation] of Object.entries(conversations)) {
    await t.step(name, async () => {
      await using peer = await PythonPeer.send(files.socket, [conversation]);
      using conn = await connect(files.socket);
      await peer.next("sent");
      assertEquals(await conn.readFull(new Uint8Array(greeting.length)), greeting);
      const received = collect((note) => receiveAllFrom(conn, note));
      await peer.go();
      assertEquals(await received, threeRecords);
      await peer.finished();
    });
  }
});

test("readFull() reads plain data that follows the descriptors", withPython, async () => {
  using files = new Files();
  const goodbye = text("that was all");
  await using peer = await PythonPeer.send(files.socket, [
    [message(files, threeRecords), { data: hex(goodbye) }, { wait: "sent" }],
  ]);
  using conn = await connect(files.socket);
  await peer.next("sent");
  assertEquals(await collect((note) => receiveFrom(conn, note)), threeRecords);
  assertEquals(await conn.readFull(new Uint8Array(goodbye.length)), goodbye);
  await peer.go();
  assertEquals(await conn.read(new Uint8Array(1)), null);
  await peer.finished();
});

test(
  "receiveAllFrom() receives a message in two parts, wherever it is cut",
  withPython,
  async (t) => {
    using files = new Files();
    const { data, files: paths } = message(files, threeRecords);
    const cuts = Array.from({ length: encode(threeRecords).length - 1 }, (_, i) => i + 1);
    const parts = (cut: number) => [data.slice(0, 2 * cut), data.slice(2 * cut)];
    const wait = { wait: "sent" };

    // The second part is sent after the first has been read.
    const separate: Record<string, (cut: number) => Step[]> = {
      "the descriptors with the first part, read before the second is sent": (cut) => {
        const [first, rest] = parts(cut);
        return [{ data: first, files: paths }, wait, { data: rest }];
      },
      "the descriptors with the second part, sent after the first is read": (cut) => {
        const [first, rest] = parts(cut);
        return [{ data: first }, wait, { data: rest, files: paths }];
      },
    };
    for (const [name, conversation] of Object.entries(separate)) {
      await t.step(name, async () => {
        await using peer = await PythonPeer.send(files.socket, cuts.map(conversation));
        for (const cut of cuts) {
          using conn = await connect(files.socket);
          const received = collect((note) => receiveAllFrom(conn, note));
          await peer.next("sent");
          await until(() => unreadBytes(conn.fd.raw) === 0);
          await peer.go();
          assertEquals(await received, threeRecords, `cut at ${cut}`);
        }
        await peer.finished();
      });
    }

    // Both parts wait in the socket before the first read.
    const next = message(files, items(2, (i) => text(`next ${i}`)));
    const glued: Record<string, (cut: number) => Step[]> = {
      "the descriptors with the first part, both sent before a read": (cut) => {
        const [first, rest] = parts(cut);
        return [{ data: first, files: paths }, { data: rest }, next, wait];
      },
      "the descriptors with the second part, both sent before a read": (cut) => {
        const [first, rest] = parts(cut);
        return [{ data: first }, { data: rest, files: paths }, next, wait];
      },
    };
    for (const [name, conversation] of Object.entries(glued)) {
      await t.step(name, async () => {
        await using peer = await PythonPeer.send(files.socket, cuts.map(conversation));
        for (const cut of cuts) {
          using conn = await connect(files.socket);
          await peer.next("sent");
          const received = collect((note) => receiveAllFrom(conn, note));
          await peer.go();
          const expected = [...threeRecords, ...items(2, (i) => text(`next ${i}`))];
          assertEquals(await received, expected, `cut at ${cut}`);
        }
        await peer.finished();
      });
    }
  },
);
