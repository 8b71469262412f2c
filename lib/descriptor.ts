/**
 * The way out: the descriptor behind a native object. Deno has no word for it, so it is found by what
 * is known of the object, and only when that fits exactly one open socket or file.
 *
 * @module
 */

import { closeRaw, dup, Fd, isOpen, rawOf, replace } from "../ffi/fd.ts";
import { fileStatus } from "../ffi/file.ts";
import { IncomingMessage, wouldBlock } from "../ffi/message.ts";
import { describeDescriptor, isSocket, openDescriptors } from "../ffi/proc.ts";
import { type Address, formatAddress } from "../ffi/sockaddr.ts";
import {
  localAddress,
  noDelay,
  peerAddress,
  socketCookie,
  type SocketKind,
  socketKind,
  socketPair,
} from "../ffi/socket.ts";
import { exchange, slots } from "./capture.ts";
import { NoDescriptorError } from "./errors.ts";
import { UnixConn, UnixListener } from "./unix.ts";

/** A listening socket, as an object of Deno's or of this library's, or by its descriptor. */
export type ListenerLike = Deno.Listener | Deno.HttpServer | UnixListener | Fd | number;

/** A connected stream socket, as an object of Deno's or of this library's, or by its descriptor. */
export type ConnLike = Deno.Conn | UnixConn | Fd | number;

/** A datagram socket, as Deno's object or by its descriptor. */
export type PacketConnLike = Deno.DatagramConn | Fd | number;

/** A file, pipe or terminal, as Deno's object or by its descriptor. */
export type FileLike = Deno.FsFile | Fd | number;

/** Which open socket or file a number meant when it was written down. */
interface Remembered {
  raw: number;
  identity: string;
}

const adopted = new WeakMap<object, Remembered>();

/** Notes that `object` stands on number `raw`, so that it need not be searched for. */
export function remember(object: object, raw: number): void {
  adopted.set(object, { raw, identity: identityOf(raw) });
}

/** The number that `object`, made by this library, still stands on. */
export function remembered(object: object): number | undefined {
  const note = adopted.get(object);
  // A closed object's number may be somebody else's by now.
  return note && isOpen(note.raw) && identityOf(note.raw) === note.identity ? note.raw : undefined;
}

