import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { closeRaw, isOpen } from "../../ffi/fd.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { isReady } from "../../ffi/poll.ts";
import { listenUnix } from "../../ffi/socket.ts";
import {
  Client,
  connect,
  EmptyControlMessageError,
  Fd,
  fdHandler,
  type GracefulError,
  listen,
  listenAndServe,
  LongReadError,
  Meta,
  NotUnixConnError,
  receive,
  receiveAllFrom,
  type ReceiveCallback,
  receiveFrom,
  type ReceiveOptions,
  ResponseWriter,
  sendTo,
  SurplusDescriptorsError,
  UnexpectedEofError,
  type UnixConn,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { Others } from "../support/event_loop_turns.ts";
import { connectedPair, joined, record, sendRaw, Sockets } from "../support/raw.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

test("receive() delivers the descriptors of another process, all and in order", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  // More than one message carries.
  await using child = new Child("./give.ts", [path, "sockets", "300"]);
  const sent = JSON.parse(await child.line());
  const received: string[] = [];
  const count = await receive(path, (fd, meta) => {
    assertEquals(Meta.from(meta).get("i"), received.length);
    assertEquals(fd.senderPid, child.pid);
    received.push(String(Sockets.cookie(fd.raw)));
  });
  assertEquals(count, 300);
  assertEquals(received, sent);
});

test("receive() reports a sender that dies half-way, after the whole records", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using child = new Child("./give.ts", [path, "die", "3"]);
  await child.line();
  const metas: string[] = [];
  await assertRejects(
    () => receive(path, (_fd, meta) => void metas.push(text(meta))),
    UnexpectedEofError,
    "The sender gave up",
  );
  assertEquals(metas, ["whole"]);
});

test("a receiver at its limit of descriptors says so, and loses none of its own", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  let clients = 0;
  await using _server = listenAndServe(path, async (_conn, response) => {
    const count = ++clients === 1 ? 100 : 3;
    for (let i = 0; i < count; i++) await response.write(0);
  });
  await using child = new Child("./few_descriptors.ts", ["receive", path], { openFiles: 64 });
  const { name, message, delivered, left } = JSON.parse(await child.line());
  assertEquals([name, delivered, left], ["ControlTruncatedError", 0, []]);
  assertMatch(message, /has reached its limit of open ones \(RLIMIT_NOFILE\)/);
  assertEquals(JSON.parse(await child.line()), { count: 3 });
});

test("a descriptor that the callback does not take is closed with the others of its message, a taken one stays open", async () => {
  await using server = new Giving(3);
  const seen: number[] = [];
  let taken: number | undefined;
  await receive(server.path, (fd) => {
    seen.push(fd.raw);
    if (seen.length === 2) taken = fd.take();
  });
  assertEquals(seen.filter(isOpen), [taken]);
  assertEquals(Sockets.cookie(taken!), server.sockets.cookies[1]);
  closeRaw(taken!);
});

test("a descriptor that the callback does not take is closed before anything else is awaited", async () => {
  await using server = new Giving(3);
  const seen: number[] = [];
  await receive(server.path, (fd) => {
    const { raw } = fd;
    const others = seen.filter(isOpen);
    seen.push(raw);
    if (seen.length < 3) return;
    return Promise.resolve().then(() => assertEquals([...others, raw].filter(isOpen), [raw]));
  });
  assertEquals(seen.filter(isOpen), []);
});

test("two receivers of one connection get different descriptors", async () => {
  await using server = new Giving(4);
  using conn = await connect(server.path);
  const iterators = [receiveAllFrom(conn), receiveAllFrom(conn)];
  const steps = await Promise.all(iterators.map((iterator) => iterator.next()));
  const cookies = steps.map(({ value }) => Sockets.cookie(value!.fd.raw));
  assertEquals(cookies.toSorted(), server.sockets.cookies.slice(0, 2).toSorted());
  for (const iterator of iterators) await iterator.return(undefined);
});

