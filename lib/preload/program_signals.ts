/**
 * The signals of a preloaded program: those that it listens to itself are its own, and the others stop or restart the
 * service.
 *
 * @module
 */

import { runtime } from "../runtime.ts";

/** Knows which signals the program listens to. */
export class ProgramSignals {
  readonly #listeners = new Map<Deno.Signal, Set<() => void>>();

  /** Replaces `Deno.addSignalListener` and `removeSignalListener`, which `process.on` of node calls too. */
  install(): void {
    Deno.addSignalListener = (signal, listener) => {
      runtime.addSignalListener(signal, listener);
      if (!isCalledByRuntime()) this.#of(signal).add(listener);
    };
    Deno.removeSignalListener = (signal, listener) => {
      runtime.removeSignalListener(signal, listener);
      this.#of(signal).delete(listener);
    };
  }

  #of(signal: Deno.Signal): Set<() => void> {
    const listeners = this.#listeners.get(signal) ?? new Set();
    this.#listeners.set(signal, listeners);
    return listeners;
  }

  /** Whether the program listens to a signal. */
  has(signal: Deno.Signal): boolean {
    return (this.#listeners.get(signal)?.size ?? 0) > 0;
  }

  /** Calls the program's listeners as if the signal had come. */
  call(signal: Deno.Signal): void {
    for (const listener of [...this.#listeners.get(signal) ?? []]) listener();
  }

  /** Calls `action` at each signal to which the program does not listen. */
  otherwise(signal: Deno.Signal, action: () => void): void {
    runtime.addSignalListener(signal, () => {
      if (!this.has(signal)) action();
    });
  }

  /**
   * The same, once: the next signal of that kind has its default action, and ends the process.
   *
   * @param own Called in front of the program's listeners, if it listens.
   */
  onceOtherwise(signal: Deno.Signal, action: () => void, own: () => void): void {
    const listener = () => {
      if (this.has(signal)) return own();
      runtime.removeSignalListener(signal, listener);
      action();
    };
    runtime.addSignalListener(signal, listener);
  }
}

/**
 * Whether Deno itself adds a signal listener: for `export default { fetch }` it does (2.9), and that listener closes
 * connections which have a request on the way.
 */
function isCalledByRuntime(): boolean {
  // The first two frames are those of this file.
  const callers = frames().filter((frame) => !frame.includes(import.meta.url));
  return callers.length > 0 && callers.every((frame) => /\bext:/.test(frame));
}

/** The stack as V8 writes it, whatever the program has set for its own errors. */
function frames(): string[] {
  const settings = Error as { prepareStackTrace?: unknown; stackTraceLimit?: number };
  const { prepareStackTrace, stackTraceLimit } = settings;
  try {
    Object.assign(settings, { prepareStackTrace: undefined, stackTraceLimit: 20 });
    return new Error().stack?.split("\n").slice(1) ?? [];
  } finally {
    Object.assign(settings, { prepareStackTrace, stackTraceLimit });
  }
}
