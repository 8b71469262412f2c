/**
 * Sockets by number: the calls of socket(2) and what getsockopt(2) tells about one.
 *
 * Every socket made here is non-blocking and close-on-exec.
 *
 * @module
 */

import { c, errnos, structs } from "./abi.ts";
import { check, errno, systemError, uninterrupted } from "./errno.ts";
import { closeRaw } from "./fd.ts";
import { fileStatus, unlink } from "./file.ts";
import { cString, libc } from "./libc.ts";
import {
  type Address,
  type InetAddress,
  maxAddressBytes,
  packUnix,
  unpackAddress,
} from "./sockaddr.ts";

const socketFlags = c.SOCK_CLOEXEC | c.SOCK_NONBLOCK;

const address = new Uint8Array(maxAddressBytes);
const length = new Uint32Array(1);
const lengthBytes = new Uint8Array(length.buffer);
const cookie = new BigUint64Array(1);
const cookieBytes = new Uint8Array(cookie.buffer);
const { ucred, tcp_info_head } = structs;
const credentials = new Uint8Array(ucred.size);
const credentialsView = new DataView(credentials.buffer);
const [pidAt, uidAt, gidAt] = [ucred.offset("pid"), ucred.offset("uid"), ucred.offset("gid")];
const tcpInfo = new Uint8Array(tcp_info_head.size);
const tcpInfoView = new DataView(tcpInfo.buffer);
const sentAgoAt = tcp_info_head.offset("tcpi_last_data_sent");
const receivedAgoAt = tcp_info_head.offset("tcpi_last_data_recv");
const bytesReceivedAt = tcp_info_head.offset("tcpi_bytes_received");
const queueLengthAt = tcp_info_head.offset("tcpi_sacked");
const byte = new Uint8Array(1);
const option = new Int32Array(1);
const optionBytes = new Uint8Array(option.buffer);

function unixSocket(): number {
  return check(libc().socket(c.AF_UNIX, c.SOCK_STREAM | socketFlags, 0), "Cannot make a socket");
}

/** A unix datagram socket without a name: nothing will ever arrive on it. */
export function deafDatagramSocket(): number {
  return check(
    libc().socket(c.AF_UNIX, c.SOCK_DGRAM | socketFlags, 0),
    "Cannot make a socket",
  );
}

/**
 * A listening unix socket that no process can connect to: its file, which no user but root may connect
 * through, is removed before it listens. Where no such file can be made, it has a name in the abstract
 * namespace, which has no permissions and which every process of the network namespace can read
 * (/proc/net/unix).
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

/** Two connected unix sockets. */
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
 * A listening unix stream socket.
 *
 * @param mode Permissions of the file it makes. Linux gives the file the mode of the unbound
 * socket's own inode, less the umask (net/unix/af_unix.c, `unix_bind_bsd`), so there is no moment
 * with more; what the umask took comes back before anyone can connect.
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

/** The same for a unix datagram socket: what is sent to `path` arrives on it. */
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
 * Whether some process still holds a socket bound to `path`, found without connecting to it, which
 * might start a handover: a datagram socket is told EPROTOTYPE by a living stream socket, and
 * ECONNREFUSED by a file that outlived its own (net/unix/af_unix.c, `unix_find_bsd`).
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
 * A TCP socket that holds a free port and does not listen, so that a connection attempt to it reaches
 * no service: at the IPv4 address `hostname`, or at the IPv6 address that the socket `other` has.
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

/** The socket's own address with port 0: with its scope, which the text leaves out. */
function ownIpv6(raw: number): Uint8Array<ArrayBuffer> {
  localAddress(raw);
  const { sockaddr_in6 } = structs;
  const own = address.slice(0, sockaddr_in6.size);
  own.fill(0, sockaddr_in6.offset("sin6_port"), sockaddr_in6.offset("sin6_flowinfo"));
  return own;
}

/**
 * Connects a new unix stream socket; gives -1 while the listener's queue is full, which no readiness
 * event announces the end of (connect(2), EAGAIN).
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

/** The next connection in the queue; -1 when there is none. */
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

