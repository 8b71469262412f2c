/**
 * What the serving process uses after many restarts: it must not grow from one generation to the next.
 *
 * @module
 */

import { Progress } from "../support/command_line.ts";
import { readProc } from "./processes.ts";
import type { Program } from "./programs_list.ts";
import { restartUnderLoad } from "./programs_run.ts";
import { columns } from "./soak_report.ts";

/** What a process uses. */
interface Figures {
  descriptors: number;
  threads: number;
  /** Bytes (proc(5), "VmRSS"). */
  memory: number;
  /** Bytes that no other process shares (proc(5), "smaps_rollup"). */
  own: number;
}

/**
 * By how much the least of the second half may exceed that of the first half. The least: connections of clients, threads
 * of the file system, which end 10 s after their last use, and garbage come and go.
 */
const margins = { descriptors: 1.1, threads: 1.1, memory: 1.1, own: 1.1 };

/** Restarts each program so many times; prints what its processes use. Resolves to whether that stays the same. */
export async function soakPrograms(
  chosen: Program[],
  restarts: number,
  preload?: string,
): Promise<boolean> {
  let isFlat = true;
  for (const program of chosen) {
    const seen: { after: number; figures: Figures }[] = [];
    let done = 0;
    using progress = new Progress(() => `${program.name}: ${done} of ${restarts} restarts`);
    const outcome = await restartUnderLoad(program, {
      restarts,
      preload,
      enough: 200,
      restarted: ({ pid }) => {
        done++;
        if (done % Math.floor(restarts / 10) === 0) {
          seen.push({ after: done, figures: figuresOf(pid) });
        }
      },
    });
    const { requests, refused, lost, failures, stderr } = outcome;
    progress.print(
      `${program.name}: ${restarts} restarts, ${requests} requests, ${refused} refused, ${lost} lost`,
    );
    for (const [what, count] of failures) progress.print(`  ${count} x ${what}`);
    if (stderr) progress.print(`  stderr: ${stderr.trim()}`);
    progress.print(`${table(seen)}\n`);
    isFlat &&= refused + lost === 0 && stays(seen.map(({ figures }) => figures));
  }
  return isFlat;
}

function figuresOf(pid: number): Figures {
  const kilobytes = (text: string, name: string) =>
    Array.from(text.matchAll(new RegExp(`^${name}:\\s+(\\d+) kB`, "gm")))
      .reduce((sum, [, value]) => sum + 1024 * Number(value), 0);
  return {
    descriptors: [...Deno.readDirSync(`/proc/${pid}/fd`)].length,
    threads: [...Deno.readDirSync(`/proc/${pid}/task`)].length,
    memory: kilobytes(readProc(`${pid}/status`)!, "VmRSS"),
    own: kilobytes(readProc(`${pid}/smaps_rollup`)!, "Private_(?:Clean|Dirty)"),
  };
}

/** Whether nothing has grown. */
function stays(seen: Figures[]): boolean {
  const half = Math.floor(seen.length / 2);
  const least = (part: Figures[], name: keyof Figures) =>
    Math.min(...part.map((figures) => figures[name]));
  return (Object.keys(margins) as (keyof Figures)[]).every((name) =>
    least(seen.slice(half), name) <= margins[name] * least(seen.slice(0, half), name)
  );
}

function table(seen: { after: number; figures: Figures }[]): string {
  const megabytes = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  return columns([
    ["after", "descriptors", "threads", "RSS, MB", "private, MB"],
    ...seen.map(({ after, figures: { descriptors, threads, memory, own } }) => [
      `${after} restarts`,
      String(descriptors),
      String(threads),
      megabytes(memory),
      megabytes(own),
    ]),
  ]);
}
