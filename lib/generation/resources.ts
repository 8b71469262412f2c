/**
 * The interface to the listeners, datagram sockets and files of one generation. {@linkcode DescriptorResources}
 * implements it where descriptors can be passed to the next generation, {@linkcode DenoResources} where they cannot.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import type { ServeHttpOptions } from "../http/serve.ts";
import type { HttpHandler } from "../http/tracker.ts";
import type { WebSockets } from "../http/websockets.ts";
import type { DatagramListenAddress, ListenAddress, TcpListenAddress } from "../listen_address.ts";
import type { Logger } from "../logger.ts";
import type { TlsOptions } from "../native/adopt.ts";
import type { NodeServer } from "../native/objects.ts";
import type { OfferedItem, SocketStatus } from "./protocol.ts";

/** Listeners, datagram sockets and files of one generation: no connection is answered before `open()`. */
export interface Resources {
  /** Serves HTTP on a listener at `address`. */
  http(address: ListenAddress, options: ServeHttpOptions, handler: HttpHandler): Deno.HttpServer;
  /** Listens at `address`, for TLS connections if `tls` is given. */
  listener(address: ListenAddress): Deno.Listener;
  listener(address: TcpListenAddress, tls: TlsOptions): Deno.TlsListener;
  /** Has a server of node listen at `address`. */
  node(address: ListenAddress, server: NodeServer): void;
  /** Receives datagrams at `address`. */
  datagram(address: DatagramListenAddress): Deno.DatagramConn;
  /** Opens the file at `path`. */
  file(path: string, options: Deno.OpenOptions): Deno.FsFile;
  /** The sockets and files to hand over; the descriptors stay owned by the resources. */
  offered(): OfferedResource[];
  /**
   * Makes the paths of unix sockets lead to them again, while this generation accepts. Returns a message for each
   * path where that fails.
   */
  restorePaths(): string[];
  /** Starts accepting, or accepts again after `shut()`. */
  open(): void;
  /** Starts recording the protocol of each HTTP client: `drain()` needs it. */
  watch(): void;
  /** Answers HTTP/1 requests with `Connection: close` from here on, and goes on accepting. */
  announceClose(): void;
  /** Stops accepting, until `open()`. */
  shut(): void;
  /** Gives the sockets up for good; connections go on. @param isReplaced Whether another generation has them too. */
  release(isReplaced: boolean): void;
  /** Waits until the clients have disconnected, cuts the connections of those that do not, and closes everything. */
  drain(limits: DrainLimits): Promise<void>;
  /** The number of clients at `shut()` that are still connected. */
  readonly remainingClients: number;
  /** The status of each socket. */
  sockets(): SocketStatus[];
  /** The address of each socket. */
  addresses(): string[];
  /** The path of each file. */
  files(): string[];
}

/** A socket or file to hand over. */
export interface OfferedResource {
  /** Its description. */
  item: OfferedItem;
  /** Its descriptor, on loan. */
  fd: Fd;
}

/** What the resources need from their generation. */
export interface ResourceOptions {
  /** Whether addresses in use may be free in a moment: the predecessor has ended, or the store was told to close a socket. */
  mayBeFreed: () => boolean;
  /**
   * Whether sockets of another network namespace are expected: the generations of this service share one namespace,
   * and were given a socket of another one.
   */
  isForeignNetworkExpected: () => boolean;
  /**
   * Whether inherited sockets that the program closes are kept for its next call: while the predecessor has them too, that
   * call cannot bind their addresses.
   */
  keepsClosed: () => boolean;
  /** The WebSockets of the generation, for those of node's servers. */
  webSockets: WebSockets;
  /** Advice for the error about an address in use. @default {none} */
  inUseAdvice?: string;
  /** Called with the address of each new listener and datagram socket. */
  onSocket: (address: string, isInherited: boolean) => void;
  /** Called after the program has closed listeners or datagram sockets. */
  onClosed: () => void;
  /** Where to warn. */
  logger: Logger;
}

/** How long draining may take, in milliseconds. */
export interface DrainLimits {
  /** For the clients of listeners. */
  drainTimeout: number;
  /** For HTTP clients to connect to another process. */
  httpDrainTimeout: number;
  /** For the answers that are unfinished then; after it their connections are cut. */
  forceCloseAfter: number;
  /** Ends both timeouts when it is aborted. */
  hurry: AbortSignal;
  /** Whether WebSockets are being closed. */
  isClosing: () => boolean;
}