test("reads from a peer that always answers in time let the event loop have its turn", async () => {
  await using child = new Child("./drip.ts", [`drip-${crypto.randomUUID()}`]);
  const path = `\0${await child.line()}`;
  let sinceTick = 0;
  let most = 0;
  const ticking = setInterval(() => sinceTick = 0, 1);
  // One late answer, and it is not expected to be in time any more: so again and again.
  for (let i = 0; i < 20; i++) {
    using conn = await connect(path);
    await until(() => isReady(conn.fd.raw, "readable"));
    for (let reads = 0; reads < 1000; reads++) {
      await conn.read(new Uint8Array(64));
      most = Math.max(most, ++sinceTick);
    }
  }
  clearInterval(ticking);
  // At most a hundred bytes come in the five milliseconds that are one's turn.
  assert(most < 400, `${most} reads without a turn of others`);
});

test("the callback may close the descriptor itself", async () => {
  await using server = new Giving(2);
  assertEquals(await receive(server.path, (fd) => fd.close()), 2);
});

test("an asynchronous callback is waited for before the next descriptor comes", async () => {
  await using server = new Giving(5);
  const steps: string[] = [];
  await receive(server.path, async (fd, meta) => {
    steps.push(`begin ${text(meta)}`);
    for (let i = 0; i < 5; i++) await Promise.resolve();
    assert(isOpen(fd.raw));
    steps.push(`end ${text(meta)}`);
  });
  assertEquals(steps, [0, 1, 2, 3, 4].flatMap((i) => [`begin ${i}`, `end ${i}`]));
});

test("a callback that throws stops it: nothing more is delivered, and the rest is closed", async () => {
  await using server = new Giving(300);
  const reason = new Error("I do not want this one");
  for (const async of [false, true]) {
    let delivered = 0;
    const callback: ReceiveCallback = () => {
      if (++delivered < 7) return;
      if (async) return Promise.reject(reason);
      throw reason;
    };
    assertStrictEquals(await assertRejects(() => receive(server.path, callback)), reason);
    assertEquals(delivered, 7);
  }
  assertEquals(await receive(server.path, () => {}), 300);
});

test("receive() resolves to 0 when nothing is sent", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using _server = listenAndServe(path, () => {});
  assertEquals(await receive(path, () => assert(false)), 0);
});

test("receive() without a callback is iterated over", async () => {
  await using server = new Giving(300);
  const cookies: bigint[] = [];
  const metas: string[] = [];
  let before: Fd | undefined;
  for await (const { fd, meta } of receive(server.path)) {
    assertEquals(before?.owned ?? false, false);
    before = fd;
    cookies.push(Sockets.cookie(fd.raw));
    metas.push(text(meta));
  }
  assertEquals(cookies, server.sockets.cookies);
  assertEquals(metas, cookies.map((_, i) => String(i)));
});

test("leaving the iteration closes the descriptors that were not taken, and the connection", async () => {
  await using server = new Giving(300);
  let taken: Fd | undefined;
  for await (const { fd } of receive(server.path)) {
    taken = new Fd(fd.take());
    break;
  }
  assertEquals(Sockets.cookie(taken!.raw), server.sockets.cookies[0]);
  taken!.close();
  const reason = new Error("in the middle");
  const throwing = async () => {
    for await (const _ of receive(server.path)) throw reason;
  };
  assertStrictEquals(await assertRejects(throwing), reason);
});

test("an iteration that is never begun opens nothing", () => {
  receive("/nonexistent/app.sock");
});

test("receive() tells a path that does not exist from that of a dead instance", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const missing = await assertRejects(() => receive(path, () => {}), Deno.errors.NotFound);
  assertEquals((missing as { code?: string }).code, "ENOENT");
  closeRaw(listenUnix(path, "Cannot listen"));
  const stale = await assertRejects(() => receive(path, () => {}), Deno.errors.ConnectionRefused);
  assertEquals((stale as { code?: string }).code, "ECONNREFUSED");
  const iterating = async () => {
    for await (const _ of receive(directory.join("other.sock"))) assert(false);
  };
  await assertRejects(iterating, Deno.errors.NotFound);
});

