import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { closeAll, closeRaw, dup, isOpen } from "../../ffi/fd.ts";
import { readText } from "../../ffi/file.ts";
import { libc } from "../../ffi/libc.ts";
import { IncomingMessage, maxDescriptors, OutgoingMessage, wouldBlock } from "../../ffi/message.ts";
import { socketPair } from "../../ffi/socket.ts";
import { Child } from "../support/child.ts";
import { Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";

// linux/socket.h: not among the options that the library sets.
const SO_PASSPIDFD = 76;

test("a message carries 253 descriptors, each to the same socket, in their order", () => {
  using sockets = new Sockets(maxDescriptors);
  using pair = new Pair();
  const outgoing = filled(bytesOf("all at once"), sockets.raws);
  assertEquals(outgoing.send(pair.a, 0, 11, 253), 11);
  const incoming = new IncomingMessage(64);
  assertEquals(incoming.receive(pair.b), 11);
  assertEquals(text(incoming.data.subarray(0, 11)), "all at once");
  assertEquals([incoming.count, incoming.truncated], [253, false]);
  const received = [...incoming.descriptors];
  assertEquals(received.map(Sockets.cookie), sockets.cookies);
  assertEquals(new Set([...received, ...sockets.raws]).size, 506);
  closeAll(received);
});

test("received descriptors are closed in programs that this process starts", () => {
  using sockets = new Sockets(1);
  using pair = new Pair();
  filled(bytesOf("x"), sockets.raws).send(pair.a, 0, 1, 1);
  const incoming = new IncomingMessage(1);
  incoming.receive(pair.b);
  const flags = /^flags:\s*([0-7]+)/m.exec(
    readText(`/proc/self/fdinfo/${incoming.descriptors[0]}`)!,
  );
  assert((parseInt(flags![1], 8) & c.O_CLOEXEC) !== 0);
  closeAll(incoming.descriptors.subarray(0, 1));
});

test("the same buffers serve one message after another, of any size", () => {
  using sockets = new Sockets(5);
  using pair = new Pair();
  const outgoing = new OutgoingMessage(64);
  const incoming = new IncomingMessage(64);
  for (const count of [5, 0, 1, 3, 0, 5]) {
    const words = `message of ${count}`;
    outgoing.data.set(bytesOf(words));
    outgoing.descriptors.set(sockets.raws.slice(0, count));
    assertEquals(outgoing.send(pair.a, 0, words.length, count), words.length);
    assertEquals(incoming.receive(pair.b), words.length);
    assertEquals(text(incoming.data.subarray(0, words.length)), words);
    assertEquals(incoming.count, count);
    const received = [...incoming.descriptors.subarray(0, count)];
    assertEquals(received.map(Sockets.cookie), sockets.cookies.slice(0, count));
    closeAll(received);
  }
});

test("a part of the data goes out when a part is asked for", () => {
  using pair = new Pair();
  const outgoing = filled(bytesOf("0123456789"));
  assertEquals(outgoing.send(pair.a, 3, 7, 0), 4);
  const incoming = new IncomingMessage(64);
  assertEquals(incoming.receive(pair.b, 2), 2);
  assertEquals(text(incoming.data.subarray(0, 2)), "34");
  assertEquals(incoming.receive(pair.b), 2);
  assertEquals(text(incoming.data.subarray(0, 2)), "56");
});

test("a read that stops inside a message brings all of its descriptors, once", () => {
  using sockets = new Sockets(3);
  using pair = new Pair();
  filled(bytesOf("abc"), sockets.raws).send(pair.a, 0, 3, 3);
  const incoming = new IncomingMessage(64);
  assertEquals([incoming.receive(pair.b, 1), incoming.count], [1, 3]);
  closeAll(incoming.descriptors.subarray(0, 3));
  assertEquals([incoming.receive(pair.b), incoming.count], [2, 0]);
});

test("nothing to read is wouldBlock, and the end is 0", () => {
  using pair = new Pair();
  const incoming = new IncomingMessage(64);
  assertEquals(incoming.receive(pair.b), wouldBlock);
  assertEquals([incoming.count, incoming.truncated], [0, false]);
  pair.close("a");
  assertEquals(incoming.receive(pair.b), 0);
});

test("a full buffer is wouldBlock, and nothing of that message has gone out", () => {
  using sockets = new Sockets(2);
  using pair = new Pair();
  const outgoing = filled(new Uint8Array(4096), sockets.raws);
  let sent = 0;
  for (;;) {
    outgoing.data[0] = sent;
    const n = outgoing.send(pair.a, 0, 4096, 2);
    if (n === wouldBlock) break;
    assertEquals(n, 4096);
    sent++;
  }
  assert(sent > 1);
  const incoming = new IncomingMessage(4096);
  for (let i = 0; i < sent; i++) {
    assertEquals([incoming.receive(pair.b), incoming.data[0], incoming.count], [4096, i & 255, 2]);
    closeAll(incoming.descriptors.subarray(0, 2));
  }
  assertEquals(incoming.receive(pair.b), wouldBlock);
  assertEquals(outgoing.send(pair.a, 0, 4096, 2), 4096);
  assertEquals(incoming.receive(pair.b), 4096);
  closeAll(incoming.descriptors.subarray(0, incoming.count));
});

test("a message that the smallest send buffer splits is continued without sending the descriptors again", () => {
  using sockets = new Sockets(7);
  using pair = new Pair();
  setOption(pair.a, c.SO_SNDBUF, 0);
  const data = Uint8Array.from({ length: 20_000 }, (_, i) => i * 7 + (i >> 8));
  const outgoing = filled(data, sockets.raws);
  const incoming = new IncomingMessage(data.length);
  const arrived: number[] = [];
  const counts: number[] = [];
  const received: number[] = [];
  let sends = 0;
  for (let sent = 0; sent < data.length;) {
    const n = outgoing.send(pair.a, sent, data.length, sent === 0 ? 7 : 0);
    if (n !== wouldBlock) {
      sends++;
      sent += n;
    }
    const m = incoming.receive(pair.b);
    if (m === wouldBlock) continue;
    arrived.push(...incoming.data.subarray(0, m));
    received.push(...incoming.descriptors.subarray(0, incoming.count));
    counts.push(incoming.count);
  }
  assert(sends > 1, "the buffer took all at once");
  for (let m = incoming.receive(pair.b); m !== wouldBlock; m = incoming.receive(pair.b)) {
    arrived.push(...incoming.data.subarray(0, m));
    counts.push(incoming.count);
  }
  assertEquals(arrived, [...data]);
  assertEquals(received.map(Sockets.cookie), sockets.cookies);
  assertEquals(counts, counts.map((_, i) => i === 0 ? 7 : 0));
  closeAll(received);
});

test("a descriptor that is not open is named, and nothing goes out", () => {
  using sockets = new Sockets(2);
  using pair = new Pair();
  const closed = dup(0);
  closeRaw(closed);
  const outgoing = filled(bytesOf("x"), [sockets.raws[0], closed, sockets.raws[1]]);
  const error = assertThrows(() => outgoing.send(pair.a, 0, 1, 3), Deno.errors.BadResource);
  assertMatch(error.message, new RegExp(`^Cannot send descriptor ${closed}: .*\\(EBADF\\)$`));
  assertEquals((error as { code?: string }).code, "EBADF");
  assertEquals(new IncomingMessage(1).receive(pair.b), wouldBlock);
});

test("errors of the socket itself are told from those of the descriptors", () => {
  using sockets = new Sockets(1);
  const outgoing = filled(bytesOf("x"), sockets.raws);
  const incoming = new IncomingMessage(1);
  const closed = dup(0);
  closeRaw(closed);
  assertThrows(() => outgoing.send(closed, 0, 1, 1), Deno.errors.BadResource, "Cannot send 1 desc");
  assertThrows(() => incoming.receive(closed), Deno.errors.BadResource, `descriptor ${closed}`);
  using pair = new Pair();
  pair.close("b");
  assertThrows(() => outgoing.send(pair.a, 0, 1, 1), Deno.errors.BrokenPipe, "(EPIPE)");
});

test("descriptors are found behind the sender's credentials", () => {
  using sockets = new Sockets(2);
  using pair = new Pair();
  setOption(pair.b, c.SO_PASSCRED, 1);
  filled(bytesOf("x"), sockets.raws).send(pair.a, 0, 1, 2);
  const incoming = new IncomingMessage(1);
  assertEquals([incoming.receive(pair.b), incoming.count, incoming.truncated], [1, 2, false]);
  const received = [...incoming.descriptors.subarray(0, 2)];
  assertEquals(received.map(Sockets.cookie), sockets.cookies);
  closeAll(received);
});

test("a pidfd that comes along unasked is closed", () => {
  using sockets = new Sockets(253);
  using pair = new Pair();
  if (!setOption(pair.b, SO_PASSPIDFD, 1)) {
    console.log("Not tried: this kernel has no SO_PASSPIDFD (Linux 6.5)");
    return;
  }
  setOption(pair.b, c.SO_PASSCRED, 1);
  filled(bytesOf("x"), sockets.raws).send(pair.a, 0, 1, 253);
  const incoming = new IncomingMessage(1);
  assertEquals([incoming.receive(pair.b), incoming.count, incoming.truncated], [1, 253, false]);
  const received = [...incoming.descriptors];
  assertEquals(received.map(Sockets.cookie), sockets.cookies);
  closeAll(received);
});

test("descriptors that found no number show as a truncated message", async () => {
  await using child = new Child("./few_descriptors.ts", ["message"], { openFiles: 64 });
  const { sent, count, truncated, open, again } = JSON.parse(await child.line());
  assertEquals([sent, truncated], [20, true]);
  assert(count < 20, `${count} arrived`);
  // What did arrive is real, and the next message has no trace of this one.
  assertEquals(open, count);
  assertEquals(again, { count: 1, truncated: false });
});

/** Two connected sockets. */
class Pair implements Disposable {
  readonly a: number;
  readonly b: number;

  constructor() {
    [this.a, this.b] = socketPair();
  }

  close(which: "a" | "b"): void {
    closeRaw(this[which]);
  }

  [Symbol.dispose](): void {
    for (const raw of [this.a, this.b]) if (isOpen(raw)) closeRaw(raw);
  }
}

function filled(data: Uint8Array, descriptors: number[] = []): OutgoingMessage {
  const outgoing = new OutgoingMessage(data.length);
  outgoing.data.set(data);
  outgoing.descriptors.set(descriptors);
  return outgoing;
}

/** Sets an option of SOL_SOCKET; gives whether the kernel has it. */
function setOption(raw: number, name: number, value: number): boolean {
  const bytes = new Uint8Array(Int32Array.of(value).buffer);
  return libc().setsockopt(raw, c.SOL_SOCKET, name, bytes, bytes.length) === 0;
}

function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
