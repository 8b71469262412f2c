/**
 * A process whose generation has left ends, where somebody outside of it has asked for that.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { hasEnded, identify } from "../../ffi/proc.ts";
import { pause } from "../../lib/time.ts";
import { type Generation, TestService } from "../../mod.ts";
import { begin } from "../support/begin.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const unshare = ["unshare", "--pid", "--fork", "--kill-child"];
const mayUnshare = await succeeds([...unshare, "true"]);
if (!mayUnshare) console.log("exit_test.ts: without unshare(1), PID namespaces are not tested");

/** The next line that begins so. */
async function line(child: Child, beginning: string): Promise<void> {
  while (!(await child.line()).startsWith(beginning));
}

/** A service that a timer keeps, which is ready. */
async function staying(args: string[], options = {}): Promise<Child> {
  const child = new Child("./stays.ts", args, options);
  await line(child, "serving");
  return child;
}

/** Asserts that it goes on for many turns of its timer. */
async function livesOn(child: Child): Promise<void> {
  for (let i = 0; i < 10; i++) await line(child, "alive");
}

async function cli(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  await using child = new Child("../../lib/cli.ts", args);
  const { code, stdout, stderr } = await child.ended();
  return { code, stdout: stdout.join("\n"), stderr };
}

/** What is logged before it exits. */
function words(generation: number, pid: number): RegExp {
  return new RegExp(
    `Generation ${generation} left \\d+ ms ago, and its process ${pid} has not ended: .*exits now`,
  );
}

test("a process that was replaced, or stopped from outside, exits in time after it has left", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using first = await staying([path]);
  await using second = await staying([path, "--exitCode", "3"]);
  const replaced = await first.ended();
  assertEquals([replaced.code, replaced.stdout.includes("finished")], [0, true]);
  assertMatch(replaced.stderr, words(1, first.pid));
  await livesOn(second);
  Deno.kill(second.pid, "SIGTERM");
  const stopped = await second.ended();
  assertEquals([stopped.code, stopped.stdout.includes("finished")], [3, true]);
  assertMatch(stopped.stderr, words(2, second.pid));
  await using third = await staying([path]);
  assertEquals((await cli("stop", path)).code, 0);
  const told = await third.ended();
  assertEquals(told.code, 0);
  assertMatch(told.stderr, words(1, third.pid));
});

test("a process that nothing keeps ends by itself, and is not waited for", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  // The standard input that it reads would keep it.
  const through = ["sh", "-c", 'exec "$0" "$@" </dev/null'];
  const args = [path, "--exitTimeout", "3600000", "--ending"];
  await using first = await staying(args, { through });
  await using second = await staying(args, { through });
  assertEquals(await first.ended().then(({ code, stderr }) => [code, stderr]), [0, ""]);
  Deno.kill(second.pid, "SIGTERM");
  assertEquals(await second.ended().then(({ code, stderr }) => [code, stderr]), [0, ""]);
});

test("a process goes on when its program has called stop(), and when exitTimeout is false", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using first = await staying([path]);
  await first.tell("stop");
  await line(first, "finished");
  await livesOn(first);
  await using second = await staying([path, "--exitTimeout", "false"]);
  await using third = await staying([path]);
  await line(second, "finished");
  await livesOn(second);
  await third.tell("end");
  assertEquals((await third.ended()).code, 7);
});

test("a process goes on when its generation was rolled back: it may try again", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { readyTimeout: 20 });
  await app.ready();
  await using next = new Child("./stays.ts", [path, "--late"]);
  await line(next, "started");
  await until(() => app.status().state === "serving");
  await next.tell("ready");
  await line(next, "rejected");
  await livesOn(next);
  await app.stop();
});

test("a process goes on while another generation runs in it", async () => {
  using directory = new Directory();
  const [path, beside] = [directory.join("app.sock"), directory.join("beside.sock")];
  await using first = await staying([path, beside]);
  await using _second = await staying([path]);
  await line(first, "finished");
  await livesOn(first);
  // It is the last one.
  await using _third = await staying([beside]);
  assertEquals((await first.ended()).code, 0);
});

test("a process exits in time after the last of its generations, if one of them was to end it", async () => {
  using directory = new Directory();
  const [path, beside] = [directory.join("app.sock"), directory.join("beside.sock")];
  await using service = await staying([path, beside]);
  Deno.kill(service.pid, "SIGTERM");
  await line(service, "finished");
  await livesOn(service);
  // By the program: on its own that would be no reason to exit.
  await service.tell("stop the other one");
  const { code, stderr } = await service.ended();
  assertEquals(code, 0);
  assertMatch(stderr, words(1, service.pid));
});

test("a listener of unload that throws does not change the exit code, and is logged", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (const [args, expected] of [[[], 0], [["--exitCode", "3"], 3], [["--late"], 0]] as const) {
    await using service = new Child("./stays.ts", [path, "--unload", ...args]);
    // One that is not ready exits at once.
    await line(service, args[0] === "--late" ? "started" : "serving");
    Deno.kill(service.pid, "SIGTERM");
    const { code, stderr } = await service.ended();
    assertEquals(code, expected, stderr);
    assertMatch(stderr, /A listener of `unload` has failed; the process ends Error: out of luck/);
  }
});

test("a rehearsal never ends the process of the test", async () => {
  const { exit } = Deno;
  const codes: unknown[] = [];
  Deno.exit = ((code?: number) => codes.push(code)) as typeof Deno.exit;
  try {
    const main = async (app: Generation) => await app.ready();
    await using service = new TestService(main, { exitTimeout: 0 });
    const first = await service.next();
    const second = await service.next();
    await first.finished;
    assertEquals((await cli("stop", second.path, "--timeout", "1")).code, 1);
    await second.finished;
    await pause(50);
    assertEquals(codes, []);
  } finally {
    Deno.exit = exit;
  }
});

test("exitTimeout is a duration, or false", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await assertRejects(() => begin(path, { exitTimeout: NaN }), RangeError, "exitTimeout");
  await assertRejects(() => begin(path, { exitTimeout: -1 }), RangeError, "exitTimeout");
  for (const exitTimeout of [false, Infinity, 0, 1.5] as const) {
    await (await begin(path, { exitTimeout })).stop();
  }
});

test("stop says whether the generation has left alone, or its process has ended too", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = await staying([path, "--exitTimeout", "false"]);
  const { code, stdout, stderr } = await cli("stop", path, "--timeout", "1");
  const left = "generation 1 has stopped, and its process";
  const late = `Not done after 1 s: ${left} ${service.pid} has not ended yet\n`;
  assertEquals([code, stdout, stderr], [1, "", late]);
  assert(!hasEnded(identify(service.pid)));
  await using next = await staying([path]);
  const stopped = await cli("stop", path);
  assertEquals(stopped, { code: 0, stdout: `${left} ${next.pid} has ended`, stderr: "" });
  assert(hasEnded(identify(next.pid)));
});

test(
  "stop does not wait for a number of another PID namespace",
  { ignore: !mayUnshare },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    await using service = await staying([path, "--exitTimeout", "false"], { through: unshare });
    const { code, stdout } = await cli("stop", path, "--timeout", "20");
    const words =
      "generation 1 has stopped; whether its process 1 has ended cannot be seen from here";
    assertEquals([code, stdout], [0, words]);
    await livesOn(service);
  },
);
