import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  connect,
  fdHandler,
  type Handler,
  type HandlerFunction,
  listen,
  listenAndServe,
  listenerHandler,
  LongWriteError,
  NotUnixListenerError,
  PeerNotAllowedError,
  receive,
  receiveAllFrom,
  serve,
  Server,
  UnexpectedEofError,
  type UnixConn,
  type UnixListener,
} from "../../mod.ts";
import { closeRaw } from "../../ffi/fd.ts";
import { connectUnix } from "../../ffi/socket.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { KeptLog } from "../support/kept_log.ts";
import { Others } from "../support/event_loop_turns.ts";
import { Sockets } from "../support/raw.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

test("listenAndServe() serves another process, one after the other", async () => {
  using directory = new Directory();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const path = directory.join("app.sock");
  await using server = listenAndServe(path, listenerHandler(listener, bytesOf("listener")));
  assertEquals(server.addr, { transport: "unix", path });
  for (let i = 0; i < 2; i++) {
    await using child = new Child("./take.ts", [path]);
    assertEquals(await child.line(), "accepting");
    using client = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
    const answer = new Uint8Array(100);
    const n = await client.read(answer);
    assertEquals(text(answer.subarray(0, n!)), `hello from ${child.pid}`);
    assertEquals(await child.line(), "received 1");
  }
});

test("listenAndServe() passes its options on to listen()", () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using first = listen(path);
  assertThrows(() => listenAndServe(path, () => {}), Deno.errors.AddrInUse, "is serving there");
  const second = listenAndServe(path, () => {}, { mode: 0o600, replace: true });
  first.close();
  assertEquals(directory.names(), ["app.sock"]);
  return second.shutdown();
});

test("serve() serves on a listener of this library's, at a path or an abstract name", async () => {
  using directory = new Directory();
  for (const path of [directory.join("app.sock"), `\0${crypto.randomUUID()}`]) {
    using listener = listen(path);
    await using server = serve(listener, fdHandler(0));
    assertEquals(server.addr, { transport: "unix", path });
    assertEquals(await receive(path, () => {}), 1);
  }
});

test("serve() serves on a native unix listener, and closes it in the end", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const native = Deno.listen({ transport: "unix", path });
  {
    await using server = serve(native, fdHandler(0));
    assertEquals(server.addr, { transport: "unix", path });
    for (let i = 0; i < 3; i++) assertEquals(await receive(path, () => {}), 1);
  }
  assertThrows(() => native.close(), Deno.errors.BadResource);
  // Deno removes the path with the listener since some version, and left it before.
  const error = await assertRejects(() => receive(path, () => {}));
  const { ConnectionRefused, NotFound } = Deno.errors;
  assert(error instanceof ConnectionRefused || error instanceof NotFound, String(error));
});

test("serve() on a native unix listener leaves the path to the successor that took it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = serve(Deno.listen({ transport: "unix", path }), fdHandler(0));
  await using _successor = listenAndServe(path, fdHandler(0), { replace: true });
  await old.shutdown();
  assertEquals(await receive(path, () => {}), 1);
});

test("serve() does not mind a native listener that its owner has closed by the end", async () => {
  using directory = new Directory();
  const native = Deno.listen({ transport: "unix", path: directory.join("app.sock") });
  await using _server = serve(native, fdHandler(0));
  native.close();
});

test("serve() refuses a listener whose clients cannot be sent descriptors", () => {
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  for (const junk of [tcp, {}, 0, "words"]) {
    const listener = junk as unknown as Deno.Listener;
    assertThrows(() => serve(listener, () => {}), NotUnixListenerError);
    assertThrows(() => new Server(listener, () => {}), NotUnixListenerError);
  }
});

test("serve() on a closed listener is over at once", async () => {
  using directory = new Directory();
  const closed = listen(directory.join("app.sock"));
  closed.close();
  await serve(closed, () => {}).finished;
});

