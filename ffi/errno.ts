/**
 * errno becomes the `Deno.errors` class that Deno itself uses for it, with the errno's name as `code`.
 *
 * @module
 */

import { errnos } from "./abi.ts";
import { libc } from "./libc.ts";

const names = new Map(Object.entries(errnos).map(([name, value]) => [value, name]));

const value = new Int32Array(1);
const valueBytes = new Uint8Array(value.buffer);

/**
 * The errno of this thread. It is valid only directly after a failed call, in the same turn of the event loop: check
 * the result of the call first.
 */
export function errno(): number {
  const { memcpy, __errno_location } = libc();
  memcpy(valueBytes, __errno_location(), 4n);
  return value[0];
}

/** "EADDRINUSE" for its number; "errno 999" for one without a name here. */
export function errnoName(code: number): string {
  return names.get(code) ?? `errno ${code}`;
}

/** An error with the name of its errno. */
export type SystemError = Error & { code: string };

/**
 * The error for `code`: "Cannot listen on "/run/a.sock": Address already in use (EADDRINUSE)".
 *
 * The classes are those of deno_core's `get_io_error_class`.
 */
export function systemError(code: number, attempt: string, cause?: unknown): SystemError {
  const name = errnoName(code);
  const make = classes()[name] ?? Error;
  const error = new make(`${attempt}: ${describe(code)} (${name})`);
  // Not by the constructor: before Deno 2.1 those of Deno.errors ignore their options.
  return Object.assign(error, cause === undefined ? { code: name } : { code: name, cause });
}

/**
 * Gives the result of a call, or throws the error of its errno; `attempt` may be a function that is called only then.
 */
export function check(result: number, attempt: string | (() => string)): number {
  if (result >= 0) return result;
  throw systemError(errno(), typeof attempt === "string" ? attempt : attempt());
}

/**
 * Repeats a call that a signal has interrupted (signal(7), EINTR); every call that may be interrupted is made through
 * it.
 *
 * @param impossible An errno that the call never has: V8 has set it between the call and the reading of errno, as it
 * does when it opens a file of its own (ENOENT). The call is repeated then.
 */
export function uninterrupted(call: () => number | bigint, impossible?: number): number {
  for (;;) {
    const result = Number(call());
    if (result >= 0) return result;
    const code = errno();
    if (code !== errnos.EINTR && code !== impossible) return result;
  }
}

type ErrorClass = new (message?: string, options?: ErrorOptions) => Error;

function classes(): Record<string, ErrorClass> {
  const e = Deno.errors;
  return {
    ENOENT: e.NotFound,
    EACCES: e.PermissionDenied,
    EPERM: e.PermissionDenied,
    ECONNREFUSED: e.ConnectionRefused,
    ECONNRESET: e.ConnectionReset,
    ECONNABORTED: e.ConnectionAborted,
    ENOTCONN: e.NotConnected,
    EADDRINUSE: e.AddrInUse,
    EADDRNOTAVAIL: e.AddrNotAvailable,
    EPIPE: e.BrokenPipe,
    EEXIST: e.AlreadyExists,
    EAGAIN: e.WouldBlock,
    EINVAL: TypeError,
    ETIMEDOUT: e.TimedOut,
    EINTR: e.Interrupted,
    EBADF: e.BadResource,
    EBUSY: e.Busy,
    ENOTDIR: e.NotADirectory,
    EISDIR: e.IsADirectory,
    ELOOP: e.FilesystemLoop,
    ENETUNREACH: e.NetworkUnreachable,
    EOPNOTSUPP: e.NotSupported,
  };
}

function describe(code: number): string {
  const text = new Uint8Array(256);
  libc().__xpg_strerror_r(code, text, 256n);
  return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
}
