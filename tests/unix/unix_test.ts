import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { closeAll, closeRaw, dup, isOpen } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { IncomingMessage } from "../../ffi/message.ts";
import { connectUnix, listenUnix, socketPair } from "../../ffi/socket.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import {
  connect,
  Fd,
  fdListener,
  listen,
  NotUnixConnError,
  NotUnixListenerError,
  receiveAllFrom,
  sendTo,
  UnexpectedEofError,
  UnixConn,
  UnixListener,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { Others } from "../support/event_loop_turns.ts";
import { connectedPair, joined, record, sendRaw, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";

test("listen() makes a socket that its owner alone may connect to", () => {
  using directory = new Directory();
  for (const umask of [0, 0o022, 0o077]) {
    using _umask = new Umask(umask);
    using _listener = listen(directory.join("app.sock"));
    assertEquals(modeOf(directory.join("app.sock")), 0o600);
  }
});

test("listen() gives the socket exactly the mode of its option, whatever the umask", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (const umask of [0, 0o022, 0o077]) {
    for (const mode of [0o600, 0o660, 0o666]) {
      using _umask = new Umask(umask);
      using _listener = listen(path, { mode });
      assertEquals([octal(umask), octal(modeOf(path))], [octal(umask), octal(mode)]);
      using _successor = listen(path, { mode, replace: true });
      assertEquals([octal(umask), octal(modeOf(path))], [octal(umask), octal(mode)]);
    }
  }
});

test("listen() and connect() meet at a path", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  assertEquals(listener.addr, { transport: "unix", path });
  using client = await connect(path);
  using server = await listener.accept();
  assertEquals(await exchange(client, server, "to the server"), "to the server");
  assertEquals(await exchange(server, client, "to the client"), "to the client");
});

test("listen() and connect() meet at an abstract name, which no file stands for", async () => {
  const path = `\0graceful-test-${crypto.randomUUID()}`;
  {
    using listener = listen(path);
    assertEquals(listener.addr, { transport: "unix", path });
    using client = await connect(path);
    using server = await listener.accept();
    assertEquals(await exchange(client, server, "hello"), "hello");
  }
  await assertRejects(() => connect(path), Deno.errors.ConnectionRefused, `"@graceful-test-`);
  listen(path).close();
});

test("listen() says that an abstract name in use is served", () => {
  const path = `\0graceful-test-${crypto.randomUUID()}`;
  using _listener = listen(path);
  const error = assertThrows(() => listen(path), Deno.errors.AddrInUse);
  assertMatch(error.message, /"@graceful-test-.*": another instance is serving there$/);
});

test("listen() says that another instance is serving at the path", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using _listener = listen(path);
  const error = assertThrows(() => listen(path), Deno.errors.AddrInUse);
  assertEquals(error.message, `Cannot listen on "${path}": another instance is serving there`);
  assertEquals((error as { code?: string }).code, "EADDRINUSE");
  assert(error.cause instanceof Deno.errors.AddrInUse);
});

test("listen() says so too of an instance that replaced another", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  listen(path).close();
  using _second = listen(path, { replace: true });
  const error = assertThrows(() => listen(path), Deno.errors.AddrInUse);
  assertEquals(error.message, `Cannot listen on "${path}": another instance is serving there`);
});

test("listen() tells a stale file from an instance that serves", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  leaveStale(path);
  const error = assertThrows(() => listen(path), Deno.errors.AddrInUse);
  assertEquals(
    error.message,
    `Cannot listen on "${path}": no process serves there any more: remove the file, ` +
      "or pass `replace: true`",
  );
  assertEquals((error as { code?: string }).code, "EADDRINUSE");
  assertEquals(directory.names(), ["app.sock"]);
});

test("listen() names a directory that is missing", () => {
  using directory = new Directory();
  const path = directory.join("missing/app.sock");
  for (const replace of [false, true]) {
    const error = assertThrows(() => listen(path, { replace }), Deno.errors.NotFound);
    assertMatch(error.message, /^Cannot listen on ".*missing\/app.sock": .*\(ENOENT\)$/);
    assertEquals((error as { code?: string }).code, "ENOENT");
  }
});

