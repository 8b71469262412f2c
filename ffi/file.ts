/**
 * Files by descriptor or path: their status, contents and names.
 *
 * @module
 */

import { c, errnos, statVersion, structs } from "./abi.ts";
import { check, errno, systemError, uninterrupted } from "./errno.ts";
import { closeRaw, owned } from "./fd.ts";
import { cString, libc } from "./libc.ts";
import { quoted } from "./quote.ts";
import { struct } from "./struct.ts";

/** The status of a file: its kind and identity. */
export interface FileStatus {
  kind: "regular" | "pipe" | "directory" | "character device" | "block device" | "socket" | "other";
  /** Device and inode: together they name one file. */
  dev: bigint;
  ino: bigint;
  /** For a device: its own number. */
  rdev: bigint;
  /** Permissions. */
  mode: number;
  /** How many names it has. */
  links: number;
  /** Its owner, and its group. */
  uid: number;
  gid: number;
}

/**
 * The identity of a file, its device and inode, which no other file has while it exists; and a path without symbolic
 * links.
 */
export interface FileIdentity {
  path: string;
  dev: bigint;
  ino: bigint;
}

/** Whether both are the same file. */
export function isSameFile(
  a: { dev: bigint; ino: bigint } | undefined,
  b: { dev: bigint; ino: bigint },
): boolean {
  return a !== undefined && a.dev === b.dev && a.ino === b.ino;
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

/** The same; undefined if the number is not open: another thread may have closed it. */
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
    mode: stat.read(status, "st_mode") & 0o7777,
    links: Number(stat.read(status, "st_nlink")),
    uid: stat.read(status, "st_uid"),
    gid: stat.read(status, "st_gid"),
  };
}

/**
 * Reads a whole small file, such as those of proc(5); undefined if it cannot be read. With `attempt`, a lack of
 * descriptors is an error.
 */
export function readText(path: string, attempt?: string): string | undefined {
  return readWhole(path, rest, attempt);
}

/** The same, as bytes. */
export function readBytes(path: string, attempt?: string): Uint8Array | undefined {
  return readWhole(path, restBytes, attempt);
}

function readWhole<T>(path: string, read: (raw: number) => T, attempt?: string): T | undefined {
  const raw = libc().open(cString(path), c.O_RDONLY | c.O_CLOEXEC, 0);
  if (raw < 0) {
    const code = errno();
    if (attempt && (code === errnos.EMFILE || code === errnos.ENFILE)) {
      throw systemError(code, attempt);
    }
    return undefined;
  }
  try {
    return read(raw);
  } finally {
    closeRaw(raw);
  }
}

/** Opens a file for reading: it can be read later, when no descriptor may be left. */
export function openText(path: string, attempt: string): number {
  return owned(check(libc().open(cString(path), c.O_RDONLY | c.O_CLOEXEC, 0), attempt));
}

/**
 * Reads the whole text of an open file, any number of times: a read at the start of a file of proc(5) makes its text
 * anew (fs/seq_file.c, `seq_read_iter`).
 */
export function reread(raw: number, attempt: string): string {
  check(Number(libc().lseek(raw, 0n, c.SEEK_SET)), attempt);
  const text = rest(raw);
  if (text === undefined) throw systemError(errno(), attempt);
  return text;
}

/** Reads the rest of a file; undefined if that fails. */
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

/** The same, as bytes. */
function restBytes(raw: number): Uint8Array | undefined {
  let bytes = new Uint8Array(8192);
  for (let length = 0;;) {
    if (length === bytes.length) {
      const more = new Uint8Array(2 * length);
      more.set(bytes);
      bytes = more;
    }
    const room = bytes.subarray(length);
    const n = Number(uninterrupted(() => libc().read(raw, room, BigInt(room.length))));
    if (n < 0) return undefined;
    if (n === 0) return bytes.subarray(0, length);
    length += n;
  }
}

/** Whether `path` is a file that this process may run (access(2)). */
export function isProgram(path: string): boolean {
  return pathStatus(path)?.kind === "regular" && libc().access(cString(path), c.X_OK) === 0;
}

/** Makes a file without a path, which ends with its last descriptor (memfd_create(2)). */
export function createMemoryFile(name: string, attempt: string): number {
  const { memfd_create } = libc();
  if (!memfd_create) throw new Deno.errors.NotSupported(`${attempt}: there is no memfd_create(2)`);
  return check(memfd_create(cString(name), c.MFD_CLOEXEC), attempt);
}

/** Writes one byte of a file; bytes before it that were not written are 0. */
export function writeByteAt(raw: number, offset: number, value: number): void {
  const written = libc().pwrite(raw, Uint8Array.of(value), 1n, BigInt(offset));
  check(Number(written), () => `Cannot write to descriptor ${raw}`);
}

/** Reads all bytes of a short file. */
export function bytesOf(raw: number, attempt: string): Uint8Array {
  const size = check(Number(libc().lseek(raw, 0n, c.SEEK_END)), attempt);
  check(Number(libc().lseek(raw, 0n, c.SEEK_SET)), attempt);
  const bytes = new Uint8Array(size);
  const n = uninterrupted(() => libc().read(raw, bytes, BigInt(size)));
  return bytes.subarray(0, check(n, attempt));
}

