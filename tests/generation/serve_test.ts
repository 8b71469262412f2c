/**
 * `app.serve()` prints where it listens as `Deno.serve()` does.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { programPath } from "../support/child.ts";
import { certificate } from "../support/tls.ts";
import { test } from "../support/guard.ts";

/** What a program prints to stderr, without port numbers. */
async function printed(whose: "Deno" | "app"): Promise<string> {
  using directory = new Directory();
  const { cert, key } = certificate;
  const program = programPath("./print_address.ts");
  const { stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", program, whose, directory.path, cert, key],
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  return new TextDecoder().decode(stderr)
    .replaceAll(directory.path, "DIRECTORY")
    .replaceAll(`${whose}.http`, "http")
    .replaceAll(/:\d+\//g, ":PORT/");
}

test("app.serve() prints its address as Deno.serve() does, and nothing with onListen", async () => {
  const native = await printed("Deno");
  assertMatch(native, /^Listening on http:\/\/127\.0\.0\.1:PORT\/\n/);
  assertEquals(await printed("app"), native);
});
