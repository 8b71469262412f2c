/**
 * Unix stream listeners. Closing one never removes a path that leads to another socket.
 *
 * @module
 */

import { closeAll, Fd, replace, setNonblocking } from "../../ffi/fd.ts";
import type { FileIdentity } from "../../ffi/file.ts";
import { isReady } from "../../ffi/poll.ts";
import { formatPath, type UnixAddress } from "../../ffi/sockaddr.ts";
import { accept, localAddress } from "../../ffi/socket.ts";
import { isUnixStream } from "../../ffi/socket_options.ts";
import { NotUnixListenerError } from "../errors.ts";
import { lookAfter } from "../event_loop/nonblocking_guard.ts";
import {
  abandon,
  ready,
  refreshKeepAlive,
  useWaker,
  yieldToEventLoop,
} from "../event_loop/reactor.ts";
import { makeWaker } from "../event_loop/waker.ts";
import { bindListener, bindListenerWhereFree } from "./bind.ts";
import { UnixConn, type WaitOptions } from "./conn.ts";
import { ownFile, type Restored, SocketFile } from "./socket_file.ts";

/** Options of {@linkcode listen}. */
export interface ListenOptions {
  /** Permissions of the socket's file. @default {0o600} */
  mode?: number;
  /**
   * Takes over a path that is in use, in one step: the new socket is bound beside it and renamed over it, so that the
   * path leads to a listener at any moment. @default {false}
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
  const { mode, replace = false } = options;
  const { raw, file } = bindListener(path, { mode, replace });
  return new UnixListener(new Fd(raw), path, file);
}

/**
 * Listens at a path where no process listens: the file of a socket that has outlived its process is replaced, and no
 * other one.
 *
 * @throws {Deno.errors.AddrInUse} When a process listens there.
 */
export function listenWhereFree(path: string, { mode }: { mode?: number } = {}): UnixListener {
  const { raw, file } = bindListenerWhereFree(path, mode);
  return new UnixListener(new Fd(raw), path, file);
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
  /** The address that it listens at. */
  readonly addr: UnixAddress;
  readonly #raw: number;
  /** The error of every further `accept()`. */
  #end: Error | undefined;
  /** Its file and path. */
  readonly #bound: SocketFile;
  /** Rejects the waits for a socket that `adoptSocket` has replaced. */
  readonly #exchanged = new Error("The listener is on another socket");
  #referenced = true;
  readonly #keepsAlive = () => this.#referenced;
  /** How many connections in a row were accepted without a wait. */
  #immediate = 0;
  /** How many waits in a row began shortly after the last one. */
  #waits = 0;
  #lastWait = -Infinity;
  #wakerUsers: Disposable | undefined;

  /**
   * Takes over a listening unix stream socket.
   *
   * @param path The path to remove on close; without it no file is touched.
   * @param file The file of the socket, if another one may be at the path. @default {the file at `path`}
   * @throws {NotUnixListenerError} When `fd` is something else; it stays open, with the caller.
   */
  constructor(fd: Fd, path?: string, file?: FileIdentity) {
    if (!isUnixStream(fd.raw, { listening: true })) {
      throw new NotUnixListenerError(`Descriptor ${fd.raw} is not a unix stream listener`);
    }
    this.fd = fd;
    this.#raw = fd.raw;
    // A received listener may be blocking: accept(2) would hold up the event loop.
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
   * The file that it is bound to, if that is known.
   *
   * @ignore
   */
  get file(): FileIdentity | undefined {
    return this.#bound.file;
  }

  /**
   * Opens the file, so that it is found when another process has renamed it: `restorePath` can make the path a name of
   * it again then, and need not bind a new socket.
   *
   * @ignore
   */
  trackFile(): void {
    this.#bound.track();
  }

  /**
   * Whether its path leads to it: another process may have removed the file, bound a socket of its own there, or
   * changed a symbolic link in the path.
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
      // poll(2) first: accept(2) allocates a socket before it returns EAGAIN, which is ten times slower.
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

  /** Accepts connections; ends when the listener is closed. */
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

  /** Has a pending `accept()` keep the process running, as by default. */
  ref(): void {
    this.#referenced = true;
    refreshKeepAlive();
  }

  /** Has a pending `accept()` not keep the process running. */
  unref(): void {
    this.#referenced = false;
    refreshKeepAlive();
  }

  /** Does not remove the path on close: another process has the socket too. */
  keepPath(): void {
    this.#bound.disown();
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
   * Closes the listener, and removes the path unless another process listens there.
   *
   * @ignore
   */
  release(): void {
    this.releaseLater()?.();
  }

  /**
   * Closes the listener; gives a function that removes the path, unless another process listens there.
   *
   * @ignore
   */
  releaseLater(): (() => void) | undefined {
    const bound = this.#bound;
    const file = bound.disown();
    this[Symbol.dispose]();
    const isOrphan = () => file !== undefined && bound.isOrphan(file);
    return isOrphan() ? () => void (isOrphan() && bound.unlink(file!)) : undefined;
  }

  /**
   * Whether no connection is queued.
   *
   * @ignore
   */
  get isIdle(): boolean {
    return !isReady(this.#raw, "readable");
  }

  /**
   * Changes the permissions of the file, if its path leads to it.
   *
   * @ignore
   */
  setMode(mode: number): void {
    this.#bound.setMode(mode);
  }

  /**
   * Makes the path lead to it again: by a further name of its file, if that has any name left. A file without a name
   * cannot get one (link(2)): a new listener is bound to the path then. Gives undefined if nothing is to be done.
   *
   * @param mode Permissions of a new file. @default {those of the removed file}
   * @throws {Deno.errors.AddrInUse} When another process listens there.
   * @ignore
   */
  restorePath(mode?: number): Restored<UnixListener> | undefined {
    if (this.#bound.isReachable) return undefined;
    if (this.#bound.relink()) return { by: "link" };
    const socket = listenWhereFree(this.addr.path!, { mode: mode ?? this.#bound.mode });
    return { by: "bind", socket };
  }

  /**
   * Replaces its socket by that of another listener, which is closed; the path stays. A pending `accept()` goes on
   * waiting, on the new socket.
   *
   * @ignore
   */
  adoptSocket(other: UnixListener): void {
    abandon(this.#raw, this, () => this.#exchanged);
    replace(other.fd.raw, this.#raw);
    this.#bound.adopt(other.#bound);
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

/** How many connections are accepted in a row before the event loop gets a turn. */
const manyInARow = 8;

/** From how many waits on, each within so many milliseconds of the last one, a waker is made. */
const many = 32;
const shortly = 10;
