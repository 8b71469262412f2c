import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { closeAll, closeRaw, dup, replace } from "../../ffi/fd.ts";
import { IncomingMessage, OutgoingMessage, wouldBlock } from "../../ffi/message.ts";
import { abandon, ready } from "../../lib/event_loop/reactor.ts";
import { createEpoll, unwatch, watch } from "../../ffi/epoll.ts";
import { isReady } from "../../ffi/poll.ts";
import { isReadyInTime, isReadySoon } from "../../lib/event_loop/busy_poll.ts";
import { describeDescriptor, openDescriptors, registrations } from "../../ffi/proc.ts";
import { connectUnix, socketPair } from "../../ffi/socket.ts";
import { shutdownWrite } from "../../ffi/socket_options.ts";
import { pause } from "../../lib/time.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** Two connected sockets, closed at the end of the block. */
class Pair implements Disposable {
  readonly a: number;
  readonly b: number;

  constructor() {
    [this.a, this.b] = socketPair();
  }

  [Symbol.dispose](): void {
    closeAll([this.a, this.b]);
  }
}

const outgoing = () => new OutgoingMessage(1 << 16);

/** Sends one byte. */
function poke(raw: number): void {
  assertEquals(outgoing().send(raw, 0, 1, 0), 1);
}

/** Takes all that has arrived. */
function empty(raw: number): void {
  const message = new IncomingMessage(1 << 16);
  while (message.receive(raw) > 0);
}

/** Writes until the buffers of both ends are full. */
function fill(raw: number): void {
  const message = outgoing();
  while (message.send(raw, 0, message.data.length, 0) !== wouldBlock);
}

/** Whether `promise` settled by the time that the event loop has seen `other` through. */
async function settledBefore(promise: Promise<unknown>, other: () => Promise<unknown>) {
  let settled = false;
  promise.then(() => settled = true, () => settled = true);
  await other();
  return settled;
}

/** A wait of another descriptor's, seen through: what was ready before it has been reported. */
async function round(): Promise<void> {
  using pair = new Pair();
  const waiting = ready(pair.a, "readable");
  poke(pair.b);
  await waiting;
}

test("ready() waits for bytes", async () => {
  using pair = new Pair();
  const waiting = ready(pair.a, "readable");
  assert(!await settledBefore(waiting, round), "nothing had arrived");
  poke(pair.b);
  await waiting;
});

test("ready() resolves at once for a descriptor that is ready already, again and again", async () => {
  using pair = new Pair();
  poke(pair.b);
  for (let i = 0; i < 3; i++) await ready(pair.a, "readable");
  await ready(pair.a, "writable");
});

test("ready() waits for room to write", async () => {
  using pair = new Pair();
  fill(pair.a);
  const waiting = ready(pair.a, "writable");
  assert(!await settledBefore(waiting, round), "there was no room");
  empty(pair.b);
  await waiting;
});

test("two waiters for the same of one descriptor are both woken", async () => {
  using pair = new Pair();
  const waiting = [ready(pair.a, "readable"), ready(pair.a, "readable")];
  poke(pair.b);
  await Promise.all(waiting);
});

test("a reader and a writer of one descriptor are woken each by their own", async () => {
  using pair = new Pair();
  fill(pair.a);
  const readable = ready(pair.a, "readable");
  const writable = ready(pair.a, "writable");
  poke(pair.b);
  await readable;
  assert(!await settledBefore(writable, round), "there was no room");
  empty(pair.b);
  await writable;
});

test("a writer is not woken by bytes, nor a reader by room", async () => {
  using pair = new Pair();
  const readable = ready(pair.a, "readable");
  await ready(pair.a, "writable");
  assert(!await settledBefore(readable, round), "nothing had arrived");
  poke(pair.b);
  await readable;
});

test("the peer's end wakes a reader, whether it closes or shuts down its writing", async () => {
  const [a, b] = socketPair();
  const waiting = ready(a, "readable");
  closeRaw(b);
  await waiting;
  closeRaw(a);

  using pair = new Pair();
  const waitingToo = ready(pair.a, "readable");
  shutdownWrite(pair.b);
  await waitingToo;
});

test("a hang-up wakes a writer that waits for room", async () => {
  const [a, b] = socketPair();
  fill(a);
  const waiting = [ready(a, "writable"), ready(a, "readable")];
  closeRaw(b);
  await Promise.all(waiting);
  closeRaw(a);
});

