/**
 * The tests of draining on the versions of Deno before and after a change: 2.8.3 has a new HTTP/1 server, and a
 * drain depends on its behaviour.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { installDeno } from "../support/deno_versions.ts";
import { test } from "../support/guard.ts";

const files = [
  "tests/http/drain_limits_test.ts",
  "tests/http/idle_reaper_test.ts",
  "tests/http/upgrade_test.ts",
  "tests/generation/departure_test.ts",
  "tests/generation/rollback_test.ts",
];
const root = new URL("../../", import.meta.url).pathname;

for (const version of ["2.8.2", "2.8.3"]) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  test(`the tests of draining pass on Deno ${version}`, { ignore }, async () => {
    if ("skipped" in runtime) return;
    const [program] = runtime.command;
    const { code, stdout, stderr } = await new Deno.Command(program, {
      args: ["test", "-A", "--no-check", ...files],
      cwd: root,
      env: { NO_COLOR: "1" },
    }).output();
    const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assertEquals(code, 0, output);
    assertMatch(output, /^ok \| \d{2} passed \| 0 failed/m, output);
  });
}
