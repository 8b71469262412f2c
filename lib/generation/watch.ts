/**
 * What an earlier run of the program has left open in this process, under `deno run --watch`.
 *
 * A file that was changed ends the run, and an uncaught error does; the next one begins in the same process, on the
 * same thread. Deno closes what it has opened itself, and nothing else: a control socket would go on accepting, and a
 * port would stay in use, without a program that accepts.
 *
 * @module
 */

import { closeAll, recordOwners } from "../../ffi/fd.ts";
import { bytesOf, createMemoryFile, pathStatus, readLink, writeByteAt } from "../../ffi/file.ts";
import { argumentsOfDeno, describeDescriptor, openDescriptors } from "../../ffi/proc.ts";

let isRecording = false;

/**
 * Closes what earlier runs on this thread have left, and those on threads that have ended, as workers of an earlier run
 * have; and has what this one owns recorded from here on: in a file in memory, which outlives a run that ends without a
 * word. Threads that go on are those of other workers, which have generations of their own.
 */
export function closeLeftovers(): void {
  if (isRecording || !isWatched()) return;
  isRecording = true;
  // "PID/task/THREAD" (proc(5)).
  const own = `${readLink("/proc/thread-self")?.split("/").at(-1)}-${identity()}`;
  for (const raw of openDescriptors()) {
    const [, owner, thread] = ownerNamed.exec(describeDescriptor(raw) ?? "") ?? [];
    if (owner === undefined || owner === own) continue;
    if (!own.startsWith(`${thread}-`) && pathStatus(`/proc/self/task/${thread}`)) continue;
    const owned = bytesOf(raw, "Cannot read what an earlier run of this program has left open");
    closeAll([...owned.keys()].filter((each) => owned[each] === 1));
    closeAll([raw]);
  }
  const record = createMemoryFile(
    `graceful-owner-${own}`,
    "Cannot record which descriptors this run owns",
  );
  recordOwners((raw, isOwned) => writeByteAt(record, raw, isOwned ? 1 : 0));
}

/** How /proc names the file of a run: by its thread, and by what tells it from others there. */
const ownerNamed = /^\/memfd:graceful-owner-((\d+)-.*) \(deleted\)$/;

/** Whether Deno may run the program again in this process. */
export function isWatched(): boolean {
  return argumentsOfDeno().some((arg) => arg.startsWith("--watch"));
}

/** What tells this run from others of the process; another copy of this library in the run has the same. */
function identity(): string {
  const global = globalThis as unknown as Record<symbol, string | undefined>;
  return global[Symbol.for("graceful.run")] ??= crypto.randomUUID();
}
