/**
 * HTTP on a listener that came from elsewhere.
 *
 * @module
 */

import { Fd, rawOf } from "../ffi/fd.ts";
import type { Address } from "../ffi/sockaddr.ts";
import { ifSocket, localAddress, peerAddress } from "../ffi/socket.ts";
import { captureListener, listenerKind, proveInBackground, release } from "./adopt.ts";
import { place, type Slot, slots } from "./capture.ts";
import { listenerDescriptor, remember, wasPassedOn } from "./descriptor.ts";
import { lookAfter } from "./donor.ts";
import { closeNativeListener, pathStatusOf } from "./listener.ts";
import { printError } from "./logger.ts";

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
  /** Whether it may have to leave soon: from then on it takes note of who is between two requests. */
  watching: boolean;
  /** Whether every answer is to tell its client to leave. */
  leaving: boolean;
  /** Requests of which the answer, or as far as that is known its last byte, is not out; and their clients. */
  readonly active: Map<Deno.ServeHandlerInfo, Deno.Addr>;
  /** Clients of which it is known what they speak. */
  readonly known: KnownClients;
}

/** What a connection speaks. */
export type Protocol = "HTTP/1" | "HTTP/2" | "WebSocket";

/** What clients speak, by their addresses; those that have left go by and by. */
export class KnownClients {
  readonly #protocols = new Map<string, Protocol>();
  /** How many make it worth a look at who is still there. */
  #many = 1000;

  /** Notes what a client speaks; those of a unix path cannot be told apart, and stay unknown. */
  note(address: Deno.Addr, protocol: Protocol): void {
    const client = keyOf(address);
    if (client === undefined) return;
    if (this.#protocols.set(client, protocol).size > this.#many) this.#prune();
  }

  /** What the client at the other end of a connection speaks, if that is known. */
  protocolOf(raw: number): Protocol | undefined {
    const client = keyOf(peerAddress(raw));
    return client === undefined ? undefined : this.#protocols.get(client);
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

function keyOf(address: Deno.Addr | Address | undefined): string | undefined {
  return address && "hostname" in address ? `${address.hostname} ${address.port}` : undefined;
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
  server.finished.then(close, close).catch(printError);
  return server;
}

function serveOn(
  fd: Fd | number,
  options: ServeHttpOptions,
  handler: HttpHandler,
): Deno.HttpServer {
  const raw = rawOf(fd);
  const kind = listenerKind(raw);
  const address = localAddress(raw);
  const active = new Map<Deno.ServeHandlerInfo, Deno.Addr>();
  const known = new KnownClients();
  const serving = { address, active, known, watching: false, leaving: false } as Mutable<Serving>;
  const mayMultiplex = options.cert !== undefined;
  const { onListen, onError = internalServerError, ...rest } = options;

  // To take note of every answer costs one in twenty of those that are given at once; with TLS, nothing.
  const isWatched = () => mayMultiplex || serving.watching;

  /** The client is to leave after an answer that is given while the server leaves. */
  function farewell(answer: Response): Response {
    return serving.leaving ? withConnectionClose(answer) : answer;
  }

  /** Takes note of an answer, which is under way until its last byte is out, where this Deno tells (2.1). */
  function finish(answer: Response, info: Deno.ServeHandlerInfo, client: Deno.Addr): Response {
    if (answer.status === 101) {
      known.note(client, "WebSocket");
      return answer;
    }
    if ("completed" in info) {
      active.set(info, client);
      const done = () => active.delete(info);
      info.completed.then(done, done);
    }
    return farewell(answer);
  }

  async function finishLater(
    answer: Promise<Response>,
    info: Deno.ServeHandlerInfo,
    client: Deno.Addr,
  ): Promise<Response> {
    active.set(info, client);
    let given: Response;
    try {
      given = await answer;
    } finally {
      active.delete(info);
    }
    return isWatched() ? finish(given, info, client) : given;
  }

  // deno-lint-ignore no-explicit-any -- the overloads of Deno.serve tell TCP, TLS and unix apart
  const serveAny = Deno.serve as any;
  const { dummy: server, slot } = captureListener<Deno.HttpServer>(
    raw,
    kind,
    (where) =>
      serveAny(
        {
          ...rest,
          ...where,
          onListen: () => {},
          onError: async (error: unknown) => farewell(await onError(error)),
        },
        (request: Request, info: Deno.ServeHandlerInfo) => {
          // Later on it may not be had any more.
          const client = isWatched() ? info.remoteAddr : undefined;
          if (client) known.note(client, protocolOf(request));
          const answer = handler(request, info);
          if (!(answer instanceof Response)) {
            return finishLater(answer, info, client ?? info.remoteAddr);
          }
          return client ? finish(answer, info, client) : answer;
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
function protocolOf({ headers }: Request): Protocol {
  return headers.has("host") || headers.has("connection") ? "HTTP/1" : "HTTP/2";
}

/** What Deno.serve does with what a handler throws. */
function internalServerError(error: unknown): Response {
  printError(error);
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
