/**
 * HTTP on a listener that came from elsewhere, and its orderly end.
 *
 * @module
 */

import { closeRaw, Fd, rawOf } from "../ffi/fd.ts";
import { pause, unlessAborted } from "../ffi/poll.ts";
import { openDescriptors } from "../ffi/proc.ts";
import { type Address, formatAddress } from "../ffi/sockaddr.ts";
import { ifSocket, listenUnix, localAddress } from "../ffi/socket.ts";
import { listenerKind, privateName, proveInBackground, release } from "./adopt.ts";
import { capture, exchange, place, type Slot } from "./capture.ts";
import { listenerDescriptor, remember, remembered, wasPassedOn } from "./descriptor.ts";
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

/** What `drain` has to know of a server. */
interface Serving {
  slot: Slot;
  address: Address | undefined;
  leaving: boolean;
}

const servers = new WeakMap<Deno.HttpServer, Serving>();

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

/** Options of {@linkcode drain}. */
export interface DrainOptions {
  /**
   * How long to wait for clients to leave, in milliseconds; those that stay idle longer than that are
   * closed, and a request that one of them sends at that moment is lost. An answer under way is
   * finished: a stream that does not end outlasts the deadline. @default {60_000}
   */
  deadline?: number;
  /** Ends the wait, with the server still answering and not accepting, or shutting down. */
  signal?: AbortSignal;
}

/**
 * Ends a server of {@linkcode serveHttp} without losing a request, once another process accepts on
 * the same listener: stops accepting, answers with `Connection: close` so that the clients leave, waits
 * until they have, and shuts the server down. Resolves to the number of connections that were still
 * open at the deadline.
 *
 * `server.shutdown()` alone closes idle connections while a request may be on its way on them.
 *
 * ```ts
 * import { drain, serveHttp } from "@graceful/deno";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const server = serveHttp(listener, () => new Response("hello"));
 * console.log(await drain(server), "connections had to be closed");
 * ```
 *
 * @throws {TypeError} When the server is not one of serveHttp's.
 */
export async function drain(server: Deno.HttpServer, options: DrainOptions = {}): Promise<number> {
  const { deadline = 60_000, signal } = options;
  const serving = servers.get(server);
  if (!serving) throw new TypeError("Cannot drain a server that serveHttp() did not make");
  signal?.throwIfAborted();
  if (!serving.leaving && remembered(server) !== undefined) stopAccepting(serving.slot);
  serving.leaving = true;
  const end = performance.now() + deadline;
  for (;;) {
    const from = performance.now();
    const open = connections(serving.address);
    const now = performance.now();
    if (open === 0 || now >= end) {
      await unlessAborted(server.shutdown(), signal);
      return open;
    }
    // A look asks for every descriptor: it is to take a tenth of the time at most.
    const interval = Math.max(pollInterval, 9 * (now - from));
    await pause(Math.min(interval, end - now), signal);
  }
}

/** Milliseconds between two looks at who is still connected, at least. */
const pollInterval = 20;

function serveOn(
  fd: Fd | number,
  options: ServeHttpOptions,
  handler: HttpHandler,
): Deno.HttpServer {
  const raw = rawOf(fd);
  const { domain } = listenerKind(raw);
  const address = localAddress(raw);
  const serving = { address, leaving: false } as Serving;
  const where = domain === "unix" ? { path: privateName() } : { hostname: "127.0.0.1", port: 0 };
  const { onListen, onError = internalServerError, ...rest } = options;
  /** The client is to leave after an answer that is given while the server leaves. */
  const finish = (answer: Response) => serving.leaving ? withConnectionClose(answer) : answer;
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
          const answer = handler(request, info);
          return answer instanceof Response ? finish(answer) : answer.then(finish);
        },
      ),
    (server) => void server.shutdown(),
  );
  try {
    place(slot, raw);
    Object.assign(server.addr, address);
    onListen?.(server.addr);
  } catch (error) {
    void server.shutdown();
    throw error;
  }
  serving.slot = slot;
  servers.set(server, serving);
  remember(server, slot.tfd);
  lookAfter(fd, slot.tfd);
  release(fd);
  proveInBackground();
  return server;
}

/** What Deno.serve does with what a handler throws. */
function internalServerError(error: unknown): Response {
  console.error(error);
  return new Response("Internal Server Error", { status: 500 });
}

/** Deno does not close then: the client does, so that no request of its can be on the way. */
function withConnectionClose(answer: Response): Response {
  if (answer.status === 101) return answer;
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

/**
 * The server's accept finds a socket that nobody connects to; the listener's queue is left to the
 * other process. Shutting the server down here would close connections with it.
 */
function stopAccepting(slot: Slot): void {
  const deserted = listenUnix(privateName(), "Cannot make a socket that nobody connects to");
  exchange(slot, deserted);
  closeRaw(deserted);
}

/** How many connections that came in at `address` this process holds. */
function connections(address: Address | undefined): number {
  const belongs = (raw: number) =>
    ifSocket(raw, ({ listening, type }) => {
      if (listening || type !== "stream") return false;
      const local = localAddress(raw);
      if (!local || !address) return false;
      return "port" in local
        ? "port" in address && local.port === address.port
        : formatAddress(local) === formatAddress(address);
    });
  return openDescriptors().filter(belongs).length;
}
