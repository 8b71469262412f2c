/**
 * HTTP on a listener that came from elsewhere.
 *
 * @module
 */

import { Fd, rawOf } from "../../ffi/fd.ts";
import { localAddress } from "../../ffi/socket.ts";
import {
  captureListener,
  growAcceptQueue,
  listenerKind,
  proveInBackground,
  release,
  type StandInPlace,
  wrong,
} from "../native/adopt.ts";
import { place } from "../event_loop/registration.ts";
import { listenerDescriptor, remember, wasPassedOn } from "../native/descriptor.ts";
import { lookAfter } from "../event_loop/nonblocking_guard.ts";
import { closeNativeListener, fileOfNative } from "../unix/listener.ts";
import { printError } from "../logger.ts";
import { checkOptions } from "../listen_address.ts";
import { isAddressGiven } from "./serve_address.ts";
import { type HttpHandler, Serving } from "./serving.ts";

/** Options of {@linkcode serveHttp}: those of `Deno.serve` that do not say where to listen. */
export interface ServeHttpOptions {
  /** PEM certificate chain: serves HTTPS, with HTTP/2. */
  cert?: string;
  /** PEM private key of the certificate. */
  key?: string;
  /** The format of both. @default {"pem"} */
  keyFormat?: "pem";
  /** Compresses answers when the client and the answer's headers allow it. @default {false} */
  automaticCompression?: boolean;
  /** Answers when the handler throws. */
  onError?: (error: unknown) => Response | Promise<Response>;
  /** Called once with the listener's address. Without it nothing is printed. */
  onListen?: (addr: Deno.Addr) => void;
  /** Shuts the server down. */
  signal?: AbortSignal;
}

/** Every one of them: what is not among them would be dropped, or say where to listen. */
export const serveHttpOptions: readonly string[] = [
  "cert",
  "key",
  "keyFormat",
  "automaticCompression",
  "onError",
  "onListen",
  "signal",
] satisfies (keyof ServeHttpOptions)[];

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
  checkOptions("Cannot serve HTTP", options, serveHttpOptions);
  if (typeof listener === "number" || listener instanceof Fd) {
    growAcceptQueue(rawOf(listener), listenerKind(rawOf(listener)));
    return serveOn(listener, options, handler);
  }
  using fd = listenerDescriptor(listener);
  const first = fileOfNative(listener, fd.raw);
  const server = serveOn(fd, options, handler);
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
  const isTls = options.cert !== undefined || options.key !== undefined;
  if (isTls && kind.domain === "unix") throw wrong(raw, "a listening TCP socket, as TLS needs");
  const address = localAddress(raw);
  const { onListen, onError = internalServerError, ...rest } = options;
  const serving = new Serving(handler, onError, { tls: isTls, address });
  const { handle, handleError } = serving;

  const { dummy: server, registration } = captureListener<Deno.HttpServer>(
    raw,
    kind,
    (where) => standIn({ ...rest, onError: handleError }, where, handle),
    (server) => void server.shutdown(),
  );
  serving.started(server, { ...server.addr }, registration);
  try {
    lookAfter(fd, registration.tfd);
    place(registration, raw);
    Object.assign(server.addr, address);
    onListen?.(server.addr);
  } catch (error) {
    void server.shutdown();
    throw error;
  }
  servers.set(server, serving);
  remember(server, registration.tfd);
  release(fd);
  proveInBackground();
  return server;
}

/** A server on a listener of its own. */
function standIn(
  options: ServeHttpOptions,
  where: StandInPlace,
  handler: (request: Request, info: Deno.ServeHandlerInfo) => Response | Promise<Response>,
): Deno.HttpServer {
  // deno-lint-ignore no-explicit-any -- the overloads of Deno.serve tell TCP, TLS and unix apart
  const { internal, serve } = Deno as any;
  const { serveHttpOnListener } = internal ? (Deno as unknown as Internals)[internal] : {};
  if (!serveHttpOnListener || !isAddressGiven()) {
    return serve({ ...options, ...where, onListen: () => {} }, handler);
  }
  // Deno.serve would listen where DENO_SERVE_ADDRESS says, which is for the first server of the program.
  const { cert, key, signal, onError, automaticCompression } = options;
  const listener = "path" in where
    ? Deno.listen({ transport: "unix", ...where })
    : cert !== undefined && key !== undefined
    ? Deno.listenTls({ ...where, cert, key, alpnProtocols: ["h2", "http/1.1"] })
    : Deno.listen(where);
  return serveHttpOnListener(listener, signal, handler, onError, () => {}, automaticCompression);
}

/** What `Deno.serve` itself calls; the same in every version since 2.0. */
type Internals = Record<
  symbol,
  {
    serveHttpOnListener?(
      listener: Deno.Listener,
      signal: AbortSignal | undefined,
      handler: (request: Request, info: Deno.ServeHandlerInfo) => Response | Promise<Response>,
      onError: ServeHttpOptions["onError"],
      onListen: () => void,
      automaticCompression?: boolean,
    ): Deno.HttpServer;
  }
>;

/** What Deno.serve does with what a handler throws. */
export function internalServerError(error: unknown): Response {
  printError(error);
  return new Response("Internal Server Error", { status: 500 });
}
