/**
 * A check of the matrix, and its result.
 *
 * @module
 */

import type { Directory } from "../support/directory.ts";

/**
 * A descriptor becomes an object ("in"), an object gives its descriptor ("out"), or a program that knows nothing
 * of the library is restarted ("preload").
 */
export type Direction = "in" | "out" | "preload";

/** A check. */
export interface Kind {
  kind: string;
  direction: Direction;
  /** Resolves to what was exchanged; throws a `Limit` for what this Deno cannot do. */
  run: (directory: Directory) => Promise<string>;
}

/** The result of a check, as printed. */
export interface Seen {
  kind: string;
  direction: Direction;
  ok: boolean;
  /** What was exchanged, or the error. */
  detail: string;
  /** Why this Deno cannot do it. A check that is not ok and has no reason has failed. */
  reason?: string;
}

/** Thrown by a check that this Deno does not support. */
export class Limit extends Error {}
