/**
 * `connect()` and UnixConn: reading, writing, closing, and descriptors that arrive.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects, assertStrictEquals } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { closeAll, dup, isOpen } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { IncomingMessage } from "../../ffi/message.ts";
import { connectUnix, listenUnix, socketPair } from "../../ffi/socket.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import {
  connect,
  Fd,
  listen,
  NotUnixConnError,
  receiveAllFrom,
  sendTo,
  UnexpectedEofError,
  UnixConn,
  UnixListener,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { connectedPair, joined, record, sendRaw, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";
import { bytesOf, exchange, leaveStale, text } from "../support/unix_bytes.ts";

test("connect() tells a path that does not exist from one at which no process listens", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const missing = await assertRejects(() => connect(path), Deno.errors.NotFound);
  assertMatch(missing.message, /^Cannot connect to ".*app\.sock": .*\(ENOENT\)$/);
  assertEquals((missing as { code?: string }).code, "ENOENT");
  leaveStale(path);
  const refused = await assertRejects(() => connect(path), Deno.errors.ConnectionRefused);
  assertMatch(refused.message, /^Cannot connect to ".*app\.sock": .*\(ECONNREFUSED\)$/);
  assertEquals((refused as { code?: string }).code, "ECONNREFUSED");
});

test("connect() waits while the listener's queue is full, until it is accepted or aborted", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using fd = new Fd(listenUnix(path, "Cannot listen", { backlog: 0 }));
  using listener = new UnixListener(fd);
  const queued: number[] = [];
  for (let raw = connectUnix(path, "Cannot connect"); raw >= 0;) {
    queued.push(raw);
    raw = connectUnix(path, "Cannot connect");
  }

  const reason = new Error("enough");
  const aborted = await assertRejects(() => connect(path, { signal: AbortSignal.abort(reason) }));
  assertStrictEquals(aborted, reason);
  const controller = new AbortController();
  const waiting = connect(path, { signal: controller.signal });
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => waiting), reason);

  const patient = connect(path);
  for (const _ of queued) (await listener.accept()).close();
  using client = await patient;
  using server = await listener.accept();
  assertEquals(await exchange(client, server, "at last"), "at last");
  closeAll(queued);
});

test("connect() does not try when its signal is aborted already", async () => {
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  assertStrictEquals(await assertRejects(() => connect("/nonexistent", { signal })), reason);
});

test("read() gives the queued bytes, and null at the end of the stream", async () => {
  const [a, b] = connectedPair();
  using reader = a;
  {
    using writer = b;
    assertEquals(await writer.write(bytesOf("hello")), 5);
    assertEquals(await reader.read(new Uint8Array()), 0);
    const into = new Uint8Array(3);
    assertEquals(await reader.read(into), 3);
    assertEquals(text(into), "hel");
    const rest = new Uint8Array(9);
    assertEquals(await reader.read(rest), 2);
    assertEquals(text(rest.subarray(0, 2)), "lo");
  }
  assertEquals(await reader.read(new Uint8Array(9)), null);
  assertEquals(await reader.read(new Uint8Array(9)), null);
});

test("read() waits for bytes", async () => {
  const [a, b] = connectedPair();
  using reader = a;
  using writer = b;
  const into = new Uint8Array(9);
  const waiting = reader.read(into);
  await writer.write(bytesOf("late"));
  assertEquals(await waiting, 4);
  assertEquals(text(into.subarray(0, 4)), "late");
});

test("readFull() takes just the bytes asked for", async () => {
  const [a, b] = connectedPair();
  using reader = a;
  using writer = b;
  const filling = reader.readFull(new Uint8Array(6));
  for (const part of ["ab", "cd", "efgh"]) await writer.write(bytesOf(part));
  assertEquals(text(await filling), "abcdef");
  assertEquals(text(await reader.readFull(new Uint8Array(2))), "gh");
  assertEquals(await reader.readFull(new Uint8Array()), new Uint8Array());
});

test("readFull() leaves the next message to the reader that takes its descriptor", async () => {
  using sockets = new Sockets(1);
  const [a, b] = connectedPair();
  using reader = a;
  using writer = b;
  await writer.write(bytesOf("plain"));
  sendRaw(writer, record("meta"), sockets.raws);
  assertEquals(text(await reader.readFull(new Uint8Array(5))), "plain");
  using fd = new Fd(reader.fd.take());
  assertEquals(unreadBytes(fd.raw), record("meta").length);
  const incoming = new IncomingMessage(100);
  const n = incoming.receive(fd.raw);
  assertEquals(incoming.data.slice(0, n), record("meta"));
  const received = [...incoming.descriptors.subarray(0, incoming.count)];
  assertEquals(received.map(Sockets.cookie), sockets.cookies);
  closeAll(received);
});

test("readFull() says how far the stream went when it ends before", async () => {
  const [a, b] = connectedPair();
  using reader = a;
  {
    using writer = b;
    await writer.write(bytesOf("abc"));
  }
  await assertRejects(
    () => reader.readFull(new Uint8Array(5)),
    UnexpectedEofError,
    "The stream ended after 3 of 5 bytes",
  );
});

test("closeWrite() ends one direction and leaves the other", async () => {
  const [a, b] = connectedPair();
  using asking = a;
  using answering = b;
  await asking.write(bytesOf("question"));
  asking.closeWrite();
  assertEquals(text(await answering.readFull(new Uint8Array(8))), "question");
  assertEquals(await answering.read(new Uint8Array(1)), null);
  assertEquals(await exchange(answering, asking, "answer"), "answer");
  await assertRejects(() => asking.write(new Uint8Array(1)), Deno.errors.BrokenPipe);
});

test("8 MB go both ways at once, and arrive as they were", async () => {
  const [a, b] = connectedPair();
  using left = a;
  using right = b;
  const [toRight, toLeft] = [pattern(8 << 20, 1), pattern(8 << 20, 77)];
  const [sent, , atRight, atLeft] = await Promise.all([
    left.write(toRight),
    right.write(toLeft),
    right.readFull(new Uint8Array(8 << 20)),
    left.readFull(new Uint8Array(8 << 20)),
  ]);
  assertEquals(sent, 8 << 20);
  assert(atRight.every((byte, i) => byte === toRight[i]));
  assert(atLeft.every((byte, i) => byte === toLeft[i]));
});

test("a wait of a connection ends with its signal, and the connection goes on", async () => {
  const [a, b] = connectedPair();
  using left = a;
  using right = b;
  const reason = new Error("enough");
  const controller = new AbortController();
  const { signal } = controller;
  const waiting = [
    left.read(new Uint8Array(1), { signal }),
    left.readFull(new Uint8Array(1), { signal }),
    // Nobody reads that much.
    right.write(new Uint8Array(8 << 20), { signal }),
  ];
  controller.abort(reason);
  for (const wait of waiting) assertStrictEquals(await assertRejects(() => wait), reason);
  assertStrictEquals(await assertRejects(() => left.read(new Uint8Array(1), { signal })), reason);
  assertEquals(await exchange(left, right, "hello"), "hello");
});

test("writes that go on at the same time do not mix", async () => {
  const [a, b] = connectedPair();
  using writer = a;
  using reader = b;
  const megabyte = 1 << 20;
  const writing = [1, 2, 3].map((n) => writer.write(new Uint8Array(megabyte).fill(n)));
  const got = await reader.readFull(new Uint8Array(3 * megabyte));
  assertEquals(await Promise.all(writing), Array(3).fill(megabyte));
  assert(got.every((byte, i) => byte === 1 + Math.floor(i / megabyte)));
});

test("a write does not take the room that another one waits for", async () => {
  const [a, b] = connectedPair();
  using writer = a;
  using reader = b;
  const first = writer.write(new Uint8Array(1 << 20).fill(1));
  // Room, of which the one who waits learns in a later turn.
  const taken = new IncomingMessage(1 << 16);
  let got = 0;
  for (let n = taken.receive(reader.fd.raw); n > 0; n = taken.receive(reader.fd.raw)) got += n;
  const second = writer.write(bytesOf("second"));
  const rest = await reader.readFull(new Uint8Array((1 << 20) - got));
  assert(rest.every((byte) => byte === 1));
  assertEquals(text(await reader.readFull(new Uint8Array(6))), "second");
  await Promise.all([first, second]);
});

test("a write that waits for another one ends with its own signal, having written nothing", async () => {
  const [a, b] = connectedPair();
  using writer = a;
  using reader = b;
  const controller = new AbortController();
  const reason = new Error("enough");
  const first = writer.write(new Uint8Array(1 << 20).fill(1));
  const second = writer.write(new Uint8Array(1 << 20).fill(2), { signal: controller.signal });
  const third = writer.write(bytesOf("third"));
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => second), reason);
  const got = await reader.readFull(new Uint8Array(1 << 20));
  assert(got.every((byte) => byte === 1));
  assertEquals(text(await reader.readFull(new Uint8Array(5))), "third");
  await Promise.all([first, third]);
});

test("after a write that was left half done nothing more is written", async () => {
  const [a, b] = connectedPair();
  using writer = a;
  using reader = b;
  const controller = new AbortController();
  const reason = new Error("enough");
  const torn = writer.write(new Uint8Array(8 << 20), { signal: controller.signal });
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => torn), reason);
  const message = "a write ended after";
  const ended = await assertRejects(
    () => writer.write(bytesOf("in its place")),
    Deno.errors.BadResource,
    message,
  );
  assertStrictEquals(ended.cause, reason);
  await assertRejects(() => sendTo(writer, 0), Deno.errors.BadResource, message);
  // The other direction goes on.
  assertEquals(await exchange(reader, writer, "hello"), "hello");
});

test("close() while a read and a write wait rejects both", async () => {
  const [a, b] = connectedPair();
  using conn = a;
  using _other = b;
  const waiting = [conn.read(new Uint8Array(1)), conn.write(new Uint8Array(8 << 20))];
  conn.close();
  for (const wait of waiting) {
    await assertRejects(() => wait, Deno.errors.BadResource, "The connection was closed");
  }
  await assertRejects(() => conn.read(new Uint8Array(1)), Deno.errors.BadResource);
  await assertRejects(() => conn.write(new Uint8Array(1)), Deno.errors.BadResource);
});

test("writing to a peer that has gone is an error, and no signal", async () => {
  const [a, b] = connectedPair();
  using conn = a;
  b.close();
  const error = await assertRejects(() => conn.write(new Uint8Array(1)), Deno.errors.BrokenPipe);
  assertEquals((error as { code?: string }).code, "EPIPE");
});

test("the end of a peer that had not read everything is the end, after whole records", async () => {
  using sockets = new Sockets(1);
  const [a, b] = connectedPair();
  using conn = a;
  await conn.write(bytesOf("nobody reads this"));
  sendRaw(b, record("m"), sockets.raws);
  b.close();
  const metas: string[] = [];
  await receiveAllFrom(conn, (_fd, meta) => void metas.push(text(meta!)));
  assertEquals(metas, ["m"]);
});

test("such an end inside a record is an error all the same", async () => {
  using sockets = new Sockets(1);
  const [a, b] = connectedPair();
  using conn = a;
  await conn.write(bytesOf("nobody reads this"));
  sendRaw(b, record("meta").subarray(0, 5), sockets.raws);
  b.close();
  await assertRejects(() => receiveAllFrom(conn, () => {}), Deno.errors.ConnectionReset);
});

test("peer names the process at the other end", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const user = { uid: Deno.uid(), gid: Deno.gid() };
  {
    using client = await connect(path);
    using server = await listener.accept();
    assertEquals(server.peer, { pid: Deno.pid, ...user });
    assertEquals(client.peer, { pid: Deno.pid, ...user });
  }
  await using child = new Child("./probe.ts", [path]);
  using server = await listener.accept();
  assertEquals(server.peer, { pid: child.pid, ...user });
});

test("descriptors that arrive during plain reads wait for the records that follow", async () => {
  using sockets = new Sockets(3);
  const [a, b] = connectedPair();
  using conn = a;
  {
    using sender = b;
    // Whose descriptor comes with the first of the bytes.
    sendRaw(sender, joined(bytesOf("hello"), record("one")), [sockets.raws[0]]);
    sendRaw(sender, joined(record("two"), record("three")), sockets.raws.slice(1));
  }
  assertEquals(text(await conn.readFull(new Uint8Array(3))), "hel");
  assertEquals(sockets.others().length, 1);
  assertEquals(text(await conn.readFull(new Uint8Array(2))), "lo");
  const metas: string[] = [];
  const cookies: bigint[] = [];
  await receiveAllFrom(conn, (fd, meta) => {
    metas.push(text(meta!));
    cookies.push(Sockets.cookie(fd.raw));
  });
  assertEquals(metas, ["one", "two", "three"]);
  assertEquals(cookies, sockets.cookies);
});

test("a read that goes into a message keeps its descriptors, and close() closes them", async () => {
  using sockets = new Sockets(2);
  const [a, b] = connectedPair();
  using sender = b;
  sendRaw(sender, joined(bytesOf("plain"), record("m")), sockets.raws);
  {
    using conn = a;
    assertEquals(await conn.readFull(new Uint8Array(5)), bytesOf("plain"));
    // The guard counts: the two that came are closed with the connection.
  }
});

test("a descriptor that came with plain bytes alone is not lost", async () => {
  using sockets = new Sockets(1);
  const [a, b] = connectedPair();
  using conn = a;
  {
    using sender = b;
    sendRaw(sender, bytesOf("x"), sockets.raws);
    sendRaw(sender, record("later"));
  }
  assertEquals(text(await conn.readFull(new Uint8Array(1))), "x");
  const cookies: bigint[] = [];
  await receiveAllFrom(conn, (fd) => void cookies.push(Sockets.cookie(fd.raw)));
  assertEquals(cookies, sockets.cookies);
});

test("UnixConn takes a connected unix stream socket and nothing else", () => {
  using directory = new Directory();
  const raws = [
    listenUnix(directory.join("app.sock"), "Cannot listen"),
    libc().socket(c.AF_INET, c.SOCK_STREAM | c.SOCK_CLOEXEC, 0),
    // Connected to nobody.
    libc().socket(c.AF_UNIX, c.SOCK_STREAM | c.SOCK_CLOEXEC, 0),
    ...socketPair("datagram"),
    dup(0),
  ];
  const accepted = raws.filter((raw) => {
    const fd = new Fd(raw);
    try {
      new UnixConn(fd);
      return true;
    } catch (error) {
      assert(error instanceof NotUnixConnError);
      assertMatch((error as Error).message, new RegExp(`Descriptor ${raw} is not`));
      assert(fd.owned && isOpen(raw));
      return false;
    }
  });
  closeAll(raws);
  assertEquals(accepted.map((raw) => raws.indexOf(raw)), []);
});

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) + (i >> 16) + seed) & 0xff);
}
