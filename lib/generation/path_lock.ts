/**
 * The lock of a control path: one process at a time binds or removes it.
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

/** Options of {@linkcode locked}. */
export interface LockOptions {
  /** How long to wait for the lock, in milliseconds; a warning is logged after half of it. */
  timeout: number;
  /** Where to warn. */
  logger: Logger;
  /** Ends the wait. */
  signal?: AbortSignal;
}

/**
 * Runs `step` while this process holds the lock of `path`: a locked file beside it, which is removed again. A synchronous
 * step is run without an await: no timer or signal handler can end this process while it holds the lock.
 *
 * @throws {HandoverError} When another process holds the lock for `timeout`: `code` is "ERR_HANDOVER_TIMEOUT".
 */
export async function locked<T>(
  path: string,
  step: () => T | Promise<T>,
  { timeout, logger, signal }: LockOptions,
): Promise<T> {
  const lock = `${checkControlPath(path)}.lock`;
  const began = performance.now();
  let isWarned = false;
  for (let delay = 5;; delay = Math.min(2 * delay, 50)) {
    const raw = tryLock(path, lock);
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
      throw new HandoverError(`${what}: ${holderOf(lock)}`, "ERR_HANDOVER_TIMEOUT");
    }
    if (!isWarned && waited >= timeout / 2) {
      isWarned = true;
      logger.warn?.(
        `Waiting for ${Math.round(waited)} ms to lock the control path ${
          formatPath(path)
        }, and for ` +
          `${timeout} ms (\`peerTimeout\`) at most: ${holderOf(lock)}`,
      );
    }
    await pause(Math.min(delay, Math.max(1, timeout - waited)), signal);
  }
}

/** @throws {TypeError} For a name in the abstract namespace: no file can be beside it. */
function checkControlPath(path: string): string {
  if (!path.startsWith("\0")) return path;
  throw new TypeError(`A control socket is a path in the file system, not ${formatPath(path)}`);
}

/** The process that holds a lock, for a message. */
function holderOf(lock: string): string {
  const file = pathStatus(lock);
  const pid = file && lockHolder(file);
  if (!pid) return `a process that cannot be seen from here holds ${quoted(lock)}: end it`;
  const program = programOf(pid);
  const name = program === undefined ? "" : ` (${quoted(program)})`;
  return `process ${pid}${name} holds ${
    quoted(lock)
  }: if it is not about to start or to stop, end it`;
}

/**
 * Locks the file, or returns undefined when another process holds it.
 *
 * @throws {Deno.errors.NotFound} When there is no directory for it.
 */
function tryLock(path: string, lock: string): number | undefined {
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

/** Advice by the error code of the file. */
const advices: Record<string, string> = {
  EACCES: "remove that file if another user has left it",
  EROFS: "choose a path on a file system that can be written to",
  ENOSPC: "make room on its file system",
  EDQUOT: "make room on its file system",
  EEXIST: "move it away",
  ELOOP: "remove it",
};
