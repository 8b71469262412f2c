/**
 * Finds the descriptor of a Deno or Node object: open descriptors are matched by address, inode or a probe; exactly one
 * match, or a {@linkcode NoDescriptorError}. Deno has no API for it.
 *
 * @module
 */

import { closeRaw, dup, Fd, isWritable, rawOf, replace } from "../../ffi/fd.ts";
import { offsetOf, statusOf } from "../../ffi/file.ts";
import { IncomingMessage, wouldBlock } from "../../ffi/message.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { type Address, formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import {
  ifSocket,
  localAddress,
  noDelay,
  peerAddress,
  socketCookie,
  type SocketKind,
  socketPair,
} from "../../ffi/socket.ts";
import { pause } from "../time.ts";
import { denoRegistrations, exchange } from "../event_loop/registration.ts";
import { NoDescriptorError } from "../errors.ts";
import { UnixConn } from "../unix/conn.ts";
import { closeNative } from "./close.ts";
import { UnixListener } from "../unix/listener.ts";

/** A listening or datagram socket of node's: a server of node:net, node:http and their like. */
export interface NodeServer {
  /** The address that it is bound to. */
  address(): { address: string; port: number } | string | null;
}

/** A connection of node's: a `Socket` of node:net. */
export interface NodeSocket {
  /** The local address. */
  readonly localAddress?: string;
  /** The local port. */
  readonly localPort?: number;
  /** The peer's address. */
  readonly remoteAddress?: string;
  /** The peer's port. */
  readonly remotePort?: number;
  /** Closes the connection in this process. */
  destroy(): unknown;
}

/** A listening socket, as an object of Deno's, node's or this library's, or by its descriptor. */
export type ListenerLike =
  | Deno.Listener
  | Deno.HttpServer
  | NodeServer
  | UnixListener
  | Fd
  | number;

/** A connected stream socket, as an object of Deno's, node's or this library's, or by its descriptor. */
export type ConnLike = Deno.Conn | NodeSocket | UnixConn | Fd | number;

/** A datagram socket, as an object of Deno's or node's, or by its descriptor. */
export type PacketConnLike = Deno.DatagramConn | NodeServer | Fd | number;

/** A file, pipe or terminal, as Deno's object, node's `FileHandle`, or by its descriptor. */
export type FileLike = Deno.FsFile | { readonly fd: number } | Fd | number;

/** Any object with a descriptor that can be sent to another process. */
export type DescriptorLike = ListenerLike | ConnLike | PacketConnLike | FileLike;

/** A descriptor, and how to detach its object here when another process has the descriptor. */
export interface Found {
  /** A duplicate that is the caller's. */
  fd: Fd;
  /** Has what is done to the object from here on no effect on the other process. */
  passOn?(): void;
}

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
  );
}

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
  leave(): void;
}

/** Finds the descriptor of a connection. */
export function findConn(conn: ConnLike): FoundConn {
  if (typeof conn === "number" || conn instanceof Fd || conn instanceof UnixConn) {
    return { fd: known(conn)!, detach: () => {}, leave: () => {} };
  }
  let place = -1;
  const fd = search(
    () => {
      const own = remembered(conn);
      if (own === undefined && ("handshake" in conn || "encrypted" in conn)) {
        throw new NoDescriptorError(
          "A TLS connection cannot be passed on: its keys live in this process",
        );
      }
      const ends = endsOf(conn);
      const candidates = own === undefined ? places(conn, ends) : [own];
      [place] = candidates;
      return { candidates, what: describeEnds(ends) };
    },
    conn,
    "connection",
  );
  const identity = identityOf(place);
  const detach = () => {
    // The program may have closed it meanwhile, and the number belong to another object.
    if (identityOf(place) === identity) park(place);
  };
  return {
    fd,
    detach,
    leave() {
      detach();
      if ("destroy" in conn) conn.destroy();
      else closeNative(conn);
    },
  };
}

/** Replaces the socket of a native connection by a dead one. */
function park(place: number): void {
  const registration = denoRegistrations().find(({ tfd }) => tfd === place);
  if (!registration) return;
  const [dead, other] = socketPair();
  closeRaw(other);
  exchange(registration, dead);
  closeRaw(dead);
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
  );
}

/** The descriptor of a file, as a duplicate that is the caller's. */
export function fileDescriptor(object: FileLike): Fd {
  if (typeof object === "number" || object instanceof Fd) return known(object)!;
  return search(
    () => {
      const file = resourceFile(object) ?? object;
      if ("fd" in file) return { candidates: [rawOf(file.fd)], what: `file ${file.fd}` };
      // Throws for a closed file, even if its number is open on the same file again.
      const { dev, ino } = file.statSync();
      const own = remembered(file);
      if (own !== undefined) return { candidates: [own], what: `the file with inode ${ino}` };
      const candidates = openDescriptors().filter((raw) => {
        const status = statusOf(raw);
        return status && Number(status.dev) === dev && Number(status.ino) === ino;
      });
      return {
        candidates: candidates.length > 1 ? tellFile(file, candidates) : candidates,
        what: `the file with inode ${ino}`,
      };
    },
    object,
    "file",
  );
}

