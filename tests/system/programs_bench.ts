/**
 * What the library costs an unchanged program: requests a second, and the start of its process.
 *
 * @module
 */

import { until } from "../support/until.ts";
import { askOnce } from "../support/http1_client.ts";
import { Progress } from "../support/command_line.ts";
import { hasWrk, requestsPerSecond, spread } from "../support/wrk.ts";
import type { Program } from "./programs_list.ts";
import { ProgramService, type ServiceOptions } from "./programs_service.ts";

/** How often each of two servers is loaded, and how often each is started, by turns. */
const pairs = 9;
const starts = 15;

/** Measures each program; gives the report. */
export async function reportBench(chosen: Program[], preload?: string): Promise<string> {
  const lines: string[] = [];
  let current = "";
  using _progress = new Progress(() => current);
  for (const program of chosen) {
    const { name } = program;
    current = `${name}: requests a second`;
    if (hasWrk) lines.push(...await rates(program, preload));
    else lines.push("Requests a second are not measured: wrk is not installed");
    current = `${name}: starts`;
    lines.push(...await times(program, preload));
  }
  return lines.join("\n");
}

async function rates(program: Program, preload?: string): Promise<string[]> {
  await using alone = new ProgramService(program, { isPlain: true });
  await using preloaded = new ProgramService(program, { preload });
  for (const { port } of [alone, preloaded]) {
    await answer(port);
    await requestsPerSecond(port);
  }
  const seen = { alone: [] as number[], preloaded: [] as number[] };
  for (let i = 0; i < pairs; i++) {
    // The order changes: neither server always has the better turn.
    const order = [["alone", alone], ["preloaded", preloaded]] as const;
    for (const [which, { port }] of i % 2 === 0 ? order : order.toReversed()) {
      seen[which].push(await requestsPerSecond(port));
    }
  }
  const ratios = seen.preloaded.map((rate, i) => rate / seen.alone[i]);
  return [
    `${program.name}, requests a second, ${pairs} pairs, wrk with 64 connections: median (lowest ... highest)`,
    `  alone      ${spread(seen.alone, 0)}`,
    `  preloaded  ${spread(seen.preloaded, 0)}`,
    `  ratio      ${spread(ratios, 3)}`,
  ];
}

async function times(program: Program, preload?: string): Promise<string[]> {
  const seen = { alone: [] as number[], preloaded: [] as number[] };
  // The first pair fills the caches, and is not counted.
  for (let i = 0; i <= starts; i++) {
    const order = [["alone", true], ["preloaded", false]] as const;
    for (const [which, isPlain] of i % 2 === 0 ? order : order.toReversed()) {
      const took = await startOnce(program, { isPlain, preload });
      if (i > 0) seen[which].push(took);
    }
  }
  const more = seen.preloaded.map((time, i) => time - seen.alone[i]);
  return [
    `${program.name}, from the start of the process to its first answer, in ms, ${starts} pairs`,
    `  alone      ${spread(seen.alone, 1)}`,
    `  preloaded  ${spread(seen.preloaded, 1)}`,
    `  difference ${spread(more, 1)}`,
  ];
}

/** Milliseconds from the start of a process to its first answer. */
async function startOnce(program: Program, options: ServiceOptions): Promise<number> {
  const began = performance.now();
  await using service = new ProgramService(program, options);
  await answer(service.port);
  return performance.now() - began;
}

/** Asks until there is an answer. */
async function answer(port: number): Promise<void> {
  await until(async () => {
    try {
      await askOnce({ transport: "tcp", hostname: "127.0.0.1", port });
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionRefused) return false;
      throw error;
    }
  });
}
