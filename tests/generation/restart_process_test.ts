/**
 * The process that restart() starts: its parent, environment and output, how it is identified, and its end.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { pathStatus, readLink, readText } from "../../ffi/file.ts";
import { hasEnded, identify, isRunning, type ProcessId } from "../../ffi/proc.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { type Frame, protocolVersion } from "../../lib/generation/protocol.ts";
import { connect, HandoverError } from "../../mod.ts";
import { Child, programPath } from "../support/child.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { asked, begin, serving } from "../support/in_process.ts";
import { KeptLog } from "../support/kept_log.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { installDeno, versions } from "../support/deno_versions.ts";

const canUnshare = await succeeds(["unshare", "--pid", "--fork", "--mount-proc", "true"]);
if (!canUnshare) {
  console.log(
    "restart_process_test.ts: process 1 is not tested: this machine makes no PID namespace",
  );
}

test("the process of restart() is no child of its predecessor, and gets the same arguments, environment and signals", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const cwd = directory.join("a directory");
  Deno.mkdirSync(cwd);
  const args = [
    "",
    "two words",
    "two\nlines",
    `"double" and 'single'`,
    "$HOME",
    "`id`",
    "*",
    "\\",
    "ä",
  ];
  const env = { PLAIN: "two\nlines", LONG_1: "=" };
  await using first = new Child("./print_start.ts", [path, cwd, ...args], { env });
  const before = JSON.parse(await first.line());
  const after = JSON.parse(await first.line());
  assertEquals(before.parent, Deno.pid);
  assert(after.parent !== before.pid, "it is a child of its predecessor");
  assert(after.parentThen !== after.parent, "it is no orphan after start()");
  assertEquals(after.args, [path, cwd, ...args]);
  assertEquals(after.cwd, cwd);
  assertEquals(after.environment["PWD"], cwd);
  for (const [name, value] of Object.entries(env)) {
    assertEquals(after.environment[name], value);
  }
  // A shell ignores SIGINT and SIGQUIT in its background processes.
  assertEquals(after.signals, before.signals);
  assertEquals(after.stdin, "/dev/null");
  assertEquals(after.program, before.program);
  await first.until("restarted");
  Deno.kill(after.pid, "SIGTERM");
  assertEquals((await first.ended()).code, 0);
});

test("restart() logs the names of variables that /bin/sh drops, and shows no value in a command line", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const hold = directory.join("hold");
  const secret = crypto.randomUUID();
  const env = { "with.dot": secret, "with-dash": secret, PLAIN: secret };
  await using first = new Child("./generation.ts", [path, "--hold", hold], { env });
  await first.until("serving: 1");
  Deno.writeTextFileSync(hold, "");
  await first.tell("restart");
  const passes = new Deno.Command("/bin/sh", { args: ["-c", "env"], env }).outputSync();
  const isPassedOn = new TextDecoder().decode(passes.stdout).includes("with.dot=");
  if (!isPassedOn) {
    await first.until(/^error: The next generation does not get .*: "with-dash", "with.dot"; it/);
  }
  await first.until("held");
  for (const { name } of Deno.readDirSync("/proc")) {
    if (/^\d+$/.test(name)) assert(!readText(`/proc/${name}/cmdline`)?.includes(secret));
  }
  Deno.removeSync(hold);
  const [pid] = await first.numbers("pid");
  await first.until("serving: 2");
  Deno.kill(pid, "SIGTERM");
  assertEquals((await first.ended()).code, 0);
});

test("the process of restart() keeps the output of its predecessor, even when that is killed before the handover", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const hold = directory.join("hold");
  const args = [path, "--hold", hold, "--say", "a word on stderr"];
  await using first = new Child("./generation.ts", args);
  await first.until("serving: 1");
  Deno.writeTextFileSync(hold, "");
  await first.tell("restart");
  await first.until("held");
  Deno.kill(first.pid, "SIGKILL");
  const old = identify(first.pid);
  await until(() => hasEnded(old));
  Deno.removeSync(hold);
  const [port] = await first.numbers("port");
  await first.until("serving: 1");
  const [, pid] = (await asked(port)).split(" ");
  // A program that this process executes inherits the standard streams alone.
  const stdout = readLink(`/proc/${pid}/fd/1`);
  const passedOn = Array.from(Deno.readDirSync(`/proc/${pid}/fd`), ({ name }) => name)
    .filter((name) => readLink(`/proc/${pid}/fd/${name}`) === stdout)
    .filter((name) => {
      const flags = /^flags:\s*(\d+)$/m.exec(readText(`/proc/${pid}/fdinfo/${name}`) ?? "")?.[1];
      // O_CLOEXEC, which Deno's own duplicates have (open(2)).
      return (parseInt(flags ?? "", 8) & 0o2000000) === 0;
    });
  assertEquals(passedOn, ["1"]);
  Deno.kill(Number(pid), "SIGTERM");
  await first.until("finished");
  assertEquals((await first.ended()).stderr, "a word on stderr\n".repeat(2));
});

for (const version of new Set([versions[0], Deno.version.deno])) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  test(
    `on Deno ${version} the process of restart() goes on after its predecessor has ended`,
    { ignore },
    async () => {
      if ("skipped" in runtime) return;
      using directory = new Directory();
      const path = directory.join("app.sock");
      const deno = ["run", "-A", "--no-check"];
      const options = { program: runtime.command, deno };
      await using first = new Child("../system/soak_start.ts", ["first", path], options);
      await first.line();
      assertEquals((await cli("restart", path)).code, 0);
      await until(() => !isRunning(first.pid));
      assertMatch((await cli("status", path)).stdout, /^generation +2, process \d+, serving/);
      assertEquals((await cli("stop", path)).code, 0);
      assertEquals((await first.ended()).code, 0);
    },
  );
}

test("restart() accepts a generation that is a child process of its command", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const program = programPath("generation.ts");
  const app = await begin(path);
  await app.ready();
  // The shell stays, as the parent of the next generation.
  const script = `"$0" run -A "$1" "$2" <&-; echo "it has ended"`;
  const args = ["-c", script, Deno.execPath(), program, path];
  const { generation, pid } = await app.restart({ program: "sh", args });
  assertEquals(generation, 2);
  await app.finished;
  Deno.kill(pid, "SIGTERM");
  await until(() => !directory.names().includes("app.sock"));
});

test("restart() accepts a generation whose parent, its command, has ended", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const enough = directory.join("enough");
  const { app, port } = await serving(path, "first");
  const starter = `"$@" & until [ -e "$0" ]; do sleep 0.01; done`;
  const generation = programPath("generation.ts");
  const started = [Deno.execPath(), "run", "-A", generation, path, "--probation", "1000"];
  const restarting = app.restart({ program: "sh", args: ["-c", starter, enough, ...started] });
  await until(() => app.status().state === "offering");
  Deno.writeTextFileSync(enough, "");
  const { pid } = await restarting;
  assertEquals(await asked(port), `2 ${pid}`);
  await app.finished;
  Deno.kill(pid, "SIGTERM");
  await until(() => pathStatus(path) === undefined);
});

test("a client that sends the PID of the process of restart(), without its token, is not taken for it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const enough = directory.join("enough");
  const { app, port } = await serving(path, "first");
  const generation = programPath("generation.ts");
  // The shell waits, and then executes the next generation without its token: the PID alone identifies it.
  const script = `echo "$$" >"$0.new"; mv "$0.new" "$0.pid"
    until [ -e "$0" ]; do sleep 0.01; done; exec env -u GRACEFUL_TOKEN "$@"`;
  const started = [Deno.execPath(), "run", "-A", generation, path];
  const restarting = app.restart({ program: "sh", args: ["-c", script, enough, ...started] });
  await until(() => pathStatus(`${enough}.pid`) !== undefined);
  const pid = Number(Deno.readTextFileSync(`${enough}.pid`));
  {
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: protocolVersion, pid });
    const offer = await channel.receive() as Frame & { type: "offer" };
    assertEquals(offer.items.map(({ kind }) => kind), ["control", "listener"]);
  }
  await until(() => app.status().state === "serving");
  // restart() would end its process within a second, if it had taken the client for it.
  await new Promise((resolve) => setTimeout(resolve, 1500));
  Deno.writeTextFileSync(enough, "");
  assertEquals(await restarting, { pid, generation: 2 });
  // The offer has contained the output of this process.
  assertEquals(readLink(`/proc/${pid}/fd/1`), readLink("/proc/self/fd/1"));
  assertEquals(await asked(port), `2 ${pid}`);
  await app.finished;
  Deno.kill(pid, "SIGTERM");
  await until(() => pathStatus(path) === undefined);
});

test("restart() rejects when a process that it did not start takes over, and ends its own process", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const file = directory.join("pid");
  const log = new KeptLog();
  const { app } = await serving(path, "first", { logger: log });
  const restarting = app.restart(wrapped(file));
  const process = await printed(file);
  await using other = new Child("./generation.ts", [path]);
  const error = await assertRejects(() => restarting, HandoverError);
  assertEquals(error.message, `Another process, ${other.pid}, has taken over`);
  await other.until("serving: 2");
  await until(() => hasEnded(process));
  await app.finished;
  assertEquals(log.errors.map(([message]) => message), ["The restart failed"]);
  assert(isRunning(other.pid));
});

/** A command that waits for a child process, which writes its PID into `file` and sleeps. */
function wrapped(file: string): { program: string; args: string[] } {
  const script = `sh -c 'echo "$$" >"$0.new"; mv "$0.new" "$0"; exec sleep 600' "$0" "$@"; :`;
  return { program: "sh", args: ["-c", script, file] };
}

