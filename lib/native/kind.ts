/**
 * Which kind of socket or file a descriptor is, and the error for a wrong one.
 *
 * @module
 */

import { fileStatus } from "../../ffi/file.ts";
import { describeDescriptor } from "../../ffi/proc.ts";
import { type Address, formatAddress } from "../../ffi/sockaddr.ts";
import { localAddress, peerAddress } from "../../ffi/socket.ts";
import { type SocketKind, socketKind } from "../../ffi/socket_options.ts";
import { WrongDescriptorError } from "../errors.ts";

/**
 * The kind of a listening stream socket.
 *
 * @throws {WrongDescriptorError} When `raw` is something else.
 */
export function listenerKind(raw: number): SocketKind {
  const kind = socketKind(raw);
  if (!kind || kind.domain === "other" || kind.type !== "stream" || !kind.listening) {
    throw wrong(raw, "a listening TCP or unix socket");
  }
  return kind;
}

/**
 * The kind of a connected stream socket.
 *
 * @throws {WrongDescriptorError} When `raw` is something else.
 */
export function connKind(raw: number): SocketKind {
  const kind = socketKind(raw);
  const stream = kind && kind.domain !== "other" && kind.type === "stream" && !kind.listening;
  if (!stream || peerAddress(raw) === undefined) {
    throw wrong(raw, "a connected TCP or unix stream socket");
  }
  return kind;
}

/**
 * The kind of a datagram socket.
 *
 * @throws {WrongDescriptorError} When `raw` is something else.
 */
export function datagramKind(raw: number): SocketKind {
  const kind = socketKind(raw);
  if (kind?.type !== "datagram" || kind.domain === "other") throw wrong(raw, "a datagram socket");
  return kind;
}

/** The error for a descriptor of another kind than was asked for. */
export function wrong(raw: number, wanted: string): WrongDescriptorError {
  return new WrongDescriptorError(`Descriptor ${raw} is ${describe(raw)}, not ${wanted}`);
}

/** "a connected TCP socket (127.0.0.1:80 to 127.0.0.1:4711)", "a pipe". */
function describe(raw: number): string {
  const kind = socketKind(raw);
  if (!kind) return describeFile(raw);
  const { domain, type, listening } = kind;
  const local: Address | undefined = localAddress(raw);
  if (domain === "other" || type === "other") return "a socket of another family";
  const family = domain === "unix" ? `unix ${type}` : type === "stream" ? "TCP" : "UDP";
  if (listening) return `a listening ${family} socket (${formatAddress(local)})`;
  const peer = peerAddress(raw);
  if (!peer) return `an unconnected ${family} socket (${formatAddress(local)})`;
  return `a connected ${family} socket (${formatAddress(local)} to ${formatAddress(peer)})`;
}

/** "a regular file", "a pipe", "anon_inode:[eventpoll]". */
function describeFile(raw: number): string {
  const { kind } = fileStatus(raw);
  if (kind === "other") return describeDescriptor(raw) ?? "of an unknown kind";
  return kind === "regular" ? "a regular file" : `a ${kind}`;
}
