/**
 * Unix stream listeners, which never remove a path that is another's by now.
 *
 * @module
 */

import { closeAll, Fd, setNonblocking } from "../ffi/fd.ts";
import { type FileStatus, link, openDirectory, pathStatus, rename, unlink } from "../ffi/file.ts";
import { abandon, breathe, hasten, isReady, ready, refreshKeepAlive } from "../ffi/poll.ts";
import { formatPath, maxPathBytes, packUnix, type UnixAddress } from "../ffi/sockaddr.ts";
import {
  accept,
  bindUnixDatagram,
  isBound,
  isUnixStream,
  listenUnix,
  localAddress,
} from "../ffi/socket.ts";
import { makeAlarm } from "./alarm.ts";
import { UnixConn, type WaitOptions } from "./conn.ts";
import { lookAfter } from "./donor.ts";
import { NotUnixListenerError } from "./errors.ts";

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
  const raw = replace && !path.startsWith("\0")
    ? listenOver(path, attempt, mode)
    : listenAt(path, attempt, mode);
  return new UnixListener(new Fd(raw), path);
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
  if (isStale) unlink(path);
  return new Fd(bindUnixDatagram(path, attempt, { mode }));
}

/** A unix datagram socket and its path, which is removed when no socket is bound to it any more. */
export class DatagramPath implements Disposable {
  readonly #fd: Fd;
  readonly #path: string;
  #file: FileStatus | undefined;

  /** Takes `fd` over. */
  constructor(fd: Fd, path: string) {
    this.#fd = fd;
    this.#path = path;
    if (!path.startsWith("\0")) this.#file = pathStatus(path);
  }

  /** Leaves the path alone from here on: the socket was passed on and lives elsewhere. */
  keepPath(): void {
    this.#file = undefined;
  }

  /** Closes the socket, and removes the path unless another process has it. */
  leave(): void {
    const file = this.#file;
    this[Symbol.dispose]();
    if (file && same(pathStatus(this.#path), file) && !isBound(this.#path)) unlink(this.#path);
  }

  /** Closes the socket. */
  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
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
  #file: FileStatus | undefined;
  #referenced = true;
  readonly #keepsAlive = () => this.#referenced;
  /** How often in a row there was somebody to accept without waiting. */
  #immediate = 0;
  /** How many waits there were, each shortly after the one before. */
  #waits = 0;
  #lastWait = -Infinity;
  #hastened: Disposable | undefined;

  /**
   * Takes over a listening unix stream socket.
   *
   * @param path Whose file to remove on close; without it no file is touched.
   * @throws {NotUnixListenerError} When `fd` is something else; it stays open, with the caller.
   */
  constructor(fd: Fd, path?: string) {
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
    if (path !== undefined && !path.startsWith("\0")) this.#file = pathStatus(path);
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
      if (this.#immediate > manyInARow) await breathe(signal);
      if (this.#end) throw this.#end;
      const { raw } = this.fd;
      // Where nobody waits, accept(2) makes a socket first, and takes ten times as long to say so.
      const accepted = isReady(raw, "readable") ? accept(raw, attempt) : -1;
      if (accepted >= 0) {
        this.#immediate++;
        return new UnixConn(new Fd(accepted), true);
      }
      this.#immediate = 0;
      this.#hastenIfOften();
      await ready(raw, "readable", { keepsAlive: this.#keepsAlive, owner: this, signal });
    }
  }

  /** Where connections come often, waiting for them is worth some preparation. */
  #hastenIfOften(): void {
    if (this.#hastened) return;
    const now = performance.now();
    this.#waits = now - this.#lastWait < shortly ? this.#waits + 1 : 0;
    this.#lastWait = now;
    if (this.#waits >= many) this.#hastened = hasten(makeAlarm);
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
    this.#file = undefined;
  }

  /**
   * Stops listening and removes the path.
   *
   * @throws {Deno.errors.BadResource} When it is closed already.
   */
  close(): void {
    this.#finish("The listener was closed");
    const raw = this.fd.take();
    const { path } = this.addr;
    if (this.#file && path && same(pathStatus(path), this.#file)) unlink(path);
    closeAll([raw]);
  }

  /**
   * Stops listening, and removes the path unless another process goes on listening there.
   *
   * @ignore
   */
  leave(): void {
    const file = this.#file;
    const { path } = this.addr;
    this.keepPath();
    this[Symbol.dispose]();
    if (file && path && same(pathStatus(path), file) && !isBound(path)) unlink(path);
  }

  /** Closes the listener unless it is closed. */
  [Symbol.dispose](): void {
    if (this.fd.owned) this.close();
    else this.#finish("The listener's descriptor was taken");
  }

  #finish(reason: string): void {
    const end = this.#end ??= new Deno.errors.BadResource(reason);
    abandon(this.#raw, this, () => end);
    this.#hastened?.[Symbol.dispose]();
    this.#hastened = undefined;
  }
}

/** How many may be accepted in a row before others are thought of. */
const manyInARow = 8;

/** How many waits, each within so many milliseconds of the one before, are many. */
const many = 32;
const shortly = 10;

function listenAt(path: string, attempt: string, mode: number | undefined): number {
  try {
    return listenUnix(path, attempt, { mode });
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
 * Binds beside `path` and renames over it. A name beside it may be too long for a socket address; by
 * way of its directory's descriptor it is not.
 */
function listenOver(path: string, attempt: string, mode: number | undefined): number {
  // A path that nobody could connect to is refused before anything is made.
  packUnix(path, attempt);
  const there = pathStatus(path);
  if (there && there.kind !== "socket") {
    const what = there.kind === "regular" ? "a file" : `a ${there.kind}`;
    throw new Deno.errors.AlreadyExists(`${attempt}: there is ${what} that is no socket`);
  }
  const beside = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  if (new TextEncoder().encode(beside).length <= maxPathBytes) {
    return renamed(listenUnix(beside, attempt, { mode }), beside, path);
  }
  const directory = path.slice(0, path.lastIndexOf("/") + 1);
  const name = crypto.randomUUID().slice(0, 8);
  using opened = new Fd(openDirectory(directory || ".", attempt));
  const raw = listenUnix(`/proc/self/fd/${opened.raw}/${name}`, attempt, { mode });
  return renamed(raw, `${directory}${name}`, path);
}

function renamed(raw: number, from: string, to: string): number {
  try {
    rename(from, to);
    return raw;
  } catch (error) {
    closeAll([raw]);
    unlink(from);
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

/** The file that a native listener is bound to; undefined when it is bound to none. */
export function pathStatusOf({ addr }: Deno.Listener): FileStatus | undefined {
  return addr.transport === "unix" && addr.path ? pathStatus(addr.path) : undefined;
}

/**
 * Closes a native listener. Deno removes a unix path with it, whoever serves there by then: so what
 * was not there at `first`, or is to be kept, gets another name meanwhile.
 */
export function closeNativeListener(
  listener: Deno.Listener,
  first: FileStatus | undefined,
  keep: boolean,
): void {
  const now = pathStatusOf(listener);
  const { path } = listener.addr as Deno.UnixAddr;
  const aside = first && now && (keep || !same(now, first))
    ? `${path}.${crypto.randomUUID().slice(0, 8)}`
    : undefined;
  if (aside) link(path!, aside);
  try {
    closeNative(listener);
  } finally {
    if (aside) rename(aside, path!);
  }
}

function same(a: FileStatus | undefined, b: FileStatus): boolean {
  return a !== undefined && a.dev === b.dev && a.ino === b.ino;
}
