/**
 * Closes descriptors of earlier runs of the program in this process, under `deno run --watch`.
 *
 * A changed file ends a run, and so does an uncaught error; the next run begins in the same process, on the same thread.
 * Deno closes only the descriptors that it has opened itself: without this, the control socket and the ports of the
 * earlier run would stay bound, with no program that accepts.
 *
 * @module
 */

import { closeAll, recordOwners } from "../../ffi/fd.ts";
import { bytesOf, createMemoryFile, pathStatus, readLink, writeByteAt } from "../../ffi/file.ts";
import { argumentsOfDeno, describeDescriptor, openDescriptors } from "../../ffi/proc.ts";

let isRecording = false;

/**
 * Closes the descriptors of earlier runs, and records those of this run from here on.
 *
 * The record is a file in memory: it outlives a run that ends without cleaning up. Records of this thread are of earlier
 * runs, and so are those of ended threads: the workers of an earlier run. Records of other threads are of running
 * workers, which have generations of their own.
 */
export function closeLeftovers(): void {
  if (isRecording || !isWatched()) return;
  isRecording = true;
  // "/proc/thread-self" leads to "PID/task/THREAD" (proc(5)).
  const own = `${readLink("/proc/thread-self")?.split("/").at(-1)}-${runId()}`;
  for (const raw of openDescriptors()) {
    const [, owner, thread] = recordName.exec(describeDescriptor(raw) ?? "") ?? [];
    if (owner === undefined || owner === own) continue;
    if (!own.startsWith(`${thread}-`) && pathStatus(`/proc/self/task/${thread}`)) continue;
    const owned = bytesOf(
      raw,
      "Cannot read which descriptors an earlier run of this program has left open",
    );
    closeAll([...owned.keys()].filter((each) => owned[each] === 1));
    closeAll([raw]);
  }
  const record = createMemoryFile(
    `graceful-owner-${own}`,
    "Cannot record which descriptors this run owns",
  );
  recordOwners((raw, isOwned) => writeByteAt(record, raw, isOwned ? 1 : 0));
}

/** The name of a record in /proc: the thread, and the id of the run. */
const recordName = /^\/memfd:graceful-owner-((\d+)-.*) \(deleted\)$/;

/** Whether this process is a `deno run --watch`, which may run the program again. */
export function isWatched(): boolean {
  return argumentsOfDeno().some((arg) => arg.startsWith("--watch"));
}

/** The id of this run of the program, the same in every copy of this library. */
function runId(): string {
  const global = globalThis as unknown as Record<symbol, string | undefined>;
  return global[Symbol.for("graceful.run")] ??= crypto.randomUUID();
}
