/**
 * Unix stream listeners, which never remove a path that is another's by now.
 *
 * @module
 */

import { isBoundTo } from "../../ffi/diag.ts";
import { closeAll, Fd, replace, setNonblocking } from "../../ffi/fd.ts";
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
import {
  abandon,
  ready,
  refreshKeepAlive,
  useWaker,
  yieldToEventLoop,
} from "../event_loop/reactor.ts";
import { isReady } from "../../ffi/poll.ts";
import { formatPath, maxPathBytes, packUnix, type UnixAddress } from "../../ffi/sockaddr.ts";
import {
  accept,
  bindUnixDatagram,
  isBound,
  isUnixStream,
  listenUnix,
  localAddress,
} from "../../ffi/socket.ts";
import { makeWaker } from "../event_loop/waker.ts";
import { UnixConn, type WaitOptions } from "./conn.ts";
import { lookAfter } from "../event_loop/nonblocking_guard.ts";
import { NotUnixListenerError } from "../errors.ts";

/** Options of {@linkcode listen}. */
export interface ListenOptions {
  /** Permissions of the socket's file. @default {0o600} */
  mode?: number;
  /**
   * Takes the path over in one step if it is in use: the new socket is bound beside it and renamed
   * over it, so that at no moment a client finds nothing there. @default {false}
   */
  replace?: boolean;
}

/**
 * Listens on a unix stream socket at `path`; "\0name" is a name in the abstract namespace.
 *
 * ```ts
 * import { connect, listen } from "@graceful/deno";
 *
 * const directory = await Deno.makeTempDir();
 * using listener = listen(`${directory}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * await client.write(new TextEncoder().encode("hello"));
 * console.log(new TextDecoder().decode(await server.readFull(new Uint8Array(5))));
 * ```
 *
 * @throws {Deno.errors.AddrInUse} When the path is taken, even by a stale file.
 * @throws {RangeError} When the path is longer than the 107 bytes a socket address holds.
 */
export function listen(path: string, options: ListenOptions = {}): UnixListener {
  const attempt = `Cannot listen on ${formatPath(path)}`;
  const { mode, replace = false } = options;
  const { raw, file } = replace && !path.startsWith("\0")
    ? listenOver(path, attempt, mode, rename)
    : listenAt(path, attempt, mode);
  return new UnixListener(new Fd(raw), path, file);
}

/**
 * The same as {@linkcode listen} at a path where no process listens: the file of a socket that has outlived
 * its process is replaced, and never that of another one.
 *
 * @throws {Deno.errors.AddrInUse} When a process listens there, and be it since a moment ago.
 */
export function listenWhereFree(path: string, { mode }: { mode?: number } = {}): UnixListener {
  if (path.startsWith("\0")) return listen(path, { mode });
  if (pathStatus(path) && isBound(path)) throw isServed(path);
  const { raw, file } = listenOver(
    path,
    `Cannot listen on ${formatPath(path)}`,
    mode,
    moveWhereFree,
  );
  return new UnixListener(new Fd(raw), path, file);
}

/**
 * A unix datagram socket at `path`, in place of a file that outlived its socket. It is bound there, and not
 * beside it and renamed: the name that it is bound by is the address that its datagrams come from.
 *
 * @param mode Permissions of the socket's file.
 * @throws {Deno.errors.AddrInUse} When a socket is bound there, or the file is none.
 */
export function bindDatagrams(path: string, mode?: number): Fd {
  const attempt = `Cannot receive datagrams at ${formatPath(path)}`;
  const isStale = !path.startsWith("\0") && pathStatus(path)?.kind === "socket" && !isBound(path);
  if (isStale && !unlink(path)) throw cannotReplace(attempt);
  try {
    return new Fd(bindUnixDatagram(path, attempt, { mode }));
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    const inUse = new Deno.errors.AddrInUse(
      `${attempt}: another socket is bound there, or it is a file that is no socket; end its process or move ` +
        "it away, or receive at another path",
    );
    throw Object.assign(inUse, { code: "EADDRINUSE", cause: error });
  }
}

