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
import { IncomingMessage, OutgoingMessage, wouldBlock } from "../../ffi/message.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import { pause } from "../../lib/time.ts";
import {
  Fd,
  listen,
  type Logger,
  LongWriteError,
  NotUnixConnError,
  receiveAllFrom,
  ResponseWriter,
  sendListener,
  type SendOptions,
  UnexpectedEofError,
  type UnixConn,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { captureMessages, connectedPair, type RawMessage, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";

test("write() collects descriptors, and flush() sends them as one message", async () => {
  using sockets = new Sockets(3);
  using wire = new Wire();
  for (const [i, raw] of sockets.raws.entries()) await wire.response.write(raw, bytesOf(`${i}`));
  assertEquals(new IncomingMessage(1).receive(wire.receiver.fd.raw), wouldBlock);
  assertEquals(wire.response.sent, 0);
  await wire.response.flush();
  assertEquals(wire.response.sent, 3);
  const messages = await wire.end();
  assertEquals(messages.map(({ cookies }) => cookies), [sockets.cookies]);
  assertEquals(text(messages[0].bytes), "\x01\0\0\x000" + "\x01\0\0\x001" + "\x01\0\0\x002");
});

test("flush() of nothing sends nothing", async () => {
  using wire = new Wire();
  await wire.response.flush();
  await wire.response.write(0);
  await Promise.all([wire.response.flush(), wire.response.flush()]);
  await wire.response.flush();
  assertEquals(wire.response.sent, 1);
  assertEquals((await wire.end()).length, 1);
});

test("a full message goes out by itself: at 170 descriptors, or at 4096 bytes", async () => {
  using wire = new Wire();
  for (let i = 0; i < 171; i++) await wire.response.write(0);
  assertEquals(wire.response.sent, 170);
  await wire.response.flush();
  for (const length of [4000, 88, 1]) await wire.response.write(0, new Uint8Array(length));
  await wire.response.flush();
  const messages = await wire.end();
  assertEquals(messages.map(({ bytes }) => bytes.length), [4 * 170, 4, 4096, 5]);
  assertEquals(messages.map(({ cookies }) => cookies.length), [170, 1, 2, 1]);
});

test("a thousand descriptors arrive in order, in six messages", async () => {
  using sockets = new Sockets(1000);
  using wire = new Wire();
  for (const raw of sockets.raws) await wire.response.write(raw);
  await wire.response.flush();
  assertEquals(wire.response.sent, 1000);
  const messages = await wire.end();
  assertEquals(messages.map(({ cookies }) => cookies.length), [170, 170, 170, 170, 170, 150]);
  assertEquals(messages.flatMap(({ cookies }) => cookies), sockets.cookies);
});

test("write() calls that are not awaited keep their order", async () => {
  using sockets = new Sockets(1000);
  using wire = new Wire();
  const writing = sockets.raws.map((raw, i) => wire.response.write(raw, bytesOf(`${i} `)));
  await Promise.all(writing);
  await wire.response.flush();
  const messages = await wire.end();
  assertEquals(messages.flatMap(({ cookies }) => cookies), sockets.cookies);
  const metas = messages.map(({ bytes }) => text(bytes).replace(/.\0\0\0/gs, "")).join("");
  assertEquals(metas, sockets.raws.map((_, i) => `${i} `).join(""));
});

test("flush() sends all earlier writes, also those that still wait for room", async () => {
  using sockets = new Sockets(600);
  using wire = new Wire();
  const writing = sockets.raws.map((raw) => wire.response.write(raw));
  await wire.response.flush();
  assertEquals(wire.response.sent, 600);
  await Promise.all(writing);
  assertEquals((await wire.end()).flatMap(({ cookies }) => cookies), sockets.cookies);
});

test("a write during a pending send comes after it, in the order of the calls", async () => {
  using sockets = new Sockets(3);
  const [first, second, third] = sockets.raws;
  using wire = new Wire();
  await wire.response.write(first);
  const later = wire.response.flush().then(() => wire.response.write(third));
  await wire.response.write(second);
  await later;
  await wire.response.flush();
  assertEquals((await wire.end()).flatMap(({ cookies }) => cookies), sockets.cookies);
});

test("a failure stays: every write() and flush() after it rejects with it", async () => {
  using wire = new Wire();
  wire.receiver.close();
  await wire.response.write(0);
  const error = await assertRejects(() => wire.response.flush(), Deno.errors.BrokenPipe);
  assertStrictEquals(await assertRejects(() => wire.response.flush()), error);
  assertStrictEquals(await assertRejects(() => wire.response.write(0)), error);
  assertStrictEquals(await assertRejects(() => wire.response.flush()), error);
  assertEquals(wire.response.sent, 0);
});

test("every write() that waited for the message that failed learns of it", async () => {
  using wire = new Wire();
  wire.receiver.close();
  const writing = Array.from({ length: 600 }, () => wire.response.write(0));
  const results = await Promise.allSettled(writing);
  assertEquals(results.map(({ status }) => status), [
    ...Array(170).fill("fulfilled"),
    ...Array(430).fill("rejected"),
  ]);
});

test("a descriptor that was closed before flush() is named, and nothing goes out", async () => {
  using sockets = new Sockets(2);
  using wire = new Wire();
  const closed = dup(0);
  await wire.response.write(sockets.raws[0]);
  await wire.response.write(closed, bytesOf("gone"));
  await wire.response.write(sockets.raws[1]);
  closeRaw(closed);
  const error = await assertRejects(() => wire.response.flush(), Deno.errors.BadResource);
  assertMatch(error.message, new RegExp(`^Cannot send descriptor ${closed}: `));
  assertEquals((error as { code?: string }).code, "EBADF");
  assertEquals(wire.response.sent, 0);
  assertEquals(await wire.end(), []);
});

test("a number that is not open throws, and no other descriptor is sent in its place", async () => {
  using wire = new Wire();
  for (const number of [NaN, 0.5, -1, 2 ** 32, Infinity]) {
    await assertRejects(async () => {
      await wire.response.write(number);
      await wire.response.flush();
    });
  }
  using taken = new Fd(dup(0));
  taken.close();
  await assertRejects(() => wire.response.write(taken), Deno.errors.BadResource);
  assertEquals(await wire.end(), []);
});

test("a meta that is too long is refused alone: the others are not affected", async () => {
  using sockets = new Sockets(3);
  using wire = new Wire();
  await wire.response.write(sockets.raws[0], bytesOf("a"));
  const long = new Uint8Array(4093);
  await assertRejects(() => wire.response.write(sockets.raws[1], long), LongWriteError);
  await wire.response.write(sockets.raws[2], bytesOf("c"));
  await wire.response.flush();
  const messages = await wire.end();
  assertEquals(messages.map(({ cookies }) => cookies), [[sockets.cookies[0], sockets.cookies[2]]]);
  assertEquals(text(messages[0].bytes), "\x01\0\0\0a" + "\x01\0\0\0c");
});

test("maxMetaBytes bounds a meta from either side of the default", async () => {
  for (const maxMetaBytes of [0, 10, 100_000]) {
    using wire = new Wire({ maxMetaBytes });
    await assertRejects(
      async () => await wire.response.write(0, new Uint8Array(maxMetaBytes + 1)),
      LongWriteError,
      `a message carries ${maxMetaBytes}`,
    );
    await wire.response.write(0, new Uint8Array(maxMetaBytes));
    await wire.response.flush();
    // Of a long one, one recvmsg brings a part.
    const lengths = (await wire.end()).map(({ bytes }) => bytes.length);
    assertEquals(lengths.reduce((sum, length) => sum + length), 4 + maxMetaBytes);
  }
});

test("a receiver that reads slowly gets everything: the writer waits for room", async () => {
  using sockets = new Sockets(7);
  using wire = new Wire();
  const meta = (i: number) => new Uint8Array(4092).fill(i);
  const writing = (async () => {
    for (let i = 0; i < 300; i++) await wire.response.write(sockets.raws[i % 7], meta(i));
    await wire.response.flush();
    wire.sender.close();
  })();
  await full(wire.response);
  assert(wire.response.sent > 0 && wire.response.sent < 299, `sent ${wire.response.sent}`);
  let i = 0;
  await receiveAllFrom(wire.receiver, (fd, received) => {
    assertEquals(received!.length, 4092);
    assert(received!.every((byte) => byte === (i & 0xff)));
    assertEquals(Sockets.cookie(fd.raw), sockets.cookies[i % 7]);
    i++;
  });
  await writing;
  assertEquals(i, 300);
});

test("a receiver that reads a little now and then is waited for, a stopped one is not", async () => {
  const stallTimeout = 200;
  using wire = new Wire({ stallTimeout });
  const writing = endless(wire.response);
  await full(wire.response);
  // Room shows only when most of the buffer is free: after several times of stallTimeout.
  const incoming = new IncomingMessage(4096);
  for (let i = 0; i < 40; i++) {
    assertEquals(incoming.receive(wire.receiver.fd.raw), 4096);
    closeAll(incoming.descriptors.subarray(0, incoming.count));
    await Promise.race([pause(stallTimeout / 8), writing]);
  }
  await assertRejects(() => writing, Deno.errors.TimedOut, "the peer has read nothing for 200 ms");
});

test("a receiver that reads all that is there now and then has its time anew each time", async () => {
  const stallTimeout = 200;
  const maxMetaBytes = 2 << 20;
  using wire = new Wire({ stallTimeout, maxMetaBytes });
  // One message, of which a tenth finds room at once.
  assertEquals(wire.response.write(0, new Uint8Array(maxMetaBytes)), undefined);
  const writing = wire.response.flush();
  const incoming = new IncomingMessage(1 << 16);
  for (let left = 4 + maxMetaBytes; left > 0;) {
    await Promise.race([pause(stallTimeout / 4), writing]);
    for (let n = 1; n > 0; left -= Math.max(n, 0)) {
      n = incoming.receive(wire.receiver.fd.raw);
      closeAll(incoming.descriptors.subarray(0, incoming.count));
    }
  }
  await writing;
});

test("a message that the smallest send buffer cuts arrives whole", async () => {
  using sockets = new Sockets(3);
  using wire = new Wire({ maxMetaBytes: 100_000 });
  const smallest = new Uint8Array(4);
  libc().setsockopt(wire.sender.fd.raw, c.SOL_SOCKET, c.SO_SNDBUF, smallest, 4);
  const metas = sockets.raws.map((_, n) =>
    Uint8Array.from({ length: 33_333 * (n + 1) }, (_, i) => i * 7 + (i >> 8) + n)
  );
  const writing = (async () => {
    for (const [n, raw] of sockets.raws.entries()) await wire.response.write(raw, metas[n]);
    await wire.response.flush();
    wire.sender.close();
  })();
  let n = 0;
  await receiveAllFrom(wire.receiver, (fd, meta) => {
    assertEquals(meta!.length, metas[n].length);
    assert(meta!.every((byte, i) => byte === metas[n][i]));
    assertEquals(Sockets.cookie(fd.raw), sockets.cookies[n++]);
  });
  await writing;
  assertEquals(n, 3);
});

test("a sender waits while as many descriptors as RLIMIT_NOFILE are on their way", async () => {
  // Root is not limited, but for the capabilities that say so (net/unix/scm.c, too_many_unix_fds).
  const through = Deno.uid() === 0 ? ["setpriv", "--bounding-set=-sys_resource,-sys_admin"] : [];
  await using child = new Child("./in_flight.ts", [], { openFiles: 300, through });
  const { stdout, stderr } = await child.ended();
  assertEquals(stdout.map((line) => JSON.parse(line)), [
    { limited: true, bytesWaiting: 2 * 170 * 4, sent: 340 },
    { error: "ETOOMANYREFS", message: "for 50 ms", sent: 340 },
    { aborted: true },
    { received: 340, sentAfterwards: 510 },
  ], stderr);
});

test("the signal ends a wait for room, and the unsent descriptors are not sent later", async () => {
  const controller = new AbortController();
  using wire = new Wire({ signal: controller.signal });
  const reason = new Error("enough");
  const writing = endless(wire.response);
  await full(wire.response);
  const { sent } = wire.response;
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => writing), reason);
  assertStrictEquals(await assertRejects(() => wire.response.flush()), reason);
  assertEquals((await wire.end()).length, sent);
});

