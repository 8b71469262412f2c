/**
 * Where `Deno.serve` is told to listen from outside of the program: by the variable DENO_SERVE_ADDRESS since
 * Deno 2.3, and by the arguments of `deno serve`.
 *
 * @module
 */

import { argumentsOfDeno, currentVariable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";

/** What DENO_SERVE_ADDRESS says. */
export interface ServeAddress {
  /** Where to listen. */
  place: { hostname: string; port: number } | { path: string };
  /** Whether to listen there beside what the program asks for, and not in place of it. */
  isDuplicate: boolean;
}

/** Whether `Deno.serve` may listen elsewhere than it is asked to. */
export function isAddressGiven(): boolean {
  return variable() !== undefined;
}

/**
 * What the first server of the program is to listen on, whatever it asks for; undefined without that variable.
 *
 * @throws {TypeError} When it is an address that cannot be handed over, or none.
 */
export function serveAddress(): ServeAddress | undefined {
  const value = variable();
  if (value === undefined) return undefined;
  const [, duplicate, kind, address] = /^(duplicate,)?([a-z]+):(.*)$/s.exec(value) ?? [];
  const isDuplicate = duplicate !== undefined;
  if (kind === "unix" && address) return { place: { path: address }, isDuplicate };
  const [, v6, v4, port] = /^(?:\[([\da-f:.]+)\]|([\d.]+)):(\d{1,5})$/i.exec(address ?? "") ?? [];
  if (kind === "tcp" && port !== undefined && Number(port) < 65536) {
    return { place: { hostname: v6 ?? v4, port: Number(port) }, isDuplicate };
  }
  throw new TypeError(
    `Cannot listen where DENO_SERVE_ADDRESS=${quoted(value)} says: app.serve() takes ` +
      '"tcp:ADDRESS:PORT" and "unix:PATH", each with "duplicate," before it or without; ' +
      "change the variable or remove it",
  );
}

function variable(): string | undefined {
  if (/^2\.[0-2]\./.test(Deno.version.deno)) return undefined;
  const variable = "DENO_SERVE_ADDRESS";
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  // Deno.serve reads it without the permission, too.
  return (state === "granted" ? Deno.env.get(variable) : currentVariable(variable)) || undefined;
}

/** Whether this process was started with `deno serve`, before which no other options are than these (`deno --help`). */
export function isDenoServe(): boolean {
  const args = argumentsOfDeno();
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "-L" || args[i] === "--log-level") i++;
    else if (!args[i].startsWith("-")) return args[i] === "serve";
  }
  return false;
}

/** Two servers as one object, as `Deno.serve` gives them: its address is that of the second server. */
export function bothServers(first: Deno.HttpServer, second: Deno.HttpServer): Deno.HttpServer {
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
