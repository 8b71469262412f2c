/**
 * The command line, as a process that asks another one.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { fdHandler, listen, listenAndServe } from "../mod.ts";
import { Child } from "./fixtures/child.ts";
import { Directory } from "./fixtures/directory.ts";
import { until } from "./fixtures/until.ts";
import { test } from "./guard.ts";

/** What one run of it came to. */
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

/** A service in a process of its own, which is ready. */
async function serving(path: string, ...args: string[]): Promise<Child> {
  const child = new Child("./generation.ts", [path, "--probation", "50", ...args]);
  while (!(await child.line()).startsWith("serving: "));
  return child;
}

test("status says what runs, in words and for machines", async () => {
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

test("status says what is leaving", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using old = await serving(path);
  const [, port] = /127\.0\.0\.1:(\d+)/.exec((await run("status", path)).stdout)!;
  // A client that stays keeps it.
  using client = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
  await client.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await client.read(new Uint8Array(1000));
  await using _next = await serving(path);
  const leaving = `leaving     generation 1, process ${old.pid}, 1 connection`;
  await until(async () => (await run("status", path)).stdout.split("\n").at(-1) === leaving);
});

test("restart waits for the next generation, and says which one it is", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = await serving(path);
  const { code, stdout, stderr } = await run("restart", path);
  assertEquals([code, stderr], [0, ""]);
  const [, pid] = /^generation 2 runs, process (\d+)$/.exec(stdout)!;
  assertMatch((await run("status", path)).stdout, new RegExp(`^generation  2, process ${pid}, `));
  assertEquals((await run("stop", path)).stdout, `generation 2, process ${pid}, has gone`);
  await service.ended();
});

test("a restart that fails says why", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using _service = await serving(path, "--fail", "out of luck");
  const { code, stderr } = await run("restart", path);
  assertEquals(code, 1);
  assertMatch(stderr, /^The restart failed: .* ended with code 1; .*out of luck/s);
  assertMatch((await run("status", path)).stdout, /^generation {2}1, /);
});

test("stop waits until the service has gone", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = await serving(path);
  const { code, stdout } = await run("stop", path);
  assertEquals([code, stdout], [0, `generation 1, process ${service.pid}, has gone`]);
  assertEquals((await service.ended()).code, 0);
  assertEquals(directory.names(), ["app.sock.lock"]);
  const again = await run("stop", path);
  assertEquals([again.code, again.stderr], [3, `No service runs at ${JSON.stringify(path)}\n`]);
});

test("what is no service is named", async () => {
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
  // The plain protocol, and a process that does not answer at all.
  await using plain = listenAndServe(directory.join("plain.sock"), fdHandler(0), { logger: {} });
  const other = await run("status", plain.addr.path!);
  assertEquals([other.code, /A frame of \d+ bytes is none/.test(other.stderr)], [1, true]);
  using silent = listen(directory.join("silent.sock"));
  const late = await run("status", silent.addr.path!, "--timeout", "0.2");
  assertEquals([late.code, late.stderr], [1, "No answer after 0.2 s\n"]);
});

test("wrong arguments are named, with the usage", async () => {
  const wrong: Record<string, string> = {
    "": "A command is missing",
    "begin /run/a": `There is no command "begin"`,
    "status": "The path of the control socket is missing",
    "status /run/a /run/b": `There is one path too many: "/run/b"`,
    "status /run/a --verbose": "There is no option --verbose",
    "status /run/a --timeout": "--timeout takes seconds, not nothing",
    "status /run/a --timeout=soon": `--timeout takes seconds, not "soon"`,
    "stop /run/a --json": "--json is for status",
  };
  for (const [line, message] of Object.entries(wrong)) {
    const { code, stderr } = await run(...line.split(" ").filter(Boolean));
    assertEquals([code, stderr.split("\n")[0]], [2, message]);
    assertMatch(stderr, /\nUsage: /);
  }
  for (const line of ["--help", "status --help", "restart --help"]) {
    const { code, stdout } = await run(...line.split(" "));
    assertEquals(code, 0);
    assertMatch(stdout, /^Asks a running service.*\nUsage: /s);
  }
});
