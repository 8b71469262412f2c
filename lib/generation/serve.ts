/**
 * `app.serve()`: the options of `Deno.serve`, the address that DENO_SERVE_ADDRESS may name in their place, and
 * the line that `Deno.serve` prints.
 *
 * @module
 */

import { type ServeHttpOptions, serveHttpOptions } from "../http/serve.ts";
import { combineServers, serveAddress } from "../http/serve_address.ts";
import type { HttpHandler } from "../http/tracker.ts";
import {
  type ListenAddress,
  type NamedListenAddress,
  splitListenAddress,
} from "../listen_address.ts";
import { printError } from "../logger.ts";
import type { Resources } from "./resources.ts";

/** Options of {@linkcode Generation.serve} over TCP: those of `Deno.serve`, `name` and `backlog`. */
export interface ServeTcpOptions extends Deno.ServeTcpOptions, NamedListenAddress {
  /** The length of the accept queue; see {@linkcode TcpListenAddress}. */
  backlog?: number;
  /** The same, under Deno's name. */
  tcpBacklog?: number;
  /** Compresses answers when the client and the answer's headers allow it. @default {false} */
  automaticCompression?: boolean;
}

/** Options of {@linkcode Generation.serve} on a unix path: those of `Deno.serve`, `name`, `mode` and `backlog`. */
export interface ServeUnixOptions extends Deno.ServeUnixOptions, NamedListenAddress {
  /** Permissions of the socket's file. @default {0o600} */
  mode?: number;
  /** The length of the accept queue; see {@linkcode UnixListenAddress}. */
  backlog?: number;
  /** Compresses answers when the client and the answer's headers allow it. @default {false} */
  automaticCompression?: boolean;
}

/** Options of {@linkcode Generation.serve}; with `cert` and `key` it serves HTTPS. */
export type ServeOptions =
  | ServeTcpOptions
  | ServeTcpOptions & Deno.TlsCertifiedKeyPem
  | ServeUnixOptions;

/** The arguments of a call of `serve()`, whose overloads check them. */
export interface ServeCall {
  options: object;
  handler: HttpHandler;
}

/**
 * Gives the options and the handler of a call.
 *
 * @throws {TypeError} When there is no handler.
 */
export function serveCall(first: object | HttpHandler, second: unknown): ServeCall {
  const isAlone = typeof first === "function";
  if (isAlone ? second !== undefined : typeof first !== "object") {
    throw new TypeError(
      "Cannot serve: serve() takes a handler, or an object of options and then the handler",
    );
  }
  const { handler: own, ...options } = (isAlone ? {} : first) as { handler?: HttpHandler };
  const handler = isAlone ? first : second ?? own;
  if (typeof handler !== "function") throw new TypeError("Cannot serve HTTP without a handler");
  return { options, handler: handler as HttpHandler };
}

/** The transport options of TLS, which Deno drops on a unix path. */
const tlsOptions = ["cert", "key", "keyFormat"];

/**
 * Makes a server, on the address of the options or on that of DENO_SERVE_ADDRESS.
 *
 * @param isFirst Whether it is the first one of its generation, for which alone the variable is.
 */
export function serve(
  resources: Resources,
  { options, handler }: ServeCall,
  isFirst: boolean,
): Deno.HttpServer {
  const { address, rest } = splitListenAddress<ListenAddress, ServeHttpOptions>(
    "Cannot serve",
    options,
    {
      tcp: serveHttpOptions,
      unix: serveHttpOptions.filter((name) => !tlsOptions.includes(name)),
    },
    8000,
  );
  const isTls = rest.cert !== undefined;
  const announced = { ...rest, onListen: rest.onListen ?? ((addr) => printAddress(addr, isTls)) };
  const variable = isFirst ? serveAddress() : undefined;
  if (!variable) return resources.http(address, announced, handler);
  const { backlog } = address;
  const told: ListenAddress = "path" in variable.address
    ? { ...variable.address, backlog, mode: "path" in address ? address.mode : undefined }
    : {
      ...variable.address,
      backlog,
      reusePort: "path" in address ? undefined : address.reusePort,
    };
  if (!variable.isDuplicate) {
    return resources.http({ ...told, name: address.name }, announced, handler);
  }
  const { signal, onError, automaticCompression } = rest;
  const first = resources.http(told, { signal, onError, automaticCompression }, handler);
  try {
    return combineServers(first, resources.http(address, announced, handler));
  } catch (error) {
    void first.shutdown();
    throw error;
  }
}

/** Prints where a server listens, to stderr, as `Deno.serve` does (ext/http, `onListen`). */
function printAddress(addr: Deno.Addr, isTls: boolean): void {
  if ("path" in addr) return printError(`Listening on ${addr.path}`);
  const { hostname, port } = addr as Deno.NetAddr;
  const url = (host: string) => `http${isTls ? "s" : ""}://${host}:${port}/`;
  const isAny = hostname === "0.0.0.0" || hostname === "::";
  const here = url(hostname.includes(":") ? `[${hostname}]` : hostname);
  printError(`Listening on ${here}${isAny ? ` (${url("localhost")})` : ""}`);
}
