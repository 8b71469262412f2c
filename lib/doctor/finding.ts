/**
 * The findings of an examination.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

/**
 * - `ok`: as it should be.
 * - `note`: worth knowing; nothing fails by it, or it could not be examined.
 * - `warning`: some failure, or some restart, loses requests.
 * - `problem`: the service is not reached, or does not survive a restart.
 */
export type Level = "ok" | "note" | "warning" | "problem";

/** One finding. */
export interface Finding {
  level: Level;
  /** The subject: "socket", "listener", "process", or a setting of the unit, such as "KillMode". */
  about: string;
  /** The state, and its consequence. */
  text: string;
  /** The remedy; absent where none is needed. */
  advice?: string;
}

export function ok(about: string, text: string): Finding {
  return { level: "ok", about, text };
}

export function note(about: string, text: string, advice?: string): Finding {
  return { level: "note", about, text, ...advice !== undefined && { advice } };
}

export function warning(about: string, text: string, advice: string): Finding {
  return { level: "warning", about, text, advice };
}

export function problem(about: string, text: string, advice: string): Finding {
  return { level: "problem", about, text, advice };
}