test("listen() takes a path of 107 bytes and refuses one of 108", async () => {
  using directory = new Directory();
  const longest = directory.join("a".repeat(107 - directory.path.length - 1));
  {
    using listener = listen(longest);
    assertEquals(listener.addr.path, longest);
    (await connect(longest)).close();
  }
  assertEquals(directory.names(), []);
  const message = "the path has 108 bytes, a unix socket address holds 107";
  assertThrows(() => listen(`${longest}a`), RangeError, message);
  await assertRejects(() => connect(`${longest}a`), RangeError, message);
  // It is bytes that count.
  assertThrows(() => listen(`${longest.slice(0, -1)}ü`), RangeError, message);
});

test("listen() takes an abstract name of 107 bytes behind its zero", () => {
  const longest = `\0${crypto.randomUUID()}`.padEnd(108, "a");
  listen(longest).close();
  assertThrows(() => listen(`${longest}a`), RangeError, "109 bytes");
});

test("listen() replaces at a path of 107 bytes too", async () => {
  using directory = new Directory();
  const deep = directory.join("d".repeat(107 - directory.path.length - "//app.sock".length));
  Deno.mkdirSync(deep);
  const path = `${deep}/app.sock`;
  assertEquals(path.length, 107);
  using _first = listen(path);
  using _second = listen(path, { replace: true });
  (await connect(path)).close();
});

test("listen() refuses a path that is none", () => {
  assertThrows(() => listen(""), TypeError, "the path is empty");
  assertThrows(() => listen("/tmp/a\0b"), TypeError, "holds a zero byte");
});

const root = Deno.uid() === 0;
test(
  "listen() says that a directory may not be written to" +
    (root ? " (skipped: root may write anywhere)" : ""),
  { ignore: root },
  () => {
    using directory = new Directory();
    Deno.chmodSync(directory.path, 0o500);
    for (const replace of [false, true]) {
      const error = assertThrows(
        () => listen(directory.join("app.sock"), { replace }),
        Deno.errors.PermissionDenied,
      );
      assertEquals((error as { code?: string }).code, "EACCES");
    }
    Deno.chmodSync(directory.path, 0o700);
  },
);

test("listen() with replace takes a path from the instance that serves there", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using first = listen(path);
  using waiting = await connect(path);
  using second = listen(path, { replace: true });
  assertEquals(second.addr, { transport: "unix", path });
  using client = await connect(path);
  using server = await second.accept();
  assertEquals(await exchange(client, server, "to the second"), "to the second");
  // Who had come before is still the first one's.
  using early = await first.accept();
  assertEquals(await exchange(waiting, early, "to the first"), "to the first");
  assertEquals(directory.names(), ["app.sock"]);
});

test("listen() with replace takes a stale file's place, and a free one", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  leaveStale(path);
  for (let i = 0; i < 2; i++) {
    using listener = listen(path, { replace: true });
    using client = await connect(path);
    using server = await listener.accept();
    assertEquals(await exchange(client, server, "hello"), "hello");
    listener.close();
    assertEquals(directory.names(), []);
  }
});

test("listen() with replace takes no place but a socket's", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { AlreadyExists } = Deno.errors;
  Deno.writeTextFileSync(path, "mine");
  const message = `Cannot listen on "${path}": there is a`;
  assertThrows(() => listen(path, { replace: true }), AlreadyExists, `${message} file`);
  assertEquals(Deno.readTextFileSync(path), "mine");
  Deno.removeSync(path);
  Deno.mkdirSync(path);
  assertThrows(() => listen(path, { replace: true }), AlreadyExists, `${message} directory`);
  assert(Deno.statSync(path).isDirectory);
  assertEquals(directory.names(), ["app.sock"]);
});

test("listen() with replace leaves nothing behind when it fails", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { rename } = libc();
  const stub = (value: typeof rename) => Object.defineProperty(libc(), "rename", { value });
  // At the last moment, somebody makes a directory there.
  stub((from, to) => {
    Deno.mkdirSync(path);
    return rename(from, to);
  });
  try {
    assertThrows(() => listen(path, { replace: true }), Error, "Cannot rename");
  } finally {
    stub(rename);
  }
  assertEquals(directory.names(), ["app.sock"]);
  assert(Deno.statSync(path).isDirectory);
});

