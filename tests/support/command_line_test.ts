import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { Child } from "./child.ts";
import { UsageError, wholeNumber } from "./command_line.ts";
import { test } from "./guard.ts";

for (const name of ["faults", "fuzz", "matrix", "soak", "test", "websockets"]) {
  test(`deno task ${name} prints its usage, and exits with 2 for an unknown flag`, async () => {
    const file = name === "test" ? "../suite.ts" : `../system/${name}.ts`;
    const [help, unknown] = await Promise.all([run(file, "--help"), run(file, "--bogus")]);
    assertEquals([help.code, unknown.code], [0, 2]);
    assertMatch(help.stdout[0], new RegExp(`^Usage: deno task ${name} \\[options\\]`));
    assertMatch(unknown.stderr, /^Unknown option '--bogus'/);
    assertMatch(unknown.stderr, /^Usage: /m);
  });
}

async function run(file: string, ...args: string[]) {
  await using child = new Child(file, args);
  return await child.ended();
}

test("wholeNumber() takes whole numbers of its range, and throws a UsageError for anything else", () => {
  assertEquals(wholeNumber("count", "0"), 0);
  assertEquals(wholeNumber("count", "64", { least: 1, most: 64 }), 64);
  for (const text of ["", "-1", "0", "1.5", "1e3", " 7", "65", "many"]) {
    const error = assertThrows(
      () => wholeNumber("count", text, { least: 1, most: 64 }),
      UsageError,
    );
    assertEquals(error.message, `--count takes a whole number from 1 to 64, not "${text}"`);
  }
});