test("a handler that throws is logged, its client learns, and the next one is served", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const reason = new Error("not you");
  let clients = 0;
  await using _server = listenAndServe(path, async (_conn, response) => {
    clients++;
    if (clients === 1) throw reason;
    await response.write(0);
    if (clients === 2) throw reason;
    await response.flush();
    if (clients === 3) throw reason;
  }, { logger: log });
  for (const delivered of [0, 0, 1]) {
    let count = 0;
    await assertRejects(() => receive(path, () => void count++), UnexpectedEofError, "gave up");
    assertEquals(count, delivered);
  }
  assertEquals(await receive(path, () => {}), 1);
  assertEquals(log.errors.length, 3);
  for (const [message, error] of log.errors) {
    assertEquals(message, `Cannot send descriptors to process ${Deno.pid}`);
    assertStrictEquals(error, reason);
  }
});

test("a handler that throws synchronously, or something that is no error, is like any other", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  let clients = 0;
  await using _server = listenAndServe(path, () => {
    if (++clients === 1) throw "words";
    if (clients === 2) return Promise.reject(undefined);
  }, { logger: log });
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
  }
  assertEquals(await receive(path, () => {}), 0);
  assertEquals(log.errors.map(([, error]) => error), ["words", undefined]);
});

test("a client that leaves before it is served is logged, and the next one is served", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const { promise, resolve } = Promise.withResolvers<void>();
  let clients = 0;
  await using _server = listenAndServe(path, async (_conn, response) => {
    if (++clients === 1) await promise;
    await response.write(0);
  }, { logger: log });
  (await connect(path)).close();
  await until(() => clients === 1);
  resolve();
  assertEquals(await receive(path, () => {}), 1);
  await until(() => log.errors.length === 1);
  assertInstanceOf(log.errors[0][1], Deno.errors.BrokenPipe);
});

test("a server logs each connection, with the credentials of its client", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  {
    await using _server = listenAndServe(path, async (_conn, response) => {
      response.debug("a word");
      response.info("a word", "and another");
      for (let i = 0; i < 3; i++) await response.write(0);
    }, { logger: log });
    await receive(path, () => {});
  }
  assertEquals(log.lines, [
    ["debug", `Accepted a connection from process ${Deno.pid}`],
    ["debug", "a word"],
    ["info", "a word", "and another"],
    ["info", `Sent 3 descriptors to process ${Deno.pid}`],
  ]);
});

test("a server without a logger prints errors to stderr, and nothing else", async () => {
  const { stdout, stderr } = await logged("default");
  assertEquals(stdout, []);
  assertMatch(
    stderr,
    /^Cannot send descriptors to process \d+ Error: the second is one too many\n/,
  );
  // The stack below it is one error's.
  assertEquals(stderr.match(/^\S/gm)!.length, 1);
});

test("the console is a logger", async () => {
  const { stdout, stderr } = await logged("console");
  const client = `process ${Deno.pid}`;
  assertEquals(stdout, [
    `Accepted a connection from ${client}`,
    "a word of the handler's",
    `Sent 1 descriptors to ${client}`,
    `Accepted a connection from ${client}`,
  ]);
  assertMatch(
    stderr,
    /^Cannot send descriptors to process \d+ Error: the second is one too many\n/,
  );
});

test("shutdown() removes the path, and resolves `finished`", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const server = listenAndServe(path, fdHandler(0));
  let finished = false;
  const finishing = server.finished.then(() => finished = true);
  assertEquals(await receive(path, () => {}), 1);
  assertEquals(finished, false);
  await server.shutdown();
  await finishing;
  assertEquals(directory.names(), []);
  await assertRejects(() => receive(path, () => {}), Deno.errors.NotFound);
  // Once more does no harm.
  await server.shutdown();
});

test("shutdown() lets the conversation that is going on come to its end", async () => {
  using directory = new Directory();
  using sockets = new Sockets(3);
  const path = directory.join("app.sock");
  const server = listenAndServe(path, async (conn, response) => {
    await conn.write(bytesOf("what?"));
    const wanted = Number(text(await conn.readFull(new Uint8Array(1))));
    for (const raw of sockets.raws.slice(0, wanted)) await response.write(raw);
  });
  using conn = await connect(path);
  assertEquals(text(await conn.readFull(new Uint8Array(5))), "what?");
  let finished = false;
  const shutdown = server.shutdown().then(() => finished = true);
  // Nobody new comes in, and the one who is in is served.
  await assertRejects(() => connect(path), Deno.errors.NotFound);
  assertEquals(finished, false);
  await conn.write(bytesOf("3"));
  const cookies: bigint[] = [];
  await receiveAllFrom(conn, (fd) => void cookies.push(Sockets.cookie(fd.raw)));
  assertEquals(cookies, sockets.cookies);
  await shutdown;
});

