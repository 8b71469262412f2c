/**
 * At the limit of descriptors: status, restart and stop of a service still work, and a call that fails leaves nothing
 * open.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { connect } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { asked } from "../support/in_process.ts";

/** Options of the command line. */
const patient = ["--timeout", "30"];

/** Reads lines until one starts with `beginning`; returns all of them. */
async function lines(child: Child, beginning: string): Promise<string[]> {
  for (const all: string[] = [];;) {
    all.push(await child.line());
    if (all.at(-1)!.startsWith(beginning)) return all;
  }
}

/** Starts a service that is ready and, with `isFull`, at its limit of descriptors. */
async function serving(path: string, isFull: boolean): Promise<{ child: Child; port: number }> {
  const child = new Child("./exhaust_descriptors.ts", [path], { openFiles: 256 });
  const port = Number((await lines(child, "port: ")).at(-1)!.slice("port: ".length));
  if (isFull) await fill(child);
  return { child, port };
}

/** Has the service open descriptors up to its limit. */
async function fill(child: Child): Promise<void> {
  await child.tell("fill");
  await lines(child, "filled: ");
}

/** Sends a request that the service answers after the line `answer`. */
async function holdAt(port: number): Promise<Deno.Conn> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(new TextEncoder().encode("GET /held HTTP/1.1\r\nhost: a\r\n\r\n"));
  return conn;
}

/** Reads the response. */
async function answerOn(conn: Deno.Conn): Promise<string> {
  const chunk = new Uint8Array(4096);
  return new TextDecoder().decode(chunk.subarray(0, await conn.read(chunk) ?? 0));
}

test("a service without a free descriptor answers its requests when a signal stops it", async () => {
  using directory = new Directory();
  const { child, port } = await serving(directory.join("app.sock"), false);
  await using _child = child;
  using conn = await holdAt(port);
  await lines(child, "holding");
  await fill(child);
  Deno.kill(child.pid, "SIGTERM");
  // No client may connect before this line: Deno.serve ends its server when accept(2) fails with EMFILE.
  await lines(child, "info: Stopping on SIGTERM");
  await child.tell("answer");
  assertMatch(await answerOn(conn), /connection: close.*generation 1$/is);
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stdout.at(-1)], [0, "finished"], stderr);
  assertEquals(stdout.filter((line) => line.startsWith("error: ")), []);
  assertEquals(directory.names(), []);
});

test("the command line shows, replaces and stops a service without a free descriptor", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const first = await serving(path, false);
  await using old = first.child;
  const conn = await holdAt(first.port);
  await lines(old, "holding");
  await fill(old);
  for (let i = 0; i < 3; i++) {
    const { code, stdout, stderr } = await cli("status", path, ...patient);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^generation {2}1, .*serving$/m);
    assertMatch(stdout, new RegExp(`^listens {5}127.0.0.1:${first.port}, 1 connection$`, "m"));
  }
  const { child: next, port } = await serving(path, true);
  await using _next = next;
  assertEquals(port, first.port);
  await old.tell("answer");
  assertMatch(await answerOn(conn), /connection: close.*generation 1$/is);
  conn.close();
  const { code, stdout } = await old.ended();
  assertEquals(code, 0);
  assert(stdout.includes("phase: healthy"), stdout.join("\n"));
  assertEquals(stdout.filter((line) => line.startsWith("error: ")), []);
  assertEquals((await cli("stop", path, ...patient)).code, 0);
  assertEquals((await next.ended()).code, 0);
  assertEquals(directory.names(), []);
});

test("a service without a free descriptor rejects restart() with the reason, and serves again when a successor is killed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { child, port } = await serving(path, false);
  await using _child = child;
  using conn = await holdAt(port);
  await lines(child, "holding");
  await fill(child);
  await child.tell("restart");
  assertMatch((await lines(child, "failed: ")).at(-1)!, /Too many open files/);
  {
    await using next = new Child("./generation.ts", [path, "--probation", "60000"]);
    await lines(next, "serving: 2");
    Deno.kill(next.pid, "SIGKILL");
  }
  const said = await lines(child, "error: The handover failed; this generation goes on");
  assertEquals(said.filter((line) => line.startsWith("error: Cannot")), []);
  await child.tell("answer");
  assertMatch(await answerOn(conn), /generation 1$/);
  assertMatch((await cli("status", path, ...patient)).stdout, /^generation {2}1, .*serving$/m);
  await child.tell("free");
  await lines(child, "freed");
  assertEquals(await asked(port), "generation 1");
  assertEquals((await cli("restart", path, ...patient)).code, 0);
  assertEquals((await cli("stop", path, ...patient)).code, 0);
});

test("a generation logs once that accept() fails on its control socket, and once that it works again", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { child } = await serving(path, true);
  await using _child = child;
  // One connection gets the descriptor of the reserve; others may get descriptors that Deno has closed.
  const conns = await Promise.all(Array.from({ length: 16 }, () => connect(path)));
  const said = await lines(child, "error: Cannot accept on ");
  assertMatch(said.at(-1)!, /trying again: .*Too many open files/);
  // The generation tries many times within a second.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  for (const conn of conns) conn.close();
  assertEquals(await lines(child, "info: Accepting on "), [`info: Accepting on "${path}" again`]);
  assertEquals((await cli("stop", path, ...patient)).code, 0);
});

test("a call that has too few descriptors leaves none open, and no file", async () => {
  using directory = new Directory();
  await using child = new Child("./scarce_descriptors.ts", [directory.path], {
    openFiles: 96,
    deno: ["run", "-A", "--unstable-net"],
  });
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stderr], [0, ""]);
  const calls = stdout.map((line) => JSON.parse(line));
  assertEquals(calls.map(({ name, left }) => [name, left]), calls.map(({ name }) => [name, []]));
  assertEquals(calls.length, 11);
  for (const { name, errors } of calls) {
    // Each number of descriptors too few is one error; the last call of each has enough.
    assert(errors.length > 0 && errors.length < 20, `${name}: ${errors.length} errors`);
    for (const error of errors) {
      assertMatch(error, /Too many open files|Cannot find the descriptor/);
    }
  }
});
