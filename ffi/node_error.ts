/**
 * Errors as node makes them of those of a call: with the code, its number, the call and the address.
 *
 * @module
 */

import { errnos } from "./abi.ts";

/** Makes the error that node's `listen()` emits, with its properties; an error without a code of errno(3) is returned as it is. */
export function listenError(cause: unknown, address: string, port: number): unknown {
  const code = codeOf(cause);
  if (code === undefined || !(cause instanceof Error)) return cause;
  const message = `listen ${code}: ${cause.message}`;
  const properties = { code, errno: -errnos[code], syscall: "listen", address, port };
  return Object.assign(new Error(message, { cause }), properties);
}

/** The code that node gives an error of `listen()`: EADDRINUSE for a path that exists, EINVAL for a path that is too long. */
function codeOf(error: unknown): string | undefined {
  const { AddrInUse, AlreadyExists, PermissionDenied } = Deno.errors;
  if (error instanceof AddrInUse || error instanceof AlreadyExists) return "EADDRINUSE";
  if (error instanceof PermissionDenied) return "EACCES";
  if (error instanceof RangeError) return "EINVAL";
  const { code } = error as { code?: unknown };
  return typeof code === "string" && code in errnos ? code : undefined;
}
