/**
 * Addresses that come from the environment: `deno serve`, and DENO_SERVE_ADDRESS.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { argumentsOfDeno, commandLine } from "../../ffi/proc.ts";
import { asked } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";

const refusal = 'UnsupportedRuntimeError: Cannot start a generation under "deno serve": ';

const serveCommands: [deno: string[], instances: number][] = [
  [["serve"], 1],
  [["-q", "-L", "info", "serve"], 1],
  [["serve", "--parallel"], 2],
];

for (const [deno, instances] of serveCommands) {
  test(`start() under deno ${deno.join(" ")} throws in every instance, with advice`, async () => {
    using directory = new Directory();
    const options = [...deno, "-A", "--host", "127.0.0.1", "--port", "0"];
    await using child = new Child("start_under_serve.ts", [directory.join("app.sock")], {
      deno: options,
      env: { DENO_JOBS: String(instances) },
    });
    for (let i = 0; i < instances; i++) {
      const line = (await child.line()).replace(/^\[serve-worker-.*?\] /, "");
      assertEquals(line.slice(0, refusal.length), refusal);
      assertMatch(line, /Run the program with "deno run", and .*`app\.serve\(options, fetch\)`/);
    }
    assertEquals(directory.names(), []);
  });
}

test('start() accepts "serve" as an argument of the program', async () => {
  using directory = new Directory();
  const args = [directory.join("app.sock"), "serve"];
  await using service = new Generations("./generation.ts", args, { deno: ["-q", "run", "-A"] });
  await service.until(/^serving: 1$/);
});

test("argumentsOfDeno() is empty if the program has more arguments than its process, as if compiled", () => {
  const { args } = Deno;
  const own = commandLine("self")!.slice(1);
  assertEquals(argumentsOfDeno(), own.slice(0, own.length - args.length));
  // "deno compile main.ts --config x" makes a program with these two arguments.
  Object.defineProperty(Deno, "args", { value: ["--config", "x", ...own], configurable: true });
  try {
    assertEquals(argumentsOfDeno(), []);
  } finally {
    Object.defineProperty(Deno, "args", { value: args, configurable: true });
  }
});

test("the first server of every generation listens on DENO_SERVE_ADDRESS", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Generations("./generation.ts", [directory.join("app.sock")], {
    env: { DENO_SERVE_ADDRESS: `tcp:127.0.0.1:${port}` },
  });
  for (const generation of [1, 2]) {
    assertEquals(await service.number("port"), port);
    await service.until(new RegExp(`^serving: ${generation}$`));
    assertEquals((await asked(port)).split(" ")[0], String(generation));
    await service.tell("restart");
  }
});

/** Runs `serve_address.ts` with a DENO_SERVE_ADDRESS; returns its output. */
async function run(directory: Directory, address: string, mode = ""): Promise<string[]> {
  await using child = new Child("serve_address.ts", [mode, directory.join("app.sock")], {
    env: { DENO_SERVE_ADDRESS: address },
  });
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stderr], [0, ""]);
  return stdout;
}

test("DENO_SERVE_ADDRESS applies to the first server alone, and may be a unix path", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  const [first, second, ...rest] = await run(directory, `unix:${path}`, path);
  assertEquals(first, `listens: ${path}`);
  assertMatch(second, /^listens: 127\.0\.0\.1:\d+$/);
  assertEquals(rest, [`has: ${JSON.stringify(path)}`, second.replace("listens", "has"), "answers"]);
});

test("DENO_SERVE_ADDRESS with the prefix duplicate, is an additional address", async () => {
  using directory = new Directory();
  const port = freePort();
  const lines = await run(directory, `duplicate,tcp:127.0.0.1:${port}`, String(port));
  const [first, second, ...rest] = lines;
  for (const line of [first, second]) assertMatch(line, /^listens: 127\.0\.0\.1:\d+$/);
  assertEquals(rest, [
    `has: 127.0.0.1:${port}`,
    first.replace("listens", "has"),
    second.replace("listens", "has"),
    "answers",
  ]);
});

test("serve() throws for a DENO_SERVE_ADDRESS that is not a TCP or unix address", async () => {
  using directory = new Directory();
  for (
    const address of ["vsock:-1:80", "tunnel:", "tcp:localhost:80", "tcp:127.0.0.1:65536", "80"]
  ) {
    const [error, ...rest] = await run(directory, address);
    const expected = `TypeError: Cannot listen on DENO_SERVE_ADDRESS=${JSON.stringify(address)}: `;
    assertEquals([error.slice(0, expected.length), rest], [expected, []]);
  }
});

test("serveHttp() does not use DENO_SERVE_ADDRESS: Deno.serve does afterwards", async () => {
  using directory = new Directory();
  const port = freePort();
  assertEquals(await run(directory, `tcp:127.0.0.1:${port}`, "library"), [
    "same: true",
    "answers",
    `listens: 127.0.0.1:${port}`,
    "answers",
  ]);
});
