/**
 * A generation on a system that passes no descriptors, which a process is told that it runs on: it lives as
 * on this one, without a next generation, and never opens the C library.
 *
 * @module
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { Child } from "../support/child.ts";
import { test } from "../support/guard.ts";

const darwin = "darwin aarch64";
const refusal = "Descriptors are passed on Linux x86_64 and aarch64; this is";

function on(system: string | undefined): { env: Record<string, string> } {
  return { env: system === undefined ? {} : { OTHER_SYSTEM: system } };
}

/** What a server and its clients say while it leaves. */
const leaving = [
  "starting",
  "/eager is asked for, serving",
  "eager: 200 /eager , connection: undefined",
  "/slow is asked for, serving",
  "/upload is asked for, serving",
  "/stream is asked for, serving",
  "draining",
  "leaving",
  "/again is asked for, leaving",
  "eager: 200 /again , connection: close",
  "uploading: 200 /upload abcdef, connection: close",
  "slow: 200 /slow , connection: close",
  "the stream is answered to its end",
  "stopped true",
];

/** What the program and its clients see, in this order. */
const scenes: Record<string, string[]> = {
  "a server": [
    "listening 127.0.0.1",
    '[ "listener" ]',
    ...leaving,
  ],
  "a server on a path": [
    "600",
    ...leaving,
    "false",
  ],
  "a server of TLS": ["hello", "true"],
  "a stop before anything is ready": ["BadResource", "true", "stopped true true"],
  "event streams without an end": ["cut"],
  "a server that the program shuts down": ["true true []"],
  "servers that cannot be made": [
    "AddrInUse",
    "InvalidData",
    "RangeError",
    "TypeError",
    "1",
    "false",
    "Cannot listen: this generation is draining, or has stopped",
  ],
  "more clients than are kept in mind": ["1100"],
  "WebSockets": ["hello!", "1001 going away"],
  "listeners": [
    "640",
    "accepted serving",
    "eager",
    "accepted serving",
    "accepted serving",
    "hello",
    "hello",
    "the loop has ended",
    "the loop has ended",
    "still there true",
    "the loop has ended",
    "[] false",
  ],
  "a listener that the program closes while the generation leaves": [
    "BadResource",
    "bye",
    "BadResource",
  ],
  "a connection that stays": ["[ 1 ]", "null"],
  "an idle client that sends at the last moment": [
    "first: 200 hello, connection: undefined",
    "last: 200 hello, connection: close",
  ],
  "datagrams": ["starting", "early", "late", "no more"],
  "files and state": [
    '[ "bytes", "function", "/log" ]',
    "undefined one line",
    "2",
    "false",
    "false",
    "null",
  ],
};

for (const [scene, lines] of Object.entries(scenes)) {
  for (const system of [undefined, darwin]) {
    const where = system === undefined ? "here" : "where no descriptors are passed";
    test(`${scene}: the program and its clients see the same, ${where}`, async () => {
      await using child = new Child("./any_system.ts", [scene], on(system));
      const { code, stdout, stderr } = await child.ended();
      assertEquals([...stdout, stderr, code], [...lines, "the end", "", 0]);
    });
  }
}

for (const system of [undefined, darwin]) {
  const where = system ?? "this system";
  test(`a generation keeps its process until it has left, on ${where}`, async () => {
    await using child = new Child("./any_system.ts", ["nothing that keeps a process"], on(system));
    assertEquals(await child.ended(), { code: 0, stdout: ["the end", "finished"], stderr: "" });
  });
}

test("no permission is needed but those of Deno's own calls", async () => {
  const deno = ["run", "--allow-net", "--allow-read", "--allow-write", "--allow-env=OTHER_SYSTEM"];
  for (const scene of ["a server on a path", "listeners", "files and state"]) {
    const options = { deno: [...deno, "--no-prompt"], ...on(darwin) };
    await using child = new Child("./any_system.ts", [scene], options);
    const { code, stdout, stderr } = await child.ended();
    assertEquals([...stdout, stderr, code], [...scenes[scene], "the end", "", 0]);
  }
});