test("disposing of a response sends nothing, and closes the descriptors that belong to it", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using wire = new Wire();
  {
    using response = wire.response;
    await response.write(0);
    // A duplicate of the listener's descriptor waits with it.
    await sendListener(response, listener);
  }
  assertEquals(await wire.end(), []);
});

test("a failed message closes the descriptors that belong to it", async () => {
  using listener = listen(`\0${crypto.randomUUID()}`);
  using wire = new Wire();
  wire.receiver.close();
  const giving = Array.from({ length: 300 }, () => sendListener(wire.response, listener));
  const failed = (await Promise.allSettled(giving)).filter(({ status }) => status === "rejected");
  assertEquals(failed.length, 300 - 170);
});

test("a descriptor that is given to an ended response is closed and not sent", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using wire = new Wire();
  const meanwhile = sendListener(wire.response, listener);
  wire.response[Symbol.dispose]();
  const { BadResource } = Deno.errors;
  await meanwhile;
  await assertRejects(() => sendListener(wire.response, listener), BadResource, "has ended");
  const given = new Fd(dup(0));
  await assertRejects(() => wire.response.give(given), BadResource, "has ended");
  assertEquals(given.owned, false);
  await assertRejects(() => wire.response.flush(), BadResource, "has ended");
  assertEquals(await wire.end(), []);
});