/** The start of a directory entry (getdents(2), `struct linux_dirent64`), before its name. */
const entry = struct({ d_ino: "u64", d_off: "i64", d_reclen: "u16", d_type: "u8" });

/** The names in a directory, but not "." and "..". */
export function readDirectory(path: string, attempt: string): string[] {
  const raw = check(libc().open(cString(path), c.O_RDONLY | c.O_CLOEXEC, 0), attempt);
  try {
    return Array.from(records(raw, attempt), ({ name }) => name());
  } finally {
    closeRaw(raw);
  }
}

/**
 * The names of the symbolic links in a directory; undefined if it cannot be read, as that of a process which ends
 * meanwhile, or has more than `most` names.
 * Names whose kind the file system does not tell are among them.
 */
export function linksIn(path: string, most: number): string[] | undefined {
  const raw = libc().open(cString(path), c.O_RDONLY | c.O_CLOEXEC, 0);
  if (raw < 0) return undefined;
  try {
    const links: string[] = [];
    let read = 0;
    for (const { type, name } of records(raw, "")) {
      if (read++ === most) return undefined;
      if (type === c.DT_LNK || type === c.DT_UNKNOWN) links.push(name());
    }
    return links;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  } finally {
    closeRaw(raw);
  }
}

/** The entries of an open directory, without "." and "..". */
function* records(
  raw: number,
  attempt: string,
): Generator<{ type: number; name: () => string }> {
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(32768);
  const position = new Uint8Array(8);
  for (;;) {
    const n = Number(libc().getdirentries(raw, chunk, BigInt(chunk.length), position));
    if (check(n, attempt) === 0) return;
    for (let at = 0; at < n; at += entry.read(chunk, "d_reclen", at)) {
      const start = at + entry.offset("d_type") + 1;
      const [first, second, third] = chunk.subarray(start, start + 3);
      if (first === dot && (second === 0 || second === dot && third === 0)) continue;
      const type = entry.read(chunk, "d_type", at);
      yield { type, name: () => decoder.decode(chunk.subarray(start, chunk.indexOf(0, start))) };
    }
  }
}

const dot = 0x2e;

/** Opens `path` for writing. */
export function openToWrite(path: string): number {
  return check(
    libc().open(cString(path), c.O_WRONLY | c.O_CLOEXEC, 0),
    () => `Cannot open ${path}`,
  );
}

/**
 * Replaces the file at `path`, in one step: a file of mode 0644 with this text is written beside it, and renamed over it
 * (rename(2)).
 */
export function replaceFile(path: string, text: string, attempt: string): void {
  const beside = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  const flags = c.O_WRONLY | c.O_CREAT | c.O_EXCL | c.O_CLOEXEC;
  const raw = check(libc().open(cString(beside), flags, 0o644), attempt);
  try {
    const bytes = new TextEncoder().encode(text);
    const written = libc().write(raw, bytes, BigInt(bytes.length));
    if (Number(check(Number(written), attempt)) < bytes.length) {
      throw systemError(errnos.ENOSPC, attempt);
    }
    check(libc().rename(cString(beside), cString(path)), attempt);
  } catch (error) {
    unlink(beside);
    throw error;
  } finally {
    closeRaw(raw);
  }
}

/**
 * Opens the read end of the pipe that `raw` writes to; undefined if `raw` is no pipe. While it is open, a write to
 * the pipe does not fail with EPIPE (pipe(7)).
 */
export function openReadEnd(raw: number): number | undefined {
  if (statusOf(raw)?.kind !== "pipe") return undefined;
  const flags = c.O_RDONLY | c.O_NONBLOCK | c.O_CLOEXEC;
  const end = libc().open(cString(`/proc/self/fd/${raw}`), flags, 0);
  return end < 0 ? undefined : end;
}

/** The target of the symbolic link at `path`; undefined if there is none. */
export function readLink(path: string): string | undefined {
  const target = new Uint8Array(c.PATH_MAX);
  const n = Number(libc().readlink(cString(path), target, BigInt(target.length)));
  return n < 0 ? undefined : new TextDecoder().decode(target.subarray(0, n));
}

/** Opens a file or directory for its name alone (O_PATH): "/proc/self/fd/N" is a short path to it. */
export function openName(path: string, attempt: string): number {
  return check(libc().open(cString(path), c.O_PATH | c.O_CLOEXEC, 0), attempt);
}

/**
 * Runs `step` in another directory if the working directory was removed: relative paths lead nowhere there, and
 * before 2.8.3 Deno.Command fails, whatever its `cwd`. (The directory is that of all threads.)
 */
export function outOfRemoved<T>(path: string, step: () => T): T {
  if (!readLink("/proc/self/cwd")?.endsWith(" (deleted)")) return step();
  const attempt = `Cannot go to ${quoted(path)}`;
  const there = openName(path, attempt);
  const here = openName("/proc/self/cwd", attempt);
  try {
    check(libc().fchdir(there), attempt);
    return step();
  } finally {
    libc().fchdir(here);
    closeRaw(there);
    closeRaw(here);
  }
}

