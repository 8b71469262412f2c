/**
 * Errors as node makes them of those of a call: with the code, its number, the call and the address.
 *
 * @module
 */

import { errnos } from "./abi.ts";

/** The error of node's `listen()`, with the properties that node gives it; one that node does not know stays as it is. */
export function listenError(cause: unknown, address: string, port: number): unknown {
  const code = codeOf(cause);
  if (code === undefined || !(cause instanceof Error)) return cause;
  const message = `listen ${code}: ${cause.message}`;
  const properties = { code, errno: -errnos[code], syscall: "listen", address, port };
  return Object.assign(new Error(message, { cause }), properties);
}

/** The code of an error of a listen: a path with another file is in use, and one that is too long is invalid. */
function codeOf(error: unknown): string | undefined {
  const { AddrInUse, AlreadyExists, PermissionDenied } = Deno.errors;
  if (error instanceof AddrInUse || error instanceof AlreadyExists) return "EADDRINUSE";
  if (error instanceof PermissionDenied) return "EACCES";
  if (error instanceof RangeError) return "EINVAL";
  const { code } = error as { code?: unknown };
  return typeof code === "string" && code in errnos ? code : undefined;
}
