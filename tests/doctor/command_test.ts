/**
 * The command `doctor`, as a process of its own, with a `systemctl` that prints what systemd 252 has shown.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Finding } from "../../lib/doctor/finding.ts";
import { serviceOf } from "../../lib/doctor/processes.ts";
import { cli } from "../support/cli.ts";
import { Child, programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";

const recorded = programPath("../data/systemd_252");
const isInUnit = serviceOf("self") !== undefined;
if (isInUnit) {
  console.log("command_test.ts: in a systemd service, doctor without a unit is not tested");
}

/** Runs `doctor` with a shell script in the place of systemctl. */
async function withSystemctl(
  script: string,
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  using directory = new Directory();
  Deno.writeTextFileSync(directory.join("systemctl"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  const env = { PATH: `${directory.path}:${Deno.env.get("PATH")}` };
  await using child = new Child("../../lib/cli.ts", ["doctor", ...args], { env });
  const { code, stdout, stderr } = await child.ended();
  return { code, stdout: stdout.join("\n"), stderr };
}

test("doctor prints a line for each finding of a healthy service, and exits with 0", {
  ignore: isInUnit,
}, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path]);
  const port = await service.number("port");
  await service.until("serving: 1");
  const { code, stdout, stderr } = await cli("doctor", path);
  assertEquals([code, stderr], [0, ""]);
  const lines = stdout.split("\n");
  for (const line of lines) assertMatch(line, /^(ok {7}|note {5})[\w. ":]+: /);
  assert(
    lines[0].startsWith(`ok       generation: Generation 1, process ${service.pid}, is serving`),
  );
  const listener = `ok       listener 127.0.0.1:${port}: 0 of `;
  assertEquals(lines.filter((line) => line.startsWith(listener)).length, 1, stdout);
  assertMatch(lines.at(-1)!, /^note {5}unit: Process \d+ belongs to no systemd service/);
});

test("doctor exits with 1 for a problem, whose line has the advice", async () => {
  using directory = new Directory();
  const { code, stdout, stderr } = await cli("doctor", directory.join("app.sock"));
  assertEquals([code, stderr], [1, ""]);
  assertMatch(
    stdout,
    /^problem {2}socket: Nothing is at ".*app\.sock": .*\. Start the service, or /,
  );
});

test("--json has the findings and the facts", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path]);
  await service.until("serving: 1");
  const { stdout } = await cli("doctor", "--json", path);
  const { findings, socket, listeners, process } = JSON.parse(stdout);
  for (const { level, about, text } of findings as Finding[]) {
    assert(["ok", "note", "warning", "problem"].includes(level));
    assert(about.length > 0 && text.length > 0);
  }
  assertEquals([socket.path, socket.kind, socket.pid], [path, "generation", service.pid]);
  assertEquals([socket.generation.state, socket.file.mode], ["serving", 0o600]);
  assertEquals([process.pid, process.zombies, process.others], [service.pid, [], []]);
  assertEquals(listeners.length, 1);
  assert(listeners[0].backlog > 0);
});

test("names are printed on one line, without control characters", async () => {
  using directory = new Directory();
  const path = directory.join("a\n\x1b[2J.sock");
  const { stdout } = await cli("doctor", path);
  assertMatch(stdout, /a\\n\\u001b\[2J\.sock": /);
  assertEquals(stdout.split("\n").length, 1);
});

test("doctor UNIT examines what systemctl shows, in one call, and exits with 1 for a warning", async () => {
  using directory = new Directory();
  const calls = directory.join("calls");
  const script = `echo "$*" >> ${calls}; cat ${recorded}/plain.txt`;
  const { code, stdout, stderr } = await withSystemctl(script, "plain");
  assertEquals([code, stderr], [1, ""]);
  assertMatch(stdout, /^problem {2}Type: Type=simple: .*\. Write Type=notify into \[Service\]$/m);
  assertMatch(stdout, /^note {5}socket: The control socket is not found: /m);
  const called = Deno.readTextFileSync(calls).trim().split("\n");
  assertEquals(called.length, 1);
  assertMatch(called[0], /^show --no-pager --property=Id,\S+ -- plain\.service$/);
});

test("doctor UNIT finds the control socket in ExecReload, and the generation beside the unit", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path]);
  await service.until("serving: 1");
  const script = `sed s#/run/app/app.sock#${path}# ${recorded}/app.txt`;
  const { code, stdout } = await withSystemctl(script, "--json", "app.service");
  const { findings, socket, unit } = JSON.parse(stdout);
  assertEquals([code, socket.path, socket.pid], [1, path, service.pid]);
  assertEquals(unit.PIDFile, "/run/app/app.pid");
  const about = (findings as Finding[]).filter(({ level }) => level === "problem").map((each) =>
    each.about
  );
  // Nothing of the recorded unit runs here.
  assertEquals(about.filter((name) => name !== "MainPID"), ["PIDFile", "ControlGroup"]);
});

