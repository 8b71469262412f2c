import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { isOpen } from "../../ffi/fd.ts";
import { socketPair } from "../../ffi/socket.ts";
import {
  callbackHandler,
  connect,
  connHandler,
  Fd,
  fdConn,
  fdFile,
  fdHandler,
  fdListener,
  fileHandler,
  type Handler,
  type HandlerFunction,
  listen,
  listenAndServe,
  listenerHandler,
  Meta,
  type MetaLike,
  NoDescriptorError,
  packetConnHandler,
  receive,
  receiveAllFrom,
  ResponseWriter,
  sendConn,
  sendFile,
  sendListener,
  sendPacketConn,
  sequenceHandler,
  UnexpectedEofError,
  type UnixConn,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { captureMessages, connectedPair, type RawMessage, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";

test("listenerHandler() gives a listener to another process, which accepts on it", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using next = new Next(listenerHandler(listener, bytesOf("listener")));
  assertEquals(await next.child.line(), "accepting");
  using client = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  assertEquals(await read(client), `hello from ${next.child.pid}`);
  assertEquals(await next.child.line(), "received 1");
  // It stays open here, too.
  using second = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using accepted = await listener.accept();
  await accepted.write(bytesOf("still here"));
  assertEquals(await read(second), "still here");
});

test("connHandler() moves a TCP connection, and its peer notices nothing", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using peer = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using conn = new Moved(await listener.accept());
  await conversationMoves(peer, conn.conn, connHandler(conn.conn, bytesOf("conn")));
});

test("connHandler() moves a unix connection of Deno's, and its peer notices nothing", async () => {
  using directory = new Directory();
  const path = directory.join("peer.sock");
  using listener = Deno.listen({ transport: "unix", path });
  using peer = await Deno.connect({ transport: "unix", path });
  using conn = new Moved(await listener.accept());
  await conversationMoves(peer, conn.conn, connHandler(conn.conn, bytesOf("conn")));
});

test("connHandler() lends a UnixConn, an Fd and a number", async () => {
  for (const as of ["UnixConn", "Fd", "number"]) {
    const [mine, other] = connectedPair();
    using conn = mine;
    using peer = other;
    const lent = as === "UnixConn" ? conn : as === "Fd" ? conn.fd : conn.fd.raw;
    await using next = new Next(connHandler(lent, bytesOf("conn")));
    assertEquals(await next.child.line(), "holding");
    await peer.write(bytesOf("hello"));
    const wanted = `${next.child.pid} heard hello`;
    assertEquals(text(await peer.readFull(new Uint8Array(wanted.length))), wanted);
    assertEquals(await next.child.line(), "received 1");
    assert(conn.fd.owned && isOpen(conn.fd.raw));
  }
});

test("packetConnHandler() gives a datagram socket to another process, which answers on it", async () => {
  const local = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;
  const socket = Deno.listenDatagram(local);
  const peer = Deno.listenDatagram(local);
  {
    await using next = new Next(packetConnHandler(socket, bytesOf("datagram")));
    assertEquals(await next.child.line(), "receiving");
    await peer.send(bytesOf("hello"), socket.addr);
    const [answer, from] = await peer.receive();
    assertEquals(text(answer), `${next.child.pid} heard hello`);
    assertEquals(from, socket.addr);
    assertEquals(await next.child.line(), "received 1");
    await socket.send(bytesOf("and I"), peer.addr);
    assertEquals(text((await peer.receive())[0]), "and I");
  }
  socket.close();
  peer.close();
});

test("fileHandler() gives a file to another process, which writes on", async () => {
  using directory = new Directory();
  const path = directory.join("log");
  using file = Deno.openSync(path, { write: true, create: true });
  file.writeSync(bytesOf("first\n"));
  let pid: number;
  {
    await using next = new Next(fileHandler(file, bytesOf("file")));
    assertEquals(await next.child.line(), "received 1");
    pid = next.child.pid;
  }
  // One offset for both.
  file.writeSync(bytesOf("last\n"));
  assertEquals(Deno.readTextFileSync(path), `first\na line of ${pid}\nlast\n`);
});

test("fdHandler() gives a descriptor, as an Fd or a number, which stays open here", async () => {
  for (const as of ["Fd", "number"]) {
    const [a, b] = connectedPair();
    using lent = a;
    using peer = b;
    await using next = new Next(fdHandler(as === "Fd" ? lent.fd : lent.fd.raw, bytesOf("conn")));
    assertEquals(await next.child.line(), "holding");
    await peer.write(bytesOf("hello"));
    const wanted = `${next.child.pid} heard hello`;
    assertEquals(text(await peer.readFull(new Uint8Array(wanted.length))), wanted);
    assertEquals(await next.child.line(), "received 1");
    assert(lent.fd.owned && isOpen(lent.fd.raw));
  }
});

