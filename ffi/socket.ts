/**
 * Sockets: making, binding, connecting, accepting, and their addresses.
 *
 * @module
 */

import { c, errnos, structs } from "./abi.ts";
import { check, errno, systemError, uninterrupted } from "./errno.ts";
import { closeRaw } from "./fd.ts";
import { unlink } from "./file.ts";
import { cString, libc } from "./libc.ts";
import {
  type Address,
  type InetAddress,
  maxAddressBytes,
  packUnix,
  unpackAddress,
} from "./sockaddr.ts";
import { integerOption } from "./socket_options.ts";

// Filled and used within one turn of the event loop.
const address = new Uint8Array(maxAddressBytes);
const length = new Uint32Array(1);
const lengthBytes = new Uint8Array(length.buffer);
const byte = new Uint8Array(1);

const socketFlags = c.SOCK_CLOEXEC | c.SOCK_NONBLOCK;

function unixSocket(): number {
  return check(libc().socket(c.AF_UNIX, c.SOCK_STREAM | socketFlags, 0), "Cannot make a socket");
}

/** Makes a unix datagram socket without a name: no datagram can arrive on it. */
export function deafDatagramSocket(): number {
  return check(
    libc().socket(c.AF_UNIX, c.SOCK_DGRAM | socketFlags, 0),
    "Cannot make a socket",
  );
}

/**
 * Makes a listening unix socket to which no process can connect: its file, through which root alone may connect, is
 * removed before it listens. Where such a file cannot be made, the socket has a name in the abstract namespace, which
 * has no permissions, and which every process of the network namespace can read (/proc/net/unix).
 */
export function deafListener(): number {
  const attempt = "Cannot make a socket that nobody connects to";
  const name = `graceful-${crypto.randomUUID()}`;
  for (const directory of ["/dev/shm", "/tmp", "/var/tmp", "."]) {
    const path = `${directory}/${name}`;
    const address = packUnix(path, attempt);
    const raw = unixSocket();
    const isBound = libc().fchmod(raw, 0) === 0 && libc().bind(raw, address, address.length) === 0;
    if (isBound && unlink(path) && libc().listen(raw, 0) === 0) return raw;
    closeRaw(raw);
  }
  return listenUnix(`\0${name}`, attempt);
}

/** Makes two connected unix sockets (socketpair(2)). */
export function socketPair(type: "stream" | "datagram" = "stream"): [number, number] {
  const pair = new Int32Array(2);
  const number = type === "stream" ? c.SOCK_STREAM : c.SOCK_DGRAM;
  check(
    libc().socketpair(c.AF_UNIX, number | socketFlags, 0, new Uint8Array(pair.buffer)),
    "Cannot make a socket pair",
  );
  return [pair[0], pair[1]];
}

/** Writes one byte to a socket that has room for it. */
export function writeByte(raw: number): void {
  check(Number(libc().write(raw, byte, 1n)), () => `Cannot write to descriptor ${raw}`);
}

/**
 * Makes a listening unix stream socket.
 *
 * @param mode Permissions of its file. Linux gives the file the mode of the unbound socket's own inode, less the
 * umask (net/unix/af_unix.c, `unix_bind_bsd`): it never has more. Bits that the umask has removed are set again
 * before a client can connect.
 */
export function listenUnix(
  path: string,
  attempt: string,
  { mode = 0o600, backlog = 4096 }: { mode?: number; backlog?: number } = {},
): number {
  const name = packUnix(path, attempt);
  const raw = unixSocket();
  try {
    check(libc().fchmod(raw, mode), attempt);
    check(libc().bind(raw, name, name.length), attempt);
    if (!path.startsWith("\0")) check(libc().chmod(cString(path), mode), attempt);
    check(libc().listen(raw, backlog), attempt);
    return raw;
  } catch (error) {
    closeRaw(raw);
    throw error;
  }
}

/** Makes a unix datagram socket that is bound to `path`. */
export function bindUnixDatagram(
  path: string,
  attempt: string,
  { mode = 0o600 }: { mode?: number } = {},
): number {
  const name = packUnix(path, attempt);
  const raw = deafDatagramSocket();
  try {
    check(libc().fchmod(raw, mode), attempt);
    check(libc().bind(raw, name, name.length), attempt);
    if (!path.startsWith("\0")) check(libc().chmod(cString(path), mode), attempt);
    return raw;
  } catch (error) {
    closeRaw(raw);
    throw error;
  }
}