/** In a directory with the sticky bit, another user's file is not to be replaced (unlink(2), rename(2)). */
function cannotReplace(attempt: string, cause?: unknown): Error {
  const error = new Deno.errors.PermissionDenied(
    `${attempt}: a socket file is there whose process has ended, and which this user may not replace; ` +
      "remove it as its owner, or choose a directory of the service's own",
  );
  return Object.assign(error, { code: "EPERM", cause });
}

/** The path that is to lead to a unix socket, and the file that this is bound to. */
class SocketFile implements Disposable {
  readonly #path: string;
  /** Which file is bound to it, while that is to be removed with it. */
  #file: FileIdentity | undefined;
  /** Its permissions when it was last seen at the path: somebody may have changed them. */
  #mode: number | undefined;
  /** Open on the file, and so knows its name when it was renamed, and whether it has any. */
  #name: Fd | undefined;
  /** A further name that it has been given. */
  #link: string | undefined;

  constructor(path: string, file: FileIdentity | undefined) {
    this.#path = path;
    this.#file = file;
    // Takes note of its mode.
    void this.isReachable;
  }

  /** Which file it is, if that is known and to be removed with the socket. */
  get file(): FileIdentity | undefined {
    return this.#file;
  }

  /** Its permissions, as far as they are known. */
  get mode(): number | undefined {
    return this.#mode;
  }

