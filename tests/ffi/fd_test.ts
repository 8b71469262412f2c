import {
  assert,
  assertEquals,
  assertNotEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  closeAll,
  closeRaw,
  ClosingRun,
  dup,
  isOpen,
  rawOf,
  replace,
  setNonblocking,
} from "../../ffi/fd.ts";
import { c } from "../../ffi/abi.ts";
import { libc } from "../../ffi/libc.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { socketCookie } from "../../ffi/socket_options.ts";
import { socketPair } from "../../ffi/socket.ts";
import { Fd } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** Two descriptors that belong together. */
function pair(): [Fd, Fd] {
  const [a, b] = socketPair();
  return [new Fd(a), new Fd(b)];
}

test("an Fd lends its number and owns it until it is closed", () => {
  const [a, b] = pair();
  using _b = b;
  const raw = a.raw;
  assertEquals([a.owned, a.raw, isOpen(raw)], [true, raw, true]);
  a.close();
  assertEquals([a.owned, isOpen(raw)], [false, false]);
});

test("take() moves the number out, once", () => {
  const [a, b] = pair();
  using _b = b;
  const raw = a.raw;
  assertEquals(a.take(), raw);
  assertEquals([a.owned, isOpen(raw)], [false, true]);
  assertThrows(() => a.take(), Deno.errors.BadResource, "taken or closed");
  assertThrows(() => a.raw, Deno.errors.BadResource, "taken or closed");
  assertThrows(() => a.dup(), Deno.errors.BadResource, "taken or closed");
  assertThrows(() => a.close(), Deno.errors.BadResource, "taken or closed");
  assert(isOpen(raw), "a failed close() must not touch what was taken");
  closeRaw(raw);
});

test("a second close() throws, and does not close the number's new descriptor", () => {
  const [a, b] = pair();
  using _b = b;
  a.close();
  // The lowest free number is the one just closed.
  using next = b.dup();
  assertThrows(() => a.close(), Deno.errors.BadResource, "taken or closed");
  assert(isOpen(next.raw));
});

test("disposing is quiet after take() and after close()", () => {
  const [a, b] = pair();
  a.close();
  a[Symbol.dispose]();
  a[Symbol.dispose]();
  const raw = b.take();
  b[Symbol.dispose]();
  assert(isOpen(raw));
  closeRaw(raw);
});

test("using closes at the end of the block, also when it throws", () => {
  const [a, b] = pair();
  using _b = b;
  const raw = a.raw;
  assertThrows(
    () => {
      using _a = a;
      throw new Error("half-way");
    },
    Error,
    "half-way",
  );
  assertEquals([a.owned, isOpen(raw)], [false, false]);
});

test("dup() makes a second owner of the same socket that lives by itself", () => {
  const [a, b] = pair();
  using _b = b;
  using second = a.dup();
  assertNotEquals(second.raw, a.raw);
  assertEquals(socketCookie(second.raw), socketCookie(a.raw));
  const cookie = socketCookie(a.raw);
  a.close();
  assertEquals([second.owned, socketCookie(second.raw)], [true, cookie]);
});

test("a duplicate is not inherited by child processes", () => {
  const [a, b] = pair();
  using _a = a;
  using _b = b;
  using second = a.dup();
  assertEquals(libc().fcntl(second.raw, c.F_GETFD, 0) & c.FD_CLOEXEC, c.FD_CLOEXEC);
});

test("a value that is no descriptor number throws", () => {
  for (const junk of [-1, 1.5, NaN, Infinity, 2 ** 31, "3", null, undefined, {}, 3n]) {
    assertThrows(() => new Fd(junk as number), TypeError, "Not a descriptor number");
  }
});

test("0 and the largest number are descriptor numbers", () => {
  // Only wrapped: nothing is open under the second, and the first is not ours to close.
  assertEquals(new Fd(0).take(), 0);
  assertEquals(new Fd(2 ** 31 - 1).take(), 2 ** 31 - 1);
});

test("rawOf() gives the number of either form, on loan", () => {
  const [a, b] = pair();
  using _b = b;
  assertEquals([rawOf(a), rawOf(a.raw), a.owned], [a.raw, a.raw, true]);
  a.close();
  assertThrows(() => rawOf(a), Deno.errors.BadResource);
});

