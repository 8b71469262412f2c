/**
 * The answer to a health check.
 *
 * @module
 */

import type { Lifecycle } from "./lifecycle.ts";

/** {@linkcode Generation.health} */
export function healthOf(lifecycle: Lifecycle, isStopping: boolean): Response {
  const isStoppingSoon = lifecycle.accepts && isStopping;
  return new Response(`${isStoppingSoon ? "stopping" : lifecycle.state}\n`, {
    status: lifecycle.accepts && !isStopping ? 200 : 503,
    // RFC 9111, 5.2.2.5: no cache between the load balancer and this process stores the answer.
    headers: { "cache-control": "no-store" },
  });
}
