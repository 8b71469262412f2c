/**
 * What is known of the objects that this library has made or sent.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { statusOf } from "../../ffi/file.ts";
import { ifSocket, socketCookie } from "../../ffi/socket_options.ts";

/** The socket or file that a number had when it was noted. */
interface Remembered {
  raw: number;
  identity: string | undefined;
}

const adopted = new WeakMap<object, Remembered>();

/** Notes the number of an object, so that it need not be searched. */
export function remember(object: object, raw: number): void {
  adopted.set(object, { raw, identity: identityOf(raw) });
}

/** The number of an object that this library has made, if it is still the object's. */
export function remembered(object: object): number | undefined {
  const note = adopted.get(object);
  // The number of a closed object may belong to another one by now.
  return note && note.identity !== undefined && identityOf(note.raw) === note.identity
    ? note.raw
    : undefined;
}

const parked = new WeakMap<object, () => Fd | undefined>();

/** Notes how to find the socket of an object that is off it for a while; undefined when it is closed. */
export function rememberSocket(object: object, socket: () => Fd | undefined): void {
  parked.set(object, socket);
}

/** The socket of an object that is off it, if it is noted and open. */
export function parkedSocket(object: object): Fd | undefined {
  return parked.get(object)?.();
}

const passedOn = new WeakSet<object>();

/** Notes that another process has the socket or file of an object. */
export function notePassedOn(object: object): void {
  passedOn.add(object);
}

/** Whether another process has the socket or file of an object. */
export function wasPassedOn(object: object): boolean {
  return passedOn.has(object);
}

/** Identifies a socket or file: the same for each duplicate, different for any other; undefined for none. */
export function identityOf(raw: number): string | undefined {
  const cookie = ifSocket(raw, () => socketCookie(raw));
  if (cookie !== undefined) return `socket ${cookie}`;
  const status = statusOf(raw);
  return status && `file ${status.dev} ${status.ino}`;
}
