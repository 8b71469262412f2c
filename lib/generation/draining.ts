/**
 * The `draining` signal of a generation, whose listeners may throw.
 *
 * @module
 */

type Listener = EventListenerOrEventListenerObject;
type Change = (type: string, listener: Listener | null, options?: unknown) => void;

/**
 * An abort signal whose listeners are isolated: an error of a listener is reported, and the others are still called.
 * An ordinary signal of Deno turns the error into an uncaught one, which ends the process; up to 2.6 it does not call the
 * remaining listeners either.
 */
export class Draining {
  readonly #controller = new AbortController();
  readonly #report: (error: unknown) => void;
  readonly #isolated = new WeakMap<Listener, EventListener>();

  /** @param report Called with each error. */
  constructor(report: (error: unknown) => void) {
    this.#report = report;
    const { signal } = this;
    // Deno adds the `onabort` handler by these methods as well.
    const add = signal.addEventListener as Change;
    const remove = signal.removeEventListener as Change;
    const redefine = (name: string, value: Change) =>
      Object.defineProperty(signal, name, { value });
    redefine("addEventListener", (type, listener, options) => {
      add.call(signal, type, listener && this.#isolate(listener), options);
    });
    redefine("removeEventListener", (type, listener, options) => {
      remove.call(signal, type, listener && (this.#isolated.get(listener) ?? listener), options);
    });
  }

  /** The signal for the program. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Aborts it, and calls every listener; never throws. */
  abort(reason: unknown): void {
    // Listeners of dependent signals (`AbortSignal.any`) are called in here too, and are not isolated: their errors are
    // reported, but a rejection of an async one is an unhandled rejection.
    whileReporting(this.#report, () => this.#controller.abort(reason));
  }

  /** The wrapper of a listener that reports its errors; always the same one, for `removeEventListener`. */
  #isolate(listener: Listener): EventListener {
    const known = this.#isolated.get(listener);
    if (known) return known;
    const { signal } = this;
    const isolated = async (event: Event) => {
      try {
        await (typeof listener === "function"
          ? listener.call(signal, event)
          : listener.handleEvent(event));
      } catch (error) {
        this.#report(error);
      }
    };
    this.#isolated.set(listener, isolated);
    return isolated;
  }
}

/** Runs a step in which Deno calls listeners of the program: their errors go to `report`, and are not uncaught. */
export function whileReporting(report: (error: unknown) => void, step: () => void): void {
  const onError = (event: ErrorEvent) => {
    event.preventDefault();
    report(event.error);
  };
  globalThis.addEventListener("error", onError);
  try {
    step();
  } finally {
    globalThis.removeEventListener("error", onError);
  }
}
