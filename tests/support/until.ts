/**
 * Waiting for a condition that nothing announces.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";

/** Waits until `condition` holds; the limit only keeps a failing test from hanging. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 20_000; tries++) {
    if (await condition()) return;
    await pause(1);
  }
  throw new Error(`Never came true: ${condition}`);
}