test("shutdown() hangs up on clients that are not done at its deadline, and they see it", async (t) => {
  const ways: Record<string, Handler> = {
    "the client does not read": async (_conn, response) => {
      for (;;) await response.write(0, new Uint8Array(4092));
    },
    "the client says nothing": async (conn, response) => {
      await response.write(0);
      await response.flush();
      await conn.read(new Uint8Array(1));
    },
    "the handler waits for something else": async (_conn, response) => {
      await response.write(0);
      await response.flush();
      await new Promise(() => {});
    },
  };
  for (const [name, handler] of Object.entries(ways)) {
    await t.step(name, async () => {
      using directory = new Directory();
      const path = directory.join("app.sock");
      const log = new KeptLog();
      const served = Promise.withResolvers<void>();
      const server = listenAndServe(path, (conn, response) => {
        served.resolve();
        return (handler as HandlerFunction)(conn, response);
      }, { logger: log });
      using client = await connect(path);
      await served.promise;
      await until(() => unreadBytes(client.fd.raw) > 0);
      await server.shutdown({ drainTimeout: 50 });
      assertInstanceOf(log.errors[0][1], Deno.errors.TimedOut);
      assertMatch(String(log.errors[0][1]), /shut down, and its client was not done 50 ms later/);
      await assertRejects(() => receiveAllFrom(client, () => {}), UnexpectedEofError);
    });
  }
});

test("the wait for shutdown() ends with its signal, and the server goes on leaving", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const come = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const server = listenAndServe(path, async (_conn, response) => {
    come.resolve();
    await go.promise;
    await response.write(0);
  });
  const receiving = receive(path, () => {});
  await come.promise;
  const reason = new Error("enough");
  const controller = new AbortController();
  const shutdown = server.shutdown({ signal: controller.signal });
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => shutdown), reason);
  go.resolve();
  assertEquals(await receiving, 1);
  await server.finished;
});

test("a client that has read nothing for as long as stallTimeout is hung up on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  await using server = listenAndServe(path, async (_conn, response) => {
    for (;;) await response.write(0, new Uint8Array(4092));
  }, { logger: log, stallTimeout: 50 });
  using client = await connect(path);
  await until(() => log.errors.length === 1);
  assertInstanceOf(log.errors[0][1], Deno.errors.TimedOut);
  assertMatch(String(log.errors[0][1]), /the peer has read nothing for 50 ms/);
  await assertRejects(() => receiveAllFrom(client, () => {}), UnexpectedEofError);
  assertEquals(server.addr.path, path);
});

for (const name of ["stallTimeout", "drainTimeout"] as const) {
  test(`a ${name} that is no duration is refused`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    for (const wrong of [-1, NaN]) {
      const message = `${name} is a number of milliseconds, not ${wrong}`;
      if (name === "stallTimeout") {
        assertThrows(
          () => listenAndServe(path, fdHandler(0), { stallTimeout: wrong }),
          RangeError,
          message,
        );
      } else {
        await using server = listenAndServe(path, fdHandler(0));
        await assertRejects(() => server.shutdown({ drainTimeout: wrong }), RangeError, message);
      }
    }
  });
}

test("a handler may shut its server down", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const server = listenAndServe(path, async (_conn, response) => {
    server.shutdown();
    await response.write(0);
  });
  assertEquals(await receive(path, () => {}), 1);
  await server.finished;
});

test("the end of the block waits for the clients", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  let served = false;
  const { promise, resolve } = Promise.withResolvers<void>();
  let receiving: Promise<number>;
  {
    await using _server = listenAndServe(path, async (_conn, response) => {
      resolve();
      for (let i = 0; i < 10; i++) await Promise.resolve();
      await response.write(0);
      served = true;
    });
    receiving = receive(path, () => {});
    await promise;
  }
  assert(served);
  assertEquals(await receiving, 1);
});

