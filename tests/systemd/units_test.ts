/**
 * The units of examples/systemd under a real systemd, under load: the short form of `deno task systemd`.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { faultsOf, runScenario } from "../system/systemd.ts";
import { shortScenarios } from "../system/systemd_scenarios.ts";
import { Bed } from "../system/systemd_service.ts";
import { test } from "../support/guard.ts";
import { systemdMissing } from "../support/systemd.ts";

const missing = await systemdMissing();
if (missing !== undefined) console.log(`units_test.ts: the units are not tested: ${missing}`);

test("services under systemd lose no request", { ignore: missing !== undefined }, async (t) => {
  await using bed = await Bed.boot();
  for (const scenario of shortScenarios) {
    await t.step(scenario.name, async () => {
      try {
        const result = await runScenario(bed, scenario);
        assertEquals(faultsOf(scenario, result), [], await bed.journal(scenario.unit));
        assert(result.requests > 0);
      } finally {
        await bed.clean();
      }
    });
  }
});
