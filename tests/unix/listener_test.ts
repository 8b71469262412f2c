/**
 * `listen()` and UnixListener: paths, accepting, closing.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { closeRaw, dup, isOpen } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { connectUnix, socketPair } from "../../ffi/socket.ts";
import {
  connect,
  Fd,
  fdListener,
  listen,
  NotUnixListenerError,
  UnixConn,
  UnixListener,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { Others } from "../support/event_loop_turns.ts";
import { connectedPair } from "../support/raw.ts";
import { test } from "../support/guard.ts";
import { bytesOf, exchange, leaveStale, text } from "../support/unix_bytes.ts";
import { modeOf } from "../support/unix_paths.ts";

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

class Umask implements Disposable {
  readonly #before: number;

  constructor(umask: number) {
    this.#before = Deno.umask(umask);
  }

  [Symbol.dispose](): void {
    Deno.umask(this.#before);
  }
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

function octal(mode: number): string {
  return mode.toString(8);
}