test("a pipe's reader is woken when its writer has gone, which is a hang-up and no bytes", async () => {
  const [reader, writer] = pipe();
  const waiting = ready(reader, "readable");
  assert(!await settledBefore(waiting, round), "the writer is there");
  closeRaw(writer);
  await waiting;
  closeRaw(reader);
});

/** The two ends of a pipe; pipe(2) is in no library here. */
function pipe(): [number, number] {
  const library = Deno.dlopen("libc.so.6", {
    pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  });
  const ends = new Int32Array(2);
  const result = library.symbols.pipe2(new Uint8Array(ends.buffer), c.O_CLOEXEC | c.O_NONBLOCK);
  library.close();
  assertEquals(result, 0);
  return [ends[0], ends[1]];
}

test("aborting rejects the wait with the signal's reason, unwrapped", async () => {
  using pair = new Pair();
  for (const reason of [new Error("enough"), "a string", { code: 7 }]) {
    const controller = new AbortController();
    const waiting = ready(pair.a, "readable", { signal: controller.signal });
    controller.abort(reason);
    assertStrictEquals(await waiting.catch((error) => error), reason);
  }
});

test("an aborted signal rejects without a wait, even for a descriptor that is ready", async () => {
  using pair = new Pair();
  poke(pair.b);
  const reason = new Error("before");
  const signal = AbortSignal.abort(reason);
  // Thrown or rejected: whoever awaits it sees the same.
  const error = await (async () => await ready(pair.a, "readable", { signal }))().catch((e) => e);
  assertStrictEquals(error, reason);
});

test("aborting one of two waiters leaves the other waiting", async () => {
  using pair = new Pair();
  const controller = new AbortController();
  const aborted = ready(pair.a, "readable", { signal: controller.signal });
  const other = ready(pair.a, "readable");
  controller.abort();
  await assertRejects(() => aborted, DOMException);
  assert(!await settledBefore(other, round), "nothing had arrived");
  poke(pair.b);
  await other;
});

test("aborting after the wake-up changes nothing", async () => {
  using pair = new Pair();
  const controller = new AbortController();
  const waiting = ready(pair.a, "readable", { signal: controller.signal });
  poke(pair.b);
  await waiting;
  controller.abort();
  await round();
});

test("two hundred waits at once are each woken by their own descriptor", async () => {
  const pairs = Array.from({ length: 200 }, () => new Pair());
  try {
    const woken: number[] = [];
    const waits = pairs.map(({ a }, i) => ready(a, "readable").then(() => woken.push(i)));
    const expected: number[] = [];
    // Two strangers at a time, so that a mix-up shows.
    for (let i = 0; i < 100; i++) {
      poke(pairs[i].b);
      poke(pairs[199 - i].b);
      expected.push(i, 199 - i);
      await until(() => woken.length === expected.length);
      assertEquals(woken.toSorted((x, y) => x - y), expected.toSorted((x, y) => x - y));
    }
    await Promise.all(waits);
  } finally {
    for (const pair of pairs) pair[Symbol.dispose]();
  }
});

test("two hundred waits that are ready at once are all woken", async () => {
  const pairs = Array.from({ length: 200 }, () => new Pair());
  try {
    const waits = pairs.map(({ a }) => ready(a, "readable"));
    for (const { b } of pairs) poke(b);
    await Promise.all(waits);
  } finally {
    for (const pair of pairs) pair[Symbol.dispose]();
  }
});

test("a number that was closed and given to another socket is waited for as the new one", async () => {
  const [a, b] = socketPair();
  const first = ready(a, "readable");
  poke(b);
  await first;
  const [c, d] = socketPair();
  replace(c, a);
  const second = ready(a, "readable");
  assert(!await settledBefore(second, round), "nothing had arrived on the new one");
  poke(d);
  await second;
  closeAll([a, b, c, d]);
});

test("a number that was closed after an aborted wait can be waited for again", async () => {
  const [a, b] = socketPair();
  const controller = new AbortController();
  const aborted = ready(a, "readable", { signal: controller.signal });
  controller.abort();
  await assertRejects(() => aborted);
  const [c, d] = socketPair();
  replace(c, a);
  const waiting = ready(a, "readable");
  poke(d);
  await waiting;
  closeAll([a, b, c, d]);
});

test("a number that was waited for, closed and given away is waited for anew, while a duplicate lives", async () => {
  const [a, b] = socketPair();
  poke(b);
  await ready(a, "readable");
  const kept = dup(a);
  const [c, d] = socketPair();
  replace(c, a);
  const waiting = ready(a, "readable");
  assert(!await settledBefore(waiting, round), "what the duplicate has to read is another's");
  poke(d);
  await waiting;
  closeAll([a, b, c, d, kept]);
});

