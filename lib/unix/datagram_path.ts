/**
 * A unix datagram socket and its path.
 *
 * @module
 */

import { type Fd, replace } from "../../ffi/fd.ts";
import type { FileIdentity } from "../../ffi/file.ts";
import { isReady } from "../../ffi/poll.ts";
import { bindDatagrams } from "./bind.ts";
import { ownFile, type Restored, SocketFile } from "./socket_file.ts";

/** A unix datagram socket and its path: `release` removes the path when no other socket is bound to it. */
export class DatagramPath implements Disposable {
  /** The descriptor, on loan. */
  readonly fd: Fd;
  readonly #path: string;
  readonly #bound: SocketFile;

  /**
   * Takes `fd` over.
   *
   * @param file The file that it is bound to. @default {the file at `path`}
   */
  constructor(fd: Fd, path: string, file?: FileIdentity) {
    this.fd = fd;
    this.#path = path;
    const hasFile = !path.startsWith("\0");
    this.#bound = new SocketFile(path, hasFile ? file ?? ownFile(path, fd.raw) : undefined);
  }

  /** The file that it is bound to, if that is known. */
  get file(): FileIdentity | undefined {
    return this.#bound.file;
  }

  /** Opens the file, so that it is found when another process has renamed it. */
  trackFile(): void {
    this.#bound.track();
  }

  /** Changes the permissions of the file, if the path leads to it. */
  setMode(mode: number): void {
    this.#bound.setMode(mode);
  }

  /** Does not remove the path from here on: another process has the socket too. */
  keepPath(): void {
    this.#bound.disown();
  }

  /** Whether no datagram waits to be received. */
  get isIdle(): boolean {
    return !isReady(this.fd.raw, "readable");
  }

  /**
   * Makes the path lead to this socket again, or binds another one there: see {@linkcode UnixListener.restorePath}.
   *
   * @throws {Deno.errors.AddrInUse} When another process has the path.
   */
  restorePath(mode?: number): Restored<DatagramPath> | undefined {
    if (this.#bound.isReachable) return undefined;
    if (this.#bound.relink()) return { by: "link" };
    const fd = bindDatagrams(this.#path, mode ?? this.#bound.mode);
    return { by: "bind", socket: new DatagramPath(fd, this.#path) };
  }

  /** Replaces its socket by that of another object, which is closed; the path stays. */
  adoptSocket(other: DatagramPath): void {
    replace(other.fd.raw, this.fd.raw);
    this.#bound.adopt(other.#bound);
    other[Symbol.dispose]();
  }

  /** Closes the socket, and removes the path unless a socket of another process is bound to it. */
  release(): void {
    const file = this.#bound.disown();
    this[Symbol.dispose]();
    if (file && this.#bound.isOrphan(file)) this.#bound.unlink(file);
  }

  /** Closes the socket. */
  [Symbol.dispose](): void {
    this.#bound[Symbol.dispose]();
    this.fd[Symbol.dispose]();
  }
}
