/**
 * The tests of leaving on the versions of Deno on either side of a change: 2.8.3 came with an HTTP/1 server
 * of its own, on whose behaviour a drain relies.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { installDeno } from "../support/deno_versions.ts";
import { test } from "../support/guard.ts";

const root = new URL("../../", import.meta.url).pathname;

for (const version of ["2.8.2", "2.8.3"]) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  test(`servers and generations leave on Deno ${version} as on this one`, { ignore }, async () => {
    if ("skipped" in runtime) return;
    const [program] = runtime.command;
    const files = ["tests/http/drain_test.ts", "tests/generation/departure_test.ts"];
    const { code, stdout, stderr } = await new Deno.Command(program, {
      args: ["test", "-A", "--no-check", ...files],
      cwd: root,
      env: { NO_COLOR: "1" },
    }).output();
    const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assertEquals(code, 0, said);
    assertMatch(said, /^ok \| \d{2} passed \| 0 failed/m, said);
  });
}