/** The descriptor of a listener, as a duplicate that is the caller's. */
export function listenerDescriptor(listener: ListenerLike): Fd {
  return known(listener) ?? search(
    () => {
      const { addr } = listener as Deno.Listener;
      const wanted = formatAddress(fromDeno(addr));
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

/** The descriptor of a connection, as a duplicate that is the caller's. */
export function connDescriptor(conn: ConnLike): Fd {
  return known(conn) ?? search(
    () => {
      if ("handshake" in (conn as Deno.TlsConn)) {
        throw new NoDescriptorError(
          "A TLS connection cannot be passed on: its keys live in this process",
        );
      }
      return { candidates: places(conn as Deno.Conn), what: describeConn(conn as Deno.Conn) };
    },
    conn,
    "connection",
  );
}

/**
 * Closes a native connection that lives on in another process. Deno's own `close()`, and the end of
 * the process, would shut it down there too (tokio's `OwnedWriteHalf` does when dropped); so the
 * object is put on a dead socket first.
 */
export function leaveConn(conn: Deno.Conn): void {
  connDescriptor(conn).close();
  const own = remembered(conn);
  const [place] = own === undefined ? places(conn) : [own];
  const slot = slots().find(({ tfd }) => tfd === place);
  if (slot) {
    const [dead, other] = socketPair();
    closeRaw(other);
    exchange(slot, dead);
    closeRaw(dead);
  }
  conn.close();
}

/** Closes a native object that its owner may have closed already: the end that both wanted. */
export function closeNative(object: { close(): void } | undefined): void {
  try {
    object?.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** The descriptor of a datagram socket, as a duplicate that is the caller's. */
export function packetConnDescriptor(conn: PacketConnLike): Fd {
  return known(conn) ?? search(
    () => {
      const wanted = formatAddress(fromDeno((conn as Deno.DatagramConn).addr));
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
export function fileDescriptor(file: FileLike): Fd {
  if (typeof file === "number" || file instanceof Fd) return known(file)!;
  return search(
    () => {
      // Of a closed file this throws, even if its number is open on the same file again.
      const { dev, ino } = file.statSync();
      const own = remembered(file);
      if (own !== undefined) return { candidates: [own], what: `the file with inode ${ino}` };
      const candidates = openDescriptors().filter((raw) => {
        const status = isOpen(raw) ? fileStatus(raw) : undefined;
        return status && Number(status.dev) === dev && Number(status.ino) === ino;
      });
      return {
        candidates: candidates.length > 1 ? probeFile(file, candidates) : candidates,
        what: `the file with inode ${ino}`,
      };
    },
    file,
    "file",
  );
}

/** What needs no search. */
function known(object: unknown): Fd | undefined {
  if (typeof object === "number" || object instanceof Fd) return new Fd(dup(rawOf(object)));
  if (object instanceof UnixListener || object instanceof UnixConn) return object.fd.dup();
  const raw = typeof object === "object" && object ? remembered(object) : undefined;
  return raw === undefined ? undefined : new Fd(dup(raw));
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
    if (error instanceof NoDescriptorError) throw error;
    throw new NoDescriptorError(`Cannot find the descriptor of this ${kind}; is it open?`, {
      cause: error,
    });
  }
  const { candidates, what } = found;
  const identities = new Set(candidates.map(identityOf));
  if (identities.size === 1) return new Fd(dup(candidates[0]));
  throw new NoDescriptorError(
    identities.size === 0
      ? `No open descriptor is ${what}; it was closed, or is not an object of this thread`
      : `${identities.size} open descriptors could be ${what}; pass the one meant as a number`,
  );
}

function sockets(fits: (raw: number, kind: SocketKind) => boolean): number[] {
  return openDescriptors().filter((raw) => {
    const kind = isSocket(raw) ? socketKind(raw) : undefined;
    return kind !== undefined && fits(raw, kind);
  });
}

/** The same for every duplicate of one socket or open file, different for any other. */
function identityOf(raw: number): string {
  const name = describeDescriptor(raw) ?? "";
  if (name.startsWith("socket:")) return `socket ${socketCookie(raw)}`;
  const { dev, ino } = fileStatus(raw);
  return `file ${dev} ${ino}`;
}

/** The number that this thread's runtime has a connection on; none for a closed one. */
function places(conn: Deno.Conn): number[] {
  const [local, remote] = [conn.localAddr, conn.remoteAddr].map((addr) =>
    formatAddress(fromDeno(addr))
  );
  const unix = conn.localAddr.transport === "unix";
  const suspects = slots().map(({ tfd }) => tfd).filter((raw) => {
    const kind = isSocket(raw) ? socketKind(raw) : undefined;
    if (!kind || kind.listening || kind.type !== "stream") return false;
    // A unix connection has no address of its own.
    if (unix || kind.domain === "unix") return unix && kind.domain === "unix";
    return formatAddress(localAddress(raw)) === local &&
      formatAddress(peerAddress(raw)) === remote;
  });
  if (!unix && suspects.length > 0 && !isOpenTcp(conn as Deno.TcpConn, suspects[0])) return [];
  // Four numbers name one TCP connection; but several objects may stand on it.
  if (!unix && suspects.length === 1) return suspects;
  for (let i = 0; i < suspects.length; i += probesAtOnce) {
    const found = probeConn(conn, suspects.slice(i, i + probesAtOnce));
    if (found.length > 0) return found;
  }
  return [];
}

/** Whether the object is open, told by a call that fails on a closed one and changes nothing here. */
function isOpenTcp(conn: Deno.TcpConn, raw: number): boolean {
  try {
    conn.setNoDelay(noDelay(raw));
    return true;
  } catch (error) {
    // An open one in the middle of a write says that it is busy.
    return !(error instanceof Deno.errors.BadResource);
  }
}

/** Each probe takes three descriptors, for as long as it takes. */
const probesAtOnce = 64;

/**
 * For each suspect a probe takes its place; an empty write is sent at once and lands on exactly one
 * probe, where, the probes being datagram sockets, it shows. All within one turn, so that nobody
 * sees it.
 */
function probeConn(conn: Deno.Conn, suspects: number[]): number[] {
  const probes = suspects.map((raw) => ({ raw, kept: dup(raw), pair: socketPair("datagram") }));
  const message = new IncomingMessage(1);
  try {
    for (const { raw, pair } of probes) replace(pair[0], raw);
    // Written in this turn or never: nobody waits for it, and a closed object refuses it.
    conn.write(new Uint8Array(0)).catch(() => {});
    return probes.filter(({ pair }) => message.receive(pair[1]) !== wouldBlock).map(({ raw }) =>
      raw
    );
  } finally {
    for (const { raw, kept, pair } of probes) {
      replace(kept, raw);
      for (const number of [kept, ...pair]) closeRaw(number);
    }
  }
}

function describeConn({ localAddr, remoteAddr }: Deno.Conn): string {
  if (localAddr.transport === "unix") return "this unix connection";
  const [local, remote] = [localAddr, remoteAddr].map((addr) => formatAddress(fromDeno(addr)));
  return `the connection from ${local} to ${remote}`;
}

/** Several descriptors of one file: the one whose swap the object notices. */
export function probeFile(file: Deno.FsFile, candidates: number[]): number[] {
  const [probe, other] = socketPair();
  const { dev, ino } = fileStatus(probe);
  try {
    return candidates.filter((raw) => {
      const kept = dup(raw);
      try {
        replace(probe, raw);
        const seen = file.statSync();
        return seen.dev === Number(dev) && seen.ino === Number(ino);
      } finally {
        replace(kept, raw);
        closeRaw(kept);
      }
    });
  } finally {
    closeRaw(probe);
    closeRaw(other);
  }
}

function fromDeno(address: Deno.Addr): Address {
  return address as Address;
}