/**
 * Whether a socket of any process is bound to `path`. Found without connecting, which might start a handover: sending
 * to it from a datagram socket fails with EPROTOTYPE if a stream socket is bound, and with ECONNREFUSED if the file
 * is all that is left (net/unix/af_unix.c, `unix_find_bsd`).
 */
export function isBound(path: string): boolean {
  const name = packUnix(path, "Cannot look for a listener");
  const raw = deafDatagramSocket();
  const connected = libc().connect(raw, name, name.length);
  const code = connected < 0 ? errno() : errnos.EPROTOTYPE;
  closeRaw(raw);
  return code !== errnos.ECONNREFUSED && code !== errnos.ENOENT;
}

/**
 * Makes a TCP socket that has a free port and does not listen: a connection attempt to it reaches no service. Its
 * address is the IPv4 address `hostname`, or the IPv6 address of the socket `other`.
 */
export function holdPort(hostname: string, other: number): { raw: number; port: number } {
  const attempt = `Cannot bind a TCP socket at ${hostname}`;
  const at = hostname.includes(":") ? ownIpv6(other) : packIpv4(hostname);
  const family = structs.sockaddr.read(at, "sa_family");
  const raw = check(libc().socket(family, c.SOCK_STREAM | socketFlags, 0), attempt);
  try {
    check(libc().bind(raw, at, at.length), attempt);
    return { raw, port: (localAddress(raw) as InetAddress).port };
  } catch (error) {
    closeRaw(raw);
    throw error;
  }
}

function packIpv4(hostname: string): Uint8Array<ArrayBuffer> {
  const s_addr = hostname.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
  return structs.sockaddr_in.pack({ sin_family: c.AF_INET, sin_addr: { s_addr } });
}

/** The socket's own address with port 0, and with its scope, which a text does not have. */
function ownIpv6(raw: number): Uint8Array<ArrayBuffer> {
  localAddress(raw);
  const { sockaddr_in6 } = structs;
  const own = address.slice(0, sockaddr_in6.size);
  own.fill(0, sockaddr_in6.offset("sin6_port"), sockaddr_in6.offset("sin6_flowinfo"));
  return own;
}

/**
 * Connects a new unix datagram socket to `path`; gives its number.
 *
 * @throws {Deno.errors.ConnectionRefused | Deno.errors.NotFound} When no socket is bound there.
 */
export function connectUnixDatagram(path: string, attempt: string): number {
  const name = packUnix(path, attempt);
  const raw = deafDatagramSocket();
  if (uninterrupted(() => libc().connect(raw, name, name.length)) === 0) return raw;
  const code = errno();
  closeRaw(raw);
  throw systemError(code, attempt);
}

/**
 * Connects a new unix stream socket; gives -1 while the accept queue of the listener is full (connect(2), EAGAIN): no
 * readiness event reports its end.
 */
export function connectUnix(path: string, attempt: string): number {
  const name = packUnix(path, attempt);
  const raw = unixSocket();
  if (uninterrupted(() => libc().connect(raw, name, name.length)) === 0) return raw;
  const code = errno();
  closeRaw(raw);
  if (code === errnos.EAGAIN) return -1;
  throw systemError(code, attempt);
}

/** Accepts the next queued connection; gives -1 if there is none. */
export function accept(raw: number, attempt: string | (() => string)): number {
  length[0] = address.length;
  const accepted = uninterrupted(
    () => libc().accept4(raw, address, lengthBytes, socketFlags),
    errnos.ENOENT,
  );
  if (accepted >= 0) return accepted;
  const code = errno();
  // The peer that left while it queued is nobody's error.
  if (code === errnos.EAGAIN || code === errnos.ECONNABORTED) return -1;
  throw systemError(code, typeof attempt === "string" ? attempt : attempt());
}

/** The address that the socket is bound to. */
export function localAddress(raw: number): Address | undefined {
  length[0] = address.length;
  check(
    libc().getsockname(raw, address, lengthBytes),
    () => `Cannot read the address of descriptor ${raw}`,
  );
  return unpackAddress(address, length[0], integerOption(raw, c.SO_TYPE));
}

/** The address that the socket is connected to; undefined if it is not connected. */
export function peerAddress(raw: number): Address | undefined {
  length[0] = address.length;
  if (libc().getpeername(raw, address, lengthBytes) < 0) return undefined;
  return unpackAddress(address, length[0], integerOption(raw, c.SO_TYPE));
}