test("the signal shuts the server down, also when it was aborted before", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const controller = new AbortController();
  const server = listenAndServe(path, fdHandler(0), { signal: controller.signal });
  assertEquals(await receive(path, () => {}), 1);
  controller.abort();
  await server.finished;
  assertEquals(directory.names(), []);
  await listenAndServe(path, fdHandler(0), { signal: controller.signal }).finished;
  assertEquals(directory.names(), []);
});

test("closing its listener ends the server", async () => {
  using directory = new Directory();
  const listener = listen(directory.join("app.sock"));
  const server = serve(listener, fdHandler(0));
  assertEquals(await receive(listener.addr.path!, () => {}), 1);
  listener.close();
  await server.finished;
});

for (const how of ["twice", "by await using", "after its signal"]) {
  test(`a server that has ended and is shut down again keeps no process: ${how}`, async () => {
    using directory = new Directory();
    await using child = new Child("./shut_down.ts", [directory.join("app.sock"), how]);
    const { code, stdout, stderr } = await child.ended();
    assertEquals([code, ...stdout], [0], stderr);
  });
}

for (const [steps, exits] of [["unref", true], ["", false], ["unref ref", false]] as const) {
  test(`a server ${exits ? "does not keep" : "keeps"} its process after "${steps}"`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const args = [path, "server", ...steps.split(" ")].filter(Boolean);
    await using child = new Child("./keep_alive.ts", args);
    assertEquals(await child.line(), "waiting");
    if (exits) assertEquals((await child.ended()).code, 0);
    else for (let i = 0; i < 2; i++) assertEquals(await receive(path, () => {}), 1);
  });
}

test("a hundred concurrent clients get their own descriptors", async () => {
  using directory = new Directory();
  using sockets = new Sockets(5);
  const path = directory.join("app.sock");
  let inside = 0;
  await using _server = listenAndServe(path, async (conn, response) => {
    inside++;
    const [n] = await conn.readFull(new Uint8Array(1));
    for (const raw of sockets.raws.slice(0, n)) {
      await response.write(raw, bytesOf(`client of ${n}`));
    }
  });
  const conns = await Promise.all(Array.from({ length: 100 }, () => connect(path)));
  await until(() => inside === 100);
  await Promise.all(conns.map(async (conn, i) => {
    await conn.write(Uint8Array.of(i % 6));
    const cookies: bigint[] = [];
    await receiveAllFrom(conn, (fd, meta) => {
      assertEquals(text(meta!), `client of ${i % 6}`);
      cookies.push(Sockets.cookie(fd.raw));
    });
    assertEquals(cookies, sockets.cookies.slice(0, i % 6));
    conn.close();
  }));
});

test("clients that come without pause leave others their turns", async (t) => {
  for (const whose of ["this process", "another process"]) {
    await t.step(whose, async () => {
      using directory = new Directory();
      const path = directory.join("app.sock");
      await using others = new Others();
      // There is always somebody to accept.
      const more = whose === "this process"
        ? () => closeRaw(connectUnix(path, "Cannot connect"))
        : () => {};
      const server = listenAndServe(path, () => {
        try {
          others.wait();
          more();
        } catch {
          // The server is shut down.
          server.shutdown();
        }
      }, { signal: others.signal, logger: {} });
      more();
      await using _child = whose === "another process"
        ? new Child("./flood.ts", ["connections", path])
        : undefined;
      await server.finished;
      assert(others.signal.aborted, "nobody else had a turn");
    });
  }
});

test("twenty clients that do not read do not hold up another one", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  let clients = 0;
  await using _server = listenAndServe(path, async (_conn, response) => {
    const count = ++clients <= 20 ? 300 : 1;
    for (let i = 0; i < count; i++) await response.write(0, new Uint8Array(4092));
  });
  using all = new DisposableStack();
  const lazy: UnixConn[] = [];
  for (let i = 0; i < 20; i++) lazy.push(all.use(await connect(path)));
  await until(() => clients === 20);
  for (let i = 0; i < 3; i++) assertEquals(await receive(path, () => {}), 1);
  for (const conn of lazy) assertEquals(await receiveAllFrom(conn, () => {}), 300);
});

