/**
 * Binds listeners and datagram sockets without a native object, and restores the paths of inherited ones.
 *
 * @module
 */

import { isBoundTo } from "../../ffi/diag.ts";
import { dup, Fd } from "../../ffi/fd.ts";
import { pathStatus } from "../../ffi/file.ts";
import { formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import { isBound } from "../../ffi/socket.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { capture, keep } from "../event_loop/registration.ts";
import type {
  DatagramListenAddress,
  ListenAddress,
  TcpListenAddress,
  UdpListenAddress,
} from "../listen_address.ts";
import type { Logger } from "../logger.ts";
import { checkDatagrams } from "../native/adopt.ts";
import { bindDatagrams } from "../unix/bind.ts";
import { DatagramPath } from "../unix/datagram_path.ts";
import { listenWhereFree, type UnixListener } from "../unix/listener.ts";
import { type AnyListenAddress, guardPath, type Inherited } from "./inheritance.ts";
import { runtime } from "../runtime.ts";

/** The kinds of sockets that a generation binds. */
export type SocketKind = "listener" | "datagram";

/** The owner of a unix socket's path. */
export type PathOwner = UnixListener | DatagramPath;

/** A bound socket, inherited or new. */
export interface BoundSocket {
  /** The socket. */
  fd: Fd;
  /** The owner of its path, if it has one. */
  unix?: PathOwner;
  /** The socket that was bound at its path after that had been removed. */
  replacement?: PathOwner;
  /** Whether it is a socket unit's: see {@linkcode OfferedItem}. */
  activated?: true;
}

/** Milliseconds for which addresses that are about to be free may still be in use. */
const bindPatience = 1000;

/** Milliseconds between two attempts to bind. */
const bindInterval = 10;

/**
 * Binds a new socket. While `mayBeFreed()`, an address in use is tried again for up to a second, and that blocks the
 * thread (`Atomics.wait`): the kernel frees the addresses of a killed process a moment after the end of its connections
 * is seen, a service manager takes a moment to close a stored socket, and `app.serve()` is synchronous as
 * `Deno.serve()` is.
 *
 * @throws {Deno.errors.AddrInUse} When the address is in use.
 */
export function bindSocket(
  kind: SocketKind,
  address: AnyListenAddress,
  mayBeFreed: () => boolean,
): BoundSocket {
  const end = performance.now() + bindPatience;
  for (;;) {
    try {
      return kind === "listener"
        ? bindListener(address as ListenAddress)
        : bindDatagram(address as DatagramListenAddress);
    } catch (error) {
      const isRetried = error instanceof Deno.errors.AddrInUse && mayBeFreed() &&
        performance.now() < end;
      if (!isRetried) throw error;
    }
    blockThread(bindInterval);
  }
}

function blockThread(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

function bindListener(address: ListenAddress): BoundSocket {
  if (!("path" in address)) return { fd: bindNative(() => listenTcp(address)) };
  const { path, mode } = address;
  return duplicated(listenWhereFree(path, { mode }));
}

function bindDatagram(address: DatagramListenAddress): BoundSocket {
  if (!("path" in address)) return { fd: bindNative(() => listenUdp(address)) };
  const { path, mode } = address;
  return duplicated(new DatagramPath(bindDatagrams(path, mode), path));
}

/** A new socket and its path, which is removed if no descriptor is left for a duplicate. */
function duplicated(unix: PathOwner): BoundSocket {
  try {
    return { fd: unix.fd.dup(), unix };
  } catch (error) {
    unix.release();
    throw error;
  }
}

/** Listens with Deno's own call. */
export function listenTcp(
  { hostname, port = 0, reusePort, backlog }: TcpListenAddress,
): Deno.TcpListener {
  const options: Deno.TcpListenOptions & { reusePort?: boolean; tcpBacklog?: number } = {
    hostname,
    port,
    reusePort,
    tcpBacklog: backlog,
  };
  return runtime.listen(options);
}

/** Receives UDP datagrams with Deno's own call. */
export function listenUdp(
  { hostname = "0.0.0.0", port = 0, reuseAddress, loopback }: UdpListenAddress,
): Deno.DatagramConn {
  checkDatagrams();
  return runtime.listenDatagram({ transport: "udp", hostname, port, reuseAddress, loopback });
}

/** Duplicates the socket that a call of Deno binds, and closes its object. */
function bindNative(bind: () => { close(): void }): Fd {
  const { dummy, registration } = capture(bind, (object) => object.close());
  keep(registration);
  try {
    return new Fd(dup(registration.tfd));
  } finally {
    dummy.close();
  }
}

/**
 * Makes the path of an inherited socket lead to it, or binds a replacement there. The descriptor stays the caller's.
 *
 * @throws {Deno.errors.AddrInUse} When another process listens at the path.
 */
export function withPath(
  kind: SocketKind,
  { item: { activated }, fd, file }: Inherited,
  address: AnyListenAddress,
  logger: Logger,
): BoundSocket {
  // The path of a socket unit is bound and removed by the service manager alone.
  if (activated) return { fd: fd!, activated };
  if (!("path" in address) || address.path.startsWith("\0")) return { fd: fd! };
  const { path, mode } = address;
  using undo = new DisposableStack();
  const isPathOfAnother = !file && !leadsTo(path, fd!);
  const unix = guardPath(kind, fd!.dup(), path, file);
  undo.defer(() => {
    unix.keepPath();
    unix[Symbol.dispose]();
  });
  const replacement = isPathOfAnother
    ? bindPath(kind, path, mode)
    : restorePath(path, unix, logger, mode);
  // Without a known file, the file at the path may belong to another socket: its mode stays.
  if (mode !== undefined && file && !replacement) unix.setMode(mode);
  undo.move();
  return { fd: fd!, unix, replacement };
}

/** Whether a path leads to a socket whose file is not known. */
function leadsTo(path: string, { raw }: Fd): boolean {
  const status = pathStatus(path);
  return status !== undefined && isBound(path) && isBoundTo(raw, path, status) !== false;
}

function bindPath(kind: SocketKind, path: string, mode: number | undefined): PathOwner {
  return kind === "datagram"
    ? new DatagramPath(bindDatagrams(path, mode), path)
    : listenWhereFree(path, { mode });
}

/**
 * Makes a path lead to its socket again: a file that is left gets that name too, else a replacement is bound there and
 * returned.
 *
 * @param mode Permissions of a new file. @default {those of the old one}
 * @throws {Deno.errors.AddrInUse} When another process listens there.
 */
export function restorePath(
  path: string,
  unix: PathOwner,
  logger: Logger,
  mode?: number,
): PathOwner | undefined {
  const restored = unix.restorePath(mode);
  if (!restored) return undefined;
  if (restored.by === "link") {
    // As when a symbolic link in the path now leads to another release.
    logger.info?.(`${formatPath(path)} led to another file: the socket was linked there`);
    return undefined;
  }
  logger.warn?.(
    `The socket file ${formatPath(path)} was removed, so that no client could connect: ` +
      "the path was bound anew; keep cleaners of temporary files away from it",
  );
  return restored.socket;
}

/** An address as it was asked for, in words. */
export function formatListenAddress(address: AnyListenAddress): string {
  if ("path" in address) return formatPath(address.path);
  const { hostname = "0.0.0.0", port = 0 } = address;
  return formatAddress({ transport: "tcp", hostname, port });
}

/** Adds the address to the message of an error: Deno's own errors do not name it. */
export function locateError<E>(address: AnyListenAddress, error: E, advice = ""): E {
  if (error instanceof Error) {
    const where = "path" in address ? "" : `Cannot listen on ${formatListenAddress(address)}: `;
    error.message = where + error.message + (advice && `; ${advice}`);
  }
  return error;
}
