/**
 * Finds the descriptor of a connection.
 *
 * @module
 */

import { closeAll, closeRaw, dup, Fd, replace } from "../../ffi/fd.ts";
import { IncomingMessage, wouldBlock } from "../../ffi/message.ts";
import { type Address, formatAddress } from "../../ffi/sockaddr.ts";
import { ifSocket, noDelay } from "../../ffi/socket_options.ts";
import { localAddress, peerAddress, socketPair } from "../../ffi/socket.ts";
import { NoDescriptorError } from "../errors.ts";
import { denoRegistrations, exchange } from "../event_loop/registration.ts";
import { UnixConn } from "../unix/conn.ts";
import { closeNative } from "./close.ts";
import type { ConnLike, NodeSocket } from "./objects.ts";
import { identityOf, remembered } from "./registry.ts";
import { format, known, search } from "./search.ts";

/** A connection's descriptor, and how to give the connection up to its receiver. */
export interface FoundConn {
  /** A duplicate that is the caller's. */
  fd: Fd;
  /** Replaces the socket of a native connection by a dead one: nothing is read or written here any more. */
  detach(): void;
  /**
   * Closes a native connection that lives on in another process. Deno's own `close()`, and the end of the process,
   * would shut it down there too (tokio's `OwnedWriteHalf` does when it is dropped): so its socket is replaced by a
   * dead one first. Objects that are not native stay as they are.
   */
  closeHere(): void;
}

/** Finds the descriptor of a connection. */
export function findConn(conn: ConnLike): FoundConn {
  if (typeof conn === "number" || conn instanceof Fd || conn instanceof UnixConn) {
    return { fd: known(conn)!, detach: () => {}, closeHere: () => {} };
  }
  const { raw, fd } = search(
    () => {
      const own = remembered(conn);
      if (own === undefined && ("handshake" in conn || "encrypted" in conn)) {
        throw new NoDescriptorError(
          "A TLS connection cannot be passed on: its keys live in this process",
        );
      }
      const ends = endsOf(conn);
      const candidates = own === undefined ? places(conn, ends) : [own];
      return { candidates, what: describeEnds(ends) };
    },
    conn,
    "connection",
  );
  const identity = identityOf(raw);
  const detach = () => {
    // The program may have closed it meanwhile, and the number belong to another object.
    if (identityOf(raw) === identity) park(raw);
  };
  return {
    fd,
    detach,
    closeHere() {
      detach();
      if ("destroy" in conn) conn.destroy();
      else closeNative(conn);
    },
  };
}

/** Replaces the socket of a native connection by a dead one. */
function park(raw: number): void {
  const registration = denoRegistrations().find(({ tfd }) => tfd === raw);
  if (!registration) return;
  const [dead, other] = socketPair();
  closeRaw(other);
  try {
    exchange(registration, dead);
  } finally {
    closeRaw(dead);
  }
}

/** Both addresses of a connection, as text; undefined for a unix connection. */
interface Ends {
  local: string;
  remote: string;
}

function endsOf(conn: Deno.Conn | NodeSocket): Ends | undefined {
  if ("localAddr" in conn) {
    const { localAddr, remoteAddr } = conn;
    if (localAddr.transport === "unix") return undefined;
    return { local: format(localAddr), remote: format(remoteAddr) };
  }
  const { localAddress, localPort, remoteAddress, remotePort } = conn;
  if (localAddress === undefined || localPort === undefined) return undefined;
  const address = (hostname = "", port = 0): Address => ({ transport: "tcp", hostname, port });
  return {
    local: formatAddress(address(localAddress, localPort)),
    remote: formatAddress(address(remoteAddress, remotePort)),
  };
}

function describeEnds(ends: Ends | undefined): string {
  return ends ? `the connection from ${ends.local} to ${ends.remote}` : "this unix connection";
}

/** The number by which this thread's runtime has registered a connection; none for a closed one. */
function places(conn: Deno.Conn | NodeSocket, ends: Ends | undefined): number[] {
  const fits = (raw: number) =>
    ifSocket(raw, ({ domain, type, listening }) => {
      if (listening || type !== "stream") return false;
      // A unix connection has no address of its own.
      if (!ends || domain === "unix") return !ends && domain === "unix";
      return formatAddress(localAddress(raw)) === ends.local &&
        formatAddress(peerAddress(raw)) === ends.remote;
    });
  const suspects = denoRegistrations().map(({ tfd }) => tfd).filter(fits);
  if (!("localAddr" in conn)) {
    if (ends) return suspects;
    const handle = (conn as { _handle?: { fd?: number } })._handle;
    const inner = nativeInside(handle);
    if (inner) return places(inner, ends);
    return suspects.filter((raw) => raw === handle?.fd);
  }
  if (ends && suspects.length > 0 && !isOpenTcp(conn as Deno.TcpConn, suspects[0])) return [];
  // Addresses and ports identify a TCP connection; but several objects may have it.
  if (ends && suspects.length === 1) return suspects;
  for (let i = 0; i < suspects.length; i += probesAtOnce) {
    const found = probeConn(conn, suspects.slice(i, i + probesAtOnce));
    if (found.length > 0) return found;
  }
  return [];
}

/** Before Deno 2.7.12 a handle of node's has no number, but a connection of Deno's inside. */
function nativeInside(handle: object | undefined): Deno.Conn | undefined {
  const symbol = handle &&
    Object.getOwnPropertySymbols(handle).find(({ description }) =>
      description === "kStreamBaseField"
    );
  return symbol && (handle as Record<symbol, Deno.Conn | undefined>)[symbol];
}

/** Whether the object is open: a call that has no effect here fails for a closed one. */
function isOpenTcp(conn: Deno.TcpConn, raw: number): boolean {
  try {
    conn.setNoDelay(noDelay(raw));
    return true;
  } catch (error) {
    // An open object with a pending write is busy.
    return !(error instanceof Deno.errors.BadResource);
  }
}

/** A probe needs three descriptors while it lasts. */
const probesAtOnce = 64;

/**
 * Finds the candidate that is the object's by a probe, all within one turn of the event loop, so that no other code
 * notices:
 *
 *     candidate 12 -> probe A        object.write("")        one datagram of 0 bytes
 *     candidate 15 -> probe B   --------------------->       arrives at the other end of B: it is 15
 *
 * Each candidate's socket is replaced by one end of a datagram socket pair; an empty write is sent at once and
 * arrives at exactly one of the other ends; then every socket is put back.
 */
function probeConn(conn: Deno.Conn, suspects: number[]): number[] {
  const probes: { raw: number; kept: number; pair: [number, number] }[] = [];
  const message = new IncomingMessage(1);
  try {
    for (const raw of suspects) {
      const opened = [dup(raw)];
      try {
        const pair = socketPair("datagram");
        opened.push(...pair);
        replace(pair[0], raw);
        probes.push({ raw, kept: opened[0], pair });
      } catch (error) {
        closeAll(opened);
        throw error;
      }
    }
    // The write is sent in this turn or never: its promise is not awaited, and a closed object rejects it.
    conn.write(new Uint8Array(0)).catch(() => {});
    return probes.filter(({ pair }) => message.receive(pair[1]) !== wouldBlock)
      .map(({ raw }) => raw);
  } finally {
    for (const { raw, kept, pair } of probes) {
      replace(kept, raw);
      closeAll([kept, ...pair]);
    }
  }
}
