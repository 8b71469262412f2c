/**
 * The states of a generation, and the transitions between them.
 *
 * @module
 */

import type { GenerationStatus } from "./protocol.ts";

/** A state; {@linkcode GenerationStatus} describes each. */
export type State = GenerationStatus["state"];

/**
 * The legal transitions. The left half of a handover is that of the new process, the right half that of the old one:
 *
 *     starting -> probation -> serving -> offering -> standby -> draining -> stopped
 *         |                       ^          |           |          ^
 *         +-----------------------+          |           |          |
 *       (no predecessor)          +----------+-----------+          |
 *                                  (the successor has failed)       |
 *     any of them but the last two ---------------------------------+
 *       (stopped, or rolled back)
 */
const transitions: Record<State, readonly State[]> = {
  starting: ["probation", "serving", "draining"],
  probation: ["serving", "draining"],
  serving: ["offering", "draining"],
  offering: ["standby", "serving", "draining"],
  standby: ["serving", "draining"],
  draining: ["stopped"],
  stopped: [],
};

/** The state of one generation. */
export class Lifecycle {
  #state: State = "starting";

  /** The state. */
  get state(): State {
    return this.#state;
  }

  /** Whether it accepts, and no successor has its offer. */
  get isServing(): boolean {
    return this.#state === "serving" || this.#state === "probation";
  }

  /** Whether it accepts. */
  get accepts(): boolean {
    return this.isServing || this.#state === "offering";
  }

  /** Whether it accepts, and its predecessor stands by. */
  get isOnProbation(): boolean {
    return this.#state === "probation";
  }

  /** Whether a successor has its offer, or accepts in its place. */
  get isHandingOver(): boolean {
    return this.#state === "offering" || this.#state === "standby";
  }

  /** Whether it drains or has ended: it does not accept again. */
  get hasLeft(): boolean {
    return this.#state === "draining" || this.#state === "stopped";
  }

  /** Enters the next state. */
  enter(next: State): void {
    if (!transitions[this.#state].includes(next)) {
      throw new Error(`A generation that is "${this.#state}" cannot become "${next}"`);
    }
    this.#state = next;
  }
}
