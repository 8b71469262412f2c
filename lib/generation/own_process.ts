/**
 * The generations of this process, and its exit after they have ended.
 *
 * @module
 */

import type { Logger } from "../logger.ts";
import { longestPause } from "../time.ts";
import { whileReporting } from "./draining.ts";
import type { State } from "./lifecycle.ts";

/** What is known here of a generation of this process. */
interface Running {
  readonly path: string;
  readonly finished: Promise<void>;
  status(): { state: State };
}

/** The generations of this process that have not ended. */
export const running = new Set<Running>();

/** Whether a generation of this process at `path` has not called `ready()`: no other one can take over from it. */
export function isStarting(path: string): boolean {
  return [...running].some((app) => app.path === path && app.status().state === "starting");
}

/** Whether a generation of this process runs at `path`. */
export function runsHere(path: string): boolean {
  return [...running].some((app) => app.path === path);
}

/** Whether a generation of this process that has not left runs at another path than `path`. */
export function servesElsewhere(path: string): boolean {
  return [...running].some((app) => {
    return app.path !== path && !["draining", "stopped"].includes(app.status().state);
  });
}

/**
 * Exits after `exitTimeout` milliseconds, unless the process has ended by itself; while other generations run in it,
 * the time begins when these have ended.
 */
export function exitInTime(
  generation: number,
  exitTimeout: number | false,
  logger: Logger,
): void {
  if (exitTimeout === false || exitTimeout === Infinity) return;
  const ended = performance.now();
  const look = async () => {
    if (running.size > 0) {
      await Promise.allSettled(Array.from(running, ({ finished }) => finished));
      return arm();
    }
    const passed = Math.round(performance.now() - ended);
    logger.error?.(
      `Generation ${generation} ended ${passed} ms ago, and its process ${Deno.pid} has not ended: ` +
        "a timer, an open connection or the like keeps it. The process exits now; close what keeps it " +
        "when `finished` resolves, or set `exitTimeout`",
    );
    exit(logger);
  };
  // Unreferenced: the timer is not to be what keeps the process running.
  const arm = () => Deno.unrefTimer(setTimeout(look, Math.min(exitTimeout, longestPause)));
  arm();
}

/** Ends the process; a listener of `unload` that throws would change the exit code, so it is logged instead. */
export function exit(logger: Logger, code?: number): void {
  const report = (error: unknown) => {
    logger.error?.("A listener of `unload` has failed; the process ends", error);
  };
  whileReporting(report, () => Deno.exit(code));
}
