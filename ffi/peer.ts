/**
 * The process at the other end of a unix connection, the user of this process, and network namespaces.
 *
 * @module
 */

import { deafDatagramSocket, localAddress } from "./socket.ts";
import { c, structs } from "./abi.ts";
import { check } from "./errno.ts";
import { closeRaw } from "./fd.ts";
import { libc } from "./libc.ts";

// Filled and used within one turn of the event loop.
const length = new Uint32Array(1);
const lengthBytes = new Uint8Array(length.buffer);
const cookie = new BigUint64Array(1);
const cookieBytes = new Uint8Array(cookie.buffer);
const { ucred } = structs;
const credentials = new Uint8Array(ucred.size);
const credentialsView = new DataView(credentials.buffer);
const [pidAt, uidAt, gidAt] = [ucred.offset("pid"), ucred.offset("uid"), ucred.offset("gid")];

/**
 * Identifies the network namespace of a socket (SO_NETNS_COOKIE); undefined where the kernel does not tell it (before
 * 5.14).
 */
export function networkNamespace(raw: number): bigint | undefined {
  length[0] = cookie.byteLength;
  const result = libc().getsockopt(raw, c.SOL_SOCKET, c.SO_NETNS_COOKIE, cookieBytes, lengthBytes);
  return result === 0 ? cookie[0] : undefined;
}

let ownNamespace: bigint | undefined;

/**
 * Identifies the network namespace of this process; undefined where the kernel does not tell it, or no descriptor is
 * left for the socket that it takes.
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
 * Whether the address of a socket is valid only in the network namespace in which it was made: that of TCP and UDP,
 * and an abstract name (network_namespaces(7), unix(7)).
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

/** The credentials of the peer, as the kernel gives them. */
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
