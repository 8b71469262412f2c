/**
 * The steps of a handover, as a logger is told of them.
 *
 * @module
 */

import type { Logger } from "../logger.ts";

/** A step that a generation has reached. */
export type Phase =
  // of the next generation
  | "connected"
  | "asked"
  | "inherited"
  | "accepting"
  | "committed"
  | "ready"
  | "healthy"
  // of the one that runs
  | "offered"
  | "succeeded"
  | "withdrawn"
  | "handed over"
  | "failed"
  | "left"
  | "restarted";

/** Those that an operator wants to know of. */
const milestones = new Set<Phase>([
  "inherited",
  "ready",
  "healthy",
  "handed over",
  "failed",
  "left",
  "restarted",
]);

/**
 * Tells the logger of a phase, and how long after `began`, a `performance.now()`, it was reached.
 * Milestones are information, the steps between them are for debugging.
 */
export function logPhase(
  logger: Logger | undefined,
  phase: Phase,
  began: number,
  details: Record<string, unknown> = {},
): void {
  const duration = performance.now() - began;
  const about = { phase, duration, ...details };
  const level = milestones.has(phase) ? "info" : "debug";
  const who = details.generation === undefined
    ? "A generation"
    : `Generation ${details.generation}`;
  logger?.[level]?.(`${who}: ${phase} after ${duration.toFixed(1)} ms`, about);
}
