/**
 * HTTP on a listener that came from elsewhere.
 *
 * @module
 */

import { Fd, rawOf } from "../ffi/fd.ts";
import type { Address } from "../ffi/sockaddr.ts";
import { ifSocket, localAddress, peerAddress } from "../ffi/socket.ts";
import { listenerKind, privateName, proveInBackground, release } from "./adopt.ts";
import { capture, place, type Slot, slots } from "./capture.ts";
import { listenerDescriptor, remember, wasPassedOn } from "./descriptor.ts";
import { lookAfter } from "./donor.ts";
import { closeNativeListener, pathStatusOf } from "./listener.ts";

/** Answers one request, as in `Deno.serve`. */
export type HttpHandler = (
  request: Request,
  info: Deno.ServeHandlerInfo,
) => Response | Promise<Response>;

/** Options of {@linkcode serveHttp}: those of `Deno.serve` that do not say where to listen. */
export interface ServeHttpOptions {
  /** PEM certificate chain: serves HTTPS, with HTTP/2. */
  cert?: string;
  /** PEM private key of the certificate. */
  key?: string;
  /** Compresses answers when the client and the answer's headers allow it. @default {false} */
  automaticCompression?: boolean;
  /** Answers when the handler throws. */
  onError?: (error: unknown) => Response | Promise<Response>;
  /** Called once with the listener's address. Without it nothing is printed. */
  onListen?: (addr: Deno.Addr) => void;
  /** Shuts the server down. */
  signal?: AbortSignal;
}

/** What leaving has to know of a server. */
export interface Serving {
  readonly server: Deno.HttpServer;
  readonly slot: Slot;
  readonly address: Address | undefined;
  /** Whether every answer is to tell its client to leave. */
  leaving: boolean;
  /** Requests of which the last byte of the answer is not out, and where they came from. */
  readonly active: Map<Deno.ServeHandlerInfo, Deno.Addr>;
  /** Clients that no `Connection: close` moves. */
  readonly others: OtherClients;
}

/** What a connection speaks that is no plain HTTP/1. */
export type OtherProtocol = "HTTP/2" | "WebSocket";

/** Clients that speak something else than HTTP/1, by their addresses; those that have left go by and by. */
export class OtherClients {
  readonly #protocols = new Map<string, OtherProtocol>();
  /** How many make it worth a look at who is still there. */
  #many = 1000;

  /** Notes what a client speaks. */
  note(address: Deno.Addr, protocol: OtherProtocol | undefined): void {
    const client = keyOf(address);
    // Those of a unix path cannot be told apart: there, one WebSocket makes every client a possible one.
    if (client === "" && protocol !== "WebSocket") return;
    if (protocol === undefined) this.#protocols.delete(client);
    else if (this.#protocols.set(client, protocol).size > this.#many) this.#prune();
  }

  /** What the client at the other end of a connection speaks, if it is something else. */
  protocolOf(raw: number): OtherProtocol | undefined {
    return this.#protocols.get(keyOf(peerAddress(raw)));
  }

  #prune(): void {
    const clients = slots().map(({ tfd }) => ifSocket(tfd, () => keyOf(peerAddress(tfd))));
    const here = new Set(clients);
    for (const client of this.#protocols.keys()) {
      if (!here.has(client)) this.#protocols.delete(client);
    }
    this.#many = Math.max(1000, 2 * this.#protocols.size);
  }
}

function keyOf(address: Deno.Addr | Address | undefined): string {
  return address && "hostname" in address ? `${address.hostname} ${address.port}` : "";
}

const servers = new WeakMap<Deno.HttpServer, Serving>();

/** What is known of a server of {@linkcode serveHttp}. */
export function servingOf(server: Deno.HttpServer): Serving | undefined {
  return servers.get(server);
}

/**
 * Serves HTTP on a received listener: a real `Deno.HttpServer`, at the speed of `Deno.serve`. The
 * descriptor becomes the server's; a `Deno.Listener` is closed when the server has finished.
 *
 * A request without a Host header, which HTTP/1.0 allows, has a `request.url` with another port than
 * the listener's.
 *
 * ```ts
 * import { listenAndServe, listenerHandler, receive, serveHttp } from "@graceful/deno";
 *
 * using old = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, listenerHandler(old));
 *
 * let http: Deno.HttpServer<Deno.NetAddr> | undefined;
 * await receive(path, (fd) => {
 *   http = serveHttp(fd, () => new Response("hello")) as Deno.HttpServer<Deno.NetAddr>;
 * });
 * const response = await fetch(`http://127.0.0.1:${http!.addr.port}`);
 * console.log(await response.text());
 * await http!.shutdown();
 * ```
 *
 * @throws {WrongDescriptorError} When it is not a listening TCP or unix stream socket.
 * @throws {Deno.errors.BadResource} When it is not open.
 * @throws {UnsupportedRuntimeError} When this Deno does not let it.
 */