test("closeRaw() throws for a number that is not open, and names it", () => {
  const [a, b] = socketPair();
  closeRaw(a);
  const error = assertThrows(() => closeRaw(a), Deno.errors.BadResource);
  assertStringIncludes(error.message, `descriptor ${a}:`);
  closeRaw(b);
});

test("closeAll() closes open numbers and skips all others", () => {
  const [a, b] = socketPair();
  closeRaw(a);
  closeAll([a, b]);
  assertEquals([isOpen(a), isOpen(b)], [false, false]);
});

test("a ClosingRun closes the numbers that it was given, and none between them", () => {
  const raws = Array.from({ length: 20 }, () => dup(0)).sort((a, b) => a - b);
  const kept = [raws[4], raws[11], raws[12], raws[19]];
  const run = new ClosingRun();
  const given = raws.filter((raw) => !kept.includes(raw));
  for (const raw of given) run.add(raw);
  // What a gap has ended is closed by then.
  assertEquals(raws.slice(0, 13).filter(isOpen), kept.slice(0, 3));
  run.close();
  assertEquals(raws.filter(isOpen), kept);
  const reused = dup(0);
  run.close();
  assert(isOpen(reused), "it closes nothing twice");
  // Downwards nobody has a neighbour.
  for (const raw of [reused, ...kept].sort((a, b) => b - a)) run.add(raw);
  run.close();
  assertEquals([reused, ...kept].filter(isOpen), []);
});

test("dup() of a closed number throws and names it", () => {
  const [a, b] = socketPair();
  closeAll([a, b]);
  const error = assertThrows(() => dup(a), Deno.errors.BadResource);
  assertStringIncludes(error.message, `descriptor ${a}:`);
});

test("replace() closes the target's descriptor and keeps the source", () => {
  const [a, b] = pair();
  const [d, e] = pair();
  using _a = a;
  using _b = b;
  using _d = d;
  using _e = e;
  replace(a.raw, d.raw);
  assertEquals(socketCookie(d.raw), socketCookie(a.raw));
  assertEquals(libc().fcntl(d.raw, c.F_GETFD, 0) & c.FD_CLOEXEC, c.FD_CLOEXEC);
  // The other end of what was replaced sees the end: nobody holds it any more.
  assertEquals(libc().read(e.raw, new Uint8Array(1), 1n), 0n);
});

test("setNonblocking() shows in every duplicate, for they share the description", () => {
  const [a, b] = pair();
  using _a = a;
  using _b = b;
  using second = a.dup();
  const flag = (fd: Fd) => libc().fcntl(fd.raw, c.F_GETFL, 0) & c.O_NONBLOCK;
  setNonblocking(a.raw, false);
  assertEquals([flag(a), flag(second)], [0, 0]);
  setNonblocking(second.raw, true);
  assertEquals([flag(a), flag(second)], [c.O_NONBLOCK, c.O_NONBLOCK]);
});

test("dup() remembers the process that sent it", () => {
  using fd = new Fd(new Fd(0).dup().take(), 4711);
  using second = fd.dup();
  assertEquals(second.senderPid, 4711);
});

test("the table has room for thousands before they come, and nothing is left open for it", async () => {
  const room = () =>
    Number(/^FDSize:\s*(\d+)/m.exec(Deno.readTextFileSync("/proc/self/status"))![1]);
  await until(() => room() >= 4096);
  await until(() => openDescriptors().every((raw) => raw < 4000));
});

test("the table gets the room that the limit of open descriptors leaves it", async () => {
  await using child = new Child("./spacious.ts", ["1024"], { openFiles: 1024 });
  assertEquals(await child.line(), "1024");
});

test("every open descriptor is listed, however many and high", () => {
  const shown = () =>
    Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => Number(name)).filter(isOpen)
      .sort((a, b) => a - b);
  assertEquals(openDescriptors(), shown());
  using high = new Fd(rawOf(libc().fcntl(0, c.F_DUPFD_CLOEXEC, 3500)));
  const many = Array.from({ length: 2000 }, () => high.dup());
  try {
    const listed = openDescriptors();
    assertEquals(listed, shown());
    assert([high, ...many].every(({ raw }) => listed.includes(raw)));
  } finally {
    for (const fd of many) fd.close();
  }
});
