/**
 * The rules of systemd that the library relies on, tried against the systemd that is installed.
 *
 * @module
 */

import { errorOf } from "../support/deno_versions.ts";
import { test } from "../support/guard.ts";
import { systemdMissing } from "../support/systemd.ts";
import { Stage } from "./actor.ts";
import { mainProcessFacts, stopFacts, storeFacts } from "./facts.ts";

const missing = await systemdMissing() ??
  await errorOf("/usr/bin/python3", "--version").then((error) => error && `no Python: ${error}`);
if (missing !== undefined) console.log(`facts_test.ts: systemd is not tried: ${missing}`);

test("systemd does what the library relies on", { ignore: missing !== undefined }, async (t) => {
  await using stage = await Stage.boot({ python: "/usr/bin/python3" });
  for (const { rule, check } of [...mainProcessFacts, ...stopFacts, ...storeFacts]) {
    await t.step(rule, () => check(stage));
  }
});
