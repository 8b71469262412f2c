/**
 * Makes a native Deno file of a descriptor.
 *
 * @module
 */

import { type Fd, isAppending, rawOf, replace, setNonblocking } from "../../ffi/fd.ts";
import { fileStatus, statusOf } from "../../ffi/file.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { UnsupportedRuntimeError } from "../errors.ts";
import { release } from "./adoption.ts";
import { wrong } from "./kind.ts";
import { remember } from "./registry.ts";

/**
 * Makes a file, pipe or terminal a native `Deno.FsFile`; the offset is shared with every process
 * that has the file open. The descriptor becomes the file's.
 *
 * ```ts
 * import { fdFile, fileHandler, listenAndServe, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * using old = await Deno.open(await Deno.makeTempFile(), { append: true });
 * await using _server = listenAndServe(path, fileHandler(old));
 *
 * await receive(path, async (fd) => {
 *   using file = fdFile(fd);
 *   await file.write(new TextEncoder().encode("one more line\n"));
 * });
 * ```
 *
 * @throws {WrongDescriptorError} When it is a socket or something else that Deno cannot read.
 * @throws {Deno.errors.BadResource} When it is not open.
 */
export function fdFile(fd: Fd | number): Deno.FsFile {
  const raw = rawOf(fd);
  const { kind } = fileStatus(raw);
  if (kind === "socket" || kind === "directory" || kind === "other") throw wrong(raw, "a file");
  // Deno reads files on a thread that blocks: with O_NONBLOCK a read would fail with EAGAIN.
  if (kind !== "regular") setNonblocking(raw, false);
  const { dummy, place } = dummyFile(raw);
  remember(dummy, place);
  release(fd);
  return dummy;
}

/**
 * Makes a native file with a duplicate of `raw`. Files are in no epoll: the number of the dummy is found because no
 * other descriptor has /dev/null open in the same way. Other threads may open it so at the same moment: all of them
 * try again then.
 */
function dummyFile(raw: number): { dummy: Deno.FsFile; place: number } {
  for (let tries = 0; tries < 1000; tries++) {
    const dummy = Deno.openSync("/dev/null", { read: true, append: true });
    const [place, ...others] = openDescriptors().filter(isAppendingNull);
    if (place !== undefined && others.length === 0) {
      try {
        replace(raw, place);
      } catch (error) {
        dummy.close();
        throw error;
      }
      return { dummy, place };
    }
    dummy.close();
    const until = performance.now() + Math.random();
    while (performance.now() < until);
  }
  throw new UnsupportedRuntimeError(
    "Cannot adopt a file: the number of a file that is opened cannot be told",
  );
}

/** Whether `raw` is open on /dev/null, character device 1:3, for reading and appending. */
function isAppendingNull(raw: number): boolean {
  if (!isAppending(raw)) return false;
  const status = statusOf(raw);
  return status?.kind === "character device" && status.rdev === 0x103n;
}