test("a file that has its number again is waited for, though another had it meanwhile", async () => {
  const owner = {};
  const [a, b] = socketPair();
  poke(b);
  await ready(a, "readable");
  empty(a);
  const kept = dup(a);
  const [c, d] = socketPair();
  replace(c, a);
  const meanwhile = ready(a, "readable", { owner });
  abandon(a, owner, () => new Error("gone"));
  await assertRejects(() => meanwhile, Error, "gone");
  replace(kept, a);
  const waiting = ready(a, "readable");
  poke(b);
  await waiting;
  closeAll([a, b, c, d, kept]);
});

test("abandon() ends the waits of one owner, with its reason, and no others", async () => {
  using pair = new Pair();
  const [one, another] = [{}, {}];
  const reason = new Error("closed");
  const waits = [one, another, undefined].map((owner) => ready(pair.a, "readable", { owner }));
  const ended = waits[0].catch((error) => error);
  abandon(pair.a, one, () => reason);
  assertStrictEquals(await ended, reason);
  abandon(pair.b, one, () => reason);
  abandon(pair.a, one, () => reason);
  assert(!await settledBefore(Promise.race([waits[1], waits[2]]), round), "they wait");
  poke(pair.b);
  await Promise.all([waits[1], waits[2]]);
});

test("abandon() after the signal, or the signal after it, changes nothing", async () => {
  using pair = new Pair();
  const owner = {};
  for (const first of ["signal", "owner"]) {
    const controller = new AbortController();
    const waiting = ready(pair.a, "readable", { owner, signal: controller.signal })
      .catch((error) => String(error));
    if (first === "signal") controller.abort("signal");
    abandon(pair.a, owner, () => new Error("owner"));
    if (first === "owner") controller.abort("signal");
    assertEquals(await waiting, first === "signal" ? "signal" : "Error: owner");
  }
});

test("a number that was abandoned is not watched any more", async () => {
  using pair = new Pair();
  const owner = {};
  const waiting = ready(pair.a, "readable", { owner }).catch(() => {});
  const watched = () =>
    openDescriptors().some((raw) =>
      describeDescriptor(raw) === "anon_inode:[eventpoll]" &&
      registrations(raw).some(({ tfd, data }) => tfd === pair.a && data === BigInt(pair.a))
    );
  assert(watched());
  abandon(pair.a, owner, () => new Error());
  await waiting;
  assert(!watched());
});

test("isReady() does not wait, isReadySoon() and isReadyInTime() wait a little", () => {
  using pair = new Pair();
  const looks = [isReady, isReadySoon, isReadyInTime];
  const seen = () => looks.map((look) => [look(pair.a, "readable"), look(pair.a, "writable")]);
  assertEquals(seen(), Array(3).fill([false, true]));
  poke(pair.b);
  assertEquals(seen(), Array(3).fill([true, true]));
  empty(pair.a);
  fill(pair.a);
  assertEquals(seen(), Array(3).fill([false, false]));
});

test("isReadyInTime() notices bytes that another process writes meanwhile", async () => {
  await using child = new Child("./answer.ts", [`poll-${crypto.randomUUID()}`]);
  const path = `\0${await child.line()}`;
  // Some answers take longer, the first ones above all.
  for (let inTime = false; !inTime;) {
    const raw = connectUnix(path, "Cannot connect");
    const before = isReady(raw, "readable");
    inTime = isReadyInTime(raw, "readable") && !before;
    closeRaw(raw);
  }
});

test("waiting on a number that is not open rejects and names it", async () => {
  const [a, b] = socketPair();
  closeAll([a, b]);
  await assertRejects(
    () => ready(a, "readable"),
    Deno.errors.BadResource,
    `descriptor ${a}`,
  );
  // And other waits are as good as before.
  await round();
});

const threadsShown = textOf("/proc/self/syscall") !== "";
if (!threadsShown) console.log("Threads are not looked at: this kernel does not show their calls");

test("no thread of Deno's pool is held when no wait is pending", {
  ignore: !threadsShown,
}, async () => {
  using pair = new Pair();
  const controller = new AbortController();
  const waiting = ready(pair.a, "readable", { signal: controller.signal });
  // Deno's own epolls, where the number may still be written of a socket before, have other tokens.
  const epoll = openDescriptors().find((raw) =>
    describeDescriptor(raw) === "anon_inode:[eventpoll]" &&
    registrations(raw).some(({ tfd, data }) => tfd === pair.a && data === BigInt(pair.a))
  )!;
  await until(() => waitsOn(epoll));
  controller.abort();
  await assertRejects(() => waiting);
  await until(() => !waitsOn(epoll));
});

