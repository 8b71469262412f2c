/**
 * Finds the descriptor of a file.
 *
 * @module
 */

import { Fd, isWritable, rawOf } from "../../ffi/fd.ts";
import { offsetOf, statusOf } from "../../ffi/file.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import type { FileLike } from "./objects.ts";
import { remembered } from "./registry.ts";
import { known, search } from "./search.ts";

/** The descriptor of a file, as a duplicate that is the caller's. */
export function fileDescriptor(object: FileLike): Fd {
  if (typeof object === "number" || object instanceof Fd) return known(object)!;
  return search(
    () => {
      const file = resourceFile(object) ?? object;
      if ("fd" in file) return { candidates: [rawOf(file.fd)], what: `file ${file.fd}` };
      // Throws for a closed file, even if its number is open on the same file again.
      const { dev, ino } = file.statSync();
      const own = remembered(file);
      if (own !== undefined) return { candidates: [own], what: `the file with inode ${ino}` };
      const candidates = openDescriptors().filter((raw) => {
        const status = statusOf(raw);
        return status && Number(status.dev) === dev && Number(status.ino) === ino;
      });
      return {
        candidates: candidates.length > 1 ? tellFile(file, candidates) : candidates,
        what: `the file with inode ${ino}`,
      };
    },
    object,
    "file",
  ).fd;
}

/**
 * Before Deno 2.7.12 the `fd` of node's `FileHandle` is the number of a resource of Deno, and not a descriptor: this
 * gives the resource as Deno's own object.
 */
function resourceFile(file: object): Deno.FsFile | undefined {
  if (file.constructor?.name !== "FileHandle") return undefined;
  const [major, minor, patch] = Deno.version.deno.split(/[.+-]/).map(Number);
  if (major > 2 || minor > 7 || (minor === 7 && patch >= 12)) return undefined;
  type Internal = new (resource: number, key: symbol) => Deno.FsFile;
  const { fd } = file as { fd: number };
  return new (Deno.FsFile as unknown as Internal)(fd, Symbol.for("Deno.internal.FsFile"));
}

/**
 * Finds which of several descriptors of one file the object has: the one whose offset changes when the object seeks.
 * A pipe or device has no offset: it is found by whether it can be written to, and any descriptor of that end does.
 * The candidates themselves are not touched: they may belong to another thread.
 */
function tellFile(file: Deno.FsFile, candidates: number[]): number[] {
  const before = offsetIn(file);
  if (before === undefined) {
    const writable = canWrite(file);
    return candidates.filter((raw) => isWritable(raw) === writable);
  }
  const magic = 2 ** 40 + Math.floor(Math.random() * 2 ** 30);
  try {
    file.seekSync(magic, Deno.SeekMode.Start);
    return candidates.filter((raw) => offsetOf(raw) === magic);
  } finally {
    file.seekSync(before, Deno.SeekMode.Start);
  }
}

/** The object's offset; undefined when it has none. */
function offsetIn(file: Deno.FsFile): number | undefined {
  if (!file.statSync().isFile) return undefined;
  return file.seekSync(0, Deno.SeekMode.Current);
}

/** Whether an empty write fails for the access mode (write(2), EBADF). */
function canWrite(file: Deno.FsFile): boolean {
  try {
    file.writeSync(new Uint8Array(0));
    return true;
  } catch {
    // An empty write has no other reason to fail.
    return false;
  }
}