/**
 * Before Deno 2.7.12 the `fd` of node's `FileHandle` is the number of a resource of Deno, and not a descriptor: this
 * gives the resource as Deno's own object.
 */
function resourceFile(file: object): Deno.FsFile | undefined {
  if (file.constructor?.name !== "FileHandle") return undefined;
  const [major, minor, patch] = Deno.version.deno.split(/[.+-]/).map(Number);
  if (major > 2 || minor > 7 || (minor === 7 && patch >= 12)) return undefined;
  type Internal = new (resource: number, key: symbol) => Deno.FsFile;
  const { fd } = file as { fd: number };
  return new (Deno.FsFile as unknown as Internal)(fd, Symbol.for("Deno.internal.FsFile"));
}

/** The descriptor of an object that has it as a property. */
function known(object: unknown): Fd | undefined {
  if (typeof object === "number" || object instanceof Fd) return new Fd(dup(rawOf(object)));
  if (object instanceof UnixListener || object instanceof UnixConn) return object.fd.dup();
  const isObject = typeof object === "object" && object;
  const raw = isObject ? remembered(object) ?? parked.get(object)?.()?.raw : undefined;
  return raw === undefined ? undefined : new Fd(dup(raw));
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

function search(
  find: () => { candidates: number[]; what: string },
  object: unknown,
  kind: string,
): Fd {
  if (typeof object !== "object" || object === null) {
    throw new NoDescriptorError(`Not a ${kind}: ${String(object)}`);
  }
  let found: { candidates: number[]; what: string };
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
  for (const raw of identities.values()) if (identities.size === 1) return new Fd(dup(raw));
  throw new NoDescriptorError(
    identities.size === 0
      ? `No open descriptor is ${what}; it was closed, or is not an object of this thread`
      : `${identities.size} open descriptors could be ${what}; pass the one meant as a number`,
  );
}

function sockets(fits: (raw: number, kind: SocketKind) => boolean): number[] {
  return openDescriptors().filter((raw) => ifSocket(raw, (kind) => fits(raw, kind)));
}

/** Identifies a socket or file: the same for each duplicate, different for any other; undefined for none. */
function identityOf(raw: number): string | undefined {
  const cookie = ifSocket(raw, () => socketCookie(raw));
  if (cookie !== undefined) return `socket ${cookie}`;
  const status = statusOf(raw);
  return status && `file ${status.dev} ${status.ino}`;
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
      const kept = dup(raw);
      try {
        const pair = socketPair("datagram");
        replace(pair[0], raw);
        probes.push({ raw, kept, pair });
      } catch (error) {
        closeRaw(kept);
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
      for (const number of [kept, ...pair]) closeRaw(number);
    }
  }
}

/**
 * Finds which of several descriptors of one file the object has: the one whose offset changes when the object seeks.
 * A pipe or device has no offset: it is found by whether it can be written to, and any descriptor of that end does.
 * The candidates themselves are not touched: they may belong to another thread.
 */
function tellFile(file: Deno.FsFile, candidates: number[]): number[] {
  const before = offsetIn(file);
  if (before === undefined) {
    const writable = canWrite(file);
    return candidates.filter((raw) => isWritable(raw) === writable);
  }
  const magic = 2 ** 40 + Math.floor(Math.random() * 2 ** 30);
  try {
    file.seekSync(magic, Deno.SeekMode.Start);
    return candidates.filter((raw) => offsetOf(raw) === magic);
  } finally {
    file.seekSync(before, Deno.SeekMode.Start);
  }
}

/** The object's offset; undefined when it has none. */
function offsetIn(file: Deno.FsFile): number | undefined {
  if (!file.statSync().isFile) return undefined;
  return file.seekSync(0, Deno.SeekMode.Current);
}

/** Whether an empty write fails for the access mode (write(2), EBADF). */
function canWrite(file: Deno.FsFile): boolean {
  try {
    file.writeSync(new Uint8Array(0));
    return true;
  } catch {
    // An empty write has no other reason to fail.
    return false;
  }
}

/** The address of a listener or datagram socket, as text. */
function boundTo(socket: { readonly addr: Deno.Addr } | NodeServer): string {
  if ("addr" in socket) return format(socket.addr);
  const address = socket.address();
  if (address === null) throw new NoDescriptorError("This server does not listen");
  if (typeof address === "string") return formatPath(address);
  return formatAddress({ transport: "tcp", hostname: address.address, port: address.port });
}

function format(address: Deno.Addr): string {
  return formatAddress(address as Address);
}
