/**
 * What an earlier run of the program has left open in this process, under `deno run --watch`.
 *
 * A file that was changed ends the run, and an uncaught error does; the next one begins in the same process, on the
 * same thread. Deno closes what it has opened itself, and nothing else: a control socket would go on accepting, and a
 * port would stay in use, with nobody there.
 *
 * @module
 */

import { closeAll, recordOwners } from "../ffi/fd.ts";
import { bytesOf, createMemoryFile, readLink, readText, writeByteAt } from "../ffi/file.ts";
import { describeDescriptor, openDescriptors } from "../ffi/proc.ts";

let isRecording = false;

/**
 * Closes what earlier runs on this thread have left, and has what this one owns recorded from here on: in a file in
 * memory, which outlives a run that ends without a word. Other threads are those of workers, which have
 * generations of their own.
 */
export function closeLeftovers(): void {
  if (isRecording || !isWatched()) return;
  isRecording = true;
  // "PID/task/THREAD" (proc(5)).
  const thread = readLink("/proc/thread-self")?.split("/").at(-1);
  const prefix = `graceful-owner-${thread}-`;
  const own = prefix + identity();
  for (const raw of openDescriptors()) {
    const name = /^\/memfd:(.*) \(deleted\)$/.exec(describeDescriptor(raw) ?? "")?.[1];
    if (!name?.startsWith(prefix) || name === own) continue;
    const owned = bytesOf(raw, "Cannot read what an earlier run of this program has left open");
    closeAll([...owned.keys()].filter((each) => owned[each] === 1));
    closeAll([raw]);
  }
  const record = createMemoryFile(own, "Cannot record which descriptors this run owns");
  recordOwners((raw, isOwned) => writeByteAt(record, raw, isOwned ? 1 : 0));
}

/** Whether Deno may run the program again in this process. */
function isWatched(): boolean {
  const all = readText("/proc/self/cmdline")?.split("\0").slice(1, -1) ?? [];
  const ofDeno = all.slice(0, all.length - Deno.args.length);
  return ofDeno.some((arg) => arg.startsWith("--watch"));
}

/** What tells this run from others of the process; another copy of this library in the run has the same. */
function identity(): string {
  const global = globalThis as unknown as Record<symbol, string | undefined>;
  return global[Symbol.for("graceful.run")] ??= crypto.randomUUID();
}
