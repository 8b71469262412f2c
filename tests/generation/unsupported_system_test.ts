/**
 * A generation on a system that passes no descriptors, which `fake_system.ts` pretends: everything works but a
 * restart, and the C library is never opened.
 *
 * @module
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { Child, programPath } from "../support/child.ts";
import { test } from "../support/guard.ts";

const darwin = "darwin aarch64";
const refusal = "Descriptors are passed on Linux x86_64 and aarch64; this is";

function on(system: string | undefined): { env: Record<string, string> } {
  return { env: system === undefined ? {} : { OTHER_SYSTEM: system } };
}

/** The lines of a server and its clients from ready() to the end of stop(). */
const stopping = [
  "starting",
  "/eager is asked for, serving",
  "eager: 200 /eager , connection: undefined",
  "/slow is asked for, serving",
  "/upload is asked for, serving",
  "/stream is asked for, serving",
  "draining",
  "draining",
  "/again is asked for, draining",
  "eager: 200 /again , connection: close",
  "uploading: 200 /upload abcdef, connection: close",
  "slow: 200 /slow , connection: close",
  "the stream is answered to its end",
  "stopped true",
];

/** The lines that each scene of `life_scenes.ts` prints. */
const scenes: Record<string, string[]> = {
  "a server": [
    "listening 127.0.0.1",
    '[ "listener" ]',
    ...stopping,
  ],
  "a server at a unix path": [
    "600",
    ...stopping,
    "false",
  ],
  "a TLS server": ["hello", "true"],
  "stop() before ready()": ["BadResource", "true", "stopped true true"],
  "endless event streams": ["cut"],
  "servers that the program shuts down": ["true true []"],
  "serve() that throws": [
    "AddrInUse",
    "InvalidData",
    "RangeError",
    "TypeError",
    "1",
    "false",
    "Cannot listen: this generation is draining, or has stopped",
  ],
  "more clients than the generation remembers": ["1100"],
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
  "a listener that the program closes during stop()": [
    "BadResource",
    "bye",
    "BadResource",
  ],
  "a connection that is never closed": ["[ 1 ]", "null"],
  "an idle client that sends when stop() begins": [
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
    const where = system === undefined ? "on this system" : "where no descriptors are passed";
    test(`a program and its clients observe the same ${where}: ${scene}`, async () => {
      await using child = new Child("./life_scenes.ts", [scene], on(system));
      const { code, stdout, stderr } = await child.ended();
      assertEquals([...stdout, stderr, code], [...lines, "the end", "", 0]);
    });
  }
}

for (const system of [undefined, darwin]) {
  const where = system ?? "this system";
  test(`a generation keeps its process running until it has finished, on ${where}`, async () => {
    await using child = new Child("./life_scenes.ts", ["a generation alone"], on(system));
    assertEquals(await child.ended(), { code: 0, stdout: ["the end", "finished"], stderr: "" });
  });
}

test("a generation needs no more permissions than Deno's own calls where no descriptors are passed", async () => {
  const deno = ["run", "--allow-net", "--allow-read", "--allow-write", "--allow-env=OTHER_SYSTEM"];
  for (const scene of ["a server at a unix path", "listeners", "files and state"]) {
    const options = { deno: [...deno, "--no-prompt"], ...on(darwin) };
    await using child = new Child("./life_scenes.ts", [scene], options);
    const { code, stdout, stderr } = await child.ended();
    assertEquals([...stdout, stderr, code], [...scenes[scene], "the end", "", 0]);
  }
});

for (const system of [undefined, darwin, "windows x86_64"]) {
  const where = system ?? "this system";
  test(`SIGINT stops a generation on ${where}`, async () => {
    await using child = new Child(
      "./life_scenes.ts",
      ["a generation that waits for a signal"],
      on(system),
    );
    assertEquals(await child.line(), "ready");
    Deno.kill(child.pid, "SIGINT");
    assertEquals(await child.ended(), { code: 0, stdout: ["finished", "the end"], stderr: "" });
  });

  test(`a signal before ready() ends the process on ${where}`, async () => {
    await using child = new Child(
      "./life_scenes.ts",
      ["a signal before ready()"],
      on(system),
    );
    assertEquals(await child.line(), "starting");
    Deno.kill(child.pid, "SIGINT");
    assertEquals(await child.ended(), { code: 0, stdout: [], stderr: "" });
  });
}

/** Runs a part of `refused_calls.ts`; returns the lines that it prints. */
async function refused(part: string, system: string): Promise<string[]> {
  await using child = new Child("./refused_calls.ts", [part], on(system));
  const { code, stdout, stderr } = await child.ended();
  assertEquals([stderr, code], ["", 0], stdout.join("\n"));
  return stdout;
}

for (const system of [darwin, "freebsd x86_64", "android aarch64", "linux riscv64"]) {
  test(`on ${system} the log names the missing support, and restart() rejects`, async () => {
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

test("every call that passes descriptors throws where none are passed", async () => {
  const lines = await refused("everything that passes descriptors", darwin);
  const end = lines.pop();
  assertEquals([lines.length, end], [15, "[]"]);
  for (const line of lines) assertStringIncludes(line, `: NotSupported: ${refusal} ${darwin}`);
});

test("start() rejects for a second generation of the process at one path where none takes over", async () => {
  const lines = await refused("a second start", darwin);
  assertEquals(lines.slice(1), [
    'start(): NotSupported: Cannot start another generation at "/app.sock", where one of this process ' +
    `runs: none takes over from it on this system (${refusal} ${darwin}). Stop that one first, and wait ` +
    "until it has `finished`",
    "1",
    "1",
    "start() that was aborted: Error: not any more",
  ]);
  assertEquals(await refused("TestService", darwin), ["hello", "NotSupported", "serving"]);
});

test("start() names a signal that the system does not have, and leaves it out by default", async () => {
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

test("serve() and listen() name both causes of a path in use where a stale socket file cannot be recognized", async () => {
  const why =
    'AddrInUse: Cannot listen on "/web.sock": another instance is serving there, or has left its ' +
    "file behind: stop it, or remove the file";
  assertEquals(await refused("a stale socket file", darwin), [
    `serve(): ${why}`,
    `listen(): ${why}`,
  ]);
});

// --preload came with Deno 2.4.
const canPreload = !/^2\.[0-3]\./.test(Deno.version.deno);
test(
  "the command line prints that the system has no control sockets",
  { ignore: !canPreload },
  async () => {
    const preload = programPath("fake_system.ts");
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
  },
);