test("write() gives a promise only where there is something to wait for", async () => {
  using wire = new Wire();
  for (let i = 0; i < 400; i++) assertEquals(wire.response.write(0), undefined);
  const filling = endless(wire.response);
  await full(wire.response);
  const waiting = wire.response.write(0);
  assertInstanceOf(waiting, Promise);
  wire.receiver.close();
  await assertRejects(() => filling);
  await assertRejects(() => waiting);
});

test("responses that come one after the other send each their own", async () => {
  using sockets = new Sockets(3);
  for (let i = 0; i < 30; i++) {
    using wire = new Wire();
    await wire.response.write(sockets.raws[i % 3], bytesOf(`response ${i}`));
    // What the one before wrote and did not send is not sent by the next.
    if (i % 2 === 0) continue;
    await wire.response.flush();
    const [{ cookies, bytes }, ...others] = await wire.end();
    assertEquals([cookies, others], [[sockets.cookies[i % 3]], []]);
    assertEquals(new TextDecoder().decode(bytes.subarray(4)), `response ${i}`);
  }
});

test("a response that ends while it sends leaves its buffers to the kernel", async () => {
  using sockets = new Sockets(2);
  using wire = new Wire();
  const filling = endless(wire.response).catch(() => {});
  await full(wire.response);
  wire.response[Symbol.dispose]();
  using another = new Wire();
  await another.response.write(sockets.raws[0], bytesOf("another's"));
  await another.response.flush();
  const receiving = captureMessages(wire.receiver);
  await filling;
  wire.sender.close();
  for (const { bytes } of await receiving) assert(bytes.every((byte, i) => i < 4 || byte === 0));
  const [{ cookies, bytes }] = await another.end();
  assertEquals(cookies, [sockets.cookies[0]]);
  assertEquals(new TextDecoder().decode(bytes.subarray(4)), "another's");
});

