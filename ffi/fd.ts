/**
 * Ownership of descriptors, and the calls for descriptors of any kind.
 *
 * @module
 */

import { c, errnos } from "./abi.ts";
import { check, errno, systemError } from "./errno.ts";
import { cString, libc } from "./libc.ts";

/**
 * Owns one file descriptor: it is closed by `close()` or by `using`, unless `take()` moves it to
 * somebody else first.
 *
 * ```ts
 * import { connect, Fd } from "@graceful/deno";
 *
 * function takeOver(received: Fd): number {
 *   using fd = received; // closed at the end, unless taken
 *   return fd.take(); // from here on the caller's
 * }
 * ```
 */
export class Fd {
  #raw: number;
  /** The process that sent it, if one did. */
  readonly senderPid: number | undefined;

  /** Takes the ownership of descriptor number `raw`. */
  constructor(raw: number, senderPid?: number) {
    this.#raw = checkNumber(raw);
    this.senderPid = senderPid;
    record?.(raw, true);
  }

  /**
   * The number, on loan: it stays valid until `take()` or `close()`.
   *
   * @throws {Deno.errors.BadResource} After either.
   */
  get raw(): number {
    if (this.owned) return this.#raw;
    throw new Deno.errors.BadResource(`Descriptor ${~this.#raw} was taken or closed already`);
  }

  /** Whether it still owns a descriptor. */
  get owned(): boolean {
    return this.#raw >= 0;
  }

  /**
   * The number, for good: closing it is now up to the caller. A number does not know where it came
   * from: adopt the `Fd` itself while the sender lives.
   *
   * @throws {Deno.errors.BadResource} When it was taken or closed already.
   */
  take(): number {
    const raw = this.raw;
    // Kept for the error of a later call.
    this.#raw = ~raw;
    record?.(raw, false);
    return raw;
  }

  /**
   * A second owner of the same open file, socket or pipe (fcntl(2), F_DUPFD_CLOEXEC).
   *
   * @throws {Deno.errors.BadResource} When it was taken or closed already.
   */
  dup(): Fd {
    return new Fd(dup(this.raw), this.senderPid);
  }

  /**
   * Closes the descriptor.
   *
   * @throws {Deno.errors.BadResource} When it was taken or closed already.
   */
  close(): void {
    closeRaw(this.take());
  }

  /** Closes the descriptor unless it was taken or closed. */
  [Symbol.dispose](): void {
    if (this.owned) this.close();
  }
}

let record: ((raw: number, isOwned: boolean) => void) | undefined;

/** Has each number recorded that is owned, by an `Fd` for example, or is not any more, from here on. */
export function recordOwners(to: (raw: number, isOwned: boolean) => void): void {
  record = to;
}

/** The number, which its caller closes with `closeRaw` or `closeAll`: recorded like that of an `Fd`. */
export function owned(raw: number): number {
  record?.(raw, true);
  return raw;
}

/** The number of an `Fd` or of a number, on loan. */
export function rawOf(fd: Fd | number): number {
  return fd instanceof Fd ? fd.raw : checkNumber(fd);
}

/** C would make another number of what is none, and so another descriptor. */
function checkNumber(raw: number): number {
  if (Number.isInteger(raw) && raw >= 0 && raw <= 0x7fff_ffff) return raw;
  throw new TypeError(`Not a descriptor number: ${String(raw)}`);
}

/**
 * Closes descriptor number `raw`; of a standard stream, the number stays open, on /dev/null. EINTR and EIO count as closed: Linux frees the number before it
 * reports either (close(2), "Dealing with error returns from close()").
 */
export function closeRaw(raw: number): void {
  if (closed(raw) < 0 && errno() === errnos.EBADF) {
    throw systemError(errnos.EBADF, `Cannot close descriptor ${raw}`);
  }
}

/** close(2), which leaves the number of a standard stream open. */
function closed(raw: number): number {
  record?.(raw, false);
  return raw <= lastStandardStream && isOpen(raw) && leaveNull(raw) ? 0 : libc().close(raw);
}

