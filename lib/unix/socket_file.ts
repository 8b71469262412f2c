/**
 * The file of a unix socket: the path that leads to it may be removed, renamed, or be another socket's by now.
 *
 * @module
 */

import { isBoundTo } from "../../ffi/diag.ts";
import { Fd } from "../../ffi/fd.ts";
import {
  type FileIdentity,
  isSameFile,
  link,
  locate,
  openName,
  pathStatus,
  presentName,
  rename,
  setMode,
  statusOf,
  unlink,
} from "../../ffi/file.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { isBound } from "../../ffi/socket.ts";

/** How a path was restored: by a further name of the socket's file, or by a new socket that is bound to the path. */
export type Restored<T> = { by: "link" } | { by: "bind"; socket: T };

/** The file that a unix socket is bound to, and the path that should lead to it. */
export class SocketFile implements Disposable {
  readonly #path: string;
  /** The file, as long as it is removed with the socket. */
  #file: FileIdentity | undefined;
  /** Its permissions when it was last looked at: another process may have changed them. */
  #mode: number | undefined;
  /** A descriptor of the file (O_PATH): it gives the name of a renamed file, and tells a removed one. */
  #name: Fd | undefined;
  /** A further name, made by `relink`. */
  #link: string | undefined;

  constructor(path: string, file: FileIdentity | undefined) {
    this.#path = path;
    this.#file = file;
    // Reads its mode.
    void this.isReachable;
  }

  /** The file, if it is known and is removed with the socket. */
  get file(): FileIdentity | undefined {
    return this.#file;
  }

  /** Its permissions, if they are known. */
  get mode(): number | undefined {
    return this.#mode;
  }

  /** Whether the path leads to the file; true if the file is not known. */
  get isReachable(): boolean {
    if (!this.#file) return true;
    const there = pathStatus(this.#path);
    if (!isSameFile(there, this.#file)) return false;
    this.#mode = there!.mode;
    return true;
  }

  /** Opens the file, so that it is found when another process has renamed it. */
  track(): void {
    if (!this.#file || this.#name) return;
    let name: Fd;
    try {
      name = new Fd(openName(this.#path, `Cannot follow ${formatPath(this.#path)}`));
    } catch {
      // The file was removed already, or no descriptor is left: a renamed file is not found then.
      return;
    }
    if (isSameFile(statusOf(name.raw), this.#file)) this.#name = name;
    else name.close();
  }

  /** Changes its permissions, if the path leads to it. */
  setMode(mode: number): void {
    if (this.#file && this.isReachable) setMode(this.#path, mode, this.#file);
  }

  /** Makes the path a further name of the file, if it has any name left; gives whether that was possible. */
  relink(): boolean {
    const file = this.#file;
    const present = this.#name && presentName(this.#name.raw);
    for (const name of new Set([present, file?.path, this.#link])) {
      if (name === undefined || !linkWhereFree({ ...file!, path: name }, this.#path)) continue;
      this.#link = locate(this.#path)?.path;
      return true;
    }
    return false;
  }

  /** Does not remove the file from here on; gives it. */
  disown(): FileIdentity | undefined {
    const file = this.#file;
    this.#file = undefined;
    return file;
  }

  /** Takes over the file of another socket at the same path. */
  adopt(other: SocketFile): void {
    // A name that it still has leads to no socket any more.
    if (this.#file) this.unlink(this.#file);
    this[Symbol.dispose]();
    this.#file = other.disown();
    this.#link = undefined;
    this.track();
  }

  /** Whether a file has a name, and no socket of any process is bound to it. */
  isOrphan(file: FileIdentity): boolean {
    return this.#namesOf(file).some((name) => isSameFile(pathStatus(name), file) && !isBound(name));
  }

  /** Removes every name of a file, and no other file. */
  unlink(file: FileIdentity): void {
    for (const name of this.#namesOf(file)) if (isSameFile(pathStatus(name), file)) unlink(name);
  }

  /** Every name that the file may have. */
  #namesOf({ path }: FileIdentity): string[] {
    const names = [this.#path, path, this.#link];
    return [...new Set(names.filter((name) => name !== undefined))];
  }

  /** Closes the descriptor of `track`. */
  [Symbol.dispose](): void {
    this.#name?.[Symbol.dispose]();
    this.#name = undefined;
  }
}

/** The file at a path, unless another socket is known to be bound to it. */
export function ownFile(path: string, raw: number): FileIdentity | undefined {
  const there = locate(path);
  return there && isBoundTo(raw, path, there) === false ? undefined : there;
}

/** Makes `path` a further name of a socket's file, if that has a name left; gives whether that was possible. */
function linkWhereFree(file: FileIdentity, path: string): boolean {
  const there = pathStatus(file.path);
  if (there?.kind !== "socket" || !isSameFile(there, file)) return false;
  checkReplaceable(path, `Cannot listen on ${formatPath(path)}`);
  const beside = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  try {
    link(file.path, beside);
  } catch {
    // Another file system (EXDEV), another user's file (proc(5), "protected_hardlinks"), or no links at all.
    return false;
  }
  try {
    moveWhereFree(beside, path);
    return true;
  } catch (error) {
    unlink(beside);
    throw error;
  }
}

/**
 * Renames a socket's file, unless a process listens at the new name.
 *
 * @throws {Deno.errors.AddrInUse} When a process listens there.
 */
export function moveWhereFree(from: string, to: string): void {
  try {
    // link(2) replaces no file, unlike rename(2): not even one that was bound a moment ago.
    link(from, to);
    unlink(from);
    return;
  } catch {
    // The file of a dead socket is there, or the file system has no links.
  }
  if (isBound(to)) throw isServed(to);
  try {
    rename(from, to);
  } catch (error) {
    if ((error as { code?: string }).code !== "EPERM") throw error;
    throw cannotReplace(`Cannot listen on ${formatPath(to)}`, error);
  }
}

export function isServed(path: string): Error {
  const error = new Deno.errors.AddrInUse(
    `Cannot listen on ${formatPath(path)}: another instance is serving there; ` +
      "stop it, or listen on another path",
  );
  return Object.assign(error, { code: "EADDRINUSE" });
}

/** @throws {Deno.errors.AlreadyExists} When the path leads to a file that is no socket. */
export function checkReplaceable(path: string, attempt: string): void {
  const there = pathStatus(path);
  if (!there || there.kind === "socket") return;
  const what = there.kind === "regular" ? "a file" : `a ${there.kind}`;
  throw new Deno.errors.AlreadyExists(`${attempt}: there is ${what} that is no socket`);
}

/** The error for a file that this user may not replace: in a directory with the sticky bit (unlink(2), rename(2)). */
export function cannotReplace(attempt: string, cause?: unknown): Error {
  const error = new Deno.errors.PermissionDenied(
    `${attempt}: a socket file is there whose process has ended, and which this user may not replace; ` +
      "remove it as its owner, or choose a directory of the service's own",
  );
  return Object.assign(error, { code: "EPERM", cause });
}
