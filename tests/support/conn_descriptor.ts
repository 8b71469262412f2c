/**
 * The steps of `leave`: finding the descriptor of a native connection, and giving the connection up.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import type { ConnLike } from "../../lib/native/objects.ts";
import { findConn } from "../../lib/native/conn_descriptor.ts";

/** A duplicate of the descriptor of a connection, which stays open. */
export function connDescriptor(conn: ConnLike): Fd {
  return findConn(conn).fd;
}

/** Closes a native connection of which another process holds the socket, too. */
export function leaveConn(conn: Deno.Conn): void {
  const { fd, closeHere } = findConn(conn);
  fd.close();
  closeHere();
}
