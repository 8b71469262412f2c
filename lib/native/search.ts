/**
 * Searches the descriptors of this process for the one of an object.
 *
 * @module
 */

import { dup, Fd, rawOf } from "../../ffi/fd.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { type Address, formatAddress } from "../../ffi/sockaddr.ts";
import { ifSocket, type SocketKind } from "../../ffi/socket_options.ts";
import { NoDescriptorError } from "../errors.ts";
import { UnixConn } from "../unix/conn.ts";
import { UnixListener } from "../unix/listener.ts";
import { identityOf, parkedSocket, remembered } from "./registry.ts";

/** The descriptor of an object that has it as a property. */
export function known(object: unknown): Fd | undefined {
  if (typeof object === "number" || object instanceof Fd) return new Fd(dup(rawOf(object)));
  if (object instanceof UnixListener || object instanceof UnixConn) return object.fd.dup();
  const isObject = typeof object === "object" && object;
  const raw = isObject ? remembered(object) ?? parkedSocket(object)?.raw : undefined;
  return raw === undefined ? undefined : new Fd(dup(raw));
}

/** The descriptors that may be an object's, and what they should be, for errors. */
export interface Candidates {
  candidates: number[];
  what: string;
}

/** The descriptor that was found: its number, and a duplicate that is the caller's. */
export interface Match {
  raw: number;
  fd: Fd;
}

/**
 * Finds the one socket or file among candidates.
 *
 * @throws {NoDescriptorError} When there is none, or more than one.
 */
export function search(
  find: () => Candidates,
  object: unknown,
  kind: string,
): Match {
  if (typeof object !== "object" || object === null) {
    throw new NoDescriptorError(`Not a ${kind}: ${String(object)}`);
  }
  let found: Candidates;
  try {
    found = find();
  } catch (error) {
    const { NotCapable, NotSupported } = Deno.errors;
    const isTold = [NoDescriptorError, NotCapable, NotSupported].some((kind) =>
      error instanceof kind
    );
    if (isTold) throw error;
    throw new NoDescriptorError(`Cannot find the descriptor of this ${kind}; is it open?`, {
      cause: error,
    });
  }
  const { candidates, what } = found;
  const identities = new Map(candidates.map((raw) => [identityOf(raw), raw]));
  identities.delete(undefined);
  if (identities.size === 1) {
    const [identity] = identities.keys();
    const raw = candidates.find((each) => identityOf(each) === identity)!;
    return { raw, fd: new Fd(dup(raw)) };
  }
  throw new NoDescriptorError(
    identities.size === 0
      ? `No open descriptor is ${what}; it was closed, or is not an object of this thread`
      : `${identities.size} open descriptors could be ${what}; pass the one meant as a number`,
  );
}

/** The open sockets of this process that fit. */
export function sockets(fits: (raw: number, kind: SocketKind) => boolean): number[] {
  return openDescriptors().filter((raw) => ifSocket(raw, (kind) => fits(raw, kind)));
}

/** An address of Deno, as text. */
export function format(address: Deno.Addr): string {
  return formatAddress(address as Address);
}
