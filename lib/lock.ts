/**
 * Who may bind a control path, or remove it: one process at a time.
 *
 * @module
 */

import { Fd } from "../ffi/fd.ts";
import { lockFile } from "../ffi/file.ts";
import { formatPath } from "../ffi/sockaddr.ts";
import { pause } from "../ffi/time.ts";

/**
 * Runs `step` while no other process does the like for the same path. What does not wait in there
 * cannot be stopped with the lock in its hands.
 */
export async function locked<T>(
  path: string,
  step: () => T | Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  if (path.startsWith("\0")) {
    throw new TypeError(`A control socket is a path in the file system, not ${formatPath(path)}`);
  }
  for (;;) {
    const raw = lockOf(path);
    if (raw !== undefined) {
      using _lock = new Fd(raw);
      const result = step();
      return result instanceof Promise ? await result : result;
    }
    await pause(5, signal);
  }
}

/** @throws {Deno.errors.NotFound} When there is no directory to lock it in. */
function lockOf(path: string): number | undefined {
  try {
    return lockFile(`${path}.lock`, `Cannot lock ${formatPath(path)}`);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    const what = `There is no directory for the control socket ${formatPath(path)}: create it`;
    throw Object.assign(new Deno.errors.NotFound(what), { code: "ENOENT", cause });
  }
}
