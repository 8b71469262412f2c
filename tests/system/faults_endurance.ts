/**
 * Many restarts of one service, or many failed ones, and what grows with their number: descriptors,
 * threads, memory, files.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { longTimeouts } from "./faults_attempt.ts";
import type { FaultsProgramOptions } from "./faults_program.ts";
import { steps } from "./faults_scenarios.ts";
import { eventually, type Figures, Service } from "./faults_service.ts";

/** Restarts a service `count` times; gives the figures of every generation, the first one included. */
export async function restartOften(
  count: number,
  { defect, each }: Pick<FaultsProgramOptions, "defect"> & { each?: (figures: Figures) => void } =
    {},
): Promise<Figures[]> {
  await using service = new Service({ ...longTimeouts, probation: 20, defect });
  let running = service.start();
  await service.line(
    "the first generation is ready",
    ({ step }) => step === "serving" || step === "withdrawn",
  );
  const all: Figures[] = [];
  for (let i = 0;; i++) {
    const figures = await settledFigures(service, running);
    all.push(figures);
    each?.(figures);
    if (i === count) return all;
    const reply = await service.restart();
    if (reply?.type !== "done") throw new Error(`Restart ${i + 1}: ${JSON.stringify(reply)}`);
    const predecessor = running;
    running = reply.pid;
    await eventually("the predecessor has ended", () => !service.isRunning(predecessor));
    // They would grow with the number of restarts.
    service.lines.length = 0;
  }
}

/** The steps at which the new generation may be killed, and the old one goes on. */
const failingSteps = steps.filter(({ side, then }) => side === "new" && then === "old");

/** Makes `count` restarts of one process fail; gives its figures before the first and after each. */
export async function failOften(
  count: number,
  { each }: { each?: (figures: Figures) => void } = {},
): Promise<Figures[]> {
  await using service = new Service({ ...longTimeouts, probation: 20 });
  const running = service.start();
  await service.line(
    "the generation is ready",
    ({ step }) => step === "serving" || step === "withdrawn",
  );
  const all: Figures[] = [];
  for (let i = 0;; i++) {
    const figures = await settledFigures(service, running);
    all.push(figures);
    each?.(figures);
    if (i === count) return all;
    const { side, step } = failingSteps[i % failingSteps.length];
    service.arm({ side, step, way: "SIGKILL" });
    const reply = await service.restart();
    if (reply?.type !== "failed") {
      throw new Error(`Restart ${i + 1}, killed at ${step}: ${JSON.stringify(reply)}`);
    }
    await eventually("the killed process has ended", () => service.processes().length === 1);
    service.lines.length = 0;
  }
}

/** The figures of an idle process: the lowest of five, for it may be about to close a descriptor. */
async function settledFigures(service: Service, pid: number): Promise<Figures> {
  const looks: Figures[] = [];
  for (let i = 0; i < 5; i++) {
    looks.push(service.figures(pid));
    await pause(5);
  }
  return looks.sort((a, b) => a.descriptors - b.descriptors)[0];
}

/** How much more memory counts as chance. */
const tolerance = 1.15;

/**
 * What is higher at the end than at the beginning, in words. Medians of two windows are compared, because
 * memory varies; the figures before the first window are those of warming up. One more thread is allowed:
 * Deno's pool starts one when it needs it, and keeps it.
 */
export function growth(all: Figures[]): string[] {
  const size = Math.max(1, Math.floor(all.length / 5));
  const first = all.slice(size, 2 * size);
  const last = all.slice(-size);
  const grown: string[] = [];
  for (const name of ["descriptors", "threads", "memory"] as const) {
    const before = median(first.map((figures) => figures[name]));
    const after = median(last.map((figures) => figures[name]));
    const most = before * (name === "memory" ? tolerance : 1) + (name === "threads" ? 1 : 0);
    if (after > most) grown.push(`${name}: from ${before} to ${after}`);
  }
  const [before, after] = [all[0], all.at(-1)!].map(({ files }) => files.join(" "));
  if (before !== after) grown.push(`files: from ${before} to ${after}`);
  return grown;
}

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}