export function serveHttp(
  listener: Fd | number | Deno.Listener,
  handler: HttpHandler,
): Deno.HttpServer;
/** Serves HTTP on a received listener, with options. */
export function serveHttp(
  listener: Fd | number | Deno.Listener,
  options: ServeHttpOptions,
  handler: HttpHandler,
): Deno.HttpServer;
export function serveHttp(
  listener: Fd | number | Deno.Listener,
  optionsOrHandler: ServeHttpOptions | HttpHandler,
  maybeHandler?: HttpHandler,
): Deno.HttpServer {
  const [options, handler] = typeof optionsOrHandler === "function"
    ? [{}, optionsOrHandler]
    : [optionsOrHandler, maybeHandler];
  if (typeof handler !== "function") throw new TypeError("Cannot serve HTTP without a handler");
  if (typeof listener === "number" || listener instanceof Fd) {
    return serveOn(listener, options, handler);
  }
  using fd = listenerDescriptor(listener);
  const server = serveOn(fd, options, handler);
  const first = pathStatusOf(listener);
  const close = () => {
    const keep = wasPassedOn(server) || wasPassedOn(listener);
    closeNativeListener(listener, first, keep);
  };
  server.finished.then(close, close).catch(reportError);
  return server;
}

function serveOn(
  fd: Fd | number,
  options: ServeHttpOptions,
  handler: HttpHandler,
): Deno.HttpServer {
  const raw = rawOf(fd);
  const { domain } = listenerKind(raw);
  const address = localAddress(raw);
  const active = new Map<Deno.ServeHandlerInfo, Deno.Addr>();
  const others = new OtherClients();
  const serving = { address, active, others, leaving: false } as Mutable<Serving>;
  const mayMultiplex = options.cert !== undefined;
  const where = domain === "unix" ? { path: privateName() } : { hostname: "127.0.0.1", port: 0 };
  const { onListen, onError = internalServerError, ...rest } = options;

  /** The client is to leave after an answer that is given while the server leaves. */
  function finish(answer: Response, client?: Deno.Addr): Response {
    if (answer.status === 101) {
      if (client) others.note(client, "WebSocket");
      return answer;
    }
    return serving.leaving ? withConnectionClose(answer) : answer;
  }

  /** Counts an answer as under way until its last byte is out, where this Deno tells (2.1). */
  function hold(info: Deno.ServeHandlerInfo, client: Deno.Addr): void {
    if (!("completed" in info)) return;
    active.set(info, client);
    const done = () => active.delete(info);
    info.completed.then(done, done);
  }

  async function finishLater(
    answer: Promise<Response>,
    info: Deno.ServeHandlerInfo,
    client: Deno.Addr,
  ): Promise<Response> {
    if ("completed" in info) return finish(await answer, client);
    active.set(info, client);
    try {
      return finish(await answer, client);
    } finally {
      active.delete(info);
    }
  }

  // deno-lint-ignore no-explicit-any -- the overloads of Deno.serve tell TCP, TLS and unix apart
  const serveAny = Deno.serve as any;
  const { dummy: server, slot } = capture<Deno.HttpServer>(
    () =>
      serveAny(
        {
          ...rest,
          ...where,
          onListen: () => {},
          onError: async (error: unknown) => finish(await onError(error)),
        },
        (request: Request, info: Deno.ServeHandlerInfo) => {
          // Later on it is not to be had any more.
          const client = info.remoteAddr;
          hold(info, client);
          // What it costs to ask, TLS costs many times over. Without, HTTP/2 is for those who know.
          if (mayMultiplex || serving.leaving) {
            others.note(client, isMultiplexed(request) ? "HTTP/2" : undefined);
          }
          const answer = handler(request, info);
          return answer instanceof Response
            ? finish(answer, client)
            : finishLater(answer, info, client);
        },
      ),
    (server) => void server.shutdown(),
  );
  try {
    lookAfter(fd, slot.tfd);
    place(slot, raw);
    Object.assign(server.addr, address);
    onListen?.(server.addr);
  } catch (error) {
    void server.shutdown();
    throw error;
  }
  serving.server = server;
  serving.slot = slot;
  servers.set(server, serving);
  remember(server, slot.tfd);
  release(fd);
  proveInBackground();
  return server;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** HTTP/1.1 has a Host header; HTTP/2 says that in another way, and knows no Connection header. */
function isMultiplexed({ headers }: Request): boolean {
  return !headers.has("host") && !headers.has("connection");
}

/** What Deno.serve does with what a handler throws. */
function internalServerError(error: unknown): Response {
  console.error(error);
  return new Response("Internal Server Error", { status: 500 });
}

/** Deno does not close then: the client does, so that no request of its can be on the way. */
function withConnectionClose(answer: Response): Response {
  try {
    answer.headers.set("connection", "close");
    return answer;
  } catch (error) {
    // Response.redirect() and fetch() give immutable headers.
    if (!(error instanceof TypeError)) throw error;
    const headers = new Headers(answer.headers);
    headers.set("connection", "close");
    const { body, status, statusText } = answer;
    return new Response(body, { headers, status, statusText });
  }
}
