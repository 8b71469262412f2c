/**
 * Files by number or path: what fstat(2) tells, and the few calls on names.
 *
 * @module
 */

import { c, errnos, statVersion, structs } from "./abi.ts";
import { check, errno, systemError, uninterrupted } from "./errno.ts";
import { closeRaw } from "./fd.ts";
import { cString, libc } from "./libc.ts";
import { quoted } from "./quote.ts";
import { struct } from "./struct.ts";

/** What kind of file a descriptor is open on, and which one. */
export interface FileStatus {
  kind: "regular" | "pipe" | "directory" | "character device" | "block device" | "socket" | "other";
  /** Device and inode: together they name one file. */
  dev: bigint;
  ino: bigint;
  /** For a device: its own number. */
  rdev: bigint;
}

const kinds: Record<number, FileStatus["kind"]> = {
  [c.S_IFREG]: "regular",
  [c.S_IFIFO]: "pipe",
  [c.S_IFDIR]: "directory",
  [c.S_IFCHR]: "character device",
  [c.S_IFBLK]: "block device",
  [c.S_IFSOCK]: "socket",
};

/** fstat(2). */
export function fileStatus(raw: number): FileStatus {
  const status = statusOf(raw);
  if (status) return status;
  throw systemError(errno(), `Cannot read the status of descriptor ${raw}`);
}

/** The same; undefined when it is not open, which another thread may have seen to by now. */
export function statusOf(raw: number): FileStatus | undefined {
  const status = new Uint8Array(structs.stat.size);
  const { fstat } = libc();
  const result = fstat ? fstat(raw, status) : libc().__fxstat!(statVersion, raw, status);
  return result < 0 ? undefined : unpackStatus(status);
}

/** The status of the file at `path`, for which no descriptor is opened; undefined when there is none. */
export function pathStatus(path: string): FileStatus | undefined {
  const status = new Uint8Array(structs.stat.size);
  const { fstatat } = libc();
  const name = cString(path);
  const result = fstatat
    ? fstatat(c.AT_FDCWD, name, status, 0)
    : libc().__fxstatat!(statVersion, c.AT_FDCWD, name, status, 0);
  return result < 0 ? undefined : unpackStatus(status);
}

function unpackStatus(status: Uint8Array<ArrayBuffer>): FileStatus {
  const { stat } = structs;
  return {
    kind: kinds[stat.read(status, "st_mode") & c.S_IFMT] ?? "other",
    dev: stat.read(status, "st_dev"),
    ino: stat.read(status, "st_ino"),
    rdev: stat.read(status, "st_rdev"),
  };
}

/**
 * Reads a whole small file, such as those of proc(5); undefined when it cannot be read. With `attempt`, that
 * no descriptor is left is an error.
 */
export function readText(path: string, attempt?: string): string | undefined {
  const raw = libc().open(cString(path), c.O_RDONLY | c.O_CLOEXEC, 0);
  if (raw < 0) {
    const code = errno();
    if (attempt && (code === errnos.EMFILE || code === errnos.ENFILE)) {
      throw systemError(code, attempt);
    }
    return undefined;
  }
  try {
    return rest(raw);
  } finally {
    closeRaw(raw);
  }
}

/** Opens a file to read: kept open, it can be read also when no descriptor is left. */
export function openText(path: string, attempt: string): number {
  return check(libc().open(cString(path), c.O_RDONLY | c.O_CLOEXEC, 0), attempt);
}

/**
 * The whole text of an open file, any number of times: a read at the beginning of a file of proc(5) makes
 * its text anew (fs/seq_file.c, `seq_read_iter`).
 */
export function reread(raw: number, attempt: string): string {
  check(Number(libc().lseek(raw, 0n, c.SEEK_SET)), attempt);
  const text = rest(raw);
  if (text === undefined) throw systemError(errno(), attempt);
  return text;
}

