/**
 * Python receives from the library: from handlers, and from the functions that send.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import {
  connect,
  connHandler,
  fileHandler,
  type Handler,
  listen,
  listenAndServe,
  listenerHandler,
  packetConnHandler,
  send,
  sendFileTo,
  sendListenerTo,
  sendPacketConnTo,
  sendTo,
  sequenceHandler,
} from "../../mod.ts";
import { test } from "../support/guard.ts";
import { bytes, hex, text } from "./bytes.ts";
import { fileNames, Files } from "./files.ts";
import { PythonPeer, withPython } from "./python_peer.ts";
import { inet, reported } from "./python_streams.ts";

test("Python receives the descriptors of every kind of handler", withPython, async () => {
  using files = new Files();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using unixListener = listen(files.join("other.sock"));
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: origin.addr.port });
  using _accepted = await origin.accept();
  const { localAddr, remoteAddr } = conn;
  const datagrams = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  using file = files.open("a");

  await using _server = listenAndServe(
    files.socket,
    sequenceHandler(
      listenerHandler(listener, text("listener")),
      listenerHandler(unixListener),
      connHandler(conn, text("conn")),
      packetConnHandler(datagrams, bytes(300)),
      fileHandler(file, { encode: () => text("file") }),
    ),
  );
  await using peer = PythonPeer.start("receive", files.socket);
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
    { meta: hex(text("file")), ...reported(files, "a") },
  ]);
  assertEquals([left, descriptors], ["", 0]);
  await peer.finished();
  datagrams.close();
});

test("Python receives the descriptors of send(), sendTo() and the like", withPython, async () => {
  using files = new Files();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const datagrams = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  using file = files.open("b");
  const greeting = text("plain data first");

  await using byPath = PythonPeer.start("receive", "--listen", files.socket);
  await byPath.next("listening");
  using fd = files.descriptor("a");
  await send(files.socket, fd, text("by path"));
  const { records, messages } = await byPath.next("received");
  assertEquals(records, [{ meta: hex(text("by path")), ...reported(files, "a") }]);
  assertEquals(messages, [1]);
  await byPath.finished();
  await Deno.remove(files.socket);

  await using byConn = PythonPeer.start(
    "receive",
    "--listen",
    `--plain=${greeting.length}`,
    files.socket,
  );
  await byConn.next("listening");
  {
    using conn = await connect(files.socket);
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
    { meta: hex(text("file")), ...reported(files, "b") },
    { meta: hex(bytes(4092)), ...reported(files, "a") },
  ]);
  await byConn.finished();
  datagrams.close();
});

test("a handler sends Python a thousand descriptors, 170 in a message", withPython, async (t) => {
  using files = new Files();
  const fds = fileNames.map((name) => files.descriptor(name));
  const handler: Handler = async (_conn, response) => {
    for (let i = 0; i < 1000; i++) {
      const meta = i % 10 === 0 ? null : text(`${i}`);
      await response.write(fds[i % fds.length], meta);
    }
  };
  const expected = Array.from({ length: 1000 }, (_, i) => ({
    meta: i % 10 === 0 ? "" : hex(text(`${i}`)),
    ...reported(files, fileNames[i % fds.length]),
  }));
  await using _server = listenAndServe(files.socket, handler);
  // A read with little room brings all descriptors of a message with its first bytes.
  for (const room of [65536, 4096, 100, 3, 1]) {
    await t.step(`read by ${room} ${room === 1 ? "byte" : "bytes"}`, async () => {
      await using peer = PythonPeer.start("receive", `--data-bytes=${room}`, files.socket);
      const { messages, records, bytes, descriptors } = await peer.next("received");
      assertEquals(messages, [170, 170, 170, 170, 170, 150]);
      assertEquals(records, expected);
      assertEquals([bytes, descriptors], ["", 0]);
      await peer.finished();
    });
  }
  for (const fd of fds) fd.close();
});

test("concurrent sendTo() calls send one record after the other", withPython, async () => {
  using files = new Files();
  using fd = files.descriptor("a");
  const maxMetaBytes = 600_000;
  const letters = ["a", "b", "c"].map((letter) => text(letter.repeat(maxMetaBytes)));
  await using peer = PythonPeer.start("receive", "--listen", files.socket);
  await peer.next("listening");
  {
    using conn = await connect(files.socket);
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

test("a handler that throws ends the stream inside a record", withPython, async () => {
  using files = new Files();
  const failure = new Error("on purpose");
  const logged: unknown[] = [];
  await using _server = listenAndServe(
    files.socket,
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
  await using peer = PythonPeer.start("receive", files.socket);
  const { records, bytes, descriptors } = await peer.next("received");
  assertEquals(records.map(({ meta }) => meta), [hex(text("sent"))]);
  assert(bytes.length > 0 && bytes.length < 8, `"${bytes}" is not part of a record's length`);
  assertEquals(descriptors, 0);
  assertEquals(logged, [failure]);
  await peer.finished();
});
