/**
 * Notices that the program closes a native object.
 *
 * @module
 */

import { pause } from "../time.ts";

/**
 * Calls `notice` after the program has closed a native object, or shut it down. It may be called several times: a
 * server closes its listener a turn after `shutdown()`, and finishes later.
 */
export function whenClosed(object: object, notice: () => void): void {
  // The signal of a server shuts it down without a call of its methods.
  (object as Partial<Deno.HttpServer>).finished?.then(notice, notice);
  const methods = object as Record<string | symbol, ((...args: unknown[]) => unknown) | undefined>;
  for (const name of ["close", "shutdown", Symbol.dispose, Symbol.asyncDispose]) {
    const method = methods[name];
    if (!method) continue;
    const value = (...args: unknown[]) => {
      const result = method.apply(object, args);
      notice();
      if (!(result instanceof Promise)) return result;
      void pause(0).then(notice);
      return result.finally(notice);
    };
    Object.defineProperty(object, name, { value, configurable: true });
  }
}
