/**
 * Ends all processes of the service.
 *
 * @module
 */

import { hasChildren, ownChildren } from "../../ffi/child_process.ts";
import { longestPause } from "../time.ts";

/** A stop that has begun: every child of this process gets the signal, also those that it adopts meanwhile. */
export class Stop implements Disposable {
  readonly #log: (text: string) => void;
  readonly #signalled = new Set<number>();
  #signal: Deno.Signal;
  /** When the service is killed, by the clock of performance.now(). */
  #deadline: number;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param timeout Milliseconds until the service is killed, unless the time is extended. */
  constructor(signal: Deno.Signal, timeout: number, log: (text: string) => void) {
    this.#signal = signal;
    this.#log = log;
    this.#deadline = performance.now() + timeout;
    this.#wait();
  }

  /** Sends the signal to those that have not got it; gives whether no child is left. */
  proceed(): boolean {
    if (!hasChildren()) return true;
    for (const pid of ownChildren()) {
      if (this.#signalled.has(pid)) continue;
      this.#signalled.add(pid);
      send(pid, this.#signal);
      // A process that SIGSTOP has stopped gets no other signal before.
      send(pid, "SIGCONT");
    }
    return false;
  }

  /** Has the service killed in so many milliseconds from now on at the earliest (EXTEND_TIMEOUT_USEC=). */
  extend(milliseconds: number): void {
    this.#deadline = Math.max(this.#deadline, performance.now() + milliseconds);
  }

  /** Kills all. */
  kill(why: string): void {
    if (this.#signal === "SIGKILL") return;
    clearTimeout(this.#timer);
    this.#log(`killing the processes of the service: ${why}`);
    this.#signal = "SIGKILL";
    this.#signalled.clear();
    this.proceed();
  }

  #wait(): void {
    const left = this.#deadline - performance.now();
    this.#timer = setTimeout(() => {
      if (performance.now() < this.#deadline) this.#wait();
      else this.kill("they have not ended in time (--stop-timeout)");
    }, Math.min(Math.max(0, left), longestPause));
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Sends a signal to a process that may have ended. */
export function send(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch (error) {
    // ESRCH; some versions of Deno make a TypeError of it.
    if (!(error instanceof Deno.errors.NotFound || error instanceof TypeError)) throw error;
  }
}
