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

/** How much more than after the first tenth counts as growth: descriptors of clients come and go. */
const margins = { descriptors: 5, threads: 2, memory: 1.15, own: 1.15 };

/** Restarts each program so many times; prints what its processes use. Resolves to whether that stays the same. */
export async function soakPrograms(chosen: Program[], restarts: number): Promise<boolean> {
  let isFlat = true;
  for (const program of chosen) {
    const seen: { after: number; figures: Figures }[] = [];
    let done = 0;
    using progress = new Progress(() => `${program.name}: ${done} of ${restarts} restarts`);
    const outcome = await restartUnderLoad(program, {
      restarts,
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
    isFlat &&= refused + lost === 0 && stays(seen[0].figures, seen.at(-1)!.figures);
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

/** Whether the last figures are about those of the first tenth. */
function stays(first: Figures, last: Figures): boolean {
  return last.descriptors - first.descriptors <= margins.descriptors &&
    last.threads - first.threads <= margins.threads &&
    last.memory <= margins.memory * first.memory &&
    last.own <= margins.own * first.own;
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
