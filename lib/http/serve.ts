/**
 * Serves HTTP on a listener that was received from another process.
 *
 * @module
 */

import { Fd, rawOf } from "../../ffi/fd.ts";
import { localAddress } from "../../ffi/socket.ts";
import { type DummyAddress, dummyListener } from "../native/dummy.ts";
import { growAcceptQueue } from "../native/adopt.ts";
import { listenerKind, wrong } from "../native/kind.ts";
import { proveInBackground } from "../native/self_test.ts";
import { completeAdoption } from "../native/adoption.ts";
import type { Registration } from "../event_loop/registration.ts";
import { park } from "../native/accept_switch.ts";
import { listenerDescriptor } from "../native/descriptor.ts";
import { remembered, wasPassedOn } from "../native/registry.ts";
import { closeNativeListener, fileOfNative } from "../native/close.ts";
import { printError } from "../logger.ts";
import { checkOptions } from "../listen_address.ts";
import { connectedClients } from "./connections.ts";
import { isServeAddressSet } from "./serve_address.ts";
import { type HttpErrorHandler, type HttpHandler, HttpTracker } from "./tracker.ts";
import { runtime } from "../runtime.ts";

/** Options of {@linkcode serveHttp}: those of `Deno.serve` but for the address to listen on. */
export interface ServeHttpOptions {
  /** PEM certificate chain: serves HTTPS, with HTTP/2. */
  cert?: string;
  /** PEM private key of the certificate. */
  key?: string;
  /** The format of `cert` and `key`. @default {"pem"} */
  keyFormat?: "pem";
  /** Compresses answers when the client and the answer's headers allow it. @default {false} */
  automaticCompression?: boolean;
  /** Answers when the handler throws. */
  onError?: (error: unknown) => Response | Promise<Response>;
  /** Called once with the listener's address. Nothing is printed without it. */
  onListen?: (addr: Deno.Addr) => void;
  /** Shuts the server down. */
  signal?: AbortSignal;
}

/** The names of all options: any other is refused, because it would be ignored or is an address to listen on. */
export const serveHttpOptions: readonly string[] = [
  "cert",
  "key",
  "keyFormat",
  "automaticCompression",
  "onError",
  "onListen",
  "signal",
] satisfies (keyof ServeHttpOptions)[];

/** A server of {@linkcode serveHttp}. */
interface AdoptedServer {
  tracker: HttpTracker;
  registration: Registration;
}

const servers = new WeakMap<Deno.HttpServer, AdoptedServer>();

/** The tracker of a server of {@linkcode serveHttp}; undefined for any other server. */
export function trackerOf(server: Deno.HttpServer): HttpTracker | undefined {
  return servers.get(server)?.tracker;
}

/**
 * Stops a server of {@linkcode serveHttp} from accepting: new connections wait for another holder of the
 * socket. Does nothing if the server has closed its listener.
 */
export function stopAccepting(server: Deno.HttpServer): void {
  const adopted = servers.get(server);
  if (adopted && remembered(server) !== undefined) park(adopted.registration);
}

/**
 * Serves HTTP on a received listener: a real `Deno.HttpServer`, at the speed of `Deno.serve`. The server takes
 * the descriptor over; a `Deno.Listener` is closed when the server has finished.
 *
 * The `request.url` of a request without a Host header, which HTTP/1.0 allows, has a port that is not the
 * listener's.
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
 * @throws {WrongDescriptorError} When the descriptor is not a listening TCP or unix stream socket.
 * @throws {Deno.errors.BadResource} When the descriptor is not open.
 * @throws {UnsupportedRuntimeError} When this version of Deno cannot adopt a descriptor.
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
  const file = fileOfNative(listener, fd.raw);
  const server = serveOn(fd, options, handler);
  const close = () => {
    const isPassedOn = wasPassedOn(server) || wasPassedOn(listener);
    closeNativeListener(listener, file, isPassedOn);
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
  const tracked = { handler, onError, isTls, address, connectedClients };

  const { dummy: tracker, registration } = dummyListener(
    raw,
    kind,
    (where) =>
      new HttpTracker(
        tracked,
        (handle, handleError) => serveDummy({ ...rest, onError: handleError }, where, handle),
      ),
    ({ server }) => void server.shutdown(),
  );
  const { server } = tracker;
  completeAdoption(fd, server, registration, {
    correct() {
      // The tracker has read the dummy's address.
      Object.assign(server.addr, address);
      onListen?.(server.addr);
    },
    discard: () => void server.shutdown(),
  });
  servers.set(server, { tracker, registration });
  proveInBackground();
  return server;
}

/** Starts a server on a listener of its own, whose socket is replaced by the received one. */
function serveDummy(
  options: ServeHttpOptions & { onError: HttpErrorHandler },
  where: DummyAddress,
  handler: HttpHandler,
): Deno.HttpServer {
  const { internal } = Deno as unknown as { internal?: symbol };
  const { serveHttpOnListener } = internal ? (Deno as unknown as Internals)[internal] : {};
  if (!serveHttpOnListener || !isServeAddressSet()) {
    // deno-lint-ignore no-explicit-any -- the overloads of Deno.serve tell TCP, TLS and unix apart
    return (runtime.serve as any)({ ...options, ...where, onListen: () => {} }, handler);
  }
  // Deno.serve would listen on DENO_SERVE_ADDRESS, which is meant for the first server of the program.
  const { cert, key, signal, onError, automaticCompression } = options;
  const listener = "path" in where
    ? runtime.listen({ transport: "unix", ...where })
    : cert !== undefined && key !== undefined
    ? runtime.listenTls({ ...where, cert, key, alpnProtocols: ["h2", "http/1.1"] })
    : runtime.listen(where);
  return serveHttpOnListener(listener, signal, handler, onError, () => {}, automaticCompression);
}

/** The function that `Deno.serve` itself calls; the same in every version since 2.0. */
type Internals = Record<
  symbol,
  {
    serveHttpOnListener?(
      listener: Deno.Listener,
      signal: AbortSignal | undefined,
      handler: HttpHandler,
      onError: HttpErrorHandler,
      onListen: () => void,
      automaticCompression?: boolean,
    ): Deno.HttpServer;
  }
>;

/** Answers for a handler that has thrown, as `Deno.serve` does without `onError`. */
export function internalServerError(error: unknown): Response {
  printError(error);
  return new Response("Internal Server Error", { status: 500 });
}
