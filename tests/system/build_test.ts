import { assertEquals, assertMatch } from "@std/assert";
import * as library from "../../mod.ts";
import { bundle, compiledEarly } from "../../release/build.ts";
import { Child } from "../support/child.ts";
import { installDeno } from "../support/deno_versions.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";

const entry = new URL("../../mod.ts", import.meta.url).pathname;

test("the built file has the exports of mod.ts, and its functions are compiled with it", async () => {
  using directory = new Directory();
  const file = directory.join("graceful.js");
  const code = await bundle(entry);
  Deno.writeTextFileSync(file, code);
  assertEquals(Object.keys(await import(file)).sort(), Object.keys(library).sort());
  // `start()` is asynchronous, `listen()` is not.
  assertMatch(code, /\bstart\d*=\(async function\(/);
  assertMatch(code, /\blisten\d*=\(function\(/);
});

for (const version of [Deno.version.deno, "2.0.6"]) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Skipped: the built file on Deno ${version}: ${runtime.skipped}`);
  test(
    `a service that imports the built file is replaced on Deno ${version}`,
    { ignore },
    async () => {
      if ("skipped" in runtime) return;
      using directory = new Directory();
      Deno.writeTextFileSync(directory.join("graceful.js"), await bundle(entry));
      Deno.writeTextFileSync(directory.join("main.ts"), program);
      const begin = () =>
        new Child(directory.join("main.ts"), [directory.join("app.sock")], {
          program: runtime.command,
          deno: ["run", "-A", "--no-check"],
        });
      await using first = begin();
      const port = await first.line();
      const answer = async () => {
        const response = await fetch(`http://127.0.0.1:${port}/`);
        return await response.text();
      };
      assertEquals(await answer(), "generation 1");
      await using second = begin();
      assertEquals(await second.line(), port);
      await until(async () => await answer() === "generation 2");
      await second.tell("stop");
      assertEquals([(await first.ended()).code, (await second.ended()).code], [0, 0]);
    },
  );
}

/** Three lines of a service, which prints its port. */
const program = `
import { start } from "./graceful.js";

const app = await start(Deno.args[0], { probation: 0 });
const answer = () => new Response(\`generation \${app.generation}\`, { headers: { connection: "close" } });
const server = app.serve({ hostname: "127.0.0.1", port: 0 }, answer);
await app.ready();
console.log(server.addr.port);
if (app.generation === 2) {
  await Deno.stdin.read(new Uint8Array(8));
  await app.stop();
}
await app.finished;
`;

test("functions of the top level are put in parentheses in front, and nothing else is changed", () => {
  const code = [
    "var a = b();",
    "function b() {",
    "  if (a) {",
    "    return 1;",
    "  }",
    "}",
    "class C {",
    "  method() {",
    "  }",
    "}",
    "async function* d() {",
    "  yield 2;",
    "}",
    "function e() {",
    "}",
    "export { C, d, e };",
  ];
  assertEquals(compiledEarly(code.join("\n")).split("\n").filter((line) => line !== ""), [
    "var b = (function b() {",
    ...code.slice(2, 5),
    "});",
    "var d = (async function* d() {",
    "  yield 2;",
    "});",
    "var e = (function e() {",
    "});",
    code[0],
    ...code.slice(6, 10),
    code[15],
  ]);
});
