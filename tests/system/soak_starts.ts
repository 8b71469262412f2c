/**
 * How long a start takes: of a process with Deno.serve alone, of a first generation, and of a next one.
 *
 * @module
 */

import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { columns } from "./soak_report.ts";
import { quantile } from "./soak_results.ts";
import type { StartTimes } from "../system/soak_start.ts";

/** How long each step of a start takes. */
export interface Starts {
  /** Milliseconds, by way of starting and step. */
  medians: Record<"plain" | "first" | "next", Record<string, number>>;
  count: number;
}

/** Measures the ways of starting, in turns: what else the machine does meets all of them. */
export async function measureStarts(count: number): Promise<Starts> {
  using directory = new Directory();
  const all = { plain: [], first: [], next: [] } as Record<string, Record<string, number>[]>;
  const service = directory.join("service.sock");
  let running = await begin("first", service);
  try {
    // The first round is not counted: it fills the caches.
    for (let i = 0; i <= count; i++) {
      const plain = await begin("plain", "");
      await plain.child[Symbol.asyncDispose]();
      const first = await begin("first", directory.join("first.sock"));
      await first.child[Symbol.asyncDispose]();
      const next = await begin("next", service);
      const { code, stderr } = await running.child.ended();
      await running.child[Symbol.asyncDispose]();
      running = next;
      if (code !== 0) throw new Error(`The predecessor ended with code ${code}: ${stderr}`);
      if (i === 0) continue;
      all.plain.push(plain.steps);
      all.first.push(first.steps);
      all.next.push(next.steps);
    }
  } finally {
    await running.child[Symbol.asyncDispose]();
  }
  const medians = Object.fromEntries(
    Object.entries(all).map(([how, runs]) => {
      const steps = Object.keys(runs[0] ?? {});
      const median = (step: string) =>
        quantile(Float64Array.from(runs, (run) => run[step]).sort(), 0.5);
      return [how, Object.fromEntries(steps.map((step) => [step, median(step)]))];
    }),
  ) as Starts["medians"];
  return { medians, count };
}

/** Starts a process; gives the milliseconds of each step. */
async function begin(
  how: string,
  path: string,
): Promise<{ child: Child; steps: Record<string, number> }> {
  const spawned = performance.timeOrigin + performance.now();
  const child = new Child("../system/soak_start.ts", [how, path]);
  const { origin, began, imported, started, served, ready, answered }: StartTimes = JSON.parse(
    await child.line(),
  );
  const sum = origin + answered - spawned;
  return {
    child,
    steps: {
      "runtime": origin + began - spawned,
      ...how === "plain" ? { "serve()": ready - began } : {
        "import": imported - began,
        "start()": started - imported,
        "serve()": served - started,
        "ready()": ready - served,
      },
      "first answer": answered - ready,
      sum,
    },
  };
}

/** The comparison as a table. */
export function reportStarts({ medians, count }: Starts): string {
  const { plain, first, next } = medians;
  const steps = Object.keys(next);
  const cell = (value: number | undefined) => value === undefined ? "-" : value.toFixed(1);
  const rows = [
    ["", ...steps, "beyond Deno.serve"],
    ...([["Deno.serve", plain], ["the first generation", first], [
      "the next generation",
      next,
    ]] as const)
      .map(([name, run]) => [
        name,
        ...steps.map((step) => cell(run[step])),
        cell(run.sum - plain.sum),
      ]),
  ];
  return `From the start of a process to its first answer, in milliseconds; medians of ${count}\n\n${
    columns(rows)
  }`;
}
