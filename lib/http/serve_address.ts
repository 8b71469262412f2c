/**
 * The address that the environment gives to `Deno.serve`: the variable DENO_SERVE_ADDRESS (since Deno 2.3), and
 * the arguments of `deno serve`.
 *
 * @module
 */

import { currentVariable, denoSubcommand } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";

/** The parsed value of DENO_SERVE_ADDRESS. */
export interface ServeAddress {
  /** The address to listen on. */
  address: { hostname: string; port: number } | { path: string };
  /** Whether that address is in addition to the address that the program asks for, or replaces it. */
  isDuplicate: boolean;
}

/** Whether DENO_SERVE_ADDRESS is set, in a version of Deno that reads it. */
export function isServeAddressSet(): boolean {
  return serveAddressVariable() !== undefined;
}

/**
 * The address for the first server of the program, whatever address it asks for; undefined if DENO_SERVE_ADDRESS
 * is not set.
 *
 * @throws {TypeError} When it is not a TCP or unix address.
 */
export function serveAddress(): ServeAddress | undefined {
  const value = serveAddressVariable();
  if (value === undefined) return undefined;
  const [, duplicate, kind, rest] = /^(duplicate,)?([a-z]+):(.*)$/s.exec(value) ?? [];
  const isDuplicate = duplicate !== undefined;
  if (kind === "unix" && rest) return { address: { path: rest }, isDuplicate };
  const [, v6, v4, port] = /^(?:\[([\da-f:.]+)\]|([\d.]+)):(\d{1,5})$/i.exec(rest ?? "") ?? [];
  if (kind === "tcp" && port !== undefined && Number(port) < 65536) {
    return { address: { hostname: v6 ?? v4, port: Number(port) }, isDuplicate };
  }
  throw new TypeError(
    `Cannot listen on DENO_SERVE_ADDRESS=${quoted(value)}: app.serve() supports ` +
      '"tcp:ADDRESS:PORT" and "unix:PATH", each with or without the prefix "duplicate,"; ' +
      "change the variable or remove it",
  );
}

function serveAddressVariable(): string | undefined {
  if (/^2\.[0-2]\./.test(Deno.version.deno)) return undefined;
  const variable = "DENO_SERVE_ADDRESS";
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  // Deno.serve reads the variable without the permission, too.
  return (state === "granted" ? Deno.env.get(variable) : currentVariable(variable)) || undefined;
}

/** Whether this process was started with `deno serve`. */
export function isDenoServe(): boolean {
  return denoSubcommand() === "serve";
}

/** Combines two servers into one object, as `Deno.serve` does: its address is that of the second server. */
export function combineServers(first: Deno.HttpServer, second: Deno.HttpServer): Deno.HttpServer {
  const shutdown = async () => {
    await Promise.all([first.shutdown(), second.shutdown()]);
  };
  return {
    addr: second.addr,
    finished: Promise.all([first.finished, second.finished]).then(() => {}),
    shutdown,
    ref() {
      first.ref();
      second.ref();
    },
    unref() {
      first.unref();
      second.unref();
    },
    [Symbol.asyncDispose]: shutdown,
  };
}
