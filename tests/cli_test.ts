/**
 * The command line, as a process of its own, and the service as another one.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { fdHandler, listen, listenAndServe, PeerNotAllowedError, start } from "../mod.ts";
import { hasEnded, identify } from "../ffi/proc.ts";
import { Child } from "./support/child.ts";
import { Directory } from "./support/directory.ts";
import { record } from "./support/raw.ts";
import { until } from "./support/until.ts";
import { test } from "./support/guard.ts";

const python = await hasPython();
if (!python) console.log("cli_test.ts: without python3, its output in a terminal is not tested");

/** The outcome of one run. */
interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

async function run(...args: string[]): Promise<Outcome> {
  await using child = new Child("../../lib/cli.ts", args);
  const { code, stdout, stderr } = await child.ended();
  return { code, stdout: stdout.join("\n"), stderr };
}

/** Runs it in a terminal; resolves to all of its output. */
async function runInTerminal(...args: string[]): Promise<string> {
  const program = "import pty, sys; pty.spawn(sys.argv[1:])";
  await using child = new Child("../../lib/cli.ts", args, { through: ["python3", "-c", program] });
  return (await child.ended()).stdout.map((line) => `${line}\n`).join("");
}

/** The output that replaces the progress in a terminal. */
function shown(output: string, words: string): string {
  const [progress, rest] = output.split("\r\x1b[K");
  assertMatch(progress, new RegExp(`^(\r${words} \\(\\d+ s so far\\))+$`));
  return rest;
}

/** Starts a service in a process of its own; resolves when it is ready. */
async function serving(path: string, ...args: string[]): Promise<Child> {
  const child = new Child("./generation.ts", [path, "--probation", "50", ...args]);
  while (!(await child.line()).startsWith("serving: "));
  return child;
}

test("status prints the generation and its sockets, as text and as JSON", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = await serving(path);
  const words = await run("status", path);
  assertEquals(words.code, 0, words.stderr);
  const lines = words.stdout.split("\n");
  assertEquals(lines[0], `generation  1, process ${service.pid}, serving`);
  assertMatch(lines[1], /^since {7}20\d\d-\d\d-\d\dT[\d:.]+Z \(\d+ s\)$/);
  assertMatch(lines[2], /^listens {5}127\.0\.0\.1:\d+, 0 connections$/);
  const machine = await run("status", path, "--json");
  const { generation, pid, state, sockets } = JSON.parse(machine.stdout);
  assertEquals([generation, pid, state], [1, service.pid, "serving"]);
  assertEquals(sockets.length, 1);
});

test("status escapes control characters in names, and JSON.parse of its output returns the names unchanged", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const names = [
    "session \x1b[2J\x1b]0;owned\x07",
    "two\nlistens     0.0.0.0:80, 99 connections",
    "\x9b2Jdel\x7f \u202egnp.exe",
    "plain",
  ];
  await using app = await start(path, { logger: {}, stopOn: [] });
  for (const name of names) app.keep(name, new Uint8Array(1));
  app.listen({ path: directory.join("a\n\x1b[2J.sock") });
  await app.ready();
  const words = await run("status", path);
  assertEquals(words.code, 0, words.stderr);
  const at = JSON.stringify(directory.path).slice(0, -1);
  assertEquals(words.stdout.split("\n").slice(2), [
    `listens     ${at}/a\\n\\u001b[2J.sock", 0 connections`,
    `keeps       "session \\u001b[2J\\u001b]0;owned\\u0007"`,
    `keeps       "two\\nlistens     0.0.0.0:80, 99 connections"`,
    `keeps       "\\u009b2Jdel\\u007f \\u202egnp.exe"`,
    `keeps       "plain"`,
  ]);
  const machine = await run("status", path, "--json");
  assertEquals(JSON.parse(machine.stdout).kept, names);
  assertMatch(machine.stdout, /^[\n\x20-\x7e]+$/);
});

