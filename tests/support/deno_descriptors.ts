/**
 * The descriptors that Deno opens at a time of its own, for tests that count or exhaust them.
 *
 * @module
 */

import { describeDescriptor } from "../../ffi/proc.ts";

/** Whether it is a file of one of Deno's caches. */
export function isDenoCache(raw: number): boolean {
  return /_cache_v\d+(-wal|-shm)?$/.test(describeDescriptor(raw) ?? "");
}

/**
 * Makes Deno open its pair of sockets for signals now. Otherwise it opens them at the first signal listener or half a
 * second after the start, and panics if the process is at its limit of descriptors then (2.9.6).
 */
export function openSignalSockets(): void {
  const ignore = () => {};
  Deno.addSignalListener("SIGUSR2", ignore);
  Deno.removeSignalListener("SIGUSR2", ignore);
}
