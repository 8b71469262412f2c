/**
 * restart(): its command, its outcome, and its errors.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { pathStatus } from "../../ffi/file.ts";
import { isRunning } from "../../ffi/proc.ts";
import { HandoverError } from "../../mod.ts";
import { Child, programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { asked, begin, serving } from "../support/in_process.ts";
import { until } from "../support/until.ts";

test("restart() starts the same command again, with the same standard output and standard error", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using first = new Child("./generation.ts", [path, "--say", "a word on stderr"]);
  const [port] = await first.numbers("port");
  await first.until("serving: 1");
  await first.tell("restart");
  await first.until("serving: 2");
  await first.until("restarted: 2");
  await first.until("finished");
  const [, pid] = (await asked(port)).split(" ").map(Number);
  assert(pid !== first.pid);
  // The first process has ended: from here on the second prints the lines.
  Deno.kill(pid, "SIGTERM");
  await first.until("phase: stopped");
  await first.until("finished");
  const { stderr, code } = await first.ended();
  assertEquals(code, 0);
  assertEquals(stderr, "a word on stderr\n".repeat(2));
  await until(() => !directory.names().includes("app.sock"));
});

test("restart() starts in the directory of the first start, by its path: a changed symbolic link is followed", async () => {
  using directory = new Directory();
  const module = new URL("../../mod.ts", import.meta.url);
  for (const release of ["one", "two"]) {
    Deno.mkdirSync(directory.join(release));
    Deno.writeTextFileSync(
      directory.join(`${release}/main.ts`),
      `import { start } from "${module}";
       const app = await start("${
        directory.join("app.sock")
      }", { restartOn: ["SIGHUP"], probation: 10 });
       Deno.chdir("/");
       await app.ready();
       console.log(app.generation, "is of release ${release}, process", Deno.pid);
       await app.finished;`,
    );
  }
  const current = directory.join("current");
  Deno.symlinkSync("one", current);
  const enter = ["sh", "-c", `cd ${current} && exec "$0" run -A main.ts`];
  await using first = new Child("", [], { through: enter });
  await first.until(/^1 is of release one/);
  Deno.removeSync(current);
  Deno.symlinkSync("two", current);
  Deno.kill(first.pid, "SIGHUP");
  const second = Number((await first.until(/^2 is of release two/)).split(" ").at(-1));
  Deno.kill(second, "SIGTERM");
  assertEquals((await first.ended()).code, 0);
});

test("restart() rejects with the reason when its command cannot be started, ends, or does not take over", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { app, port } = await serving(path, "first", { readyTimeout: 300 });
  const { NotFound, PermissionDenied } = Deno.errors;
  for (
    const [program, cwd, error, message] of [
      ["/nonexistent/program", undefined, NotFound, "there is no such program"],
      ["no-program-of-that-name", undefined, NotFound, "there is no such program"],
      ["./nonexistent", directory.path, NotFound, "there is no such program"],
      ["/etc/passwd", undefined, PermissionDenied, "it is no program that may run"],
      [directory.path, undefined, PermissionDenied, "it is no program that may run"],
      ["true", directory.join("none"), NotFound, "there is no such directory"],
    ] as const
  ) {
    const where = JSON.stringify(cwd ?? Deno.cwd());
    await assertRejects(
      () => app.restart({ program, args: [], cwd }),
      error,
      `Cannot start ${JSON.stringify(program)} in ${where}: ${message}`,
    );
  }
  const failed = await assertRejects(
    () => app.restart({ program: "sh", args: ["-c", "echo never mind >&2; exit 3"] }),
    HandoverError,
    "ended with code 3; the last it said was: never mind",
  );
  assertEquals(failed.code, "ERR_HANDOVER_FAILED");
  const late = await assertRejects(
    () => app.restart({ program: "sleep", args: ["1000"] }),
    HandoverError,
    "was not ready after 300 ms",
  );
  assertEquals(late.code, "ERR_HANDOVER_TIMEOUT");
  assertEquals(await asked(port), "first");
  const busy = app.restart({ program: "sleep", args: ["1000"] });
  const refused = await assertRejects(() => app.restart(), HandoverError, "under way");
  assertEquals(refused.code, "ERR_HANDOVER_BUSY");
  await assertRejects(() => busy, HandoverError);
  await app.stop();
});

test("restart() names the failure of a generation whose parent, its command, goes on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const generation = programPath("generation.ts");
  const app = await begin(path, { readyTimeout: 5000 });
  await app.ready();
  const script = `"$0" run -A "$1" "$2" --fail "out of luck" <&-; exec sleep 600`;
  const args = ["-c", script, Deno.execPath(), generation, path];
  const restarting = app.restart({ program: "sh", args });
  // The command might start another generation: restart() waits until readyTimeout.
  await assertRejects(
    () => restarting,
    HandoverError,
    "was not ready after 5000 ms; when it tried: The next generation ended before it was ready",
  );
  assertEquals(app.status().state, "serving");
  await app.stop();
});

test("the error of restart() quotes the last output of a killed program, without the message of a shell", async () => {
  using directory = new Directory();
  const script = "echo my last words >&2; kill -KILL $$";
  await using service = new Child("./restart_by_script.ts", [directory.join("app.sock"), script]);
  const { code, stdout, stderr } = await service.ended();
  assertEquals([code, stderr], [0, "my last words\n"]);
  assertMatch(stdout[0], /ended with code 137; the last it said was: my last words$/);
});

test("restart() never blocks a program that writes more than a pipe holds before start()", async () => {
  using directory = new Directory();
  const script = "yes | head -n 100000; exit 3";
  await using service = new Child("./restart_by_script.ts", [directory.join("app.sock"), script]);
  const { code, stdout } = await service.ended();
  assertEquals([code, stdout.length], [0, 100_001]);
  assertMatch(stdout.at(-1)!, /ended with code 3$/);
});

test("a signal of restartOn restarts, and a failed restart is logged with its reason", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const args = [path, "--restartOn", "SIGUSR2", "--fail", "out of luck"];
  await using first = new Child("./generation.ts", args);
  const [port] = await first.numbers("port");
  await first.until("serving: 1");
  Deno.kill(first.pid, "SIGUSR2");
  await first.until(/^error: The restart failed; .* has ended; .*out of luck/);
  await first.tell("restart");
  await first.until(/^failed: ERR_HANDOVER_FAILED The next generation, .* out of luck/);
  assertMatch(await asked(port), /^1 /);
  Deno.kill(first.pid, "SIGTERM");
  await first.until("finished");
  assertEquals((await first.ended()).code, 0);
});

test("a restart by signal is logged with the reason when its command cannot be started", async () => {
  using directory = new Directory();
  const cwd = directory.join("release");
  Deno.mkdirSync(cwd);
  const args = ["../app.sock", "--restartOn", "SIGUSR2"];
  const through = ["sh", "-c", `cd ${cwd} && exec "$0" "$@"`];
  await using service = new Child("./generation.ts", args, { through });
  const [port] = await service.numbers("port");
  await service.until("serving: 1");
  Deno.removeSync(cwd);
  Deno.kill(service.pid, "SIGUSR2");
  await service.until(
    /^error: The restart failed; this generation goes on: Cannot start .*: the directory .* is gone/,
  );
  assertMatch(await asked(port), /^1 /);
});

test("restart() may be called again after it has failed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { app } = await serving(path, "here");
  const leaked = programPath("leaked_connection.ts");
  const command = { program: Deno.execPath(), args: ["run", "-A", leaked, path] };
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => app.restart(command), HandoverError, "ended with code 3");
    assertEquals(app.status().state, "serving");
  }
  await app.stop();
});

test("restart() may be called again after readyTimeout has ended a handover", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { readyTimeout: 2000 });
  await app.ready();
  const generation = programPath("generation.ts");
  const args = ["run", "-A", "--no-check", generation, path, "--say", "wait"];
  for (let i = 0; i < 3; i++) {
    const restarting = app.restart({ program: Deno.execPath(), args });
    await until(() => app.status().state === "offering");
    await assertRejects(() => restarting, HandoverError, "was not ready after 2000 ms");
    assertEquals(app.status().state, "serving");
  }
  await app.stop();
});

for (const refused of [[], ["900000"]]) {
  const fails = refused.length > 0 ? "whose ready() is refused" : "that fails before ready()";
  test(`restart() waits for a program ${fails} and that calls start() again`, () =>
    triesAgain(refused));
}

async function triesAgain(refused: string[]): Promise<void> {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const retry = programPath("retry_start.ts");
  const { app, port } = await serving(path, "first", { readyTimeout: 60_000 });
  // The pause before a retry is longer than a failed process needs to end.
  const args = ["run", "-A", "--no-check", retry, path, "3", "1500", ...refused];
  const { pid, generation } = await app.restart({ program: Deno.execPath(), args });
  assertEquals(generation, 2);
  await app.finished;
  assertEquals(await asked(port), `${pid}, in try 3`);
  Deno.kill(pid, "SIGTERM");
  await until(() => pathStatus(path) === undefined);
}

test("restart() ends a program that fails again and again after readyTimeout", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const retry = programPath("retry_start.ts");
  const app = await begin(path, { readyTimeout: 3000 });
  await app.ready();
  const args = ["run", "-A", "--no-check", retry, path, "1000000", "0"];
  const error = await assertRejects(
    () => app.restart({ program: Deno.execPath(), args }),
    HandoverError,
    "was not ready after 3000 ms; when it tried: ",
  );
  assertEquals(error.code, "ERR_HANDOVER_TIMEOUT");
  const pid = Number(/process (\d+)/.exec(error.message)![1]);
  await until(() => !isRunning(pid));
  await until(() => app.status().state === "serving");
  await app.stop();
});
