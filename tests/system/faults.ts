/**
 * `deno task faults`: ends and stops either side of a handover at every step, and restarts a service
 * very often.
 *
 * @module
 */

import {
  Progress,
  runTool,
  secondsSince,
  UsageError,
  wholeNumber,
} from "../support/command_line.ts";
import { attemptAll, type Outcome } from "./faults_attempt.ts";
import { failOften, growth, restartOften } from "./faults_endurance.ts";
import {
  type Ending,
  endings,
  named,
  type Scenario,
  scenarios,
  steps,
} from "./faults_scenarios.ts";
import type { Figures } from "./faults_service.ts";

const usage = `Usage: deno task faults [options]

Ends or stops one process of a service at a step of a handover, under load, and checks what becomes
of the other process and of the clients: at every step, on both sides. Exits with 0 when every check
passed, with 1 when one failed, with 2 for wrong arguments. There is no chance in it, and no seed.

  --repeat N     cause every fault N times (1)
  --side S       in the "new" or the "old" process only
  --step S       at step S only
  --ending E     "killed", or ended by "SIGHUP", an "uncaught error", an "unhandled rejection", an "exit",
                 or "out of memory"; or stopped and then "continued", "continued late" or "killed later";
                 or, in the new process, an error that it catches, and a "next try"
  --via V        start the next generation by a "command", or by "restart" of the old one
  --deno PATH    run the service on this Deno
  --workers W    W faults at a time (4)
  --restarts N   instead: restart N times in a row, and report what grows
  --failures N   instead: let N restarts in a row fail, and report what grows
  --verbose      print the output of the processes when a check failed
  --help         print this`;

interface Options {
  chosen: Scenario[];
  repeat: number;
  workers: number;
  verbose: boolean;
  deno: string[] | undefined;
}

async function faults({ chosen, repeat, workers, verbose, deno }: Options): Promise<boolean> {
  const began = performance.now();
  const outcomes = new Map<Scenario, Outcome[]>(chosen.map((scenario) => [scenario, []]));
  const faults = Array.from({ length: repeat }, () => chosen).flat();
  let done = 0;
  let failed = 0;
  {
    using progress = new Progress(() => `${done} of ${faults.length} faults, ${failed} failed`);
    await attemptAll(faults, workers, (scenario, outcome) => {
      outcomes.get(scenario)!.push(outcome);
      done++;
      if (outcome.wrong.length > 0) failed++;
      for (const wrong of outcome.wrong) progress.print(`FAILED: ${named(scenario)}: ${wrong}`);
      if (verbose && outcome.wrong.length > 0) progress.print(outcome.printed);
    }, { deno });
  }
  for (const row of rows(outcomes)) console.log(row);
  const all = [...outcomes.values()].flat();
  const sum = (name: "answered" | "excused") =>
    all.reduce((total, outcome) => total + outcome[name], 0);
  console.log(
    `${all.length} faults in ${secondsSince(began)}: ${failed} failed; ` +
      `${sum("answered")} requests answered, ${
        sum("excused")
      } lost with the process that held them`,
  );
  return failed === 0;
}

/** A row for every step, a column for every ending: the side that accepted afterwards, how often. */
function rows(outcomes: Map<Scenario, Outcome[]>): string[] {
  const table = new Map<string, Map<Ending, Outcome[]>>();
  for (const [{ side, step, ending }, some] of outcomes) {
    const name = `${side} ${step}`;
    if (!table.has(name)) table.set(name, new Map());
    const row = table.get(name)!;
    row.set(ending, [...row.get(ending) ?? [], ...some]);
  }
  const tried = endings.filter((ending) => [...table.values()].some((row) => row.has(ending)));
  const line = (cells: string[]) =>
    cells.map((cell, i) => cell.padEnd(Math.max(16, (tried[i - 1] ?? "").length))).join(" ")
      .trimEnd();
  return [
    line(["", ...tried]),
    ...Array.from(
      table,
      ([name, row]) => line([name, ...tried.map((ending) => cell(row.get(ending) ?? []))]),
    ),
  ];
}

function cell(outcomes: Outcome[]): string {
  const results = outcomes.map(({ wrong, accepts }) => wrong.length > 0 ? "FAILED" : accepts);
  return [...new Set(results)].sort().map((result) =>
    `${result} ${results.filter((each) => each === result).length}`
  ).join(", ");
}

/** Many restarts in a row, and what grows. */
async function endurance(kind: "restarts" | "failures", count: number): Promise<boolean> {
  const began = performance.now();
  let done = 0;
  const each = ({ descriptors, threads, memory, files }: Figures) => {
    if (done % Math.ceil(count / 10) === 0) {
      console.log(
        `after ${done} ${kind}: ${descriptors} descriptors, ${threads} threads, ` +
          `${(memory / 2 ** 20).toFixed(1)} MiB, files ${files.join(" ")}`,
      );
    }
    done++;
  };
  const all = await (kind === "restarts" ? restartOften : failOften)(count, { each });
  const grown = growth(all);
  for (const what of grown) console.log(`FAILED: more ${what}`);
  console.log(`${count} ${kind} in ${secondsSince(began)}: ${grown.length} figures have grown`);
  return grown.length === 0;
}

if (import.meta.main) {
  await runTool(usage, {
    options: {
      repeat: { type: "string", default: "1" },
      workers: { type: "string", default: "4" },
      side: { type: "string" },
      step: { type: "string" },
      ending: { type: "string" },
      via: { type: "string" },
      restarts: { type: "string" },
      failures: { type: "string" },
      deno: { type: "string" },
      verbose: { type: "boolean", default: false },
    },
  }, async ({ values }) => {
    const chosen = scenarios.filter((scenario) =>
      (["side", "step", "ending", "via"] as const).every((name) =>
        values[name] === undefined || scenario[name] === values[name]
      )
    );
    if (chosen.length === 0) {
      const names = [...new Set(steps.map(({ step }) => step))].join(", ");
      throw new UsageError(`No fault is of that kind. The steps are: ${names}`);
    }
    const least = 1;
    const repeat = wholeNumber("repeat", values.repeat, { least });
    const workers = wholeNumber("workers", values.workers, { least });
    for (const kind of ["restarts", "failures"] as const) {
      const count = values[kind];
      if (count !== undefined) return await endurance(kind, wholeNumber(kind, count, { least }));
    }
    const deno = values.deno === undefined ? undefined : [values.deno];
    return await faults({ chosen, repeat, workers, verbose: values.verbose, deno });
  });
}
