/**
 * Options and state of sockets: kinds, queues, traffic, and ending halves of connections.
 *
 * @module
 */

import { c, errnos, structs } from "./abi.ts";
import { check, errno, systemError } from "./errno.ts";
import { fileStatus } from "./file.ts";
import { libc } from "./libc.ts";

// Filled and used within one turn of the event loop.
const length = new Uint32Array(1);
const lengthBytes = new Uint8Array(length.buffer);
const cookie = new BigUint64Array(1);
const cookieBytes = new Uint8Array(cookie.buffer);
const { tcp_info_head } = structs;
const tcpInfo = new Uint8Array(tcp_info_head.size);
const tcpInfoView = new DataView(tcpInfo.buffer);
const sentAgoAt = tcp_info_head.offset("tcpi_last_data_sent");
const receivedAgoAt = tcp_info_head.offset("tcpi_last_data_recv");
const bytesReceivedAt = tcp_info_head.offset("tcpi_bytes_received");
const queueLengthAt = tcp_info_head.offset("tcpi_sacked");
const option = new Int32Array(1);
const optionBytes = new Uint8Array(option.buffer);

/** Whether small writes are sent at once (tcp(7), TCP_NODELAY). */
export function noDelay(raw: number): boolean {
  return integerOption(raw, c.TCP_NODELAY, c.IPPROTO_TCP) !== 0;
}

/**
 * The length of the accept queue of a listening TCP socket: TCP_INFO reports it in a field that connections use for
 * segments acknowledged out of order (net/ipv4/tcp.c, `tcp_get_info`).
 */
export function acceptQueueLength(raw: number): number | undefined {
  length[0] = tcpInfo.length;
  const result = libc().getsockopt(raw, c.IPPROTO_TCP, c.TCP_INFO, tcpInfo, lengthBytes);
  if (result < 0 || length[0] < queueLengthAt + 4) return undefined;
  return tcpInfoView.getUint32(queueLengthAt, true);
}

/**
 * Sets the length of the accept queue, at most net.core.somaxconn: listen(2) on a listening socket makes its queue
 * longer or shorter.
 */
export function setAcceptQueueLength(raw: number, backlog: number): void {
  check(
    libc().listen(raw, backlog),
    () => `Cannot set how many connections wait at descriptor ${raw}`,
  );
}

/** Sets whether multicast datagrams of this socket come back to this machine (ip(7), ipv6(7)). */
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

/** The value of an integer option: SO_TYPE, SO_DOMAIN, SO_ACCEPTCONN, ... (socket(7)). */
export function integerOption(raw: number, name: number, level: number = c.SOL_SOCKET): number {
  length[0] = option.byteLength;
  check(
    libc().getsockopt(raw, level, name, optionBytes, lengthBytes),
    () => `Cannot read a socket option of descriptor ${raw}`,
  );
  return option[0];
}

/** The kind of a socket. */
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
 * The kind of the socket `raw`; undefined for an open descriptor of something else.
 *
 * @throws {Deno.errors.BadResource} When the number is not open.
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
 * Calls `look` if `raw` is a socket, and is still the same socket afterwards: another thread may close a number at
 * any time, and open it for something else.
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
 * Identifies a socket since boot (SO_COOKIE); duplicates have the same number. Where the kernel has none (before
 * 4.12, and under qemu-user) it is the inode, which is unique among open sockets.
 */
export function socketCookie(raw: number): bigint {
  const found = cookieIfSocket(raw);
  if (found !== undefined) return found;
  throw systemError(errnos.ENOTSOCK, `Cannot read the cookie of descriptor ${raw}`);
}

/** The same, or undefined if `raw` is no socket, in one system call. */
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
 * Limits the calls of a blocking socket to so many milliseconds: they fail with EAGAIN then; 0 is no limit
 * (socket(7), SO_RCVTIMEO and SO_SNDTIMEO). Accepted sockets inherit it.
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

/** Makes the send buffer of a socket as large as the system allows (net.core.wmem_max). */
export function growSendBuffer(raw: number): void {
  option[0] = 0x3fff_ffff;
  check(
    libc().setsockopt(raw, c.SOL_SOCKET, c.SO_SNDBUF, optionBytes, option.byteLength),
    () => `Cannot set SO_SNDBUF of descriptor ${raw}`,
  );
}

/** Ends the sending half: the peer reads the end of the stream after the queued bytes (shutdown(2), SHUT_WR). */
export function shutdownWrite(raw: number): void {
  check(libc().shutdown(raw, c.SHUT_WR), () => `Cannot shut down descriptor ${raw}`);
}

/**
 * Ends the receiving half of a connection: queued bytes can still be read, and then the end of the stream
 * (shutdown(2), SHUT_RD).
 */
export function shutdownRead(raw: number): void {
  endHalves(raw, c.SHUT_RD);
}

/** Ends both halves of a connection. */
export function shutdownBoth(raw: number): void {
  endHalves(raw, c.SHUT_RDWR);
}

/** Ignores ENOTCONN: a connection that its peer has reset has ended in both halves. */
function endHalves(raw: number, how: number): void {
  if (libc().shutdown(raw, how) === 0) return;
  const code = errno();
  if (code !== errnos.ENOTCONN) throw systemError(code, `Cannot shut down descriptor ${raw}`);
}

/** The number of received bytes that were not read yet (FIONREAD). */
export function unreadBytes(raw: number): number {
  return queued(raw, c.FIONREAD);
}

/** The number of written bytes that the peer has not acknowledged, or not read (TIOCOUTQ). */
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

/** The traffic of a TCP connection. */
export interface Traffic {
  /** Bytes that have arrived since it was established. */
  received: bigint;
  /** Milliseconds since bytes last arrived or were sent, or since it was established. */
  quietFor: number;
}

/** The traffic of the TCP connection `raw` (tcp(7), TCP_INFO); undefined for any other socket. */
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