/** What the socket is bound to. */
export function localAddress(raw: number): Address | undefined {
  length[0] = address.length;
  check(
    libc().getsockname(raw, address, lengthBytes),
    () => `Cannot read the address of descriptor ${raw}`,
  );
  return unpackAddress(address, length[0], integerOption(raw, c.SO_TYPE));
}

/** What the socket is connected to; undefined when it is not connected. */
export function peerAddress(raw: number): Address | undefined {
  length[0] = address.length;
  if (libc().getpeername(raw, address, lengthBytes) < 0) return undefined;
  return unpackAddress(address, length[0], integerOption(raw, c.SO_TYPE));
}

/** Whether small writes are sent at once (tcp(7), TCP_NODELAY). */
export function noDelay(raw: number): boolean {
  return integerOption(raw, c.TCP_NODELAY, c.IPPROTO_TCP) !== 0;
}

/**
 * The longest queue of a listening TCP socket: for a listening socket, TCP_INFO reports it in the field of
 * segments that were acknowledged out of order (net/ipv4/tcp.c, `tcp_get_info`).
 */
export function acceptQueueLength(raw: number): number | undefined {
  length[0] = tcpInfo.length;
  const result = libc().getsockopt(raw, c.IPPROTO_TCP, c.TCP_INFO, tcpInfo, lengthBytes);
  if (result < 0 || length[0] < queueLengthAt + 4) return undefined;
  return tcpInfoView.getUint32(queueLengthAt, true);
}

/**
 * Sets the length of the accept queue, at most net.core.somaxconn: listen(2) on a socket that listens already
 * makes its queue longer, or shorter.
 */
export function setAcceptQueueLength(raw: number, backlog: number): void {
  check(
    libc().listen(raw, backlog),
    () => `Cannot set how many connections wait at descriptor ${raw}`,
  );
}

/** Whether multicast datagrams that are sent come back to this machine (ip(7), ipv6(7)). */
export function setMulticastLoop(raw: number, on: boolean): void {
  const isIpv6 = integerOption(raw, c.SO_DOMAIN) === c.AF_INET6;
  const [level, name] = isIpv6
    ? [c.IPPROTO_IPV6, c.IPV6_MULTICAST_LOOP]
    : [c.IPPROTO_IP, c.IP_MULTICAST_LOOP];
  option[0] = Number(on);
  check(
    libc().setsockopt(raw, level, name, optionBytes, option.byteLength),
    () => `Cannot set IP_MULTICAST_LOOP of descriptor ${raw}`,
  );
}

/** An integer option: SO_TYPE, SO_DOMAIN, SO_ACCEPTCONN, ... (socket(7)). */
function integerOption(raw: number, name: number, level: number = c.SOL_SOCKET): number {
  length[0] = option.byteLength;
  check(
    libc().getsockopt(raw, level, name, optionBytes, lengthBytes),
    () => `Cannot read a socket option of descriptor ${raw}`,
  );
  return option[0];
}

/** What kind of socket a descriptor is, in words. */
export interface SocketKind {
  domain: "unix" | "ipv4" | "ipv6" | "other";
  type: "stream" | "datagram" | "seqpacket" | "other";
  listening: boolean;
}

const domains: Record<number, SocketKind["domain"]> = {
  [c.AF_UNIX]: "unix",
  [c.AF_INET]: "ipv4",
  [c.AF_INET6]: "ipv6",
};

const types: Record<number, SocketKind["type"]> = {
  [c.SOCK_STREAM]: "stream",
  [c.SOCK_DGRAM]: "datagram",
  [c.SOCK_SEQPACKET]: "seqpacket",
};

/**
 * The kind of socket behind `raw`; undefined for an open descriptor that is no socket.
 *
 * @throws {Deno.errors.BadResource} When nothing is open under that number.
 */