/** What is left to read of a file; undefined when that fails. */
function rest(raw: number): string | undefined {
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(8192);
  let text = "";
  for (;;) {
    const n = uninterrupted(() => libc().read(raw, chunk, BigInt(chunk.length)));
    if (n < 0) return undefined;
    if (n === 0) return text + decoder.decode();
    text += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
}

/** A file that has no path, and goes when its last descriptor is closed (memfd_create(2)). */
export function createMemoryFile(name: string, attempt: string): number {
  const { memfd_create } = libc();
  if (!memfd_create) throw new Deno.errors.NotSupported(`${attempt}: there is no memfd_create(2)`);
  return check(memfd_create(cString(name), c.MFD_CLOEXEC), attempt);
}

/** Writes one byte of a file; what is before it and was not written is 0. */
export function writeByteAt(raw: number, offset: number, value: number): void {
  const written = libc().pwrite(raw, Uint8Array.of(value), 1n, BigInt(offset));
  check(Number(written), () => `Cannot write to descriptor ${raw}`);
}

/** All bytes of a file that is not long. */
export function bytesOf(raw: number, attempt: string): Uint8Array {
  const size = check(Number(libc().lseek(raw, 0n, c.SEEK_END)), attempt);
  check(Number(libc().lseek(raw, 0n, c.SEEK_SET)), attempt);
  const bytes = new Uint8Array(size);
  const n = uninterrupted(() => libc().read(raw, bytes, BigInt(size)));
  return bytes.subarray(0, check(n, attempt));
}

/** The start of a directory's record (getdents(2), `struct linux_dirent64`); its name comes behind. */
const entry = struct({ d_ino: "u64", d_off: "i64", d_reclen: "u16", d_type: "u8" });

/** The names in a directory, but not "." and "..". */
export function readDirectory(path: string, attempt: string): string[] {
  const raw = check(libc().open(cString(path), c.O_RDONLY | c.O_CLOEXEC, 0), attempt);
  try {
    const names: string[] = [];
    const decoder = new TextDecoder();
    const chunk = new Uint8Array(32768);
    const position = new Uint8Array(8);
    for (;;) {
      const n = Number(libc().getdirentries(raw, chunk, BigInt(chunk.length), position));
      if (check(n, attempt) === 0) return names;
      for (let at = 0; at < n; at += entry.read(chunk, "d_reclen", at)) {
        const start = at + entry.offset("d_type") + 1;
        const name = decoder.decode(chunk.subarray(start, chunk.indexOf(0, start)));
        if (name !== "." && name !== "..") names.push(name);
      }
    }
  } finally {
    closeRaw(raw);
  }
}

/** Opens `path` for writing alone. */
export function openToWrite(path: string): number {
  return check(
    libc().open(cString(path), c.O_WRONLY | c.O_CLOEXEC, 0),
    () => `Cannot open ${path}`,
  );
}

/**
 * Opens the other end of the pipe that `raw` writes to; undefined when it is none. As long as it is open,
 * a write to the pipe does not fail with EPIPE (pipe(7)).
 */
export function openReadEnd(raw: number): number | undefined {
  if (statusOf(raw)?.kind !== "pipe") return undefined;
  const flags = c.O_RDONLY | c.O_NONBLOCK | c.O_CLOEXEC;
  const end = libc().open(cString(`/proc/self/fd/${raw}`), flags, 0);
  return end < 0 ? undefined : end;
}

/** What the symbolic link at `path` says; undefined when there is none. */
export function readLink(path: string): string | undefined {
  const target = new Uint8Array(c.PATH_MAX);
  const n = Number(libc().readlink(cString(path), target, BigInt(target.length)));
  return n < 0 ? undefined : new TextDecoder().decode(target.subarray(0, n));
}

/** Opens a directory for nothing but its name: "/proc/self/fd/N" is a short one for any. */
export function openDirectory(path: string, attempt: string): number {
  return check(libc().open(cString(path), c.O_PATH | c.O_CLOEXEC, 0), attempt);
}

/**
 * Opens the file at `path`, made if need be, and locks it (flock(2)); undefined while another process
 * has it locked. Closing the descriptor, or the end of the process, unlocks it.
 */
export function lockFile(path: string, attempt: string): number | undefined {
  const flags = c.O_RDWR | c.O_CREAT | c.O_CLOEXEC | c.O_NOFOLLOW;
  const raw = check(libc().open(cString(path), flags, 0o600), attempt);
  if (uninterrupted(() => libc().flock(raw, c.LOCK_EX | c.LOCK_NB)) === 0) return raw;
  const code = errno();
  closeRaw(raw);
  if (code === errnos.EAGAIN) return undefined;
  throw systemError(code, attempt);
}

/** link(2): another name for the same file. */
export function link(from: string, to: string): void {
  check(
    libc().link(cString(from), cString(to)),
    () => `Cannot link ${quoted(from)} to ${quoted(to)}`,
  );
}

/** unlink(2); gives whether there was something to remove. */
export function unlink(path: string): boolean {
  return libc().unlink(cString(path)) === 0;
}

/** rename(2): `to` is replaced in one step. */
export function rename(from: string, to: string): void {
  check(
    libc().rename(cString(from), cString(to)),
    () => `Cannot rename ${quoted(from)} to ${quoted(to)}`,
  );
}

/** chmod(2). */
export function setMode(path: string, mode: number): void {
  check(libc().chmod(cString(path), mode), () => `Cannot change the mode of ${quoted(path)}`);
}

/** The offset of the open file description; -1 when it has none (a pipe, a terminal). */
export function offsetOf(raw: number): number {
  return Number(libc().lseek(raw, 0n, c.SEEK_CUR));
}
