/**
 * Who may bind a control path, or remove it: one process at a time.
 *
 * @module
 */

import { lockFile, pathStatus, unlockFile } from "../../ffi/file.ts";
import { lockHolder, programOf } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { pause } from "../time.ts";
import { HandoverError } from "../errors.ts";
import type { Logger } from "../logger.ts";

/** How to wait for the lock. */
export interface LockOptions {
  /** Milliseconds after which waiting is an error; a warning is logged after half of them. */
  timeout: number;
  logger: Logger;
  signal?: AbortSignal;
}

/**
 * Runs `step` while no other process does the like for the same path. What does not wait in there
 * cannot be stopped with the lock in its hands. The lock is a file beside the path, which is removed again.
 *
 * @throws {HandoverError} When another process has the lock for all of the time.
 */
export async function locked<T>(
  path: string,
  step: () => T | Promise<T>,
  { timeout, logger, signal }: LockOptions,
): Promise<T> {
  const lock = `${checkControlPath(path)}.lock`;
  const began = performance.now();
  let warned = false;
  for (let delay = 5;; delay = Math.min(2 * delay, 50)) {
    const raw = lockOf(path, lock);
    if (raw !== undefined) {
      try {
        const result = step();
        return result instanceof Promise ? await result : result;
      } finally {
        unlockFile(lock, raw);
      }
    }
    const waited = performance.now() - began;
    if (waited >= timeout) {
      const what = `Cannot lock the control path ${formatPath(path)} within ${timeout} ms`;
      throw new HandoverError(`${what}: ${heldBy(lock)}`, "ERR_HANDOVER_TIMEOUT");
    }
    if (!warned && waited >= timeout / 2) {
      warned = true;
      logger.warn?.(
        `Waiting for ${Math.round(waited)} ms to lock the control path ${
          formatPath(path)
        }, and for ` +
          `${timeout} ms (\`peerTimeout\`) at most: ${heldBy(lock)}`,
      );
    }
    await pause(Math.min(delay, Math.max(1, timeout - waited)), signal);
  }
}

/** @throws {TypeError} For a name in the abstract namespace: there is nothing beside it to lock. */
function checkControlPath(path: string): string {
  if (!path.startsWith("\0")) return path;
  throw new TypeError(`A control socket is a path in the file system, not ${formatPath(path)}`);
}

function heldBy(lock: string): string {
  const file = pathStatus(lock);
  const pid = file && lockHolder(file);
  if (!pid) return `a process that cannot be seen from here holds ${quoted(lock)}: end it`;
  const program = programOf(pid);
  const name = program === undefined ? "" : ` (${quoted(program)})`;
  return `process ${pid}${name} holds ${
    quoted(lock)
  }: if it is not about to start or to leave, end it`;
}

/** @throws {Deno.errors.NotFound} When there is no directory to lock it in. */
function lockOf(path: string, lock: string): number | undefined {
  try {
    return lockFile(lock, `Cannot lock the control path ${formatPath(path)} by ${quoted(lock)}`);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) {
      const what = `There is no directory for the control socket ${formatPath(path)}: create it`;
      throw Object.assign(new Deno.errors.NotFound(what), { code: "ENOENT", cause });
    }
    const { code } = cause as { code?: string };
    const advice = advices[code ?? ""];
    if (advice) (cause as Error).message += `: ${advice}`;
    throw cause;
  }
}

/** What to do, by why the file cannot be made or opened. */
const advices: Record<string, string> = {
  EACCES: "remove that file if another user has left it",
  EROFS: "choose a path on a file system that can be written to",
  ENOSPC: "make room on its file system",
  EDQUOT: "make room on its file system",
  EEXIST: "move it away",
  ELOOP: "remove it",
};
