/**
 * Finds the descriptor of a Deno or Node object: open descriptors are matched by address, inode or a probe; exactly one
 * match, or a {@linkcode NoDescriptorError}. Deno has no API for it.
 *
 * @module
 */

import { Fd } from "../../ffi/fd.ts";
import { formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import { localAddress } from "../../ffi/socket.ts";
import { NoDescriptorError } from "../errors.ts";
import { pause } from "../time.ts";
import { UnixConn } from "../unix/conn.ts";
import { UnixListener } from "../unix/listener.ts";
import { findConn } from "./conn_descriptor.ts";
import { fileDescriptor } from "./file_descriptor.ts";
import type {
  ConnLike,
  DescriptorLike,
  ListenerLike,
  NodeServer,
  PacketConnLike,
} from "./objects.ts";
import { notePassedOn } from "./registry.ts";
import { format, known, search, sockets } from "./search.ts";

/** The descriptor of a listener, as a duplicate that is the caller's. */
export function listenerDescriptor(listener: ListenerLike): Fd {
  return known(listener) ?? search(
    () => {
      const wanted = boundTo(listener as Deno.Listener | NodeServer);
      return {
        candidates: sockets((raw, { listening, type }) =>
          listening && type === "stream" && formatAddress(localAddress(raw)) === wanted
        ),
        what: `the listener at ${wanted}`,
      };
    },
    listener,
    "listener",
  ).fd;
}

/** The descriptor of a datagram socket, as a duplicate that is the caller's. */
export function packetConnDescriptor(conn: PacketConnLike): Fd {
  return known(conn) ?? search(
    () => {
      const wanted = boundTo(conn as Deno.DatagramConn | NodeServer);
      return {
        candidates: sockets((raw, { type }) =>
          type === "datagram" && formatAddress(localAddress(raw)) === wanted
        ),
        what: `the datagram socket at ${wanted}`,
      };
    },
    conn,
    "datagram socket",
  ).fd;
}

/** The address of a listener or datagram socket, as text. */
function boundTo(socket: { readonly addr: Deno.Addr } | NodeServer): string {
  if ("addr" in socket) return format(socket.addr);
  const address = socket.address();
  if (address === null) throw new NoDescriptorError("This server does not listen");
  if (typeof address === "string") return formatPath(address);
  return formatAddress({ transport: "tcp", hostname: address.address, port: address.port });
}

/** A descriptor, and how to detach its object here when another process has the descriptor. */
export interface Found {
  /** A duplicate that is the caller's. */
  fd: Fd;
  /** Has what is done to the object from here on no effect on the other process. */
  passOn?(): void;
}

/**
 * Finds the descriptor of anything that has one.
 *
 * @throws {NoDescriptorError} When it cannot be told for certain, or it is a TLS connection.
 */
export function findAny(object: DescriptorLike): Found {
  if (typeof object === "number" || object instanceof Fd) return { fd: fileDescriptor(object) };
  if (typeof object !== "object" || object === null) {
    throw new NoDescriptorError(`Nothing with a descriptor: ${String(object)}`);
  }
  if (object instanceof UnixListener) {
    return {
      fd: object.fd.dup(),
      passOn: () => object.keepPath(),
    };
  }
  if (isConn(object)) {
    const { fd, detach } = findConn(object);
    return { fd, passOn: detach };
  }
  // Datagram sockets of node have `send`, and files have not.
  if ("receive" in object || "send" in object) {
    return { fd: packetConnDescriptor(object as PacketConnLike) };
  }
  if ("addr" in object || "address" in object) {
    return { fd: listenerDescriptor(object), passOn: () => notePassedOn(object) };
  }
  if ("statSync" in object || "fd" in object) return { fd: fileDescriptor(object) };
  throw new NoDescriptorError(
    "No listener, server, connection, datagram socket or file of Deno's, node's or this library's: " +
      Object.prototype.toString.call(object),
  );
}

function isConn(object: DescriptorLike & object): object is ConnLike & object {
  return object instanceof UnixConn || "localAddr" in object ||
    "destroy" in object && "remotePort" in object;
}

/**
 * Whether a descriptor that was not found may be found in a later turn of the event loop: that of a unix connection
 * only after the runtime has polled it once, and that of a file not while it is read or written.
 */
export function isLate(object: DescriptorLike, error: unknown): boolean {
  if (!(error instanceof NoDescriptorError)) return false;
  if (typeof object !== "object" || object === null) return false;
  if (error.cause !== undefined) return error.cause instanceof Deno.errors.Busy;
  if ("localAddr" in object) return object.localAddr.transport === "unix";
  return isConn(object) && "destroy" in object && object.localPort === undefined;
}

/** Calls `find` until it succeeds, for some turns of the event loop. */
export async function settled<T>(find: () => T): Promise<T> {
  for (let turns = 0; turns < 10; turns++) {
    try {
      return find();
    } catch (error) {
      if (!(error instanceof NoDescriptorError)) throw error;
      await pause(0);
    }
  }
  return find();
}
