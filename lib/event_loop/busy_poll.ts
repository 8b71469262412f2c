/**
 * Waits for a descriptor on this thread, for at most a millisecond: for an answer that comes sooner than a wait elsewhere
 * is set up.
 *
 * @module
 */

import { isReady, type Readiness, yieldProcessor } from "../../ffi/poll.ts";

/** Milliseconds for which it polls without sleeping. */
const spinTime = 0.1;

/**
 * Polls for a tenth of a millisecond, in which nothing else on this thread runs. It does not sleep: to be woken by
 * another processor takes some ten microseconds; a process that waits for this processor gets it.
 */
export function isReadySoon(raw: number, readiness: Readiness): boolean {
  const end = performance.now() + spinTime;
  do {
    if (isReady(raw, readiness)) return true;
    yieldProcessor();
  } while (performance.now() < end);
  return false;
}

/** The same within a millisecond, most of which it sleeps. */
export function isReadyInTime(raw: number, readiness: Readiness): boolean {
  return isReadySoon(raw, readiness) || isReady(raw, readiness, 1);
}
