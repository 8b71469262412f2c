/**
 * Every kind of descriptor, in both directions, used for real: sent through a unix socket, received, and
 * then accepted on, answered on, read or written. As a program it runs the checks and prints a line of JSON
 * for each.
 *
 *     matrix_kinds.ts [TEXT]    the checks whose names contain TEXT
 *
 * Imports nothing but the library and Node's own modules: any version of Deno runs it as it is.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { Directory } from "../support/directory.ts";
import { type Kind, Limit, type Seen } from "./matrix_kind.ts";
import { kindsIn } from "./matrix_kinds_in.ts";
import { kindsOut } from "./matrix_kinds_out.ts";
import { kindsPreload } from "./matrix_kinds_preload.ts";

/** Milliseconds that a check may take; an emulated processor takes a second where a real one takes 20 ms. */
const limit = 20_000;

/** All checks, in the order of the table. */
export const kinds: Kind[] = [...kindsIn, ...kindsOut, ...kindsPreload];

/** Runs one check, for `limit` at most. */
async function runCheck({ kind, direction, run }: Kind): Promise<Seen> {
  const directory = new Directory();
  const ended = new AbortController();
  const tooLong = pause(limit, ended.signal).then(() => {
    throw new Error(`The check has not ended after ${limit / 1000} s`);
  });
  try {
    return { kind, direction, ok: true, detail: await Promise.race([run(directory), tooLong]) };
  } catch (error) {
    const detail = String(error);
    const failed = { kind, direction, ok: false, detail };
    return error instanceof Limit ? { ...failed, reason: error.message } : failed;
  } finally {
    ended.abort();
    // It rejects because of the abort.
    tooLong.catch(() => {});
    directory[Symbol.dispose]();
  }
}

if (import.meta.main) {
  const only = Deno.args[0];
  for (const kind of kinds) {
    if (only && !`${kind.direction} ${kind.kind}`.includes(only)) continue;
    console.log(JSON.stringify(await runCheck(kind)));
  }
  // A failed check may have left an operation that keeps the process.
  Deno.exit();
}
