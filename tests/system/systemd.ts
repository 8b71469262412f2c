/**
 * `deno task systemd`: reloads, restarts, stops and kills services under a real systemd, under load, and prints a table.
 *
 * @module
 */

import { runTool, secondsSince, UsageError } from "../support/command_line.ts";
import { Systemd, systemdMissing } from "../support/systemd.ts";
import { installTree } from "./systemd_tree.ts";
import { Bed, type Result } from "./systemd_service.ts";
import { facts } from "../systemd/facts.ts";
import { Stage } from "../systemd/actor.ts";
import { type Scenario, scenarios } from "./systemd_scenarios.ts";

const usage = `Usage: deno task systemd [options]

Boots systemd in namespaces of its own, starts the units of examples/systemd in it, and reloads, restarts,
stops and kills them while clients load them that never repeat a request. Prints for each case the requests;
those whose connection was refused; those without a whole answer (lost); those that a process had that the
case has killed (held); the processes that are left; whether systemd has the right main process; and how
often it has started the unit again. The controls leave out a part of the mechanism, and have to fail.
Exits with 0 when every case is as it should be, with 1 when one is not, with 2 for wrong arguments.

  --case TEXT    only the cases whose name contains TEXT
  --root NAME    the systemd of another installation: trixie (257), which debootstrap installs in ~/.cache,
                 or the path of a root
  --facts        the rules of systemd that the library relies on, instead of the cases: without the library
  --journal      print the journal of the unit after a case that fails
  --list         print the names of the cases
  --help         print this

Needs root, cgroup 2 and overlayfs.`;

const columns = [70, 8, 7, 5, 5, 4, 5, 9];

function row(...cells: unknown[]): string {
  const [name, ...figures] = cells.map((cell, i) =>
    i === 0 ? String(cell).padEnd(columns[0]) : String(cell).padStart(columns[i])
  );
  return [name, ...figures].join("  ");
}

/** Runs one scenario to its end. */
export async function runScenario(bed: Bed, scenario: Scenario): Promise<Result> {
  await using service = await bed.begin(scenario.units, scenario.unit, scenario.slow);
  await scenario.act(service);
  // The service that is left goes on.
  if (scenario.left === 1) await service.clients.more(300);
  return await service.result();
}

/** What is wrong with a result, in words. */
export function faultsOf(scenario: Scenario, result: Result): string[] {
  const { left, restarts, control } = scenario;
  const faults: string[] = [];
  if (result.left !== left) faults.push(`${result.left} processes are left`);
  if (!result.isMain) faults.push("MainPID is another process");
  if (result.restarts !== restarts) faults.push(`NRestarts is not ${restarts}`);
  if (control) {
    if (result[control] === 0) faults.push(`a control without a ${control} request`);
  } else if (result.refused + result.lost > 0) {
    faults.push(result.kinds);
  }
  return faults;
}

/** The first line of `systemctl --version`. */
async function versionOf(tree: string | undefined): Promise<string> {
  await using systemd = await Systemd.boot({ tree });
  const { stdout } = await systemd.run("systemctl", "--version");
  return stdout.split("\n")[0];
}

/** Tries the rules of systemd, and prints each. */
async function tryFacts(tree: string | undefined): Promise<boolean> {
  await using stage = await Stage.boot({ tree });
  let isFine = true;
  for (const { rule, check } of facts) {
    try {
      await check(stage);
      console.log(`ok      ${rule}`);
    } catch (error) {
      isFine = false;
      console.log(`FAILED  ${rule}: ${(error as Error).message}`);
    }
  }
  return isFine;
}

if (import.meta.main) {
  await runTool(usage, {
    options: {
      case: { type: "string", default: "" },
      root: { type: "string" },
      journal: { type: "boolean", default: false },
      facts: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
    },
  }, async ({ values }) => {
    const chosen = scenarios.filter(({ name }) => name.includes(values.case));
    if (chosen.length === 0) throw new UsageError(`No case contains "${values.case}"`);
    if (values.list) {
      for (const { name } of chosen) console.log(name);
      return true;
    }
    const tree = values.root === undefined ? undefined : await installTree(values.root);
    const missing = await systemdMissing(tree);
    if (missing !== undefined) {
      console.error(`No systemd can be booted here: ${missing}`);
      return false;
    }
    if (values.facts) return await tryFacts(tree);
    console.log(await versionOf(tree));
    console.log(
      row("case", "requests", "refused", "lost", "held", "left", "main", "NRestarts"),
    );
    let isFine = true;
    for (const scenario of chosen) {
      const began = performance.now();
      // A systemd for each case: nothing of one is left for the next.
      await using bed = await Bed.boot({ tree });
      let faults: string[];
      try {
        const result = await runScenario(bed, scenario);
        const { requests, refused, lost, held, left, isMain, restarts } = result;
        const main = isMain ? "right" : "wrong";
        console.log(row(scenario.name, requests, refused, lost, held, left, main, restarts));
        faults = faultsOf(scenario, result);
      } catch (error) {
        console.log(row(scenario.name));
        faults = [(error as Error).message.replaceAll(/\n\s*/g, " ")];
      }
      isFine &&= faults.length === 0;
      for (const fault of faults) console.log(`  FAILED after ${secondsSince(began)}: ${fault}`);
      if (faults.length > 0 && values.journal) {
        console.log(await bed.journal(scenario.unit));
      }
    }
    return isFine;
  });
}
