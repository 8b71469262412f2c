/**
 * The example `examples/from_go`: a server's migration from Go to Deno.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { test } from "../support/guard.ts";
import { exampleEnvironment } from "./go_build.ts";

const env = await exampleEnvironment();
const withGo = { ignore: env === undefined };

test(
  "migrate.ts moves a server from Go to Deno and back without a failed request",
  withGo,
  async () => {
    const { code, text } = await example("migrate.ts", "--back", "--seconds", "3");
    assertEquals([code, text.match(/^failed +(\d+)$/m)?.[1]], [0, "0"], text);
    assertEquals([...text.matchAll(/^\w+ -> \w+/gm)].join(), "Go -> Deno,Deno -> Go");
    const answered = [...text.matchAll(/^ {2}by (\w+) +([\d,]+)/gm)];
    assertEquals(answered.map(([, language]) => language), ["Go", "Deno", "Go"]);
    assert(answered.every(([, , n]) => n !== "0"), text);
  },
);

test("the programs of the example print their usage, and refuse unknown options", async () => {
  for (const program of ["migrate.ts", "main.ts"]) {
    const help = await example(program, "--help");
    assertEquals(help.code, 0);
    assertMatch(help.text, /Usage: /);
    const unknown = await example(program, "--bogus");
    assertEquals(unknown.code, 2);
    assertMatch(unknown.text, /--bogus/);
  }
});

async function example(
  program: string,
  ...args: string[]
): Promise<{ code: number; text: string }> {
  const path = new URL(`../../examples/from_go/${program}`, import.meta.url).pathname;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", decodeURIComponent(path), ...args],
    env: env ?? {},
  }).output();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}