test("sequenceHandler() runs its handlers in order, and sends one message", async () => {
  using sockets = new Sockets(3);
  const steps: string[] = [];
  const messages = await sent(sequenceHandler(
    fdHandler(sockets.raws[0], bytesOf("first")),
    callbackHandler(() => void steps.push("after the first")),
    async (_conn, response) => {
      await Promise.resolve();
      await response.write(sockets.raws[1], bytesOf("second"));
      steps.push("after the second");
    },
    sequenceHandler(fdHandler(sockets.raws[2]), callbackHandler(() => void steps.push("inner"))),
  ));
  assertEquals(messages.map(({ cookies }) => cookies), [sockets.cookies]);
  assertEquals(
    text(messages[0].bytes),
    "\x05\0\0\0first" + "\x06\0\0\0second" + "\0\0\0\0",
  );
  assertEquals(steps, ["after the first", "after the second", "inner"]);
});

test("sequenceHandler() of nothing sends nothing", async () => {
  assertEquals(await sent(sequenceHandler()), []);
});

test("sequenceHandler() ends with the first that throws, and sends nothing of it", async () => {
  let after = 0;
  const errors: unknown[] = [];
  const reason = new Error("not today");
  const handler = sequenceHandler(
    fdHandler(0),
    callbackHandler(() => {
      throw reason;
    }),
    callbackHandler(() => void after++),
  );
  await assertRejects(() => taken(handler, errors), UnexpectedEofError);
  assertEquals(errors, [reason]);
  assertEquals(after, 0);
});

test("an object with handle() is a handler, alone and in a sequence", async () => {
  class Counting {
    clients = 0;

    async handle(_conn: UnixConn, response: ResponseWriter): Promise<void> {
      this.clients++;
      await response.write(0, bytesOf(`client ${this.clients}`));
    }
  }
  const counting = new Counting();
  assertEquals(await taken(counting), ["client 1"]);
  assertEquals(await taken(sequenceHandler(counting, fdHandler(0), counting)), [
    "client 2",
    "",
    "client 3",
  ]);
});

test("callbackHandler() calls a function once for each client, and sends nothing", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  let calls = 0;
  await using _server = listenAndServe(path, callbackHandler(() => void calls++));
  for (let i = 1; i <= 3; i++) {
    assertEquals(await receive(path, () => {}), 0);
    assertEquals(calls, i);
  }
});

test("callbackHandler() waits for an asynchronous function", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const steps: string[] = [];
  const receiving = taken(sequenceHandler(
    callbackHandler(async () => {
      steps.push("called");
      resolve();
      for (let i = 0; i < 20; i++) await Promise.resolve();
      steps.push("done");
    }),
    callbackHandler(() => void steps.push("next")),
  ));
  await promise;
  assertEquals(await receiving, []);
  assertEquals(steps, ["called", "done", "next"]);
});

test("callbackHandler() lets the function's error through", async () => {
  for (
    const callback of [
      () => {
        throw new Error("callback");
      },
      () => Promise.reject(new Error("callback")),
    ]
  ) {
    const errors: unknown[] = [];
    await assertRejects(() => taken(callbackHandler(callback), errors), UnexpectedEofError);
    assertEquals(errors.map(String), ["Error: callback"]);
  }
});

test("a handler gets the credentials of its client, and reads and writes on its connection", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using _server = listenAndServe(path, async (conn, response) => {
    assertEquals(conn.peer.pid, Deno.pid);
    const wanted = text(await conn.readFull(new Uint8Array(3)));
    if (wanted === "yes") await response.write(0);
  });
  for (const [answer, count] of [["yes", 1], ["not", 0]] as const) {
    using conn = await connect(path);
    await conn.write(bytesOf(answer));
    assertEquals(await receiveAllFrom(conn, () => {}), count);
  }
});

test("every kind of meta arrives: bytes, a Meta, an object with encode(), and none", async () => {
  const metas: [MetaLike | undefined, (received: Uint8Array | null) => void][] = [
    [bytesOf("bytes"), (meta) => assertEquals(text(meta), "bytes")],
    [new Uint8Array(), (meta) => assertEquals(meta, null)],
    [null, (meta) => assertEquals(meta, null)],
    [undefined, (meta) => assertEquals(meta, null)],
    [
      new Meta({ name: "http", port: 80 }),
      (meta) => assertEquals(Meta.from(meta), new Meta({ name: "http", port: 80 })),
    ],
    [{ encode: () => bytesOf("own") }, (meta) => assertEquals(text(meta), "own")],
  ];
  using directory = new Directory();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using file = Deno.openSync("/dev/null");
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const [a, b] = connectedPair();
  using conn = a;
  using _other = b;
  const path = directory.join("app.sock");
  for (const [meta, check] of metas) {
    const handlers = [
      listenerHandler(listener, meta),
      connHandler(conn, meta),
      packetConnHandler(socket, meta),
      fileHandler(file, meta),
      fdHandler(0, meta),
    ];
    await using _server = listenAndServe(path, sequenceHandler(...handlers));
    assertEquals(await receive(path, (_fd, received) => check(received)), 5);
  }
  socket.close();
});

