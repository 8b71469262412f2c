/**
 * The way out of a connection, one half at a time.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { type ConnLike, findConn } from "../../lib/native/descriptor.ts";

/** The descriptor of a connection that is not left. */
export function connDescriptor(conn: ConnLike): Fd {
  return findConn(conn).fd;
}

/** Closes a native connection that somebody else holds, too. */
export function leaveConn(conn: Deno.Conn): void {
  const { fd, leave } = findConn(conn);
  fd.close();
  leave();
}
