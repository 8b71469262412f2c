/**
 * Requests a second, as wrk (Debian's package of that name) counts them.
 *
 * @module
 */

import { succeeds } from "./succeeds.ts";

/** Whether wrk is installed. (`wrk -v` exits with 1.) */
export const hasWrk: boolean = await succeeds(["sh", "-c", "command -v wrk"]);

/** Loads a server at a port of 127.0.0.1 for two seconds, with 64 connections. */
export async function requestsPerSecond(port: number): Promise<number> {
  const { stdout } = await new Deno.Command("wrk", {
    args: ["-t1", "-c64", "-d2s", `http://127.0.0.1:${port}/`],
  }).output();
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(new TextDecoder().decode(stdout))![1]);
}

/** The median, the lowest and the highest of some values. */
export function spread(values: number[], digits: number): string {
  const sorted = values.toSorted((a, b) => a - b);
  const [median, low, high] = [sorted[values.length >> 1], sorted[0], sorted[values.length - 1]];
  return `${median.toFixed(digits)} (${low.toFixed(digits)} ... ${high.toFixed(digits)})`;
}
