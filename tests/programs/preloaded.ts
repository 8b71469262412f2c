/**
 * A preload module of a program's own: notes whether the program is a generation already.
 *
 * @module
 */

const seen = Symbol.for("graceful") in globalThis ? "after auto.ts" : "alone";
Object.assign(globalThis, { preloaded: seen });
