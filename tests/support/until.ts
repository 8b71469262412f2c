/**
 * Polling a condition.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";

/** Waits until `condition` holds; throws after 20,000 tries, so that a failing test does not hang. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 20_000; tries++) {
    if (await condition()) return;
    await pause(1);
  }
  throw new Error(`Never came true: ${condition}`);
}

/** Waits until `condition` holds; throws after 20 s: for conditions that take a command to look at. */
export async function soon(condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + 20_000;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`Not true after 20 s: ${condition}`);
    await pause(5);
  }
}
