/**
 * A process exits after its generation has finished, when a successor, a signal or the command line ended it.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { hasEnded, identify } from "../../ffi/proc.ts";
import { pause } from "../../lib/time.ts";
import { type Generation, TestService } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const unshare = ["unshare", "--pid", "--fork", "--kill-child"];
const mayUnshare = await succeeds([...unshare, "true"]);
if (!mayUnshare) console.log("exit_test.ts: without unshare(1), PID namespaces are not tested");

/** Starts a service whose process a timer keeps, and waits until it is ready. */
async function staying(args: string[], options = {}): Promise<Child> {
  const child = new Child("./outlive_generation.ts", args, options);
  await child.until(/^serving/);
  return child;
}

/** Waits for ten lines of the timer. */
async function livesOn(child: Child): Promise<void> {
  for (let i = 0; i < 10; i++) await child.until(/^alive/);
}

/** The message that is logged before the process exits. */
function words(generation: number, pid: number): RegExp {
  return new RegExp(
    `Generation ${generation} ended \\d+ ms ago, and its process ${pid} has not ended: .*exits now`,
  );
}

test("a process exits after exitTimeout when its generation was replaced, or stopped by a signal or the command line", async () => {
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

test("a process that nothing keeps ends before exitTimeout", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  // Reading an open standard input would keep the process.
  const through = ["sh", "-c", 'exec "$0" "$@" </dev/null'];
  const args = [path, "--exitTimeout", "3600000", "--ending"];
  await using first = await staying(args, { through });
  await using second = await staying(args, { through });
  assertEquals(await first.ended().then(({ code, stderr }) => [code, stderr]), [0, ""]);
  Deno.kill(second.pid, "SIGTERM");
  assertEquals(await second.ended().then(({ code, stderr }) => [code, stderr]), [0, ""]);
});

test("a process runs on when its program has called stop(), or exitTimeout is false", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using first = await staying([path]);
  await first.tell("stop");
  await first.until(/^finished/);
  await livesOn(first);
  await using second = await staying([path, "--exitTimeout", "false"]);
  await using third = await staying([path]);
  await second.until(/^finished/);
  await livesOn(second);
  await third.tell("end");
  assertEquals((await third.ended()).code, 7);
});

test("a process runs on when its generation was rolled back: it may call start() again", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { readyTimeout: 20 });
  await app.ready();
  await using next = new Child("./outlive_generation.ts", [path, "--late"]);
  await next.until(/^started/);
  await until(() => app.status().state === "serving");
  await next.tell("ready");
  await next.until(/^rejected/);
  await livesOn(next);
  await app.stop();
});

test("a process runs on while another generation runs in it", async () => {
  using directory = new Directory();
  const [path, beside] = [directory.join("app.sock"), directory.join("beside.sock")];
  await using first = await staying([path, beside]);
  await using _second = await staying([path]);
  await first.until(/^finished/);
  await livesOn(first);
  // This restart ends the last generation of the process.
  await using _third = await staying([beside]);
  assertEquals((await first.ended()).code, 0);
});

test("a process exits after the last of its generations has finished, if a signal stopped one of them", async () => {
  using directory = new Directory();
  const [path, beside] = [directory.join("app.sock"), directory.join("beside.sock")];
  await using service = await staying([path, beside]);
  Deno.kill(service.pid, "SIGTERM");
  await service.until(/^finished/);
  await livesOn(service);
  // The program itself stops the last one, which alone would not end the process.
  await service.tell("stop the other one");
  const { code, stderr } = await service.ended();
  assertEquals(code, 0);
  assertMatch(stderr, words(1, service.pid));
});

test("a listener of unload that throws is logged, and the exit code stays", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (const [args, expected] of [[[], 0], [["--exitCode", "3"], 3], [["--late"], 0]] as const) {
    await using service = new Child("./outlive_generation.ts", [path, "--unload", ...args]);
    // A signal before ready() ends the process at once.
    await service.until(args[0] === "--late" ? /^started/ : /^serving/);
    Deno.kill(service.pid, "SIGTERM");
    const { code, stderr } = await service.ended();
    assertEquals(code, expected, stderr);
    assertMatch(stderr, /A listener of `unload` has failed; the process ends Error: out of luck/);
  }
});

test("a TestService never ends the process of the test", async () => {
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

test("start() takes a duration or false as exitTimeout, and rejects for other values", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await assertRejects(() => begin(path, { exitTimeout: NaN }), RangeError, "exitTimeout");
  await assertRejects(() => begin(path, { exitTimeout: -1 }), RangeError, "exitTimeout");
  for (const exitTimeout of [false, Infinity, 0, 1.5] as const) {
    await (await begin(path, { exitTimeout })).stop();
  }
});

test("the command `stop` reports whether the process of the generation has ended", async () => {
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
  "the command `stop` does not wait for a PID of another PID namespace",
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