test("the signal ends the wait for a sender that says nothing", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const reason = new Error("enough");
  const aborted = { signal: AbortSignal.abort(reason) };
  assertStrictEquals(await assertRejects(() => receive(path, () => {}, aborted)), reason);

  const controller = new AbortController();
  const { signal } = controller;
  const waiting = receive(path, () => {}, { signal });
  using server = await listener.accept();
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => waiting), reason);
  assertEquals(await server.read(new Uint8Array(1)), null);

  const iterating = async () => {
    for await (const _ of receive(path, { signal })) assert(false);
  };
  assertStrictEquals(await assertRejects(iterating), reason);
});

test("the signal ends receive() in the middle of a stream, and received descriptors are closed", async () => {
  using sockets = new Sockets(2);
  const [a, b] = connectedPair();
  using conn = a;
  using sender = b;
  sendRaw(sender, joined(record("whole"), record("half").subarray(0, 6)), sockets.raws);
  const reason = new Error("enough");
  const controller = new AbortController();
  const metas: string[] = [];
  const receiving = receiveAllFrom(conn, (_fd, meta) => {
    metas.push(text(meta));
    controller.abort(reason);
  }, { signal: controller.signal });
  assertStrictEquals(await assertRejects(() => receiving), reason);
  assertEquals(metas, ["whole"]);
});

test("the signal ends receiveFrom() within a message, and the next call gets the other descriptors", async () => {
  using sockets = new Sockets(3);
  const reason = new Error("enough");
  for (const how of ["receiveFrom", "receiveAllFrom", "iteration"]) {
    const [a, b] = connectedPair();
    using conn = a;
    using sender = b;
    sendRaw(sender, joined(record("a"), record("b"), record("c")), sockets.raws);
    sender.close();
    const controller = new AbortController();
    const { signal } = controller;
    const metas: string[] = [];
    const callback: ReceiveCallback = (_fd, meta) => {
      metas.push(text(meta));
      controller.abort(reason);
    };
    const receiving = async () => {
      if (how === "receiveFrom") await receiveFrom(conn, callback, { signal });
      else if (how === "receiveAllFrom") await receiveAllFrom(conn, callback, { signal });
      else for await (const { fd, meta } of receiveAllFrom(conn, { signal })) callback(fd, meta);
    };
    assertStrictEquals(await assertRejects(receiving), reason);
    assertEquals([how, ...metas], [how, "a"]);
    await receiveAllFrom(conn, callback);
    assertEquals([how, ...metas], [how, "a", "b", "c"]);
  }
});

for (const how of ["callback", "iteration"]) {
  test(`a sender that never pauses leaves others their turns, and the signal: ${how}`, async () => {
    await using others = new Others();
    const [a, b] = connectedPair();
    using conn = a;
    using sender = b;
    const { signal, reason } = others;
    // There is always something to read.
    const more = () => {
      others.wait();
      sendRaw(sender, record(), [0]);
    };
    more();
    const receiving = async () => {
      if (how === "callback") await receiveAllFrom(conn, more, { signal });
      else for await (const _ of receiveAllFrom(conn, { signal })) more();
    };
    assertStrictEquals(await assertRejects(receiving), reason);
  });
}

test("a process that sends without pause leaves others their turns, and the signal", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using child = new Child("./flood.ts", ["descriptors", path]);
  assertEquals(await child.line(), "listening");
  await using others = new Others();
  const { signal, reason } = others;
  // It takes longer to do something with them than to send them.
  const receiving = receive(path, () => {
    others.wait();
    openDescriptors();
  }, { signal });
  assertStrictEquals(await assertRejects(() => receiving), reason);
});

test("maxMetaBytes limits the receiver to the byte", async () => {
  using sockets = new Sockets(1);
  for (const [maxMetaBytes, fits] of [[9, false], [10, true]] as const) {
    const [a, b] = connectedPair();
    using conn = a;
    {
      using sender = b;
      await sendTo(sender, sockets.raws[0], new Uint8Array(10));
    }
    const receiving = receiveAllFrom(conn, () => {}, { maxMetaBytes });
    if (fits) assertEquals(await receiving, 1);
    else await assertRejects(() => receiving, LongReadError, "announces 10 bytes");
  }
});

