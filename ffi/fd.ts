/**
 * Ownership of descriptors, and the calls for descriptors of any kind.
 *
 * @module
 */

import { c, errnos } from "./abi.ts";
import { check, errno, systemError } from "./errno.ts";
import { cString, libc } from "./libc.ts";

/**
 * Owns one file descriptor: it is closed by `close()` or by `using`, unless `take()` has moved its number out before.
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

/** Has the library report each number that it owns, and each that it does not own any more. */
export function recordOwners(to: (raw: number, isOwned: boolean) => void): void {
  record = to;
}

/** Reports a number as owned; the caller closes it with `closeRaw` or `closeAll`. */
export function owned(raw: number): number {
  record?.(raw, true);
  return raw;
}

/** The number of an `Fd`, or the number itself; the caller does not own it. */
export function rawOf(fd: Fd | number): number {
  return fd instanceof Fd ? fd.raw : checkNumber(fd);
}

/** Throws for a value that is no number of a descriptor: C would convert it to another number. */
function checkNumber(raw: number): number {
  if (Number.isInteger(raw) && raw >= 0 && raw <= 0x7fff_ffff) return raw;
  throw new TypeError(`Not a descriptor number: ${String(raw)}`);
}

/**
 * Closes descriptor `raw`; the number of a standard stream stays open, on /dev/null. EINTR and EIO count as closed:
 * Linux frees the number before it reports either (close(2), "Dealing with error returns from close()").
 */
export function closeRaw(raw: number): void {
  if (closed(raw) < 0 && errno() === errnos.EBADF) {
    throw systemError(errnos.EBADF, `Cannot close descriptor ${raw}`);
  }
}

/** close(2), but for standard streams, which are replaced. */
function closed(raw: number): number {
  record?.(raw, false);
  return raw <= lastStandardStream && isOpen(raw) && leaveNull(raw) ? 0 : libc().close(raw);
}

/** Numbers 0, 1 and 2 are standard input, output and error, whatever is open there (stdin(3)). */
const lastStandardStream = 2;

/**
 * Replaces a standard stream by /dev/null. A free number would be given to the next file that is opened, which would
 * get all output of the program.
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
 * Closes numbers, neighbours by one system call, which takes half the time (close_range(2), since Linux 5.9). A
 * number that was added is not used any more.
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

/** Duplicates `raw`; the new number is `least` or above, and belongs to the caller. */
export function dup(raw: number, least = 0): number {
  return check(
    libc().fcntl(raw, c.F_DUPFD_CLOEXEC, least),
    () => `Cannot duplicate descriptor ${raw}`,
  );
}

/**
 * Makes number `to` a duplicate of `from`, and closes what it was before (dup(2)). Processes that this one starts do
 * not inherit it, unless `keptOnExec` is set, as for standard streams.
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

/** Whether processes that this one starts inherit `raw`: false as well if it is not open (fcntl(2), FD_CLOEXEC). */
export function isKeptOnExec(raw: number): boolean {
  const flags = libc().fcntl(raw, c.F_GETFD, 0);
  return flags >= 0 && (flags & c.FD_CLOEXEC) === 0;
}

/** Has processes that this one starts not inherit `raw`. */
export function closeOnExec(raw: number): void {
  const attempt = () => `Cannot set the flags of descriptor ${raw}`;
  check(libc().fcntl(raw, c.F_SETFD, c.FD_CLOEXEC), attempt);
}

/** Sets or clears O_NONBLOCK, which every descriptor of the same description shares (open(2)). */
export function setNonblocking(raw: number, on: boolean): void {
  const attempt = () => `Cannot set the status flags of descriptor ${raw}`;
  const flags = check(libc().fcntl(raw, c.F_GETFL, 0), attempt);
  const wanted = on ? flags | c.O_NONBLOCK : flags & ~c.O_NONBLOCK;
  if (wanted !== flags) check(libc().fcntl(raw, c.F_SETFL, wanted), attempt);
}

/** Whether a call on `raw` that would block fails with EAGAIN instead (fcntl(2), O_NONBLOCK). */
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
