/**
 * Errors as node makes them of those of a call: with the code, its number, the call and the address.
 *
 * @module
 */

import { errnos } from "./abi.ts";

/** The error of node's `listen()` for an address in use, with the properties that node gives it. */
export function listenInUse(cause: Error, address: string, port?: number | null): Error {
  return Object.assign(new Error(`listen EADDRINUSE: ${cause.message}`, { cause }), {
    code: "EADDRINUSE",
    errno: -errnos.EADDRINUSE,
    syscall: "listen",
    address,
    ...typeof port === "number" && { port },
  });
}