test("a unit that cannot be examined is an error with exit code 2", async () => {
  const outcomes: [script: string, args: string[], stderr: RegExp][] = [
    ["echo Id=a.service; echo LoadState=not-found", ["a"], /^There is no unit a\.service: /],
    [
      "echo 'System has not been booted' >&2; exit 1",
      ["a@b"],
      /^Cannot ask systemd for a@b\.service: System has not been booted\n$/,
    ],
    ["exit 3", ["a"], /: systemctl exits with 3\n$/],
    ["exec sleep 100", ["a", "--timeout", "0.3"], /a\.service: no answer in 300 ms\n$/],
  ];
  for (const [script, args, expected] of outcomes) {
    const { code, stdout, stderr } = await withSystemctl(script, ...args);
    assertEquals([code, stdout], [2, ""], stderr);
    assertMatch(stderr, expected);
  }
  using empty = new Directory();
  const args = ["doctor", "app"];
  await using child = new Child("../../lib/cli.ts", args, { env: { PATH: empty.path } });
  const { code, stderr } = await child.ended();
  const why = "Cannot ask systemd for app.service: there is no systemctl\n";
  assertEquals([code, stderr], [2, why]);
});

test("--timeout ends the wait for a systemctl whose child keeps its output open", async () => {
  using directory = new Directory();
  const ended = directory.join("ended");
  const script = `(sleep 5; : > ${ended}) & wait`;
  const { code, stderr } = await withSystemctl(script, "app", "--timeout", "0.3");
  assertEquals(directory.names(), []);
  assertEquals([code, stderr], [2, "Cannot ask systemd for app.service: no answer in 300 ms\n"]);
});

test("wrong arguments are errors with exit code 2, and --help prints the usage", async () => {
  const wrong: [line: string, message: string][] = [
    ["/run/a /run/b", `There is one argument too many: "/run/b"`],
    ["/run/a --verbose", "There is no option --verbose"],
    ["/run/a --timeout", "--timeout takes a number of seconds"],
    ["/run/a --timeout=soon", "--timeout takes a number of seconds"],
    ["", "The path or unit is empty"],
    ["app.socket", `"app.socket" is a socket unit: give the service, or the control socket`],
  ];
  for (const [line, message] of wrong) {
    const { code, stdout, stderr } = await cli("doctor", ...line.split(" "));
    assertEquals([code, stdout, stderr], [2, "", `${message}\nSee doctor --help\n`]);
  }
  if (!isInUnit) {
    const { code, stderr } = await cli("doctor");
    assertEquals(code, 2);
    assertMatch(stderr, /^This process is in no systemd service: /);
  }
  const { code, stdout } = await cli("doctor", "--help");
  assertEquals(code, 0);
  assertMatch(stdout, /^Examines a service, .*\nUsage: .* doctor \[PATH \| UNIT\]/s);
  assertMatch((await cli("--help")).stdout, /\n {2}doctor \[PATH \| UNIT\] /);
});

test("with --allow-ffi alone status works, and doctor examines all but the unit", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path]);
  await service.until("serving: 1");
  for (const command of ["status", "doctor"]) {
    const deno = ["run", "--allow-ffi", "--no-prompt"];
    await using child = new Child("../../lib/cli.ts", [command, path], { deno });
    const { stdout, stderr } = await child.ended();
    assertMatch(stdout[0], new RegExp(`eneration +1, process ${service.pid}, `), stderr);
  }
});
