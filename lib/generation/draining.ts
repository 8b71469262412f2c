/**
 * The signal by which a program learns that its generation leaves.
 *
 * @module
 */

/** Called for an event, as `addEventListener` takes it. */
type Listener = EventListenerOrEventListenerObject;
type Change = (type: string, listener: Listener | null, options?: unknown) => void;

/**
 * An abort signal for listeners of the program: a listener that throws, or rejects, neither ends the
 * process nor keeps the other listeners from being called. (Deno reports what a listener throws as an uncaught error; up to
 * 2.6 it calls no further listener of the signal then.)
 */
export class Draining {
  readonly #controller = new AbortController();
  readonly #report: (error: unknown) => void;
  readonly #isolated = new WeakMap<Listener, EventListener>();

  /** @param report Is told of each error. */
  constructor(report: (error: unknown) => void) {
    this.#report = report;
    const { signal } = this;
    // The event handler `onabort` comes this way as well.
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

  /** What the program listens to. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Aborts it, and calls every listener; never throws. */
  abort(reason: unknown): void {
    // A listener of a signal that depends on this one (`AbortSignal.any`) is called, and fails, in here. What
    // one that is async throws after its first await is an unhandled rejection like any other.
    whileReporting(this.#report, () => this.#controller.abort(reason));
  }

  /** The one and only function in place of a listener that reports what the listener throws. */
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

/**
 * Runs a step in which Deno calls listeners of the program: what they throw is given to `report`, and is no
 * uncaught error.
 */
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