test("an answer against the protocol is an error that names it, and control characters in messages are escaped", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const status = { generation: 1, pid: 1, since: 1, state: "serving", sockets: [], kept: [] };
  const what = `The process that listens at "${path}"`;
  const wrong =
    `${what} is no generation of a service: it speaks another protocol: A frame of type`;
  const answers: [command: string, answer: unknown, stderr: string][] = [
    [
      "status",
      { type: "report", status: {} },
      `${wrong} "report" is against the protocol: ` +
      "status.generation is missing, where the number of a generation (1 to 4294967296) belongs",
    ],
    [
      "status",
      { type: "report", status: { ...status, since: 9e15 } },
      `${wrong} "report" is ` +
      "against the protocol: status.since is 9000000000000000, where a time in milliseconds " +
      "(0 to 8640000000000000) belongs",
    ],
    [
      "restart",
      { type: "done", pid: 0, generation: 1 },
      `${wrong} "done" is against the ` +
      "protocol: pid is 0, where the number of a process (1 to 2147483647) belongs",
    ],
    [
      "restart",
      { type: "failed", message: "\x1b[31mit\x1b[0m said:\n\tat \x1b[2Jmain\ngeneration 2 runs" },
      "The restart failed: it said:\n    at \\u001b[2Jmain\n    generation 2 runs",
    ],
    [
      "stop",
      { type: "refused", reason: "no\rgeneration 1, has gone", code: "peer" },
      `${what} refuses: no\\rgeneration 1, has gone`,
    ],
  ];
  for (const [command, answer, stderr] of answers) {
    const running = run(command, path);
    using conn = await listener.accept();
    await conn.write(record(JSON.stringify(answer)));
    assertEquals(await running, { code: 1, stdout: "", stderr: `${stderr}\n` });
  }
});

test("status prints a predecessor that is draining", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using old = await serving(path);
  const [, port] = /127\.0\.0\.1:(\d+)/.exec((await run("status", path)).stdout)!;
  // A client that stays connected keeps the predecessor.
  using client = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
  await client.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await client.read(new Uint8Array(1000));
  await using _next = await serving(path);
  const leaving = `previous    generation 1, process ${old.pid}, 1 connection`;
  await until(async () => (await run("status", path)).stdout.split("\n").at(-1) === leaving);
});

test("restart waits for the next generation, and prints its number and process", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = await serving(path);
  const { code, stdout, stderr } = await run("restart", path);
  assertEquals([code, stderr], [0, ""]);
  const [, pid] = /^generation 2 runs, process (\d+)$/.exec(stdout)!;
  assertMatch((await run("status", path)).stdout, new RegExp(`^generation  2, process ${pid}, `));
  assertEquals(
    (await run("stop", path)).stdout,
    `generation 2 has stopped, and its process ${pid} has ended`,
  );
  await service.ended();
});

test("restart prints the error of a restart that fails", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using _service = await serving(path, "--fail", "out of luck");
  const { code, stderr } = await run("restart", path);
  assertEquals(code, 1);
  assertMatch(stderr, /^The restart failed: .* has ended; .*out of luck/s);
  assertMatch((await run("status", path)).stdout, /^generation {2}1, /);
});

test("stop waits until the process of the service has ended", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = await serving(path);
  const { code, stdout } = await run("stop", path);
  assert(hasEnded(identify(service.pid)));
  const ended = `generation 1 has stopped, and its process ${service.pid} has ended`;
  assertEquals([code, stdout], [0, ended]);
  assertEquals((await service.ended()).code, 0);
  assertEquals(directory.names(), []);
  const again = await run("stop", path);
  assertEquals(again.code, 3);
  assertMatch(
    again.stderr,
    /^No service runs at "[^"]+app\.sock": there is no such path\. \(A service /,
  );
});

test("a dead service, a file, another protocol and a silent process are named", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  {
    await using service = await serving(path);
    Deno.kill(service.pid, "SIGKILL");
    await service.ended();
  }
  const dead = await run("status", path);
  assertEquals(dead.code, 3);
  assertMatch(dead.stderr, /has died; the next start takes its path\n$/);
  Deno.writeTextFileSync(directory.join("file"), "");
  const file = await run("status", directory.join("file"));
  assertEquals([file.code, /is no socket\n$/.test(file.stderr)], [1, true], file.stderr);
  // The protocol of serve(), HTTP, and a process that does not answer.
  await using plain = listenAndServe(directory.join("plain.sock"), fdHandler(0), { logger: {} });
  const http = directory.join("http.sock");
  await using _http = Deno.serve({ path: http, onListen() {} }, () => new Response());
  for (const other of [plain.addr.path!, http]) {
    for (const command of ["status", "restart", "stop"]) {
      const { code, stderr } = await run(command, other);
      const what = `The process that listens at "${other}" is no generation of a service`;
      assertEquals(code, 1);
      assert(
        stderr.startsWith(`${what}: it speaks another protocol: Invalid frame length `),
        stderr,
      );
    }
  }
  using silent = listen(directory.join("silent.sock"));
  const late = await run("status", silent.addr.path!, "--timeout", "0.2");
  assertEquals([late.code, late.stderr], [
    1,
    `The service at ${
      JSON.stringify(silent.addr.path)
    } has not answered after 0.2 s: its process hangs, ` +
    "was stopped (SIGSTOP), or has no descriptor left; see its log\n",
  ]);
});

