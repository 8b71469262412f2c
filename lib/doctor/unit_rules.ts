/**
 * How the settings of a systemd unit fit a service whose generations replace each other. The rules were tried with
 * systemd 252 and 257.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { crashRules } from "./crash_rules.ts";
import { type Finding, note, ok, problem, warning } from "./finding.ts";
import { generationRules } from "./generation_rules.ts";
import { sandboxFindings } from "./sandbox_rules.ts";
import type { UnitProperties } from "./unit.ts";
import type { Rule, UnitContext } from "./unit_context.ts";

/** The findings of all rules. */
export function unitFindings(unit: UnitProperties, context: UnitContext): Finding[] {
  if (unit.LoadState !== "loaded") {
    const text = `${unit.Id} is ${unit.LoadState}`;
    return [problem("LoadState", text, "See `systemctl status` of it")];
  }
  const rules = [...stateRules, ...generationRules, ...crashRules];
  const found = rules.map((rule) => rule(unit, context)).filter((each) => each !== undefined);
  return [...found, ...sandboxFindings(unit, context.generation !== undefined)];
}

const stateRules: Rule[] = [
  function state({ ActiveState: state, Result: result, Id: id }) {
    if (state === "active" || state === "reloading") return ok("ActiveState", `${id} is ${state}`);
    if (state === "activating" || state === "deactivating") {
      return note("ActiveState", `${id} is ${state}`);
    }
    const why = result && result !== "success" ? `, with the result "${result}"` : "";
    return problem("ActiveState", `${id} is ${state}${why}`, `Read \`journalctl -u ${id}\``);
  },

  function reloaded({ NeedDaemonReload: isNeeded }) {
    if (isNeeded !== "yes") return undefined;
    const text = "The file of the unit has changed, and systemd has not read it";
    return warning("NeedDaemonReload", text, "Run `systemctl daemon-reload`");
  },
];
