/**
 * The objects that have a descriptor: those of Deno, node and this library.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import type { UnixConn } from "../unix/conn.ts";
import type { UnixListener } from "../unix/listener.ts";

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
