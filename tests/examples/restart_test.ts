import { assert, assertEquals, assertMatch, assertNotEquals, fail } from "@std/assert";
import { receive } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

test("the restart demo loses no request, and every instance answers some", async () => {
  const { code, text } = await demo("--restarts", "3", "--seconds", "6");
  assertEquals([code, text.match(/^failed +(\d+)$/m)?.[1]], [0, "0"], text);
  assertEquals(text.match(/^restarts +(\d+)$/m)?.[1], "3");
  const answered = [...text.matchAll(/^ {2}by \w+ +([\d,]+)/gm)].map(([, n]) =>
    Number(n.replace(",", ""))
  );
  assertEquals(answered.length, 4);
  assert(answered.every((n) => n > 0), text);
});

test("a control: the restart demo fails when a predecessor ends by server.shutdown() alone", async () => {
  const web = new URL("../programs/web_shutdown.ts", import.meta.url).pathname;
  // Whether a request is on its way at the moment of the shutdown is chance.
  for (let tries = 0; tries < 5; tries++) {
    const args = ["--restarts", "3", "--seconds", "4", "--connections", "64", "--web", web];
    const { code, text } = await demo(...args);
    if (code === 0) continue;
    assertEquals(code, 1, text);
    assertMatch(text, /^Failed: \d+ requests, the first with: /m);
    return;
  }
  fail("in five runs server.shutdown() lost no request");
});

test("the web example serves on after a status request and a failed successor", async () => {
  using directory = new Directory();
  const path = directory.join("web.sock");
  const args = ["--graceful", path, "--listen", "127.0.0.1:0", "--sleep", "0"];
  await using first = new Child("../../examples/web.ts", args);
  const origin = `http://${(await first.line()).split(" serves on ")[1]}`;
  const cli = new URL("../../lib/cli.ts", import.meta.url).pathname;
  const asked = await runFile(cli, "status", path);
  assertEquals(asked.code, 1, asked.text);
  // A successor that receives the listener, and closes without "ready".
  assertEquals(await receive(path, () => {}), 1);
  // No keep-alive: the predecessor would wait for the connection.
  using client = Deno.createHttpClient({ poolMaxIdlePerHost: 0 });
  const before = await (await fetch(origin, { client })).text();
  await using second = new Child("../../examples/web.ts", args);
  assert((await second.line()).endsWith(` serves on ${origin.slice("http://".length)}`));
  const { code, stdout, stderr } = await first.ended();
  assertEquals(code, 0);
  assertEquals(stderr.match(/^Cannot send descriptors to process \d+/gm)?.length, 2, stderr);
  assert(stdout[0].endsWith(` drains: replaced by process ${second.pid}`), stdout.join("\n"));
  assertNotEquals(await (await fetch(origin, { client })).text(), before);
});

test("the examples print their usage, and exit with 2 for unknown flags", async () => {
  for (const example of ["restart.ts", "web.ts"]) {
    const help = await run(example, "--help");
    assertEquals(help.code, 0);
    assertMatch(help.text, /Usage: /);
    const unknown = await run(example, "--bogus");
    assertEquals(unknown.code, 2);
    assertMatch(unknown.text, /--bogus/);
  }
});

function demo(...args: string[]): Promise<{ code: number; text: string }> {
  return run("restart.ts", ...args);
}

function run(example: string, ...args: string[]): Promise<{ code: number; text: string }> {
  return runFile(new URL(`../../examples/${example}`, import.meta.url).pathname, ...args);
}

async function runFile(path: string, ...args: string[]): Promise<{ code: number; text: string }> {
  await using child = new Child(path, args);
  const { code, stdout, stderr } = await child.ended();
  return { code, text: [...stdout, stderr].join("\n") };
}
