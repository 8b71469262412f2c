/**
 * The answer to a health check.
 *
 * @module
 */

import type { Lifecycle } from "./lifecycle.ts";

/** {@linkcode Generation.health} */
export function healthOf({ accepts, state }: Lifecycle, isStopping: boolean): Response {
  return new Response(`${accepts && isStopping ? "stopping" : state}\n`, {
    status: accepts && !isStopping ? 200 : 503,
    // RFC 9111, 5.2.2.5: a cache in between must not store it.
    headers: { "cache-control": "no-store" },
  });
}