test("clients can connect at every moment while a path is replaced fifty times", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const first = counting(listen(path));
  await using probe = new Child("./probe.ts", [path]);
  const report = probe.line();
  await first.came;
  let current = first;
  for (let i = 0; i < 50; i++) {
    const next = counting(listen(path, { replace: true }));
    // The probe does one thing at a time: when it has come here, it is not on its way there.
    await Promise.race([next.came, report]);
    current.listener.close();
    await current.ended;
    current = next;
  }
  await probe.tell("stop");
  const { connected, failure } = JSON.parse(await report);
  assertEquals(failure, undefined);
  assert(connected > 50);
  assertEquals(directory.names(), ["app.sock"]);
  current.listener.close();
  await current.ended;
  assertEquals(directory.names(), []);
});

test("close() removes the path of a listener, and not that of its successor", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const first = listen(path);
  const second = listen(path, { replace: true });
  first.close();
  assertEquals(directory.names(), ["app.sock"]);
  (await connect(path)).close();
  second.close();
  assertEquals(directory.names(), []);
  await assertRejects(() => connect(path), Deno.errors.NotFound);
});

test("close() does not remove a file that another process has put at its path", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const listener = listen(path);
  Deno.removeSync(path);
  Deno.writeTextFileSync(path, "mine");
  listener.close();
  assertEquals(Deno.readTextFileSync(path), "mine");
});

test("close() leaves the path after keepPath()", () => {
  using directory = new Directory();
  const listener = listen(directory.join("app.sock"));
  listener.keepPath();
  listener.close();
  assertEquals(directory.names(), ["app.sock"]);
});

test("close() twice throws, and the end of a block does not mind", () => {
  using directory = new Directory();
  using listener = listen(directory.join("app.sock"));
  listener.close();
  assertThrows(() => listener.close(), Deno.errors.BadResource);
  const [a, b] = connectedPair();
  using _b = b;
  using conn = a;
  conn.close();
  assertThrows(() => conn.close(), Deno.errors.BadResource);
});

test("accept() waits for a client, and each of several gets one", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const accepted = [listener.accept(), listener.accept()];
  const clients = [await connect(path), await connect(path)];
  const servers = await Promise.all(accepted);
  for (const conn of clients) await conn.write(new Uint8Array(1));
  for (const conn of servers) assertEquals(await conn.read(new Uint8Array(9)), 1);
  for (const conn of [...clients, ...servers]) conn.close();
});

test("accept() rejects with the signal's reason, and the listener goes on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const reason = new Error("enough");
  const aborted = await assertRejects(() => listener.accept({ signal: AbortSignal.abort(reason) }));
  assertStrictEquals(aborted, reason);

  // Also when somebody is there: who came is left for the next call.
  (await connect(path)).close();
  await assertRejects(
    () => listener.accept({ signal: AbortSignal.abort(reason) }),
    Error,
    "enough",
  );
  (await listener.accept()).close();

  const controller = new AbortController();
  const waiting = listener.accept({ signal: controller.signal });
  const other = listener.accept();
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => waiting), reason);
  using client = await connect(path);
  using server = await other;
  assertEquals(await exchange(client, server, "hello"), "hello");
});

test("accept() rejects when the listener is closed while it waits, and afterwards", async () => {
  using directory = new Directory();
  const listener = listen(directory.join("app.sock"));
  const waiting = [listener.accept(), listener.accept()];
  listener.close();
  for (const accepted of waiting) {
    await assertRejects(() => accepted, Deno.errors.BadResource, "The listener was closed");
  }
  await assertRejects(() => listener.accept(), Deno.errors.BadResource);
});

test("accept() lets the event loop and the signal have their turn while clients never cease", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  await using others = new Others();
  const { signal, reason } = others;
  const accepting = async () => {
    for (;;) {
      others.wait();
      closeRaw(connectUnix(path, "Cannot connect"));
      (await listener.accept({ signal })).close();
    }
  };
  assertStrictEquals(await assertRejects(accepting), reason);
});

