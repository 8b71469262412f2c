/**
 * The answer to a health check.
 *
 * @module
 */

import type { Lifecycle } from "./lifecycle.ts";

/** What an answer needs of its generation. */
export interface HealthHost {
  readonly lifecycle: Lifecycle;
  /** Whether it was asked to stop. */
  readonly isStopping: boolean;
  /** Whether another generation accepts in its place: the successor, or the predecessor after a rollback. */
  readonly isReplaced: boolean;
}

/** {@linkcode Generation.health} */
export function healthOf(
  { lifecycle: { accepts, state }, isStopping, isReplaced }: HealthHost,
): Response {
  // A check that the old process of a restart has accepted is answered for the new one: the service is up.
  const isUp = isReplaced ? state !== "stopped" : accepts && !isStopping;
  return new Response(`${accepts && isStopping ? "stopping" : state}\n`, {
    status: isUp ? 200 : 503,
    // RFC 9111, 5.2.2.5: a cache in between must not store it.
    headers: { "cache-control": "no-store" },
  });
}