export function socketKind(raw: number): SocketKind | undefined {
  length[0] = option.byteLength;
  if (libc().getsockopt(raw, c.SOL_SOCKET, c.SO_TYPE, optionBytes, lengthBytes) < 0) {
    const code = errno();
    if (code === errnos.ENOTSOCK) return undefined;
    throw systemError(code, `Cannot tell what descriptor ${raw} is`);
  }
  return {
    type: types[option[0]] ?? "other",
    domain: domains[integerOption(raw, c.SO_DOMAIN)] ?? "other",
    listening: integerOption(raw, c.SO_ACCEPTCONN) !== 0,
  };
}

/**
 * What `look` sees of `raw` if that is a socket, and still is when it has looked: another thread may
 * close a number any time, and open it for something else.
 */
export function ifSocket<T>(raw: number, look: (kind: SocketKind) => T): T | undefined {
  try {
    const kind = socketKind(raw);
    return kind && look(kind);
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "EBADF" || code === "ENOTSOCK") return undefined;
    throw error;
  }
}

/** Whether `raw` is a unix stream socket, and listens or does not. */
export function isUnixStream(raw: number, { listening }: { listening: boolean }): boolean {
  const kind = socketKind(raw);
  return kind?.domain === "unix" && kind.type === "stream" && kind.listening === listening;
}

/**
 * The number that only this socket has since boot (SO_COOKIE); duplicates share it. Where the kernel
 * does not tell it (before 4.12, and under qemu-user), the inode, which only this one of all open
 * sockets has.
 */
export function socketCookie(raw: number): bigint {
  const found = cookieIfSocket(raw);
  if (found !== undefined) return found;
  throw systemError(errnos.ENOTSOCK, `Cannot read the cookie of descriptor ${raw}`);
}

/** The same, or undefined when `raw` is open on no socket, in one call to the kernel. */
export function cookieIfSocket(raw: number): bigint | undefined {
  length[0] = cookie.byteLength;
  const result = libc().getsockopt(raw, c.SOL_SOCKET, c.SO_COOKIE, cookieBytes, lengthBytes);
  if (result === 0) return cookie[0];
  const code = errno();
  if (code === errnos.EBADF || code === errnos.ENOTSOCK) return undefined;
  if (code === errnos.EINVAL || code === errnos.ENOPROTOOPT) return fileStatus(raw).ino;
  throw systemError(code, `Cannot read the cookie of descriptor ${raw}`);
}

/**
 * What names the network namespace that a socket was made in (SO_NETNS_COOKIE); undefined where the kernel
 * does not tell it (before 5.14).
 */
export function networkNamespace(raw: number): bigint | undefined {
  length[0] = cookie.byteLength;
  const result = libc().getsockopt(raw, c.SOL_SOCKET, c.SO_NETNS_COOKIE, cookieBytes, lengthBytes);
  return result === 0 ? cookie[0] : undefined;
}

let ownNamespace: bigint | undefined;

/**
 * What names the network namespace of this process; undefined where the kernel does not tell it, or no
 * descriptor is left to ask with.
 */
export function ownNetworkNamespace(): bigint | undefined {
  if (ownNamespace !== undefined) return ownNamespace;
  let raw: number;
  try {
    raw = deafDatagramSocket();
  } catch {
    // The next call may find one.
    return undefined;
  }
  ownNamespace = networkNamespace(raw);
  closeRaw(raw);
  return ownNamespace;
}

/**
 * Whether the address of a socket means something only in the network namespace where it was made: that of
 * TCP, of UDP, and an abstract name (network_namespaces(7), unix(7)).
 */
export function belongsToNetwork(raw: number): boolean {
  const address = localAddress(raw);
  return address !== undefined && !("path" in address && !address.path?.startsWith("\0"));
}

/** The process at the other end of a unix connection, as of its connect() or listen() (SO_PEERCRED). */
export interface Credentials {
  /** Process. */
  pid: number;
  /** Effective user. */
  uid: number;
  /** Effective group. */
  gid: number;
}

/** The effective user of this process. */
export function effectiveUser(): number {
  return libc().geteuid();
}