  /** Whether the path leads to it; of what has no file that is known, nothing else is known either. */
  get isReachable(): boolean {
    if (!this.#file) return true;
    const there = pathStatus(this.#path);
    if (!isSameFile(there, this.#file)) return false;
    this.#mode = there!.mode;
    return true;
  }

  /** Keeps a descriptor by which it is found when somebody has renamed it. */
  follow(): void {
    if (!this.#file || this.#name) return;
    let name: Fd;
    try {
      name = new Fd(openName(this.#path, `Cannot follow ${formatPath(this.#path)}`));
    } catch {
      // It has been removed already, or no descriptor is left: then a renamed file is not found.
      return;
    }
    if (isSameFile(statusOf(name.raw), this.#file)) this.#name = name;
    else name.close();
  }

  /** Gives it that mode, if the path leads to it. */
  setMode(mode: number): void {
    if (this.#file && this.isReachable) setMode(this.#path, mode, this.#file);
  }

  /** Has the path lead to it again, where it still has a name anywhere; gives whether that was possible. */
  linkAgain(): boolean {
    const file = this.#file;
    const present = this.#name && presentName(this.#name.raw);
    for (const name of new Set([present, file?.path, this.#link])) {
      if (name === undefined || !linkedWhereFree({ ...file!, path: name }, this.#path)) continue;
      this.#link = locate(this.#path)?.path;
      return true;
    }
    return false;
  }

  /** Leaves it alone from here on; gives what it was. */
  forget(): FileIdentity | undefined {
    const file = this.#file;
    this.#file = undefined;
    return file;
  }

  /** Goes on with the file of another socket at the same path, which is forgotten there. */
  become(other: SocketFile): void {
    // Where it has another name still, no socket is there any more.
    if (this.#file) this.unlink(this.#file);
    this[Symbol.dispose]();
    this.#file = other.forget();
    this.#link = undefined;
    this.follow();
  }

  /** Whether a name of that file is left, and no socket of any process is bound to it. */
  isLeft(file: FileIdentity): boolean {
    return this.#namesOf(file).some((name) => isSameFile(pathStatus(name), file) && !isBound(name));
  }

  /** Removes that file, and no other one. */
  unlink(file: FileIdentity): void {
    for (const name of this.#namesOf(file)) if (isSameFile(pathStatus(name), file)) unlink(name);
  }

  /** Every name by which the file may be found. */
  #namesOf({ path }: FileIdentity): string[] {
    const names = [this.#path, path, this.#link];
    return [...new Set(names.filter((name) => name !== undefined))];
  }

  /** Closes what `follow` has opened. */
  [Symbol.dispose](): void {
    this.#name?.[Symbol.dispose]();
    this.#name = undefined;
  }
}

/** How a path was made to lead to a socket again: by a further name of its file, or by a new socket there. */
export type Restored<T> = { by: "link" } | { by: "bind"; socket: T };

/** A unix datagram socket and its path, which is removed when no socket is bound to it any more. */
export class DatagramPath implements Disposable {
  /** The descriptor, on loan. */
  readonly fd: Fd;
  readonly #path: string;
  readonly #bound: SocketFile;

  /**
   * Takes `fd` over.
   *
   * @param file Which file it is bound to. @default {the one that is at `path`}
   */
  constructor(fd: Fd, path: string, file?: FileIdentity) {
    this.fd = fd;
    this.#path = path;
    const hasFile = !path.startsWith("\0");
    this.#bound = new SocketFile(path, hasFile ? file ?? ownFile(path, fd.raw) : undefined);
  }

  /** Which file it is bound to, if that is known. */
  get file(): FileIdentity | undefined {
    return this.#bound.file;
  }

  /** Keeps a descriptor by which the file is found when somebody has renamed it. */
  followFile(): void {
    this.#bound.follow();
  }

  /** Gives the file that mode, if the path leads to it. */
  setMode(mode: number): void {
    this.#bound.setMode(mode);
  }

  /** Leaves the path alone from here on: the socket was passed on and lives elsewhere. */
  keepPath(): void {
    this.#bound.forget();
  }

  /** Whether no datagram waits to be received. */
  get isIdle(): boolean {
    return !isReady(this.fd.raw, "readable");
  }

  /**
   * Has the path lead to it again, or binds another one there: see {@linkcode UnixListener.restorePath}.
   *
   * @throws {Deno.errors.AddrInUse} When another process has the path.
   */
  restorePath(mode?: number): Restored<DatagramPath> | undefined {
    if (this.#bound.isReachable) return undefined;
    if (this.#bound.linkAgain()) return { by: "link" };
    const fd = bindDatagrams(this.#path, mode ?? this.#bound.mode);
    return { by: "bind", socket: new DatagramPath(fd, this.#path) };
  }

  /** Goes on with the socket of another one, which is closed without its path. */
  become(other: DatagramPath): void {
    replace(other.fd.raw, this.fd.raw);
    this.#bound.become(other.#bound);
    other[Symbol.dispose]();
  }

  /** Closes the socket, and removes the path unless another process has it. */
  leave(): void {
    const file = this.#bound.forget();
    this[Symbol.dispose]();
    if (file && this.#bound.isLeft(file)) this.#bound.unlink(file);
  }

  /** Closes the socket. */
  [Symbol.dispose](): void {
    this.#bound[Symbol.dispose]();
    this.fd[Symbol.dispose]();
  }
}

/**
 * A listening unix stream socket. Closing it removes its path, unless another socket has taken it.
 *
 * ```ts
 * import { connect, listen, UnixListener } from "@graceful/deno";
 *
 * const listener: UnixListener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using _client = await connect(listener.addr.path!);
 * for await (const conn of listener) {
 *   console.log("process", conn.peer.pid, "has connected");
 *   conn.close();
 *   listener.close();
 * }
 * ```
 */
export class UnixListener implements AsyncIterable<UnixConn>, Disposable {
  /** The descriptor, on loan: the listener owns it. */
  readonly fd: Fd;
  /** Where it listens. */
  readonly addr: UnixAddress;
  readonly #raw: number;
  /** Why it accepts no more. */
  #end: Error | undefined;
  /** The file that is to be removed with it, and the path that is to lead there. */
  readonly #bound: SocketFile;
  /** Rejects what waits on a socket that another one has taken the place of. */
  readonly #exchanged = new Error("The listener is on another socket");
  #referenced = true;
  readonly #keepsAlive = () => this.#referenced;
  /** How often in a row there was somebody to accept without waiting. */
  #immediate = 0;
  /** How many waits there were, each shortly after the one before. */
  #waits = 0;
  #lastWait = -Infinity;
  #wakerUsers: Disposable | undefined;

  /**
   * Takes over a listening unix stream socket.
   *
   * @param path Whose file to remove on close; without it no file is touched.
   * @param file Which file that is, if another one may be at the path. @default {the one that is there}
   * @throws {NotUnixListenerError} When `fd` is something else; it stays open, with the caller.
   */
  constructor(fd: Fd, path?: string, file?: FileIdentity) {
    if (!isUnixStream(fd.raw, { listening: true })) {
      throw new NotUnixListenerError(`Descriptor ${fd.raw} is not a unix stream listener`);
    }
    this.fd = fd;
    this.#raw = fd.raw;
    // One that comes from elsewhere may be blocking, and would hold up everything in accept().
    lookAfter(fd, fd.raw);
    setNonblocking(fd.raw, true);
    this.addr = path === undefined
      ? localAddress(fd.raw) as UnixAddress
      : { transport: "unix", path };
    const hasFile = path !== undefined && !path.startsWith("\0");
    this.#bound = new SocketFile(
      path ?? "",
      hasFile ? file ?? ownFile(path, fd.raw) : undefined,
    );
  }

  /**
   * Which file is bound to it, if that is known.
   *
   * @ignore
   */
  get file(): FileIdentity | undefined {
    return this.#bound.file;
  }

  /**
   * Keeps a descriptor by which the file is found when somebody has renamed it: `restorePath` gives it its
   * name again then, where it would otherwise bind anew.
   *
   * @ignore
   */
  followFile(): void {
    this.#bound.follow();
  }

  /**
   * Whether its path leads to it: the file may have been removed, another service may have bound its own,
   * and a symbolic link in the path may have been changed.
   *
   * @ignore
   */
  get isReachable(): boolean {
    return this.#bound.isReachable;
  }

  /**
   * Waits for the next connection.
   *
   * @throws {Deno.errors.BadResource} When the listener is closed, also while it waits.
   */
  async accept(options: WaitOptions = {}): Promise<UnixConn> {
    const { signal } = options;
    const attempt = () => `Cannot accept on ${formatPath(this.addr.path ?? "")}`;
    for (;;) {
      signal?.throwIfAborted();
      if (this.#immediate > manyInARow) await yieldToEventLoop(signal);
      if (this.#end) throw this.#end;
      const { raw } = this.fd;
      // Where nobody waits, accept(2) makes a socket first, and takes ten times as long to say so.
      const accepted = isReady(raw, "readable") ? accept(raw, attempt) : -1;
      if (accepted >= 0) {
        this.#immediate++;
        return new UnixConn(new Fd(accepted), true);
      }
      this.#immediate = 0;
      this.#useWakerIfOften();
      try {
        await ready(raw, "readable", { keepsAlive: this.#keepsAlive, owner: this, signal });
      } catch (error) {
        if (error !== this.#exchanged) throw error;
      }
    }
  }

  /** Where connections come often, waiting for them is worth some preparation. */
  #useWakerIfOften(): void {
    if (this.#wakerUsers) return;
    const now = performance.now();
    this.#waits = now - this.#lastWait < shortly ? this.#waits + 1 : 0;
    this.#lastWait = now;
    if (this.#waits >= many) this.#wakerUsers = useWaker(makeWaker);
  }

  /** Connections as they come; ends quietly when the listener is closed. */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<UnixConn> {
    for (;;) {
      let connection: UnixConn;
      try {
        connection = await this.accept();
      } catch (error) {
        if (this.#end) return;
        throw error;
      }
      yield connection;
    }
  }

  /** Waiting for a connection keeps the process running; that is how it starts. */
  ref(): void {
    this.#referenced = true;
    refreshKeepAlive();
  }

  /** Waiting for a connection does not keep the process running. */
  unref(): void {
    this.#referenced = false;
    refreshKeepAlive();
  }

  /** Closing will leave the path alone, because the socket was passed on and lives elsewhere. */
  keepPath(): void {
    this.#bound.forget();
  }

  /**
   * Stops listening and removes the path.
   *
   * @throws {Deno.errors.BadResource} When it is closed already.
   */
  close(): void {
    this.#finish("The listener was closed");
    const raw = this.fd.take();
    const { file } = this.#bound;
    if (file) this.#bound.unlink(file);
    closeAll([raw]);
  }

  /**
   * Stops listening, and removes the path unless another process goes on listening there.
   *
   * @ignore
   */
  leave(): void {
    this.depart()?.();
  }

  /**
   * Stops listening; gives what removes the path, where no other process goes on listening there.
   *
   * @ignore
   */
  depart(): (() => void) | undefined {
    const bound = this.#bound;
    const file = bound.forget();
    this[Symbol.dispose]();
    // Any name of it does.
    const isLeft = () => file !== undefined && bound.isLeft(file);
    return isLeft() ? () => void (isLeft() && bound.unlink(file!)) : undefined;
  }

  /**
   * Whether no client waits to be accepted.
   *
   * @ignore
   */
  get isIdle(): boolean {
    return !isReady(this.#raw, "readable");
  }

  /**
   * Gives the file that mode, if its path leads to it.
   *
   * @ignore
   */
  setMode(mode: number): void {
    this.#bound.setMode(mode);
  }

  /**
   * Has the path lead to it again: the file gets that name too, if it still has one anywhere. Where it has
   * none, it cannot get one again (link(2)): then this gives a new listener that was bound at the path. Gives
   * undefined where there is nothing to do.
   *
   * @param mode Permissions of a new file. @default {those of the old one}
   * @throws {Deno.errors.AddrInUse} When another process listens there.
   * @ignore
   */
  restorePath(mode?: number): Restored<UnixListener> | undefined {
    if (this.#bound.isReachable) return undefined;
    if (this.#bound.linkAgain()) return { by: "link" };
    const socket = listenWhereFree(this.addr.path!, { mode: mode ?? this.#bound.mode });
    return { by: "bind", socket };
  }

  /**
   * Goes on with the socket of another listener, which is closed without its path. A call of `accept()` that
   * waits goes on waiting, on that socket.
   *
   * @ignore
   */
  become(other: UnixListener): void {
    abandon(this.#raw, this, () => this.#exchanged);
    replace(other.fd.raw, this.#raw);
    this.#bound.become(other.#bound);
    other[Symbol.dispose]();
  }

  /** Closes the listener unless it is closed. */
  [Symbol.dispose](): void {
    if (this.fd.owned) this.close();
    else this.#finish("The listener's descriptor was taken");
  }

  #finish(reason: string): void {
    const end = this.#end ??= new Deno.errors.BadResource(reason);
    abandon(this.#raw, this, () => end);
    this.#wakerUsers?.[Symbol.dispose]();
    this.#wakerUsers = undefined;
    this.#bound[Symbol.dispose]();
  }
}

/** How many may be accepted in a row before others are thought of. */
const manyInARow = 8;

/** How many waits, each within so many milliseconds of the one before, are many. */
const many = 32;
const shortly = 10;

/** A socket, and the file that it is bound to; a name in the abstract namespace has none. */
interface BoundSocket {
  raw: number;
  file?: FileIdentity;
}

function listenAt(path: string, attempt: string, mode: number | undefined): BoundSocket {
  try {
    const raw = listenUnix(path, attempt, { mode });
    return { raw, file: path.startsWith("\0") ? undefined : locate(path) };
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    const holder = path.startsWith("\0") || isBound(path)
      ? "another instance is serving there"
      : "nobody is serving there any more: remove the file, or pass `replace: true`";
    const inUse = new Deno.errors.AddrInUse(`${attempt}: ${holder}`);
    throw Object.assign(inUse, { code: "EADDRINUSE", cause: error });
  }
}

/**
 * Binds beside `path`, and has `move` move the file there. A name beside it may be too long for a socket
 * address; by way of its directory's descriptor it is not.
 */
function listenOver(
  path: string,
  attempt: string,
  mode: number | undefined,
  move: (from: string, to: string) => void,
): BoundSocket {
  // A path that nobody could connect to is refused before anything is made.
  packUnix(path, attempt);
  checkReplaceable(path, attempt);
  const id = crypto.randomUUID().slice(0, 8);
  const beside = `${path}.${id}`;
  if (new TextEncoder().encode(beside).length <= maxPathBytes) {
    return moved(listenUnix(beside, attempt, { mode }), beside, path, move);
  }
  const directory = path.slice(0, path.lastIndexOf("/") + 1);
  using opened = new Fd(openName(directory || ".", attempt));
  const raw = listenUnix(`/proc/self/fd/${opened.raw}/${id}`, attempt, { mode });
  return moved(raw, `${directory}${id}`, path, move);
}

/** @throws {Deno.errors.AlreadyExists} When there is something that is no socket. */
function checkReplaceable(path: string, attempt: string): void {
  const there = pathStatus(path);
  if (!there || there.kind === "socket") return;
  const what = there.kind === "regular" ? "a file" : `a ${there.kind}`;
  throw new Deno.errors.AlreadyExists(`${attempt}: there is ${what} that is no socket`);
}

function moved(
  raw: number,
  from: string,
  to: string,
  move: (from: string, to: string) => void,
): BoundSocket {
  try {
    const file = locate(from);
    move(from, to);
    const name = to.slice(to.lastIndexOf("/") + 1);
    return { raw, file: file && { ...file, path: `${directoryOf(file.path)}${name}` } };
  } catch (error) {
    closeAll([raw]);
    unlink(from);
    throw error;
  }
}

function directoryOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/") + 1);
}

/**
 * Gives a file another name, which no other file has that a process listens on.
 *
 * @throws {Deno.errors.AddrInUse} When one does.
 */
function moveWhereFree(from: string, to: string): void {
  try {
    // Unlike rename(2) it replaces nothing, and be it bound since a moment ago.
    link(from, to);
    unlink(from);
    return;
  } catch {
    // A dead socket is there, or the file system has one name a file.
  }
  if (isBound(to)) throw isServed(to);
  try {
    rename(from, to);
  } catch (error) {
    if ((error as { code?: string }).code !== "EPERM") throw error;
    throw cannotReplace(`Cannot listen on ${formatPath(to)}`, error);
  }
}

function isServed(path: string): Error {
  const error = new Deno.errors.AddrInUse(
    `Cannot listen on ${formatPath(path)}: another instance is serving there; ` +
      "stop it, or listen on another path",
  );
  return Object.assign(error, { code: "EADDRINUSE" });
}

/** Gives a socket's file, where it still has a name, a further one; gives whether that was possible. */
function linkedWhereFree(file: FileIdentity, path: string): boolean {
  const there = pathStatus(file.path);
  if (there?.kind !== "socket" || !isSameFile(there, file)) return false;
  checkReplaceable(path, `Cannot listen on ${formatPath(path)}`);
  const beside = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  try {
    link(file.path, beside);
  } catch {
    // Another file system (EXDEV), another user's file (proc(5), "protected_hardlinks"), or one name a file.
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

/** Closes a native object that its owner may have closed already: the end that both wanted. */
export function closeNative(object: { close(): void } | undefined): void {
  try {
    object?.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** The file at a path, unless it is known to be another socket's. */
function ownFile(path: string, raw: number): ReturnType<typeof locate> {
  const there = locate(path);
  return there && isBoundTo(raw, path, there) === false ? undefined : there;
}

/**
 * The file that a native listener, whose descriptor is `raw`, is bound to; undefined when it is bound to none,
 * or another one is in its place.
 */
export function fileOfNative({ addr }: Deno.Listener, raw: number): FileIdentity | undefined {
  const isNamed = addr.transport === "unix" && addr.path && !addr.path.startsWith("\0");
  return isNamed ? ownFile(addr.path, raw) : undefined;
}

/**
 * Closes a native listener. Deno removes a unix path with it, whoever serves there by then: so what
 * was not there at `first`, or is to be kept, gets another name meanwhile.
 */
export function closeNativeListener(
  listener: Deno.Listener,
  first: FileIdentity | undefined,
  keep: boolean,
): void {
  const { path, transport } = listener.addr as Deno.UnixAddr;
  const now = transport === "unix" && path ? pathStatus(path) : undefined;
  const aside = now && (keep || !first || !isSameFile(now, first))
    ? `${path}.${crypto.randomUUID().slice(0, 8)}`
    : undefined;
  if (aside) link(path!, aside);
  try {
    closeNative(listener);
  } finally {
    if (aside) rename(aside, path!);
  }
}
