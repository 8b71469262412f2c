/**
 * A program that is told from outside where to serve: by `deno serve`, and by DENO_SERVE_ADDRESS.
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
  test(`start() under deno ${deno.join(" ")} is an error that says what to do, in every instance`, async () => {
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

test("an argument of the program that reads serve is none of Deno's", async () => {
  using directory = new Directory();
  const args = [directory.join("app.sock"), "serve"];
  await using service = new Generations("./generation.ts", args, { deno: ["-q", "run", "-A"] });
  await service.until(/^serving: 1$/);
});

test("no argument is Deno's where the program has more of them than its process, as a compiled one may", () => {
  const { args } = Deno;
  const own = commandLine("self")!.slice(1);
  assertEquals(argumentsOfDeno(), own.slice(0, own.length - args.length));
  // "deno compile main.ts --config x" makes a program that starts with two of its own.
  Object.defineProperty(Deno, "args", { value: ["--config", "x", ...own], configurable: true });
  try {
    assertEquals(argumentsOfDeno(), []);
  } finally {
    Object.defineProperty(Deno, "args", { value: args, configurable: true });
  }
});

test("the first server of every generation listens where DENO_SERVE_ADDRESS says", async () => {
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

/** What a program prints that is told so. */
async function run(directory: Directory, address: string, what = ""): Promise<string[]> {
  await using child = new Child("serve_address.ts", [what, directory.join("app.sock")], {
    env: { DENO_SERVE_ADDRESS: address },
  });
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stderr], [0, ""]);
  return stdout;
}

test("DENO_SERVE_ADDRESS is for the first server alone, and may be a unix path", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  const [first, second, ...rest] = await run(directory, `unix:${path}`, path);
  assertEquals(first, `listens: ${path}`);
  assertMatch(second, /^listens: 127\.0\.0\.1:\d+$/);
  assertEquals(rest, [`has: ${JSON.stringify(path)}`, second.replace("listens", "has"), "answers"]);
});

test("with duplicate, DENO_SERVE_ADDRESS is one address more", async () => {
  using directory = new Directory();
  const port = freePort();
  const said = await run(directory, `duplicate,tcp:127.0.0.1:${port}`, String(port));
  const [first, second, ...rest] = said;
  for (const line of [first, second]) assertMatch(line, /^listens: 127\.0\.0\.1:\d+$/);
  assertEquals(rest, [
    `has: 127.0.0.1:${port}`,
    first.replace("listens", "has"),
    second.replace("listens", "has"),
    "answers",
  ]);
});

test("a DENO_SERVE_ADDRESS that cannot be handed over, or is none, is an error that names it", async () => {
  using directory = new Directory();
  for (
    const address of ["vsock:-1:80", "tunnel:", "tcp:localhost:80", "tcp:127.0.0.1:65536", "80"]
  ) {
    const [error, ...rest] = await run(directory, address);
    const what = `TypeError: Cannot listen where DENO_SERVE_ADDRESS=${
      JSON.stringify(address)
    } says: `;
    assertEquals([error.slice(0, what.length), rest], [what, []]);
  }
});

test("an adopted listener and serveHttp() leave DENO_SERVE_ADDRESS to Deno.serve", async () => {
  using directory = new Directory();
  const port = freePort();
  assertEquals(await run(directory, `tcp:127.0.0.1:${port}`, "library"), [
    "same: true",
    "answers",
    `listens: 127.0.0.1:${port}`,
    "answers",
  ]);
});