test("commands print that `allow` refuses the user, and start() rejects with it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, {
    allow: () => false,
    logger: {},
    stopOn: [],
    exitTimeout: false,
  });
  await app.ready();
  for (const command of ["status", "restart", "stop"]) {
    const { code, stderr } = await run(command, path);
    assertEquals(code, 1);
    assertMatch(
      stderr,
      /^The process that listens at ".*" refuses: At ".*": `allow` refuses process \d+ /,
    );
    assertEquals(stderr.split("\n").length, 2);
  }
  await assertRejects(() => start(path, { stopOn: [] }), PeerNotAllowedError, "Cannot take over");
  assertEquals(app.status().state, "serving");
});

test("a restart goes on after the --timeout of its command", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using _service = await serving(path, "--probation", "700");
  const { code, stderr } = await run("restart", path, "--timeout", "0.4");
  const late = "Not done after 0.4 s: the restart goes on without being waited for\n";
  assertEquals([code, stderr], [1, late]);
  await until(async () => {
    const { stdout } = await run("status", path);
    return stdout.startsWith("generation  2, ") && !/^previous /m.test(stdout);
  });
  await run("stop", path);
});

test("a stop goes on after the --timeout of its command", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await start(path, { logger: {}, stopOn: [], exitTimeout: false });
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<Response>();
  const server = app.serve({ hostname: "127.0.0.1", port: 0 }, () => {
    asked.resolve();
    return answer.promise;
  });
  await app.ready();
  const response = fetch(`http://127.0.0.1:${(server.addr as Deno.NetAddr).port}`);
  await asked.promise;
  const { code, stderr } = await run("stop", path, "--timeout", "0.4");
  const late = "Not done after 0.4 s: the stop goes on without being waited for\n";
  assertEquals([code, stderr], [1, late]);
  answer.resolve(new Response("answered"));
  assertEquals(await (await response).text(), "answered");
  await app.finished;
});

test("in a terminal the outcome replaces the progress", { ignore: !python }, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using _service = await serving(path, "--probation", "1700");
  const restarted = await runInTerminal("restart", path);
  const words = "Waiting for the next generation to start, and for the end of its probation";
  assertMatch(shown(restarted, words), /^generation 2 runs, process \d+\r\n$/);
  await run("stop", path);
  using silent = listen(directory.join("silent.sock"));
  const stopped = await runInTerminal("stop", silent.addr.path!, "--timeout", "1.7");
  const late = "Not done after 1.7 s: the stop goes on without being waited for";
  assertEquals(shown(stopped, "Waiting for the service to drain"), `${late}\r\n`);
});

test("wrong arguments are errors that name them and refer to --help, which prints the usage", async () => {
  const wrong: Record<string, string> = {
    "": "A command is missing",
    "begin /run/a": `There is no command "begin"`,
    "status": "The path of the control socket is missing",
    "status ": "The path of the control socket is missing",
    "status file:///run/a":
      "The control socket has a path, such as /run/app.sock, and no URL: file:///run/a",
    "status /run/a /run/b": `There is one path too many: "/run/b"`,
    "status /run/a --verbose": "There is no option --verbose",
    "status /run/a --timeout": "--timeout takes seconds, not nothing",
    "status /run/a --timeout=soon": `--timeout takes seconds, not "soon"`,
    "stop /run/a --json": "--json is for status",
  };
  for (const [line, message] of Object.entries(wrong)) {
    const { code, stderr } = await run(...line === "" ? [] : line.split(" "));
    assertEquals([code, stderr], [2, `${message}\nSee --help\n`]);
  }
  for (const line of ["--help", "-h", "status --help", "restart -h"]) {
    const { code, stdout } = await run(...line.split(" "));
    assertEquals(code, 0);
    assertMatch(stdout, /^Runs a program as a service.*\nUsage: /s);
  }
});

async function hasPython(): Promise<boolean> {
  try {
    return (await new Deno.Command("python3", { args: ["--version"] }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
