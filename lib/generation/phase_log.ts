/**
 * The log of a handover: each step has the name of the frame that makes it, or of the state that it begins, on both
 * sides of the connection.
 *
 * @module
 */

import type { Logger } from "../logger.ts";

/** A step of a handover. */
export type Phase =
  | "connected"
  | "hello"
  | "offer"
  | "probation"
  | "ready"
  | "withdrawn"
  | "healthy"
  | "rollback"
  | "serving"
  | "restarted"
  | "stopped";

/** The steps that are logged at level "info"; all others are logged at level "debug". */
const milestones = new Set<Phase>(["serving", "healthy", "rollback", "restarted", "stopped"]);

/** What a step means for the new generation, which has a predecessor. */
const ofTheSuccessor: Partial<Record<Phase, string>> = {
  hello: "has asked for the offer",
  offer: "has received the offer",
  probation: "accepts",
  ready: "has told its predecessor that it accepts",
  withdrawn: "accepts alone: its predecessor stands by",
  healthy: "its probation is over, and its predecessor drains",
};

/** What a step means for the old generation, which has a successor. */
const ofThePredecessor: Partial<Record<Phase, string>> = {
  hello: "a successor asks for the offer",
  offer: "the successor has the offer",
  ready: "the successor accepts",
  withdrawn: "has stopped accepting, and stands by",
  healthy: "the successor has lived through its probation",
  rollback: "the handover has failed, and this generation goes on",
};

/** What a step means for a generation alone. */
const ofOne: Partial<Record<Phase, string>> = {
  serving: "accepts",
  stopped: "has ended",
};

/** What is logged with a step. */
export interface PhaseDetails {
  /** The number of the generation that logs. */
  generation?: number;
  /** The process number of the previous generation. */
  predecessor?: number;
  /** The process number of the next generation. */
  successor?: number;
}

/**
 * Logs a step of a handover, with the milliseconds since `began`, a `performance.now()`; the logger also gets
 * `{ phase, duration, ...details }`.
 */
export function logPhase(
  logger: Logger | undefined,
  phase: Phase,
  began: number,
  details: PhaseDetails = {},
): void {
  const duration = performance.now() - began;
  const { generation, predecessor, successor } = details;
  const isEnd = phase === "withdrawn" && predecessor !== undefined;
  const level = isEnd || milestones.has(phase) ? "info" : "debug";
  const name = generation === undefined ? "A generation" : `Generation ${generation}`;
  const texts = successor !== undefined
    ? ofThePredecessor
    : predecessor !== undefined
    ? ofTheSuccessor
    : ofOne;
  const text = texts[phase];
  const pid = successor ?? predecessor;
  const meaning = text === undefined
    ? ""
    : `: ${text}${pid === undefined ? "" : ` (process ${pid})`}`;
  logger?.[level]?.(
    `${name}: ${phase} after ${duration.toFixed(1)} ms${meaning}`,
    { phase, duration, ...details },
  );
}