test("a message that waits for room is sent as it was written, though its response has ended", async () => {
  using sockets = new Sockets(2);
  using wire = new Wire({ maxMetaBytes: 1 << 20 });
  const raw = dup(sockets.raws[0]);
  await wire.response.give(new Fd(raw), new Uint8Array(1 << 10));
  const last = new OutgoingMessage(1 << 16);
  while (last.send(wire.sender.fd.raw, 0, 1 << 16, 0) !== wouldBlock);
  const sending = wire.response.flush();
  wire.response[Symbol.dispose]();
  // Were it closed, this would have its number.
  const next = dup(sockets.raws[1]);
  const receiving = captureMessages(wire.receiver);
  await sending;
  assert(!isOpen(raw), "it is closed once it is sent");
  wire.sender.close();
  assertEquals((await receiving).at(-1)!.cookies, [sockets.cookies[0]]);
  closeRaw(next);
});

test("poison() does not complete a message that lacks one byte", async () => {
  const meta = (length: number) => new Uint8Array(length).fill(65);
  using first = new Wire({ maxMetaBytes: 1 << 20 });
  assertEquals(first.response.write(0, meta(1 << 19)), undefined);
  const waiting = first.response.flush().catch(() => {});
  const sent = unreadBytes(first.receiver.fd.raw);
  assert(sent > 0 && sent < 1 << 19, `${sent} at once`);
  first.sender.close();
  await waiting;
  for (const missing of [1, 2, 100]) {
    using wire = new Wire({ maxMetaBytes: 1 << 20 });
    assertEquals(wire.response.write(0, meta(sent - 4 + missing)), undefined);
    const half = wire.response.flush().catch(() => {});
    wire.sender.poison();
    const receiving = receiveAllFrom(wire.receiver, () => {});
    wire.sender.close();
    await assertRejects(() => receiving, UnexpectedEofError);
    await half;
  }
});