test("a maxMetaBytes that is no number of bytes is refused", async () => {
  for (const junk of [NaN, -1, 1.5, Infinity, 2 ** 31, "9", null]) {
    const maxMetaBytes = junk as number;
    const message = `maxMetaBytes must be an integer from 0 to 2147483647, not ${junk}`;
    assertThrows(() => new Client({ maxMetaBytes }), RangeError, message);
    // Before anything is connected to.
    const path = "/nonexistent/app.sock";
    await assertRejects(async () => await receive(path, () => {}, { maxMetaBytes }), RangeError);
    await assertRejects(async () => await receive(path, { maxMetaBytes }).next(), RangeError);
  }
});

test("a meta of a megabyte arrives, where the sender was told that it may", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const meta = Uint8Array.from({ length: 1 << 20 }, (_, i) => i * 31 + (i >> 8));
  await using _server = listenAndServe(path, fdHandler(0, meta), {
    maxMetaBytes: meta.length,
    // The client that takes less goes away in the middle.
    logger: {},
  });
  let received: Uint8Array | null = null;
  await receive(path, (_fd, meta) => void (received = meta));
  assert(received!.every((byte, i) => byte === meta[i]));
  assertEquals(received!.length, meta.length);
  await assertRejects(
    () => receive(path, () => {}, { maxMetaBytes: meta.length - 1 }),
    LongReadError,
  );
});

test("receiveFrom() delivers one message at a time, and 0 at the end", async () => {
  using sockets = new Sockets(6);
  const [a, b] = connectedPair();
  using conn = a;
  const counts: number[] = [];
  const cookies: bigint[] = [];
  const callback: ReceiveCallback = (fd) => void cookies.push(Sockets.cookie(fd.raw));
  {
    using sender = b;
    const waiting = receiveFrom(conn, callback);
    let next = 0;
    for (const count of [3, 1, 2]) {
      using response = new ResponseWriter(sender);
      for (let i = 0; i < count; i++) await response.write(sockets.raws[next++]);
      await response.flush();
    }
    counts.push(
      await waiting,
      await receiveFrom(conn, callback),
      await receiveFrom(conn, callback),
    );
  }
  counts.push(await receiveFrom(conn, callback), await receiveFrom(conn, callback));
  assertEquals(counts, [3, 1, 2, 0, 0]);
  assertEquals(cookies, sockets.cookies);
});

test("receiveFrom() stops with a callback that throws, and closes the rest of the message", async () => {
  using sockets = new Sockets(3);
  const [a, b] = connectedPair();
  using conn = a;
  using sender = b;
  sendRaw(sender, joined(record("a"), record("b"), record("c")), sockets.raws);
  const reason = new Error("no");
  const metas: string[] = [];
  const callback: ReceiveCallback = (_fd, meta) => {
    metas.push(text(meta));
    if (metas.length === 2) throw reason;
  };
  assertStrictEquals(await assertRejects(() => receiveFrom(conn, callback)), reason);
  assertEquals(metas, ["a", "b"]);
  // At once, not only when the connection is closed.
  assertEquals(sockets.others(), []);
});

test("receiveAllFrom() reads to the end, and leaves the connection to its owner", async () => {
  using sockets = new Sockets(4);
  const [a, b] = connectedPair();
  using conn = a;
  using sender = b;
  for (const raw of sockets.raws) await sendTo(sender, raw);
  sender.closeWrite();
  const cookies: bigint[] = [];
  const count = await receiveAllFrom(conn, (fd) => void cookies.push(Sockets.cookie(fd.raw)));
  assertEquals(count, 4);
  assertEquals(cookies, sockets.cookies);
  await conn.write(bytesOf("thanks"));
  assertEquals(text(await sender.readFull(new Uint8Array(6))), "thanks");
});

test("receiveAllFrom() is iterated over without a callback", async () => {
  using sockets = new Sockets(4);
  const [a, b] = connectedPair();
  using conn = a;
  {
    using sender = b;
    for (const raw of sockets.raws) await sendTo(sender, raw);
  }
  const cookies: bigint[] = [];
  for await (const { fd, meta } of receiveAllFrom(conn)) {
    cookies.push(Sockets.cookie(fd.raw));
    assertEquals(meta, null);
    if (cookies.length === 3) break;
  }
  assertEquals(cookies, sockets.cookies.slice(0, 3));
});

