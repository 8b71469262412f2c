/**
 * The rules of systemd that the library relies on, tried against the systemd that is installed.
 *
 * @module
 */

import { errorOf } from "../support/deno_versions.ts";
import { test } from "../support/guard.ts";
import { systemdMissing } from "../support/systemd.ts";
import { python, Stage } from "./actor.ts";
import { facts } from "./facts.ts";

const missing = await systemdMissing() ??
  await errorOf(python, "--version").then((error) => error && `no Python: ${error}`);
if (missing !== undefined) console.log(`facts_test.ts: systemd is not tried: ${missing}`);

test("systemd does what the library relies on", { ignore: missing !== undefined }, async (t) => {
  await using stage = await Stage.boot();
  for (const { rule, check } of facts) {
    await t.step(rule, () => check(stage));
  }
});