test("debug(), info() and error() reach the logger", () => {
  const lines: unknown[][] = [];
  const logger: Required<Logger> = {
    debug: (...line) => void lines.push(["debug", ...line]),
    info: (...line) => void lines.push(["info", ...line]),
    warn: (...line) => void lines.push(["warn", ...line]),
    error: (...line) => void lines.push(["error", ...line]),
  };
  const [a, b] = connectedPair();
  using sender = a;
  using _receiver = b;
  using response = new ResponseWriter(sender, { logger });
  response.debug("one", 1);
  response.info("two", { two: 2 });
  response.error("three", 3, "more");
  assertEquals(lines, [
    ["debug", "one", 1],
    ["info", "two", { two: 2 }],
    ["error", "three", 3, "more"],
  ]);
});

test("a logger may lack any of its functions, and use `this`", () => {
  const [a, b] = connectedPair();
  using sender = a;
  using _receiver = b;
  class Counter {
    count = 0;
    error(): void {
      this.count++;
    }
  }
  const logger = new Counter();
  for (const each of [logger, {}, undefined]) {
    using response = new ResponseWriter(sender, { logger: each });
    response.debug("nowhere");
    response.info("nowhere");
    response.error("counted, if it can be");
  }
  assertEquals(logger.count, 1);
});

test("ResponseWriter takes a connection of this library's only", () => {
  for (const junk of [{}, null, 0, new Fd(0)]) {
    const error = assertThrows(() => new ResponseWriter(junk as unknown as UnixConn));
    assertInstanceOf(error, NotUnixConnError);
  }
});

/** A response, and the other end of its connection. */
class Wire implements Disposable {
  readonly sender: UnixConn;
  readonly receiver: UnixConn;
  readonly response: ResponseWriter;

  constructor(options?: SendOptions) {
    [this.sender, this.receiver] = connectedPair();
    this.response = new ResponseWriter(this.sender, options);
  }

  /** What arrived, now that no more will. */
  async end(): Promise<RawMessage[]> {
    this.sender.close();
    return await captureMessages(this.receiver);
  }

  [Symbol.dispose](): void {
    this.response[Symbol.dispose]();
    this.sender[Symbol.dispose]();
    this.receiver[Symbol.dispose]();
  }
}

/** Writes until that fails. */
async function endless(response: ResponseWriter): Promise<void> {
  for (;;) await response.write(0, new Uint8Array(4092));
}

/** Waits until a response has come as far as there is room for. */
async function full(response: ResponseWriter): Promise<void> {
  for (let before = -1; before !== response.sent; await turn()) before = response.sent;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
