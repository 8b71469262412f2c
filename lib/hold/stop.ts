/**
 * Ends all processes of the service.
 *
 * @module
 */

import { hasChildren, ownChildren, signalProcess } from "../../ffi/child_process.ts";
import { expiring } from "../time.ts";

/** A stop that has begun: every child of this process gets the signal, also those that it adopts meanwhile. */
export class Stop implements Disposable {
  readonly #log: (text: string) => void;
  readonly #signalled = new Set<number>();
  readonly #late: Disposable;
  #signal: Deno.Signal;

  /** @param time When the service is killed. */
  constructor(signal: Deno.Signal, time: StopTime, log: (text: string) => void) {
    this.#signal = signal;
    this.#log = log;
    this.#late = time.limit(() => this.kill("they have not ended in time (--stop-timeout)"));
  }

  /** Sends the signal to those that have not got it; gives whether no child is left. */
  proceed(): boolean {
    if (!hasChildren()) return true;
    for (const pid of ownChildren()) {
      if (this.#signalled.has(pid)) continue;
      this.#signalled.add(pid);
      send(pid, this.#signal, this.#log);
      // A process that SIGSTOP has stopped gets no other signal before.
      send(pid, "SIGCONT", this.#log);
    }
    return false;
  }

  /** Kills all. */
  kill(why: string): void {
    if (this.#signal === "SIGKILL") return;
    this[Symbol.dispose]();
    this.#log(`killing the processes of the service: ${why}`);
    this.#signal = "SIGKILL";
    this.#signalled.clear();
    this.proceed();
  }

  [Symbol.dispose](): void {
    this.#late[Symbol.dispose]();
  }
}

/** How long processes may take to end: a time, which they may extend. */
export class StopTime {
  readonly #timeout: number;
  /** By the clock of performance.now(). */
  #extendedTo = 0;

  /** @param timeout Milliseconds. */
  constructor(timeout: number) {
    this.#timeout = timeout;
  }

  /** Extends the time to so many milliseconds from now on (sd_notify(3), EXTEND_TIMEOUT_USEC=). */
  extend(milliseconds: number): void {
    this.#extendedTo = Math.max(this.#extendedTo, performance.now() + milliseconds);
  }

  /** Calls `late` when the time is up, counted from now on, unless it is disposed of before. */
  limit(late: () => void): Disposable {
    const more = () => this.#extendedTo - performance.now();
    const time = expiring(this.#timeout, () => new Error("The time is up"), more);
    time.signal.addEventListener("abort", late);
    return time;
  }
}

/** Sends a signal to a process that may have ended, or be another user's by now. */
export function send(pid: number, signal: Deno.Signal, log: (text: string) => void): void {
  try {
    signalProcess(pid, signal);
  } catch (error) {
    log((error as Error).message);
  }
}