/** The peer's credentials, by the kernel's word. */
export function peerCredentials(raw: number): Credentials {
  length[0] = credentials.length;
  check(
    libc().getsockopt(raw, c.SOL_SOCKET, c.SO_PEERCRED, credentials, lengthBytes),
    () => `Cannot read the peer's credentials of descriptor ${raw}`,
  );
  return {
    pid: credentialsView.getInt32(pidAt, true),
    uid: credentialsView.getUint32(uidAt, true),
    gid: credentialsView.getUint32(gidAt, true),
  };
}

/**
 * A call that waits on a blocking socket gives up after so many milliseconds, with EAGAIN; with 0 it
 * does not (socket(7), SO_RCVTIMEO and SO_SNDTIMEO). What is accepted inherits that.
 */
export function limitBlocking(raw: number, milliseconds: number): void {
  const time = structs.timeval.pack({ tv_sec: 0n, tv_usec: BigInt(1000 * milliseconds) });
  for (const option of [c.SO_RCVTIMEO, c.SO_SNDTIMEO]) {
    check(
      libc().setsockopt(raw, c.SOL_SOCKET, option, time, time.length),
      () => `Cannot limit how long descriptor ${raw} blocks`,
    );
  }
}

/** Gives a socket as much room for what is unread as the system allows (net.core.wmem_max). */
export function growSendBuffer(raw: number): void {
  option[0] = 0x3fff_ffff;
  check(
    libc().setsockopt(raw, c.SOL_SOCKET, c.SO_SNDBUF, optionBytes, option.byteLength),
    () => `Cannot set SO_SNDBUF of descriptor ${raw}`,
  );
}

/** Ends the sending half: the peer reads EOF after what is queued (shutdown(2), SHUT_WR). */
export function shutdownWrite(raw: number): void {
  check(libc().shutdown(raw, c.SHUT_WR), () => `Cannot shut down descriptor ${raw}`);
}

/**
 * Ends the receiving half of a connection: what has arrived can still be read, and then comes EOF
 * (shutdown(2), SHUT_RD).
 */
export function shutdownRead(raw: number): void {
  endHalves(raw, c.SHUT_RD);
}

/** Ends both halves of a connection. */
export function shutdownBoth(raw: number): void {
  endHalves(raw, c.SHUT_RDWR);
}

/** A connection that its peer has reset is not connected any more (ENOTCONN): both halves have ended. */
function endHalves(raw: number, how: number): void {
  if (libc().shutdown(raw, how) === 0) return;
  const code = errno();
  if (code !== errnos.ENOTCONN) throw systemError(code, `Cannot shut down descriptor ${raw}`);
}

/** Bytes that arrived and were not read yet (FIONREAD). */
export function unreadBytes(raw: number): number {
  return queued(raw, c.FIONREAD);
}

/** Bytes that were written and that the peer has not acknowledged, or not read (TIOCOUTQ). */
export function unsentBytes(raw: number): number {
  return queued(raw, c.TIOCOUTQ);
}

function queued(raw: number, request: number): number {
  check(
    libc().ioctl(raw, BigInt(request), optionBytes),
    () => `Cannot ask descriptor ${raw} for what it has queued`,
  );
  return option[0];
}

/** What has passed over a TCP connection. */
export interface Traffic {
  /** Bytes that have arrived since it was established. */
  received: bigint;
  /** Milliseconds since bytes last arrived or were sent, or since it was established. */
  quietFor: number;
}

/** What has passed over the TCP connection `raw` (tcp(7), TCP_INFO); undefined for any other socket. */
export function traffic(raw: number): Traffic | undefined {
  length[0] = tcpInfo.length;
  const result = libc().getsockopt(raw, c.IPPROTO_TCP, c.TCP_INFO, tcpInfo, lengthBytes);
  // A kernel before 4.1, and qemu-user, give less of it.
  if (result < 0 || length[0] < tcpInfo.length) return undefined;
  return {
    received: tcpInfoView.getBigUint64(bytesReceivedAt, true),
    quietFor: Math.min(
      tcpInfoView.getUint32(sentAgoAt, true),
      tcpInfoView.getUint32(receivedAgoAt, true),
    ),
  };
}