/**
 * Opens the file at `path`, made if need be, and locks it (flock(2)); undefined while another process
 * has it locked. `unlockFile`, or the end of the process, unlocks it.
 *
 * flock(2) takes a descriptor that is open for reading: every user may read and lock the file, whose mode is 0644,
 * whatever the umask. An existing file is opened without O_CREAT first, which in a
 * directory with the sticky bit is refused for another user's file (proc(5), "protected_regular").
 */
export function lockFile(path: string, attempt: string): number | undefined {
  for (;;) {
    const raw = openLock(path, attempt);
    const locked = uninterrupted(() => libc().flock(raw, c.LOCK_EX | c.LOCK_NB));
    const code = locked < 0 ? errno() : 0;
    const { kind, dev, ino } = fileStatus(raw);
    // The process that had it locked before has removed it, as a rule.
    if (code === 0 && isSameFile(pathStatus(path), { dev, ino })) return raw;
    closeRaw(raw);
    if (code === 0) continue;
    if (code === errnos.EAGAIN) return undefined;
    throw systemError(code, `${attempt}: it is a ${kind} file`);
  }
}

/** A descriptor of the file to lock. */
function openLock(path: string, attempt: string): number {
  const name = cString(path);
  // The last one is for a FIFO, which would wait for a writer (open(2)).
  const flags = c.O_RDONLY | c.O_CLOEXEC | c.O_NOFOLLOW | c.O_NONBLOCK;
  for (;;) {
    const there = libc().open(name, flags, 0);
    if (there >= 0) {
      const { kind } = fileStatus(there);
      if (kind === "regular") return there;
      closeRaw(there);
      throw systemError(errnos.EEXIST, `${attempt}: there is a ${kind} in its place`);
    }
    let code = errno();
    if (code === errnos.ENOENT) {
      const made = libc().open(name, flags | c.O_CREAT | c.O_EXCL, 0o644);
      if (made >= 0) {
        // Fails on file systems without modes, where there is nothing to change.
        libc().fchmod(made, 0o644);
        return made;
      }
      code = errno();
      if (code === errnos.EEXIST) continue;
    }
    const why = code === errnos.ELOOP ? ": it is a symbolic link" : "";
    throw systemError(code, attempt + why);
  }
}

/** Removes the file that `lockFile` has locked, if this process may, and unlocks it. */
export function unlockFile(path: string, raw: number): void {
  if (isSameFile(pathStatus(path), fileStatus(raw))) unlink(path);
  closeRaw(raw);
}

/** The identity of the file at `path`, and its path without symbolic links; undefined if there is none. */
export function locate(path: string): FileIdentity & { kind: FileStatus["kind"] } | undefined {
  const raw = libc().open(cString(path), c.O_PATH | c.O_CLOEXEC, 0);
  if (raw < 0) {
    // No descriptor may be left.
    const status = pathStatus(path);
    return status && { ...status, path };
  }
  try {
    const status = fileStatus(raw);
    return { ...status, path: readLink(`/proc/self/fd/${raw}`) ?? path };
  } finally {
    closeRaw(raw);
  }
}

/** Gives a file a further name (link(2)). */
export function link(from: string, to: string): void {
  check(
    libc().link(cString(from), cString(to)),
    () => `Cannot link ${quoted(from)} to ${quoted(to)}`,
  );
}

/** Removes a name (unlink(2)); gives whether it existed. */
export function unlink(path: string): boolean {
  return libc().unlink(cString(path)) === 0;
}

/** Renames a file; `to` is replaced in one step (rename(2)). */
export function rename(from: string, to: string): void {
  check(
    libc().rename(cString(from), cString(to)),
    () => `Cannot rename ${quoted(from)} to ${quoted(to)}`,
  );
}

/** The present path of a file that was opened by `openName`, also after it was renamed; undefined if it has none. */
export function presentName(raw: number): string | undefined {
  return fileStatus(raw).links > 0 ? readLink(`/proc/self/fd/${raw}`) : undefined;
}

/**
 * Changes the mode of a file, if `path` leads to that very file and the mode differs (chmod(2)); another file there
 * is left unchanged.
 */
export function setMode(path: string, mode: number, file: { dev: bigint; ino: bigint }): void {
  const attempt = () => `Cannot change the mode of ${quoted(path)}`;
  const raw = check(libc().open(cString(path), c.O_PATH | c.O_CLOEXEC, 0), attempt);
  try {
    const status = fileStatus(raw);
    if (!isSameFile(status, file) || status.mode === mode) return;
    // fchmod(2) refuses such a descriptor; its name leads to no other file.
    check(libc().chmod(cString(`/proc/self/fd/${raw}`), mode), attempt);
  } finally {
    closeRaw(raw);
  }
}

/** The offset of the open file description; -1 when it has none (a pipe, a terminal). */
export function offsetOf(raw: number): number {
  return Number(libc().lseek(raw, 0n, c.SEEK_CUR));
}