/** Waits for the PID in the file of {@linkcode wrapped}. */
async function printed(file: string): Promise<ProcessId> {
  await until(() => pathStatus(file) !== undefined);
  return identify(Number(Deno.readTextFileSync(file)));
}

test("a failed restart ends every process that its command has started", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  // Longer than restart() reads the output of a process that has ended.
  const app = await begin(path, { readyTimeout: 2000 });
  await app.ready();
  const [late, ended, stopped] = ["late", "ended", "stopped"].map((name) => directory.join(name));
  await assertRejects(() => app.restart(wrapped(late)), HandoverError, "was not ready after");
  const process = await printed(late);
  await until(() => hasEnded(process));
  // This command ends, and leaves its child process behind.
  const { program, args: [, script] } = wrapped(ended);
  const left = { program, args: ["-c", script.replace("; :", " &"), ended] };
  await assertRejects(() => app.restart(left), HandoverError, "ended with code 0");
  // restart() may end the child process before it has written its PID.
  await until(() => !processesOf(ended).length);
  const restarting = app.restart(wrapped(stopped));
  const last = await printed(stopped);
  const rejected = assertRejects(() => restarting, HandoverError, "was stopped meanwhile");
  await app.stop();
  await rejected;
  await until(() => hasEnded(last));
});

