/**
 * Where the preload module does nothing, refuses, or says what is missing.
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { auto, firstAnswerAt, Preloaded } from "../support/preloaded.ts";

/** Prints whether the preload module has done anything. */
const asks = `console.log(Symbol.for("graceful") in globalThis);`;

/** Runs a program to its end; gives what it prints. */
async function outputOf(
  source: string,
  deno: string[],
  env: Record<string, string> = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  using directory = new Directory();
  Deno.writeTextFileSync(directory.join("main_test.ts"), source);
  await using child = new Child(directory.join("main_test.ts"), [], {
    deno,
    env: { GRACEFUL_CONTROL: directory.join("control.sock"), ...env },
  });
  const { code, stdout, stderr } = await child.ended();
  return { code, stdout: stdout.join("\n"), stderr };
}

test("under deno run it does something", async () => {
  const { stdout } = await outputOf(asks, ["run", "-A", "--preload", auto]);
  assertEquals(stdout, "true");
});

const inert: [string, string[], Record<string, string>?][] = [
  ["GRACEFUL=off", ["run", "-A", "--preload", auto], { GRACEFUL: "off" }],
  ["deno test", ["test", "-A", "--no-check", "--preload", auto]],
  ["deno bench", ["bench", "-A", "--no-check", "--preload", auto]],
];

for (const [name, deno, env] of inert) {
  test(`under ${name} the program runs as without it`, async () => {
    const { stdout, stderr } = await outputOf(asks, deno, env);
    assertStringIncludes(stdout, "false");
    assertEquals(stderr.includes("graceful") || stderr.includes("preload module"), false, stderr);
  });
}

test("under deno run --watch the program runs as without it", async () => {
  using directory = new Directory();
  await using program = new Preloaded(directory, asks, {
    deno: ["run", "-A", "--watch", "--preload", auto],
  });
  await program.until("false");
});

test("under deno eval nothing happens", async () => {
  await using evaluated = new Child("", [], {
    program: ["sh", "-c"],
    deno: [
      `${Deno.execPath()} eval 'await import("${auto}"); ${asks}'`,
    ],
  });
  assertEquals((await evaluated.ended()).stdout, ["false"]);
});

test("deno serve --parallel is refused with a word, and the program runs as without it", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `import ${JSON.stringify(auto)};
    export default { fetch: () => new Response(String(Symbol.for("graceful") in globalThis)) };`;
  await using service = new Preloaded(directory, source, {
    deno: ["serve", "-A", "--parallel", "--host", "127.0.0.1", "--port", String(port)],
    env: { DENO_JOBS: "2" },
  });
  assertEquals(await firstAnswerAt(port), "false");
  Deno.kill(service.pid, "SIGKILL");
  assertMatch(
    (await service.ended()).stderr,
    /each of its threads would take over from the others/,
  );
});

test("a worker that imports it is told that its sockets stay with the process", async () => {
  const worker = `data:text/javascript,await import(${
    JSON.stringify(`file://${auto}`)
  }); postMessage(1);`;
  const source = `
    const worker = new Worker(${JSON.stringify(worker)}, { type: "module" });
    worker.onmessage = () => { ${asks} Deno.exit(); };`;
  const { stdout, stderr } = await outputOf(source, ["run", "-A"]);
  assertEquals(stdout, "false");
  assertMatch(stderr, /A worker cannot be handed over/);
});

test("without -A it names the flags that are missing, and the program does not start", async () => {
  const run = async (...flags: string[]) =>
    await outputOf(`console.log("started");`, ["run", "--no-prompt", ...flags, "--preload", auto]);
  const none = await run("--allow-read");
  assertEquals([none.code, none.stdout], [1, ""]);
  assertMatch(none.stderr, /without --allow-ffi --allow-run=\/bin\/sh --allow-net=127\.0\.0\.1:0/);
  const some = await run("--allow-ffi", "--allow-net");
  assertMatch(some.stderr, /without --allow-run=\/bin\/sh: run it with that flag/);
  const off = await outputOf(`console.log("started");`, [
    "run",
    "--allow-env=GRACEFUL",
    "--preload",
    auto,
  ], { GRACEFUL: "off" });
  assertEquals([off.code, off.stdout], [0, "started"]);
});

test("these flags are enough for a restart", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `Deno.serve({ hostname: "127.0.0.1", port: ${port}, onListen() {} }, () =>
    new Response(String(Deno.pid)));`;
  const flags = ["--allow-ffi", "--allow-run=/bin/sh", `--allow-net=127.0.0.1:0,127.0.0.1:${port}`];
  await using service = new Preloaded(directory, source, {
    deno: ["run", "--no-prompt", ...flags, "--preload", auto],
  });
  await firstAnswerAt(port);
  await service.next();
});