test("leaving receiveAllFrom() closes the other descriptors of the message at once", async () => {
  using sockets = new Sockets(4);
  const [a, b] = connectedPair();
  using conn = a;
  using sender = b;
  for (const leave of ["break", "throw", "return"]) {
    sendRaw(sender, joined(record(), record(), record(), record()), sockets.raws);
    const all = receiveAllFrom(conn);
    const { value } = await all.next();
    assertEquals(sockets.others().length, 4);
    assertEquals(Sockets.cookie(value!.fd.raw), sockets.cookies[0]);
    if (leave === "throw") await assertRejects(() => all.throw(new Error("no")), Error, "no");
    else if (leave === "return") await all.return(undefined);
    else for await (const _ of all) break;
    assertEquals(sockets.others(), []);
  }
});

test("a connection that was left inside a message gives nothing more, one left between two does", async () => {
  using sockets = new Sockets(3);
  const reason = new Error("no");
  for (const inside of [true, false]) {
    const [a, b] = connectedPair();
    using conn = a;
    using sender = b;
    const message = joined(record("a"), record("b"), record("c"));
    sendRaw(sender, message.subarray(0, inside ? -1 : undefined), sockets.raws);
    const receiving = receiveAllFrom(conn, () => {
      throw reason;
    });
    assertStrictEquals(await assertRejects(() => receiving), reason);
    sendRaw(sender, inside ? message.subarray(-1) : record("d"), sockets.raws.slice(0, 1));
    const metas: string[] = [];
    const again = receiveFrom(conn, (_fd, meta) => void metas.push(text(meta)));
    if (inside) await assertRejects(() => again, Deno.errors.BadResource, "left half read");
    else assertEquals(await again, 1);
    assertEquals(metas, inside ? [] : ["d"]);
  }
});

test("a protocol of one's own may go before the descriptors, in both directions", async () => {
  using directory = new Directory();
  using sockets = new Sockets(2);
  const path = directory.join("app.sock");
  await using _server = listenAndServe(path, async (conn, response) => {
    const word = text(await conn.readFull(new Uint8Array(4)));
    await conn.write(bytesOf(`${word}, and here they come:`));
    for (const raw of sockets.raws) await response.write(raw, bytesOf("meta"));
  });
  using conn = await connect(path);
  await conn.write(bytesOf("send"));
  assertEquals(text(await conn.readFull(new Uint8Array(25))), "send, and here they come:");
  const cookies: bigint[] = [];
  await receiveAllFrom(conn, (fd, meta) => {
    cookies.push(Sockets.cookie(fd.raw));
    assertEquals(text(meta), "meta");
  });
  assertEquals(cookies, sockets.cookies);
});

type Case = [
  name: string,
  bytes: Uint8Array,
  descriptors: number,
  delivered: number,
  verdict: new (message: string) => GracefulError,
];
const cases: Case[] = [
  ["half a length", record().subarray(0, 2), 0, 0, UnexpectedEofError],
  ["half a meta", record("meta").subarray(0, 6), 1, 0, UnexpectedEofError],
  [
    "a record and half a record",
    joined(record(), record("b").subarray(0, 4)),
    2,
    1,
    UnexpectedEofError,
  ],
  ["more records than descriptors", joined(record(), record()), 1, 1, EmptyControlMessageError],
  ["records alone", record("abc"), 0, 0, EmptyControlMessageError],
  ["more descriptors than records", joined(record(), record()), 5, 2, SurplusDescriptorsError],
  ["text", bytesOf("hello, I am no such server\r\n"), 0, 0, LongReadError],
  ["a length that is too long", new Uint8Array([0, 0, 0, 1]), 3, 0, LongReadError],
];
for (const [name, bytes, descriptors, delivered, verdict] of cases) {
  test(`a sender of ${name} is answered with ${verdict.name}, and nothing stays open`, async () => {
    using sockets = new Sockets(descriptors);
    for (const iterate of [false, true]) {
      const [a, b] = connectedPair();
      using conn = a;
      sendRaw(b, bytes, sockets.raws);
      b.close();
      let count = 0;
      const error = await assertRejects(async () => {
        if (!iterate) await receiveAllFrom(conn, () => void count++);
        else for await (const _ of receiveAllFrom(conn)) count++;
      });
      assertInstanceOf(error, verdict);
      assertEquals(count, delivered);
    }
  });
}

