/**
 * The functions of Deno that make sockets and listen to signals, as they were when the library was loaded: a program may
 * replace them later, and the preload module (`auto.ts`) does, by functions that call the library.
 *
 * @module
 */

const names = [
  "serve",
  "listen",
  "listenTls",
  "listenDatagram",
  "upgradeWebSocket",
  "addSignalListener",
  "removeSignalListener",
] as const;

/** The functions that are kept. */
export type RuntimeFunctions = Pick<typeof Deno, typeof names[number]>;

/** Where all copies of the library in this thread find them: a later copy would keep the functions that replace them. */
const shared = Symbol.for("graceful.runtime");

/** Keeps descriptors, not values: reading `Deno.serve` loads it, which takes some milliseconds. */
function keep(): RuntimeFunctions {
  const descriptors: PropertyDescriptorMap = {};
  for (const name of names) {
    const descriptor = Object.getOwnPropertyDescriptor(Deno, name);
    // `listenDatagram` exists with --unstable-net alone.
    if (descriptor) descriptors[name] = descriptor;
  }
  return Object.defineProperties({}, descriptors) as RuntimeFunctions;
}

/** Deno's own functions. */
export const runtime: RuntimeFunctions =
  (globalThis as unknown as Record<symbol, RuntimeFunctions | undefined>)[shared] ??= keep();
