/**
 * The descriptors that hold keeps for the service, and passes to each process that it starts (sd_listen_fds(3)).
 *
 * @module
 */

import { Fd, isWritable, setNonblocking } from "../../ffi/fd.ts";
import { fileStatus, pathStatus, unlink } from "../../ffi/file.ts";
import { isBroken } from "../../ffi/poll.ts";
import { descriptorLimit } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { formatAddress } from "../../ffi/sockaddr.ts";
import { isBound, localAddress } from "../../ffi/socket.ts";
import { cookieIfSocket, limitBlocking, socketKind } from "../../ffi/socket_options.ts";
import {
  bindSocket,
  formatListenAddress,
  locateError,
  type PathOwner,
} from "../generation/bind.ts";
import type { ListenFd } from "../systemd/listen_fds.ts";
import { listen, type UnixListener } from "../unix/listener.ts";
import type { HeldAddress } from "./options.ts";

/** The most descriptors in the store: a service that stores each connection would use up all numbers. */
const mostStored = 1024;

/** The numbers that stay free of the store: those of Deno, and for looks at processes. */
const reserved = 64;

/** The most bytes of a name; without a valid one, a descriptor is called "stored" (sd_pid_notify_with_fds(3)). */
const validName = /^[^\p{Cc}:]{0,255}$/u;

interface Kept {
  readonly name: string;
  readonly fd: Fd;
  /** "listener": of hold, or passed to it. "stored": sent by the service. */
  readonly kind: "listener" | "stored";
  /** Whether it is closed when it was hung up on. */
  readonly poll: boolean;
}

/** The descriptors, with their names. */
export class Descriptors implements Disposable {
  readonly #addresses: readonly HeldAddress[];
  readonly #log: (text: string) => void;
  readonly #bound = new Map<HeldAddress, PathOwner | undefined>();
  /** A start has a duplicate of each. */
  readonly #most = Math.min(mostStored, ((descriptorLimit("self") ?? Infinity) - reserved) / 2);
  #kept: Kept[];

  /** @param given Those that hold itself was passed, which are its own from here on. */
  constructor(addresses: HeldAddress[], given: ListenFd[], log: (text: string) => void) {
    this.#addresses = addresses;
    this.#log = log;
    this.#kept = given.map(({ name, fd }) => ({ name, fd, kind: "listener", poll: false }));
  }

  /**
   * Binds the addresses that are not bound yet.
   *
   * @param path Where a generation may run that has one of them: it hands it over to the process that takes over from it.
   * @throws {Deno.errors.AddrInUse} When another process has one, and no generation runs.
   */
  bind(path: string): void {
    for (const held of this.#addresses) {
      if (this.#bound.has(held)) continue;
      const { name, address } = held;
      try {
        const { fd, unix } = "path" in address
          ? listenAt(address.path)
          : bindSocket("listener", address, () => false);
        this.#bound.set(held, unix);
        this.#kept.push({ name, fd, kind: "listener", poll: false });
        this.#log(`listening on ${formatAddress(localAddress(fd.raw))} (${quoted(name)})`);
      } catch (error) {
        if (!(error instanceof Deno.errors.AddrInUse) || !isBound(path)) {
          throw locateError(address, error);
        }
        this.#log(
          `not listening on ${
            formatListenAddress(address)
          } until the next start: the generation that runs at ` +
            "the control path, or another process, listens there",
        );
      }
    }
  }

  /** Keeps a descriptor that the service sends; the same open file is kept once, under its first name. */
  store(fd: Fd, name: string | undefined, poll: boolean): void {
    this.#dropBroken();
    const identity = identityOf(fd.raw);
    if (identity !== undefined && this.#kept.some((kept) => identityOf(kept.fd.raw) === identity)) {
      return;
    }
    if (this.#kept.length >= this.#most) {
      this.#log(
        `not storing ${
          name === undefined ? "a descriptor" : quoted(name)
        }: ${this.#kept.length} descriptors are kept already, the most here: ${mostStored}, or half of RLIMIT_NOFILE (ulimit -n)`,
      );
      return;
    }
    const given = name !== undefined && validName.test(name) ? name : "stored";
    // A sent `Fd` is closed by its receiver unless it was taken.
    this.#kept.push({ name: given, fd: new Fd(fd.take()), kind: "stored", poll });
  }

  /** Closes the stored descriptors of that name. */
  remove(name: string | undefined): void {
    this.#close(({ kind, name: its }) => kind === "stored" && its === name);
  }

  /**
   * The descriptors for the process that is started now. Listeners are set to blocking, as systemd does: programs that know
   * only LISTEN_FDS, in Python for example, call accept(2) without waiting before.
   *
   * @param path Where a generation may run: it may accept on the same listeners, and stay nonblocking.
   */
  forStart(path: string): { raws: number[]; names: string[] } {
    this.#dropBroken();
    const isShared = isBound(path);
    for (const { fd: { raw }, kind } of this.#kept) {
      if (isShared || kind !== "listener" || !socketKind(raw)) continue;
      setNonblocking(raw, false);
      limitBlocking(raw, 0);
    }
    return {
      raws: this.#kept.map(({ fd }) => fd.raw),
      names: this.#kept.map(({ name }) => name),
    };
  }

  #dropBroken(): void {
    this.#close(({ fd, poll }) => poll && isBroken(fd.raw));
  }

  #close(isUnwanted: (kept: Kept) => boolean): void {
    const unwanted = this.#kept.filter(isUnwanted);
    if (unwanted.length === 0) return;
    this.#kept = this.#kept.filter((kept) => !unwanted.includes(kept));
    for (const { fd } of unwanted) fd.close();
  }

  /** Closes all, and removes the paths that hold has bound. */
  [Symbol.dispose](): void {
    this.#close(() => true);
    for (const unix of this.#bound.values()) unix?.release();
    this.#bound.clear();
  }
}

/**
 * Listens at a unix path; the file of a socket that has ended is removed before. Not by binding beside it and renaming: the
 * service finds the listener by the path of bind(2).
 */
function listenAt(path: string): { fd: Fd; unix: UnixListener } {
  if (pathStatus(path)?.kind === "socket" && !isBound(path)) unlink(path);
  const unix = listen(path);
  return { fd: unix.fd.dup(), unix };
}

/**
 * Identifies the open file of a descriptor; undefined for a kind that cannot be told apart: all eventfds have one inode.
 * The two ends of a pipe have one too, and differ in what they are open for.
 */
function identityOf(raw: number): string | undefined {
  const cookie = cookieIfSocket(raw);
  if (cookie !== undefined) return `socket ${cookie}`;
  const { kind, dev, ino } = fileStatus(raw);
  return kind === "other" ? undefined : `${kind} ${dev} ${ino} ${isWritable(raw)}`;
}