/** The processes with this argument in their command line. */
function processesOf(argument: string): number[] {
  return Array.from(Deno.readDirSync("/proc"), ({ name }) => Number(name)).filter((pid) =>
    pid > 0 && readText(`/proc/${pid}/cmdline`)?.split("\0").includes(argument)
  );
}

test("start() rejects in a process of a failed restart: it cannot take over later", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const file = directory.join("pid");
  const app = await begin(path, { readyTimeout: 500 });
  await app.ready();
  const restarting = app.restart(wrapped(file));
  const failed = assertRejects(() => restarting, HandoverError);
  const { pid } = await printed(file);
  const isToken = (each: string) => each.startsWith("GRACEFUL_TOKEN=");
  const [, token] = readText(`/proc/${pid}/environ`)!.split("\0").find(isToken)!.split("=");
  await failed;
  const env = { GRACEFUL_TOKEN: token };
  await using escaped = new Child("./generation.ts", [path], { env });
  const { code, stderr } = await escaped.ended();
  assertEquals(code, 1);
  assertMatch(stderr, /HandoverError: Cannot take over at ".*": the restart that .* has failed/);
  assertEquals(app.status().state, "serving");
  // A token of another generation is accepted.
  await using other = new Child("./generation.ts", [path], { env: { GRACEFUL_TOKEN: "another" } });
  await other.until("serving: 2");
  await app.finished;
});

test("a generation that is process 1 leaves no zombie of a failed restart", {
  ignore: !canUnshare,
}, async () => {
  const through = ["unshare", "--pid", "--fork", "--mount-proc"];
  await using child = new Child("./restart_as_init.ts", [], { through });
  assertEquals(JSON.parse(await child.line()), [1, 2, []]);
});
