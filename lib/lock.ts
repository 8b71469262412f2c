/**
 * Who may bind a control path, or remove it: one process at a time.
 *
 * @module
 */

import { Fd } from "../ffi/fd.ts";
import { lockFile } from "../ffi/file.ts";
import { pause } from "../ffi/poll.ts";
import { formatPath } from "../ffi/sockaddr.ts";

/** Waits for the lock of the path; it is free again when what this gives is closed, or the process ends. */
export async function lock(path: string, signal?: AbortSignal): Promise<Fd> {
  if (path.startsWith("\0")) {
    throw new TypeError(`A control socket is a path in the file system, not ${formatPath(path)}`);
  }
  for (;;) {
    const raw = lockFile(`${path}.lock`, `Cannot lock ${formatPath(path)}`);
    if (raw !== undefined) return new Fd(raw);
    await pause(5, signal);
  }
}
