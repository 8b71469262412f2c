import { assert, assertEquals } from "@std/assert";
import { openDescriptors } from "../../ffi/proc.ts";
import { later } from "../../lib/event_loop/timer.ts";
import { pause } from "../../lib/time.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

test("a timer calls its function once, when the time is up and not before", async () => {
  const began = performance.now();
  const { promise, resolve } = Promise.withResolvers<number>();
  let calls = 0;
  later(30, () => {
    calls++;
    resolve(performance.now() - began);
  });
  // Keeps the event loop running, which the timer does not.
  const keeper = setInterval(() => {}, 1000);
  const passed = await promise;
  clearInterval(keeper);
  // The clocks may differ by less than a millisecond.
  assert(passed >= 29, `${passed} ms`);
  await pause(50);
  assertEquals(calls, 1);
});

test("of several timers each ends, and none before its time", async () => {
  const began = performance.now();
  const ended = new Map<number, number>();
  const times = [30, 0, 10, 20];
  for (const time of times) later(time, () => ended.set(time, performance.now() - began));
  while (ended.size < times.length) await pause(5);
  // The clocks may differ by less than a millisecond.
  for (const [time, passed] of ended) assert(passed >= time - 1, `${time} ms: ${passed} ms`);
});

test("a canceled timer calls nothing, and leaves no descriptor", async () => {
  const before = openDescriptors();
  let calls = 0;
  const timer = later(5, () => calls++);
  const canceled = later(10, () => calls++);
  canceled.cancel();
  canceled.cancel();
  while (calls === 0) await pause(5);
  await pause(20);
  timer.cancel();
  assertEquals(calls, 1);
  // The epoll and the eventfd of this thread's waits may be new.
  assert(openDescriptors().length <= before.length + 2);
});

test("a timer does not keep the process running", async () => {
  await using child = new Child("timer.ts", ["end"]);
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stdout, stderr], [0, ["begun"], ""]);
});

test("a timer calls its function when no descriptor is left", async () => {
  await using child = new Child("timer.ts", ["no descriptor"], { openFiles: 64 });
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stdout, stderr], [0, ["begun", "called"], ""]);
});

test("a timer calls its function when no descriptor is left for the first wait", async () => {
  await using child = new Child("timer.ts", ["one descriptor"], { openFiles: 64 });
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stdout, stderr], [0, ["begun", "called"], ""]);
});

test("a generation sets no timer of Deno's on the way to its first answer", async () => {
  using directory = new Directory();
  await using child = new Child("first_answer.ts", [directory.join("app.sock")]);
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stdout, stderr], [0, ["timers: 0"], ""]);
});