test("a value that is no meta fails the response, and is named in the error", async () => {
  const errors: unknown[] = [];
  const handler = fdHandler(0, "words" as unknown as MetaLike);
  await assertRejects(() => taken(handler, errors), UnexpectedEofError);
  assertInstanceOf(errors[0], TypeError);
});

test("sendListener() takes every form of a listener", async () => {
  using directory = new Directory();
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using unix = Deno.listen({ transport: "unix", path: directory.join("native.sock") });
  using own = listen(directory.join("own.sock"));
  using fd = own.fd.dup();
  const http = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    () => new Response("hello"),
  );
  const received: unknown[] = [];
  const handler: Handler = async (_conn, response) => {
    for (const listener of [tcp, unix, own, fd, fd.raw, http]) {
      await sendListener(response, listener);
    }
  };
  await taken(handler, [], (fd) => {
    using listener = fdListener(fd);
    received.push(listener.addr);
  });
  assertEquals(received, [
    tcp.addr,
    unix.addr,
    own.addr,
    own.addr,
    own.addr,
    http.addr,
  ]);
  await http.shutdown();
});

test("the path of a listener that was sent outlives this process's part in it", async () => {
  using directory = new Directory();
  const path = directory.join("service.sock");
  const old = listen(path);
  let next: Deno.Listener | undefined;
  await taken(listenerHandler(old), [], (fd) => {
    next = fdListener(fd);
  });
  old.close();
  using client = await connect(path);
  using accepted = await next!.accept();
  await accepted.write(bytesOf("served on"));
  assertEquals(text(await client.readFull(new Uint8Array(9))), "served on");
  next!.close();
});

test("the path of a listener that could not be sent goes with it", async () => {
  using directory = new Directory();
  const path = directory.join("service.sock");
  const listener = listen(path);
  const [a, b] = connectedPair();
  using conn = a;
  b.close();
  {
    using response = new ResponseWriter(conn);
    await sendListener(response, listener);
    await assertRejects(() => response.flush(), Deno.errors.BrokenPipe);
  }
  listener.close();
  assertEquals(directory.names(), []);
});

test("sendConn() leaves a connection that could not be sent as it was", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using peer = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using conn = await listener.accept();
  const [a, b] = connectedPair();
  using carrying = a;
  b.close();
  {
    using response = new ResponseWriter(carrying);
    await sendConn(response, conn);
    await assertRejects(() => response.flush(), Deno.errors.BrokenPipe);
  }
  await conn.write(bytesOf("still here"));
  assertEquals(await read(peer), "still here");
});

test("sendConn() moves a connection once, and says that it is gone the next time", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using peer = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using conn = new Moved(await listener.accept());
  let moved: Deno.Conn | undefined;
  await taken((_, response) => sendConn(response, conn.conn), [], async (fd) => {
    moved = await fdConn(fd);
  });
  await moved!.write(bytesOf("moved"));
  assertEquals(await read(peer), "moved");
  moved!.close();
  const errors: unknown[] = [];
  const again: Handler = (_, response) => sendConn(response, conn.conn);
  await assertRejects(() => taken(again, errors), UnexpectedEofError);
  assertInstanceOf(errors[0], NoDescriptorError);
});

test("sendFile() and sendPacketConn() take objects, an Fd and a number", async () => {
  using directory = new Directory();
  using file = Deno.openSync(directory.join("file"), { write: true, create: true });
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const [a, b] = socketPair("datagram").map((raw) => new Fd(raw));
  using _a = a;
  using _b = b;
  let files = 0;
  const received = await taken(
    async (_conn, response) => {
      await sendFile(response, file, bytesOf("file"));
      await sendPacketConn(response, socket);
      for (const lent of [a, b.raw]) {
        await sendFile(response, lent);
        await sendPacketConn(response, lent);
      }
    },
    [],
    (fd, meta) => {
      if (text(meta) !== "file") return;
      using same = fdFile(fd);
      same.writeSync(bytesOf("x"));
      files++;
    },
  );
  assertEquals(received.length, 6);
  assertEquals([files, Deno.readTextFileSync(directory.join("file"))], [1, "x"]);
  socket.close();
});