test("a server without a free descriptor tries again, and serves the queued clients", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using child = new Child("./few_descriptors.ts", ["accept", path], { openFiles: 64 });
  assertEquals(JSON.parse(await child.line()), { listening: path });
  assertEquals(await receive(path, () => {}), 1);
  const { errors, said, delays } = JSON.parse(await child.line());
  // What lasts is said once, and tried ever less often.
  assertEquals(errors.length, 1);
  assertMatch(errors[0], /^Cannot accept on ".*app\.sock"; trying again: .*\(EMFILE\)/);
  assertEquals(delays, [5, 10, 20, 40]);
  assertMatch(said[0], /^Accepting on ".*app\.sock" again$/);
  assertEquals((await child.ended()).code, 0);
});

test("maxMetaBytes is the server's to set", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const handler: Handler = fdHandler(0, new Uint8Array(5000));
  const log = new KeptLog();
  {
    await using _server = listenAndServe(path, handler, { logger: log });
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
    assertInstanceOf(log.errors[0][1], LongWriteError);
  }
  await using _server = listenAndServe(path, handler, { maxMetaBytes: 5000 });
  await receive(path, (_fd, meta) => assertEquals(meta!.length, 5000));
});

test("new Server() serves as serve() does", async () => {
  using directory = new Directory();
  const listener: UnixListener = listen(directory.join("app.sock"));
  await using server = new Server(listener, { handle: (_, response) => response.write(0) });
  assertInstanceOf(server, Server);
  assertEquals(await receive(server.addr.path!, () => {}), 1);
});

test("a logger that throws does not end the service", async () => {
  using directory = new Directory();
  const fail = () => {
    throw new Error("the disk is full");
  };
  const failing = { debug: fail, info: fail, error: fail };
  await using server = listenAndServe(directory.join("app.sock"), fdHandler(0), {
    logger: failing,
  });
  for (let i = 0; i < 3; i++) assertEquals(await receive(server.addr.path!, () => {}), 1);
});

test("a maxMetaBytes that is no number of bytes is refused, and nothing is left listening", () => {
  using directory = new Directory();
  for (const maxMetaBytes of [-1, NaN, 1.5, 2 ** 40]) {
    assertThrows(
      () => listenAndServe(directory.join("app.sock"), fdHandler(0), { maxMetaBytes }),
      RangeError,
      String(maxMetaBytes),
    );
  }
  assertEquals(directory.names(), []);
});

test("a server without memory for a response goes on, and needs none to refuse a client", async () => {
  using directory = new Directory();
  using memory = new LittleMemory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  let allowed = true;
  await using _server = listenAndServe(path, fdHandler(0), {
    maxMetaBytes: 2 ** 31 - 1,
    logger: log,
    allow: () => allowed,
  });
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
  }
  assertEquals(log.errors.map(([, error]) => error instanceof RangeError), [true, true]);
  assertEquals(memory.refused, 2);
  allowed = false;
  await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
  assertInstanceOf(log.errors[2][1], PeerNotAllowedError);
  assertEquals(memory.refused, 2);
});

/** While this lasts there is no memory for more than a gigabyte at once. */
class LittleMemory implements Disposable {
  refused = 0;
  readonly #before = Uint8Array;

  constructor() {
    globalThis.Uint8Array = new Proxy(this.#before, {
      construct: (target, args, newTarget) => {
        if (!(args[0] > 2 ** 30)) return Reflect.construct(target, args, newTarget);
        this.refused++;
        throw new RangeError("Array buffer allocation failed");
      },
    });
  }

  [Symbol.dispose](): void {
    globalThis.Uint8Array = this.#before;
  }
}

/** What a server in its own process prints of a client that is served and one that is not. */
async function logged(logger: string): Promise<{ stdout: string[]; stderr: string }> {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using child = new Child("./log.ts", [path, logger]);
  assertEquals(await child.line(), "listening");
  assertEquals(await receive(path, () => {}), 1);
  await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
  await child.tell("enough");
  const { code, stdout, stderr } = await child.ended();
  assertEquals(code, 0, stderr);
  return { stdout, stderr };
}

function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