for (const system of [undefined, darwin, "windows x86_64"]) {
  const where = system ?? "this system";
  test(`a generation leaves on SIGINT on ${where}`, async () => {
    await using child = new Child("./any_system.ts", ["nothing but a signal"], on(system));
    assertEquals(await child.line(), "ready");
    Deno.kill(child.pid, "SIGINT");
    assertEquals(await child.ended(), { code: 0, stdout: ["finished", "the end"], stderr: "" });
  });

  test(`a signal before ready() ends the process on ${where}`, async () => {
    await using child = new Child(
      "./any_system.ts",
      ["a signal before anything is ready"],
      on(system),
    );
    assertEquals(await child.line(), "starting");
    Deno.kill(child.pid, "SIGINT");
    assertEquals(await child.ended(), { code: 0, stdout: [], stderr: "" });
  });
}

/** What a part of what is refused prints. */
async function refused(part: string, system: string): Promise<string[]> {
  await using child = new Child("./elsewhere.ts", [part], on(system));
  const { code, stdout, stderr } = await child.ended();
  assertEquals([stderr, code], ["", 0], stdout.join("\n"));
  return stdout;
}

for (const system of [darwin, "freebsd x86_64", "android aarch64", "linux riscv64"]) {
  test(`on ${system} the log says that there is no next generation, and restarts are refused`, async () => {
    const error = `NotSupported: ${refusal} ${system}`;
    const logged = `error: The restart failed; this generation goes on: ${error}`;
    assertEquals(await refused("restarts", system), [
      `info: ${refusal} ${system}: the generation at "/app.sock" serves without a next one, and its ` +
      "restart() rejects",
      logged,
      `restart(): ${error}`,
      logged,
      `restart() of a command: ${error}`,
      "info: Restarting on SIGHUP, once this generation can",
      logged,
      "serving",
    ]);
  });
}

test("everything that passes descriptors is refused where none are passed", async () => {
  const lines = await refused("everything that passes descriptors", darwin);
  const end = lines.pop();
  assertEquals([lines.length, end], [15, "[]"]);
  for (const line of lines) assertStringIncludes(line, `: NotSupported: ${refusal} ${darwin}`);
});

test("a second generation of a process at one path is refused where none takes over", async () => {
  const lines = await refused("a second start", darwin);
  assertEquals(lines.slice(1), [
    'start(): NotSupported: Cannot start another generation at "/app.sock", where one of this process ' +
    `runs: none takes over from it on this system (${refusal} ${darwin}). Stop that one first, and wait ` +
    "until it has `finished`",
    "1",
    "1",
    "start() that was aborted: Error: not any more",
  ]);
  assertEquals(await refused("a rehearsal", darwin), ["hello", "NotSupported", "serving"]);
});

test("a signal that the system does not have is refused by name, and left out by default", async () => {
  assertEquals(await refused("signals", darwin), [
    "start(): done",
    "stopOn: done",
    "restartOn: done",
  ]);
  const why =
    "TypeError: Windows only supports ctrl-c (SIGINT) and ctrl-break (SIGBREAK), not SIGTERM";
  assertEquals(await refused("signals", "windows x86_64"), [
    "start(): done",
    `stopOn: ${why}`,
    `restartOn: ${why}`,
  ]);
});

test("a path that is in use, or was left behind, is said so where that cannot be told apart", async () => {
  const why =
    'AddrInUse: Cannot listen on "/web.sock": another instance is serving there, or has left its ' +
    "file behind: stop it, or remove the file";
  assertEquals(await refused("a file that was left behind", darwin), [
    `serve(): ${why}`,
    `listen(): ${why}`,
  ]);
});

// --preload came with Deno 2.4.
const canPreload = !/^2\.[0-3]\./.test(Deno.version.deno);
test("the command line says that there is no control socket", { ignore: !canPreload }, async () => {
  const preload = new URL("../programs/other_system.ts", import.meta.url).pathname;
  const deno = ["run", "-A", "--preload", preload];
  const cli = "../../lib/cli.ts";
  for (const command of ["status", "restart", "stop"]) {
    await using child = new Child(cli, [command, "/run/app.sock"], { deno, ...on(darwin) });
    const { code, stdout, stderr } = await child.ended();
    assertEquals([code, stdout, stderr], [
      1,
      [],
      'Cannot connect to a service at "/run/app.sock": on this system services have no control socket: ' +
      `${refusal} ${darwin}. End its process by SIGTERM or Ctrl-C, and start it anew\n`,
    ]);
  }
});