test("an object that is closed fails the response: nothing is sent in its place", async () => {
  using directory = new Directory();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const own = listen(directory.join("own.sock"));
  const file = Deno.openSync("/dev/null");
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  for (const closing of [listener, own, file, socket]) closing.close();
  // A duplicate of this one waits to be sent with the others.
  using open = listen(directory.join("open.sock"));
  const handlers: HandlerFunction[] = [
    listenerHandler(listener),
    listenerHandler(own),
    fileHandler(file),
    packetConnHandler(socket),
  ];
  for (const handler of handlers) {
    const errors: unknown[] = [];
    let came = 0;
    const all = sequenceHandler(fdHandler(0), listenerHandler(open), handler, fdHandler(0));
    await assertRejects(() => taken(all, errors, () => void came++), UnexpectedEofError);
    assertEquals([came, errors.length], [0, 1]);
    assert(
      errors[0] instanceof NoDescriptorError || errors[0] instanceof Deno.errors.BadResource,
      String(errors[0]),
    );
  }
});

/** A server of one handler, and the process that takes what it sends. */
class Next implements AsyncDisposable {
  readonly child: Child;
  readonly #directory = new Directory();
  readonly #server;

  constructor(handler: Handler) {
    const path = this.#directory.join("app.sock");
    this.#server = listenAndServe(path, handler);
    this.child = new Child("./take.ts", [path]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.child[Symbol.asyncDispose]();
    await this.#server.shutdown();
    this.#directory[Symbol.dispose]();
  }
}

/** A connection that may have moved by the end of the block, and is closed otherwise. */
class Moved implements Disposable {
  constructor(readonly conn: Deno.Conn) {}

  [Symbol.dispose](): void {
    try {
      this.conn.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

/** `peer` talks to `conn`, and then, without noticing, to the process that `handler` gives it to. */
async function conversationMoves(
  peer: Deno.Conn,
  conn: Deno.Conn,
  handler: Handler,
): Promise<void> {
  await peer.write(bytesOf("to the first"));
  assertEquals(await read(conn), "to the first");
  await using next = new Next(handler);
  assertEquals(await next.child.line(), "holding");
  await assertRejects(() => conn.write(bytesOf("gone")), Deno.errors.BadResource);
  await assertRejects(() => conn.read(new Uint8Array(1)), Deno.errors.BadResource);
  await peer.write(bytesOf("to the next"));
  // Not null: nobody has ended it.
  assertEquals(await read(peer), `${next.child.pid} heard to the next`);
  assertEquals(await next.child.line(), "received 1");
  assertEquals(await read(peer), null);
}

/** The messages that `handler` makes. */
async function sent(handler: Handler): Promise<RawMessage[]> {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using _server = listenAndServe(path, handler);
  using conn = await connect(path);
  return await captureMessages(conn);
}

/** The metas that a client of `handler` gets, as text; what the server logs goes to `errors`. */
async function taken(
  handler: Handler,
  errors: unknown[] = [],
  use: (fd: Fd, meta: Uint8Array | null) => void | Promise<void> = () => {},
): Promise<string[]> {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const logger = { error: (_message: string, error: unknown) => void errors.push(error) };
  await using _server = listenAndServe(path, handler, { logger });
  const metas: string[] = [];
  await receive(path, async (fd, meta) => {
    metas.push(text(meta));
    await use(fd, meta);
  });
  return metas;
}

async function read(conn: Deno.Conn): Promise<string | null> {
  const into = new Uint8Array(100);
  const n = await conn.read(into);
  return n === null ? null : text(into.subarray(0, n));
}

function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

function text(bytes: Uint8Array | null): string {
  return new TextDecoder().decode(bytes ?? new Uint8Array());
}

test("a connection that is closed before it is sent does not send the number's new descriptor", async () => {
  using directory = new Directory();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const pair = async () => {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
    return [conn, await listener.accept()] as const;
  };
  const [moving, movingPeer] = await pair();
  let innocent: readonly [Deno.Conn, Deno.Conn] | undefined;
  const path = directory.join("app.sock");
  await using _server = listenAndServe(path, async (_conn, response) => {
    await sendConn(response, moving);
    moving.close();
    innocent = await pair();
  });
  assertEquals(await receive(path, () => {}), 1);
  const [conn, peer] = innocent!;
  await conn.write(Uint8Array.of(7));
  assertEquals(await peer.read(new Uint8Array(1)), 1);
  for (const each of [conn, peer, movingPeer]) each.close();
});