/** Descriptor numbers 0, 1 and 2 are standard input, output and error, whatever is open there (stdin(3)). */
const lastStandardStream = 2;

/**
 * Puts /dev/null in the place of a standard stream. A number that is free goes to what is opened next, which
 * would then get what any part of the program prints.
 */
function leaveNull(raw: number): boolean {
  const nowhere = libc().open(cString("/dev/null"), c.O_RDWR | c.O_CLOEXEC, 0);
  if (nowhere < 0) return false;
  // The programs that this process starts get it, like any standard stream.
  const isLeft = libc().dup3(nowhere, raw, 0) >= 0;
  libc().close(nowhere);
  return isLeft;
}

/** Closes every number in `raws` that is open. */
export function closeAll(raws: Iterable<number>): void {
  for (const raw of raws) closed(raw);
}

/**
 * Numbers to close, neighbours by one call to the kernel, which takes half the time (close_range(2),
 * since Linux 5.9). A number that is added is not used any more.
 */
export class ClosingRun {
  #first = 0;
  #end = 0;

  /** Has `raw` closed with its neighbours, by `close` at the latest. */
  add(raw: number): void {
    if (raw !== this.#end) {
      this.close();
      this.#first = raw;
    }
    this.#end = raw + 1;
  }

  /** Closes what was added. */
  close(): void {
    const first = this.#first;
    const end = this.#end;
    this.#first = this.#end = 0;
    if (end - first > 1 && libc().close_range?.(first, end - 1, 0) === 0) return;
    for (let raw = first; raw < end; raw++) libc().close(raw);
  }
}

/** A new number, `least` or above, for what `raw` is open on; the caller owns it. */
export function dup(raw: number, least = 0): number {
  return check(
    libc().fcntl(raw, c.F_DUPFD_CLOEXEC, least),
    () => `Cannot duplicate descriptor ${raw}`,
  );
}

/**
 * Makes number `to` refer to what `from` is open on; what `to` was is closed (dup(2)). Programs that
 * this process starts do not get it, unless they are to: standard streams.
 */
export function replace(from: number, to: number, { keptOnExec = false } = {}): void {
  check(
    libc().dup3(from, to, keptOnExec ? 0 : c.O_CLOEXEC),
    () => `Cannot put descriptor ${from} in the place of ${to}`,
  );
}

/** Whether descriptor number `raw` is open. */
export function isOpen(raw: number): boolean {
  return libc().fcntl(raw, c.F_GETFD, 0) >= 0;
}

/** Sets or clears O_NONBLOCK, which every descriptor of the same description shares (open(2)). */
export function setNonblocking(raw: number, on: boolean): void {
  const attempt = () => `Cannot set the status flags of descriptor ${raw}`;
  const flags = check(libc().fcntl(raw, c.F_GETFL, 0), attempt);
  const wanted = on ? flags | c.O_NONBLOCK : flags & ~c.O_NONBLOCK;
  if (wanted !== flags) check(libc().fcntl(raw, c.F_SETFL, wanted), attempt);
}

/** Whether a call on `raw` that has nothing to do says so, in place of waiting (fcntl(2), O_NONBLOCK). */
export function isNonblocking(raw: number): boolean {
  const flags = libc().fcntl(raw, c.F_GETFL, 0);
  return flags >= 0 && (flags & c.O_NONBLOCK) !== 0;
}

/** Whether `raw` is open for writing (fcntl(2), F_GETFL). */
export function isWritable(raw: number): boolean {
  const flags = libc().fcntl(raw, c.F_GETFL, 0);
  return flags >= 0 && (flags & (c.O_WRONLY | c.O_RDWR)) !== 0;
}

/** Whether `raw` is open for reading and appending. */
export function isAppending(raw: number): boolean {
  const flags = libc().fcntl(raw, c.F_GETFL, 0);
  return flags >= 0 && (flags & c.O_RDWR) !== 0 && (flags & c.O_APPEND) !== 0;
}
