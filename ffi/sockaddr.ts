/**
 * Socket addresses: from objects to the bytes of the kernel, and back (unix(7), ip(7), ipv6(7)).
 *
 * @module
 */

import { c, structs } from "./abi.ts";
import { quoted } from "./quote.ts";

/** A unix socket's name: a file's path, "\0name" in the abstract namespace, or null for none. */
export interface UnixAddress {
  /** A stream socket, or one of datagrams. */
  transport: "unix" | "unixpacket";
  /** Where it is bound. */
  path: string | null;
}

/** An IP address and port. */
export interface InetAddress {
  transport: "tcp" | "udp";
  hostname: string;
  port: number;
}

/** The address of a socket. */
export type Address = UnixAddress | InetAddress;

const { sockaddr, sockaddr_un, sockaddr_in, sockaddr_in6, sockaddr_storage } = structs;
const pathAt = sockaddr_un.offset("sun_path");

/** The longest path: `sun_path` less the terminating zero. */
export const maxPathBytes: number = sockaddr_un.size - pathAt - 1;

/** Room for any address, for the calls that fill one in. */
export const maxAddressBytes: number = sockaddr_storage.size;

/**
 * The `sockaddr_un` of `path`, as long as it has to be: the length is part of an abstract name.
 *
 * @param attempt What the address is for: `Cannot listen on "/run/a.sock"`.
 */
export function packUnix(path: string, attempt: string): Uint8Array<ArrayBuffer> {
  const encoded = new TextEncoder().encode(path);
  const abstract = encoded[0] === 0;
  if (encoded.length === 0) throw new TypeError(`${attempt}: the path is empty`);
  if (!abstract && encoded.includes(0)) {
    throw new TypeError(`${attempt}: the path holds a zero byte`);
  }
  const most = abstract ? maxPathBytes + 1 : maxPathBytes;
  if (encoded.length > most) {
    throw new RangeError(
      `${attempt}: the path has ${encoded.length} bytes, a unix socket address holds ${most}`,
    );
  }
  const packed = sockaddr_un.pack({ sun_family: c.AF_UNIX, sun_path: encoded });
  return packed.subarray(0, pathAt + encoded.length + (abstract ? 0 : 1));
}

/** The address in the first `length` bytes of `bytes`; undefined for any other family. */
export function unpackAddress(
  bytes: Uint8Array,
  length: number,
  socketType: number,
): Address | undefined {
  const datagram = socketType === c.SOCK_DGRAM;
  switch (sockaddr.read(bytes, "sa_family")) {
    case c.AF_UNIX:
      return {
        transport: datagram ? "unixpacket" : "unix",
        path: unpackPath(bytes.subarray(pathAt, length)),
      };
    case c.AF_INET:
      return {
        transport: datagram ? "udp" : "tcp",
        hostname: sockaddr_in.read(bytes, "sin_addr").join("."),
        port: sockaddr_in.read(bytes, "sin_port"),
      };
    case c.AF_INET6:
      return {
        transport: datagram ? "udp" : "tcp",
        hostname: formatIpv6(sockaddr_in6.read(bytes, "sin6_addr")),
        port: sockaddr_in6.read(bytes, "sin6_port"),
      };
  }
}

/** "/run/a.sock", "@name" for an abstract one, "127.0.0.1:80", "[::1]:80": for messages. */
export function formatAddress(address: Address | undefined): string {
  if (!address) return "an unknown address";
  if ("path" in address) {
    return address.path === null ? "an unnamed unix socket" : formatPath(address.path);
  }
  const { hostname, port } = address;
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/** A unix path in quotes, with the abstract namespace's zero byte as "@" like ss(8). */
export function formatPath(path: string): string {
  return quoted(path.startsWith("\0") ? `@${path.slice(1)}` : path);
}

function unpackPath(path: Uint8Array): string | null {
  if (path.length === 0) return null;
  if (path[0] === 0) return new TextDecoder().decode(path);
  const end = path.indexOf(0);
  return new TextDecoder().decode(end < 0 ? path : path.subarray(0, end));
}

/** RFC 5952: lower case, no leading zeros, the first longest run of zero groups as "::". */
function formatIpv6(address: Uint8Array): string {
  const view = new DataView(address.buffer, address.byteOffset, 16);
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(i * 2));
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return `::ffff:${address.subarray(12).join(".")}`;
  }
  let longest = { start: 0, length: 1 };
  for (let start = 0; start < 8; start++) {
    const next = groups.findIndex((group, i) => i >= start && group !== 0);
    const length = (next < 0 ? 8 : next) - start;
    if (length > longest.length) longest = { start, length };
  }
  const hex = (part: number[]) => part.map((group) => group.toString(16)).join(":");
  if (longest.length === 1) return hex(groups);
  const { start, length } = longest;
  return `${hex(groups.slice(0, start))}::${hex(groups.slice(start + length))}`;
}
