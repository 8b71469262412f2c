/**
 * What is used of the objects of node: the documented part, and internals that have kept their names since node 12. The
 * program has loaded node's modules if it has such an object; the library never loads them, which would take 20 ms of every
 * start.
 *
 * @module
 */

import { UnsupportedRuntimeError } from "../errors.ts";
import type { NodeServer, NodeSocket } from "../native/objects.ts";

/** An event emitter of node's. */
export interface Emitter {
  on(event: string, listener: (...args: never[]) => void): unknown;
  once(event: string, listener: (...args: never[]) => void): unknown;
  prependListener(event: string, listener: (...args: never[]) => void): unknown;
  removeListener(event: string, listener: (...args: never[]) => void): unknown;
  listenerCount(event: string): number;
}

/** A server of node:net, http, https or http2. */
export interface ListeningServer extends NodeServer, Emitter {
  /** Its handle while it listens. */
  _handle?: { fchmod?(rights: number): number } | null;
  /** The path that `address()` gives, of a unix socket. */
  _pipeName?: string;
  _listen2: Listen2;
  listen(options: object): unknown;
  close(done?: (error?: Error) => void): unknown;
  closeIdleConnections?(): void;
  unref(): unknown;
}

/** `_listen2`, which `listen()` calls when its arguments are sorted out: with a descriptor, the others are null. */
export type Listen2 = (
  address: string | null,
  port: number | null,
  addressType: number | null,
  backlog: number,
  fd?: number | null,
  flags?: number,
) => void;

/** The name of {@linkcode Listen2}: a property of `net.Server.prototype`, which all servers inherit. */
export const listen2 = "_listen2";

/** A connection of a node server, as far as HTTP has marked it. */
export interface HttpSocket extends NodeSocket, Emitter {
  /** The response that is being sent. */
  _httpMessage?: HttpResponse | null;
  readonly writable: boolean;
  readonly writableLength: number;
  write(bytes: Uint8Array): boolean;
  /** Closes the connection when everything is written; only a socket has it, not each stream that a program upgrades. */
  destroySoon?(): void;
  /** Where `pipe()` writes what is read. */
  readonly _readableState?: { readonly pipes?: readonly object[] };
}

/** A `ServerResponse` of node:http. */
export interface HttpResponse {
  readonly req: { readonly socket?: HttpSocket | null };
  readonly statusCode: number;
  readonly headersSent: boolean;
  readonly writableFinished: boolean;
  readonly destroyed: boolean;
  /** The head that is going to be sent. */
  _header: string | null;
  _storeHeader?(firstLine: string, headers: unknown): void;
}

/** The connections of an HTTP server that speak HTTP/1: those that were upgraded are none of them any more. */
export interface HttpConnections {
  _all?: Iterable<HttpSocket>;
}

/**
 * Gives the version of Deno that it takes to hand over node's servers at an address, if this one cannot: from 2.8 on they
 * listen on a descriptor, accept there, and can be taken off it; on one of a unix socket from 2.8.3 on.
 */
export function nodeServersTake(address: object): string | undefined {
  const { deno } = Deno.version;
  if (/^2\.[0-7]\./.test(deno)) return "2.8";
  return "path" in address && /^2\.8\.[0-2]\b/.test(deno) ? "2.8.3" : undefined;
}

/** @throws {UnsupportedRuntimeError} When this version cannot, or the object is no server of node's. */
export function checkNodeServer(
  server: unknown,
  address: object = {},
): asserts server is ListeningServer {
  const needed = nodeServersTake(address);
  if (needed !== undefined) {
    throw new UnsupportedRuntimeError(
      `Cannot hand over a server of node: it takes Deno ${needed} or later, and this is ${Deno.version.deno}`,
    );
  }
  const isServer = typeof server === "object" && server !== null &&
    typeof (server as Partial<ListeningServer>).address === "function" &&
    typeof (server as Partial<ListeningServer>).prependListener === "function";
  if (!isServer) {
    throw new TypeError("listenNode() takes a server of node:net, http, https or http2");
  }
  if (typeof (server as Partial<ListeningServer>)[listen2] !== "function") {
    throw new UnsupportedRuntimeError(
      `Cannot hand over a server of node: that of Deno ${Deno.version.deno} has no ${listen2}`,
    );
  }
}

/** Whether a server speaks HTTP: of node:http and https, or of node:http2. */
export function isHttpServer(server: ListeningServer): boolean {
  return "requestTimeout" in server || isHttp2Server(server);
}

/** Whether a server is of node:http2; it may speak HTTP/1 too. */
export function isHttp2Server(server: ListeningServer): boolean {
  return "updateSettings" in server;
}

/** `net.Server.prototype`, from which a server inherits. */
export function netServerPrototype(server: ListeningServer): ListeningServer {
  let prototype = Object.getPrototypeOf(server);
  while (!Object.hasOwn(prototype, listen2)) prototype = Object.getPrototypeOf(prototype);
  return prototype;
}

/** The property of an object that node keeps under a symbol of this description. */
export function bySymbol<T>(object: object, description: string): T | undefined {
  const symbol = Object.getOwnPropertySymbols(object).find((each) =>
    each.description === description
  );
  return symbol && (object as Record<symbol, T>)[symbol];
}
