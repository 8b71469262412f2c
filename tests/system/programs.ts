/**
 * `deno task programs`: programs without a line of this library are restarted under load, and must lose
 * nothing; stopped and started they must lose something, or the clients do not notice it.
 *
 * @module
 */

import { Progress, runTool, UsageError, wholeNumber } from "../support/command_line.ts";
import { reportBench } from "./programs_bench.ts";
import { type Program, programs, whyNotCached } from "./programs_list.ts";
import { type Outcome, type Restart, restartUnderLoad } from "./programs_run.ts";
import { soakPrograms } from "./programs_soak.ts";
import { isFine, table } from "./programs_table.ts";

/** The programs whose cost is measured. */
const measured = ["three_lines.ts", "express.js"];

const usage = `Usage: deno task programs [options]

Starts each program of tests/programs/unchanged with --preload lib/auto.ts, and restarts it under clients that
never repeat a request, by turns with SIGHUP and with "cli.ts restart". Then does the same with the program
alone, which is stopped and started again: a control that the clients notice what is lost. Prints a table.
Exits with 0 when only the control has lost something, with 1 when a program has, or its control has not, and
with 2 for wrong arguments.

  --only TEXT     the programs whose names or files contain TEXT (all; with --soak and --bench,
                  ${measured.join(" and ")})
  --restarts N    N restarts of each (5)
  --control N     N times stopped and started (2)
  --soak N        instead: N restarts, and what the process that serves uses after each tenth of them
  --bench         instead: requests a second and the start of a process, with the library and without
  --preload FILE  another preload module, as "deno task build" makes it (lib/auto.ts)
  --verbose       a line for each restart
  --help          print this`;

interface Options {
  chosen: Program[];
  restarts: number;
  control: number;
  preload: string | undefined;
  verbose: boolean;
}

/** Restarts each program; prints the table. */
async function runPrograms(
  { chosen, restarts, control, preload, verbose }: Options,
): Promise<boolean> {
  const rows: { outcome: Outcome; control?: Outcome }[] = [];
  let failed = 0;
  let current = "";
  {
    using progress = new Progress(() => `${rows.length} of ${chosen.length}, ${current}`);
    const run = async (program: Program, isPlain: boolean) => {
      let done = 0;
      const name = isPlain ? `${program.name}, alone` : program.name;
      current = name;
      return await restartUnderLoad(program, {
        isPlain,
        preload,
        restarts: isPlain ? control : restarts,
        restarted: (restart) => {
          current = `${name}: ${++done} restarts`;
          if (verbose) progress.print(`  ${line(restart)}`);
        },
      });
    };
    for (const program of chosen) {
      const skipped = await whyNotCached(program);
      if (skipped !== undefined) {
        progress.print(`${program.name}: skipped, ${skipped}`);
        failed++;
        continue;
      }
      try {
        const outcome = await run(program, false);
        const alone = control > 0 ? await run(program, true) : undefined;
        rows.push({ outcome, control: alone });
        progress.print(summary(outcome));
        if (alone) progress.print(`  alone: ${countsOf(alone)}`);
      } catch (error) {
        failed++;
        progress.print(`${program.name}: failed, ${(error as Error).message}`);
      }
    }
  }
  console.log(`\n${table(rows)}`);
  const lossless = rows.filter(({ control }) => control && control.refused + control.lost === 0);
  for (const { outcome } of lossless) {
    console.log(`${outcome.program.name}: the control has lost nothing`);
  }
  return failed + lossless.length === 0 && rows.every(({ outcome }) => isFine(outcome));
}

function line({ way, requests, refused, lost, milliseconds }: Restart): string {
  return `${way}: ${requests} requests, ${refused} refused, ${lost} lost, ${
    milliseconds.toFixed(0)
  } ms`;
}

function countsOf({ requests, refused, lost, underWay, failures }: Outcome): string {
  const kinds = [...failures].map(([what, count]) => `\n    ${count} x ${what}`);
  const messages = underWay > 0 ? `, ${underWay} messages under way` : "";
  return `${requests} requests, ${refused} refused, ${lost} lost${messages}${kinds.join("")}`;
}

function summary(outcome: Outcome): string {
  const { program, restarts, stderr } = outcome;
  const printed = stderr.trim() ? `\n  stderr: ${stderr.trim().replaceAll("\n", "\n    ")}` : "";
  return `${program.name}: ${restarts.length} restarts, ${countsOf(outcome)}${printed}`;
}

if (import.meta.main) {
  await runTool(usage, {
    options: {
      only: { type: "string", default: "" },
      restarts: { type: "string", default: "5" },
      control: { type: "string", default: "2" },
      soak: { type: "string" },
      bench: { type: "boolean", default: false },
      preload: { type: "string" },
      verbose: { type: "boolean", default: false },
    },
  }, async ({ values }) => {
    const { only, verbose } = values;
    const preload = values.preload && Deno.realPathSync(values.preload);
    const restarts = wholeNumber("restarts", values.restarts, { least: 1 });
    const control = wholeNumber("control", values.control);
    const isMeasured = values.soak !== undefined || values.bench;
    const chosen = programs.filter(({ name, file }) => {
      if (only === "" && isMeasured) return measured.includes(file);
      return name.includes(only) || file.includes(only);
    });
    if (chosen.length === 0) throw new UsageError(`No program has "${only}" in its name`);
    if (values.soak !== undefined) {
      return await soakPrograms(chosen, wholeNumber("soak", values.soak, { least: 10 }), preload);
    }
    if (values.bench) {
      console.log(await reportBench(chosen, preload));
      return true;
    }
    return await runPrograms({ chosen, restarts, control, preload, verbose });
  });
}