/** Whether a thread is in a system call whose first argument is `raw` (proc(5), "syscall"). */
function waitsOn(raw: number): boolean {
  for (const { name } of Deno.readDirSync("/proc/self/task")) {
    const [, first] = textOf(`/proc/self/task/${name}/syscall`).split(" ");
    if (first !== undefined && Number(first) === raw) return true;
  }
  return false;
}

/** What a file of a thread says; nothing when the thread has ended, or may not be looked at. */
function textOf(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}

test("pause() lasts its time, or until the signal is aborted, with its reason", async () => {
  await pause(1);
  const reason = new Error("enough");
  const controller = new AbortController();
  const waiting = pause(1 << 30, controller.signal);
  controller.abort(reason);
  assertStrictEquals(await waiting.catch((error) => error), reason);
  const error = await (async () => await pause(0, AbortSignal.abort(reason)))().catch((e) => e);
  assertStrictEquals(error, reason);
});

test("watch() keeps events and token as they are given, unwatch() takes them out", () => {
  using pair = new Pair();
  const epoll = createEpoll();
  const registration = { tfd: pair.a, events: 0x8000201d, data: 0xfedc_ba98_7654_3210n };
  watch(epoll, registration);
  assertEquals(registrations(epoll), [registration]);
  unwatch(epoll, pair.a);
  assertEquals(registrations(epoll), []);
  closeRaw(epoll);
});

/** A program in a process of its own. */
function program(directory: Directory, source: string): Child {
  const path = directory.join(`${crypto.randomUUID()}.ts`);
  const mod = import.meta.resolve("../../mod.ts");
  Deno.writeTextFileSync(path, `import * as graceful from "${mod}";\n${source}`);
  return new Child(`file://${path}`);
}

/**
 * Turns of a timer that keeps nothing alive: a program that waits for nothing else ends before it
 * has had as many.
 */
const turns = (count: number, then: string) =>
  `let turns = 0;
  const timer = setInterval(() => ++turns === ${count} && ${then}, 1);
  Deno.unrefTimer(timer);`;
const stays = turns(10, `console.log("still here")`);
// Enough for the threads of a busy machine; at last it ends, so that the test fails and does not hang.
const ends = turns(5000, "Deno.exit(1)");

test("a process that waits only with an unref'd accept() ends by itself", async () => {
  using directory = new Directory();
  await using child = program(
    directory,
    `const listener = graceful.listen("\\0poll-" + crypto.randomUUID());
    listener.unref();
    listener.accept().catch(() => {});
    ${ends}`,
  );
  assertEquals(await child.ended(), { code: 0, stdout: [], stderr: "" });
});

test("a process that waits with an accept() lives until a connection comes", async () => {
  using directory = new Directory();
  const path = directory.join("a.sock");
  await using child = program(
    directory,
    `const listener = graceful.listen("${path}");
    listener.accept().then((conn) => {
      console.log("accepted");
      conn.close();
      listener.close();
      clearInterval(timer);
    });
    ${stays}`,
  );
  assertEquals(await child.line(), "still here");
  using _conn = await Deno.connect({ transport: "unix", path });
  assertEquals(await child.ended(), { code: 0, stdout: ["accepted"], stderr: "" });
});

test("unref() and ref() count while accept() is waiting already", async () => {
  using directory = new Directory();
  await using ending = program(
    directory,
    `const listener = graceful.listen("\\0poll-" + crypto.randomUUID());
    listener.accept().catch(() => {});
    listener.unref();
    ${ends}`,
  );
  await using staying = program(
    directory,
    `const listener = graceful.listen("\\0poll-" + crypto.randomUUID());
    listener.unref();
    listener.accept().catch(() => {});
    listener.ref();
    ${stays}`,
  );
  assertEquals(await ending.ended(), { code: 0, stdout: [], stderr: "" });
  assertEquals(await staying.line(), "still here");
});

test("a process ends when its last wait was aborted or its listener closed", async () => {
  using directory = new Directory();
  for (const end of ["controller.abort()", "listener.close()"]) {
    await using child = program(
      directory,
      `const listener = graceful.listen("\\0poll-" + crypto.randomUUID());
      const controller = new AbortController();
      const waiting = listener.accept({ signal: controller.signal });
      setTimeout(() => ${end}, 1);
      await waiting.catch(() => {});
      ${ends}`,
    );
    assertEquals(await child.ended(), { code: 0, stdout: [], stderr: "" });
  }
});
