/**
 * The results of a soak: what became of the requests, by class of clients, with and without a restart.
 *
 * @module
 */

import type { Batch, Failure } from "./soak_client.ts";

/** The results of one class of clients. */
export interface ClassOutcome {
  name: string;
  requests: number;
  failures: Failure[];
  hungUp: number;
  refused: number;
  /** Milliseconds, in ascending order: of requests without a restart, and of those that overlapped with one. */
  steady: Float64Array;
  restarting: Float64Array;
}

/** The results of a soak. */
export interface Outcome {
  control: boolean;
  restarts: number;
  seconds: number;
  requests: number;
  failed: number;
  classes: ClassOutcome[];
  /** All classes together whose answers take no time by themselves. */
  quick: ClassOutcome;
  /** Errors that the service has logged, and processes that have not ended: clients do not see them. */
  errors: string[];
  /** The start of each restart, in milliseconds since 1970. */
  began: number[];
}

/** The classes whose requests take a while by themselves. */
export const slowClasses = new Set<string>([
  "uploads",
  "slow answers",
  "streamed answers",
  "large answers",
  "HTTP/2, slow answers",
  "HTTP/2, uploads",
]);

/** The results of all clients so far. */
export class Answers {
  requests = 0;
  /** The requests on connections that are never idle. */
  busy = 0;
  failed = 0;
  readonly #classes = new Map<string, Omit<Batch, "class">>();

  add({ class: name, at, took, failures, hungUp, refused }: Batch): void {
    let all = this.#classes.get(name);
    if (!all) {
      all = { at: [], took: [], failures: [], hungUp: 0, refused: 0 };
      this.#classes.set(name, all);
    }
    for (let i = 0; i < at.length; i++) {
      all.at.push(at[i]);
      all.took.push(took[i]);
    }
    all.failures.push(...failures);
    all.hungUp += hungUp;
    all.refused += refused;
    this.requests += at.length;
    if (name.startsWith("busy")) this.busy += at.length;
    this.failed += failures.length;
  }

  /** The results by class, of the requests since `from`; those that overlap with a window are apart. */
  outcomes(windows: Window[], from: number): ClassOutcome[] {
    return [...this.#classes].map(([name, { at, took, failures, hungUp, refused }]) => {
      const steady: number[] = [];
      const restarting: number[] = [];
      for (let i = 0; i < at.length; i++) {
        const began = at[i] - took[i];
        if (began < from) continue;
        (overlaps(windows, began, at[i]) ? restarting : steady).push(took[i]);
      }
      return {
        name,
        requests: at.length,
        failures,
        hungUp,
        refused,
        steady: Float64Array.from(steady).sort(),
        restarting: Float64Array.from(restarting).sort(),
      };
    });
  }
}

/** The time of a restart. */
export type Window = [from: number, to: number];

/** Whether a request overlaps with one of the windows, which are sorted and disjoint. */
function overlaps(windows: Window[], from: number, to: number): boolean {
  let low = 0;
  let high = windows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (windows[middle][1] < from) low = middle + 1;
    else high = middle;
  }
  return low < windows.length && windows[low][0] <= to;
}

/** Several classes as one. */
export function together(name: string, classes: ClassOutcome[]): ClassOutcome {
  const all = (part: (of: ClassOutcome) => Float64Array) =>
    Float64Array.from(classes.flatMap((of) => [...part(of)])).sort();
  const sum = (part: (of: ClassOutcome) => number) =>
    classes.reduce((sum, of) => sum + part(of), 0);
  return {
    name,
    requests: sum(({ requests }) => requests),
    failures: classes.flatMap(({ failures }) => failures),
    hungUp: sum(({ hungUp }) => hungUp),
    refused: sum(({ refused }) => refused),
    steady: all(({ steady }) => steady),
    restarting: all(({ restarting }) => restarting),
  };
}

/** A quantile of values in ascending order; NaN without values. */
export function quantile(values: Float64Array, part: number): number {
  return values[Math.max(0, Math.ceil(part * values.length) - 1)] ?? NaN;
}
