/**
 * What can go wrong in a handover: every step, on either side, and every way in which a process ends or
 * is stopped there.
 *
 * @module
 */

import type { Step, Way } from "./faults_program.ts";

/** What becomes of the process at which the fault is aimed. */
export type Ending = End | Stop | "next try";

/** The process ends at once, in one of the ways in which processes end. */
type End =
  | "killed"
  | "SIGHUP"
  | "uncaught error"
  | "unhandled rejection"
  | "exit"
  | "out of memory";

/** The process is stopped by SIGSTOP, and continued or killed later. */
type Stop = "continued" | "continued late" | "killed later";

/** How the next generation is started: by a command, or by restart() of the running generation. */
export type Via = "command" | "restart";

/** One fault to cause. */
export interface Scenario extends Step {
  ending: Ending;
  via: Via;
}

/** Which side accepts after a fault. */
export type Side = "new" | "old" | "neither";

/** Every step, in order; and the side that accepts after the process was killed there. */
export const steps: (Step & { then: Side })[] = [
  { side: "new", step: "connected", then: "old" },
  { side: "new", step: "hello", then: "old" },
  { side: "old", step: "hello", then: "new" },
  { side: "old", step: "offer", then: "new" },
  { side: "new", step: "offer", then: "old" },
  { side: "new", step: "started", then: "old" },
  { side: "new", step: "served", then: "old" },
  { side: "new", step: "probation", then: "old" },
  { side: "new", step: "ready", then: "old" },
  { side: "old", step: "ready", then: "new" },
  { side: "old", step: "withdrawn", then: "new" },
  { side: "new", step: "withdrawn", then: "old" },
  { side: "new", step: "halfway", then: "old" },
  { side: "old", step: "halfway", then: "new" },
  { side: "new", step: "healthy", then: "neither" },
  { side: "old", step: "healthy", then: "new" },
  { side: "old", step: "restarted", then: "new" },
  { side: "old", step: "draining", then: "new" },
  { side: "old", step: "stopped", then: "new" },
  { side: "new", step: "later", then: "neither" },
  { side: "old", step: "rollback", then: "neither" },
];

/** Whether at this step no other process has the sockets: they are gone with the process. */
export function holdsSocketsAlone({ side, step }: Step): boolean {
  return side === "new" ? step === "healthy" || step === "later" : step === "hello" ||
    step === "rollback";
}

/** Every way in which a process ends. */
export const ends: End[] = [
  "killed",
  "SIGHUP",
  "uncaught error",
  "unhandled rejection",
  "exit",
  "out of memory",
];
/** Every way in which a process is stopped. */
export const stops: Stop[] = ["continued", "continued late", "killed later"];
/** Every ending. */
export const endings: Ending[] = [...ends, ...stops, "next try"];
const vias: Via[] = ["command", "restart"];

/** The steps at which the program can catch an error and has not accepted anything yet. */
const catchingSteps = ["started", "served"];

/** Every fault that can be caused. */
export const scenarios: Scenario[] = steps.flatMap(({ side, step }) =>
  endings.flatMap((ending) => vias.map((via) => ({ side, step, ending, via })))
).filter(({ step, via, ending }) =>
  (step !== "restarted" || via === "restart") &&
  (ending !== "next try" || catchingSteps.includes(step))
);

/** What the process does to come to this ending. */
export function wayTo(ending: Ending): Way {
  if (ending === "killed") return "SIGKILL";
  return isStop(ending) ? "SIGSTOP" : ending;
}

/** Whether the process is stopped, and not ended. */
export function isStop(ending: Ending): ending is Stop {
  return (stops as Ending[]).includes(ending);
}

/** A scenario in words. */
export function named({ side, step, ending, via }: Scenario): string {
  return `${side} ${ending} at "${step}", started by ${via}`;
}
