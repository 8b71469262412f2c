/**
 * Waits for a time, and limits of other waits.
 *
 * @module
 */

/** The longest delay of a timer: a longer one would end at once. */
export const longestPause = 2 ** 31 - 1;

/** A valid delay of a timer: 0 for a time in the past, because Deno warns of a negative delay on stderr. */
function delay(milliseconds: number): number {
  return Math.min(Math.max(0, milliseconds), longestPause);
}

/** Waits for a time, at most {@linkcode longestPause}; rejects with the signal's reason when it is aborted. */
export async function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, delay(milliseconds));
  try {
    await unlessAborted(promise, signal);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Waits for a time that does not keep the process running, without loading node's timers, as the first `setTimeout()` of a
 * process does (Deno 2.9), for 5 ms. Undefined before Deno 2.8, whose event loop does not wake at the end of such a wait.
 */
export function detachedPause(milliseconds: number): Promise<void> | undefined {
  const { waitAsync } = Atomics as { waitAsync?: WaitAsync };
  if (!waitAsync || /^2\.[0-7]\./.test(Deno.version.deno)) return undefined;
  const { async, value } = waitAsync(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
  return async ? Promise.resolve(value).then(() => {}) : undefined;
}

/** `Atomics.waitAsync` of ECMAScript 2024. */
type WaitAsync = (
  array: Int32Array,
  index: number,
  value: number,
  timeout: number,
) => { async: boolean; value: unknown };

/** Awaits a promise; rejects with the signal's reason when it is aborted before. */
export async function unlessAborted<T>(promise: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return await promise;
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/**
 * A signal that is aborted with `reason` when the time is up, unless it is disposed of before.
 *
 * @param more Called when the time is up: gives the milliseconds by which it is extended.
 */
export function expiring(
  milliseconds: number,
  reason: () => Error,
  more: () => number = () => 0,
): { signal: AbortSignal } & Disposable {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout>;
  const wait = (left: number) => {
    timer = setTimeout(() => {
      const longer = more();
      if (longer > 0) wait(longer);
      else controller.abort(reason());
    }, delay(left));
  };
  wait(milliseconds);
  return { signal: controller.signal, [Symbol.dispose]: () => clearTimeout(timer) };
}

/** A signal that is aborted when the first of two is. */
export function either(own: AbortSignal, given: AbortSignal | undefined): AbortSignal {
  return given ? AbortSignal.any([own, given]) : own;
}

/** @throws {RangeError} When an option is not a number of milliseconds. */
export function checkDuration(name: string, milliseconds: number): void {
  if (milliseconds >= 0) return;
  throw new RangeError(`${name} is a number of milliseconds, not ${milliseconds}`);
}