test("a flood of descriptors without records ends in an error", async () => {
  const [a, b] = connectedPair();
  using conn = a;
  using sender = b;
  const stdin = Array(253).fill(0);
  // A record that never becomes whole holds back all that come after.
  sendRaw(sender, record(new Uint8Array(1 << 19)).subarray(0, 5), stdin);
  sendRaw(sender, new Uint8Array(1), stdin);
  sendRaw(sender, new Uint8Array(1), [0]);
  await assertRejects(() => receiveAllFrom(conn, () => {}), SurplusDescriptorsError, "507");
});

test("Client receives with its own options", async () => {
  await using server = new Giving(12);
  const counting = new Client();
  assertEquals(await counting.receive(server.path, () => {}), 12);
  let iterated = 0;
  for await (const _ of counting.receive(server.path)) iterated++;
  assertEquals(iterated, 12);

  const reason = new Error("enough");
  const options: ReceiveOptions[] = [{ maxMetaBytes: 1 }, { signal: AbortSignal.abort(reason) }];
  const [small, aborted] = options.map((options) => new Client(options));
  // The tenth meta is "10".
  let delivered = 0;
  const receiving = small.receive(server.path, () => void delivered++);
  await assertRejects(() => receiving, LongReadError);
  assertEquals(delivered, 10);
  for (
    const use of [
      (client: Client, conn: UnixConn) => client.receiveFrom(conn, () => {}),
      (client: Client, conn: UnixConn) => client.receiveAllFrom(conn, () => {}),
      (client: Client, conn: UnixConn) => client.receiveAllFrom(conn).next(),
    ]
  ) {
    const [a, b] = connectedPair();
    using conn = a;
    using sender = b;
    sendRaw(sender, record("much"), [0]);
    await assertRejects(() => use(small, conn), LongReadError);
    assertStrictEquals(await assertRejects(() => use(aborted, conn)), reason);
  }
});

test("one Client receives twenty times at once, each all of it", async () => {
  await using server = new Giving(300);
  const client = new Client({ maxMetaBytes: 3 });
  const all = await Promise.all(Array.from({ length: 20 }, async () => {
    const metas: string[] = [];
    await client.receive(server.path, (_fd, meta) => void metas.push(text(meta)));
    return metas;
  }));
  const wanted = Array.from({ length: 300 }, (_, i) => String(i));
  for (const metas of all) assertEquals(metas, wanted);
});

test("a connection of another kind is refused: it would lose the descriptors", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = Deno.listen({ transport: "unix", path });
  using native = await Deno.connect({ transport: "unix", path });
  using _accepted = await listener.accept();
  for (const junk of [native, 0, {}, null, undefined, "conn"]) {
    const conn = junk as unknown as UnixConn;
    // As everything that promises does, by rejecting.
    await assertRejects(() => receiveFrom(conn, () => {}), NotUnixConnError);
    await assertRejects(() => receiveAllFrom(conn, () => {}), NotUnixConnError);
    await assertRejects(async () => await receiveAllFrom(conn).next(), NotUnixConnError);
  }
});

test("twenty clients receive at once, each all of it", async () => {
  await using server = new Giving(300);
  const counts = await Promise.all(
    Array.from({ length: 20 }, () => receive(server.path, () => {})),
  );
  assertEquals(counts, Array(20).fill(300));
});

/** A server that sends so many sockets, each with its place as the meta. */
class Giving implements AsyncDisposable {
  readonly sockets: Sockets;
  readonly path: string;
  readonly #directory = new Directory();
  readonly #server;

  constructor(count: number) {
    this.sockets = new Sockets(count);
    this.path = this.#directory.join("app.sock");
    this.#server = listenAndServe(this.path, async (_conn, response) => {
      for (const [i, raw] of this.sockets.raws.entries()) {
        await response.write(raw, bytesOf(String(i)));
      }
      // A client that leaves early is not what these tests are about.
    }, { logger: {} });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
    this.sockets[Symbol.dispose]();
    this.#directory[Symbol.dispose]();
  }
}

function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

function text(bytes: Uint8Array | null): string {
  return new TextDecoder().decode(bytes!);
}