test("iterating over a listener gives its connections and ends quietly when it is closed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const greeted: string[] = [];
  const iterating = (async () => {
    for await (const conn of listener) {
      using server = conn;
      greeted.push(text(await server.readFull(new Uint8Array(3))));
      await server.write(new Uint8Array(1));
    }
  })();
  for (const word of ["one", "two"]) {
    using client = await connect(path);
    await client.write(bytesOf(word));
    await client.readFull(new Uint8Array(1));
  }
  listener.close();
  await iterating;
  assertEquals(greeted, ["one", "two"]);
  for await (const _ of listener) throw new Error("a closed listener gave a connection");
});

for (
  const [steps, exits] of [["unref", true], ["ref unref", true], ["", false], ["unref ref", false]]
) {
  test(`a listener ${exits ? "does not keep" : "keeps"} its process after "${steps}"`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const args = [path, "listener", ...String(steps).split(" ")].filter(Boolean);
    await using child = new Child("./keep_alive.ts", args);
    assertEquals(await child.line(), "waiting");
    if (exits) {
      assertEquals((await child.ended()).code, 0);
    } else {
      for (let i = 0; i < 2; i++) {
        using conn = await connect(path);
        assertEquals(text(await conn.readFull(new Uint8Array(5))), "hello");
      }
    }
  });
}

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

test("UnixListener takes a listening unix stream socket and nothing else", () => {
  const [a, b] = socketPair();
  for (const raw of [a, b, dup(0)]) {
    using fd = new Fd(raw);
    assertThrows(() => new UnixListener(fd), NotUnixListenerError, `Descriptor ${raw} is not`);
    assert(fd.owned && isOpen(raw));
  }
  using closed = new Fd(a);
  assertThrows(() => new UnixListener(closed), Deno.errors.BadResource);
  assertThrows(() => new UnixConn(closed), Deno.errors.BadResource);
  closed.take();
});

test("UnixListener takes a listener over by its descriptor, and leaves the path alone", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const first = listen(path);
  using second = new UnixListener(first.fd.dup());
  assertEquals(second.addr, { transport: "unix", path });
  first.keepPath();
  first.close();
  using client = await connect(path);
  using server = await second.accept();
  assertEquals(await exchange(client, server, "hello"), "hello");
  second.close();
  assertEquals(directory.names(), ["app.sock"]);
});

class Umask implements Disposable {
  readonly #before: number;

  constructor(umask: number) {
    this.#before = Deno.umask(umask);
  }

  [Symbol.dispose](): void {
    Deno.umask(this.#before);
  }
}

/** What a process that was killed leaves: the file, and nobody listening. */
function leaveStale(path: string): void {
  closeRaw(listenUnix(path, "Cannot listen"));
}

/** Closes every connection that comes to `listener`; `came` says that there was one. */
function counting(
  listener: UnixListener,
): { listener: UnixListener; came: Promise<void>; ended: Promise<void> } {
  const { promise: came, resolve } = Promise.withResolvers<void>();
  const ended = (async () => {
    for await (const conn of listener) {
      conn.close();
      resolve();
    }
  })();
  return { listener, came, ended };
}

async function exchange(from: UnixConn, to: UnixConn, words: string): Promise<string> {
  const bytes = bytesOf(words);
  await from.write(bytes);
  return text(await to.readFull(new Uint8Array(bytes.length)));
}

function modeOf(path: string): number {
  return Deno.lstatSync(path).mode! & 0o777;
}

function octal(mode: number): string {
  return mode.toString(8);
}

function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) + (i >> 16) + seed) & 0xff);
}

test("listen() with replace throws for a path that no client could connect to", () => {
  using directory = new Directory();
  const path = directory.join("x".repeat(120));
  assertThrows(
    () => listen(path, { replace: true }),
    RangeError,
    "a unix socket address holds 107",
  );
  assertEquals(directory.names(), []);
});

test("an accept() ends when its listener is adopted, and other waits go on", async () => {
  using directory = new Directory();
  const listener = listen(directory.join("a.sock"));
  using other = listen(directory.join("b.sock"));
  const accepting = listener.accept().catch((error) => error);
  const others = other.accept();
  using native = fdListener(listener.fd);
  using _client = await connect(directory.join("a.sock"));
  assertInstanceOf(await accepting, Deno.errors.BadResource);
  (await native.accept()).close();
  using _other = await connect(directory.join("b.sock"));
  (await others).close();
});
