/**
 * The functions of Deno that a preloaded program calls in place of Deno's own: they give it sockets of its generation.
 *
 * @module
 */

import { readText } from "../../ffi/file.ts";
import type { Generation } from "../generation/generation.ts";
import type { AnyListenAddress } from "../generation/inheritance.ts";
import { formatListenAddress } from "../generation/bind.ts";
import type { ServeTcpOptions } from "../generation/serve.ts";
import { serveHttpOptions } from "../http/serve.ts";
import { runtime } from "../runtime.ts";
import type { AddressesInUse } from "./addresses_in_use.ts";

/** What the wrappers need of the preload module. */
export interface WrappersHost {
  readonly generation: Generation;
  readonly inUse: AddressesInUse;
  /** Whether the generation has left: what the program opens from then on is its own. */
  hasLeft(): boolean;
  /** How many inherited sockets the program has not asked for. */
  unclaimed(): number;
  /** Whether one of them is for that address. */
  isInherited(address: AnyListenAddress): boolean;
  /** Whether a path leads to one of them. */
  isInheritedPath(path: string): boolean;
  /** Called when a socket was made. */
  socketMade(address: AnyListenAddress): void;
}

/** The options of an address that Deno's functions take, by transport; others are ignored, as Deno does. */
const addressOptions: Record<string, readonly string[]> = {
  tcp: ["hostname", "port", "reusePort", "tcpBacklog"],
  unix: ["path"],
  udp: ["hostname", "port", "reuseAddress", "loopback"],
  unixpacket: ["path"],
};

/** The other options of `Deno.serve`; on a unix path it drops those of TLS. */
const serveOptions = {
  tcp: serveHttpOptions,
  unix: ["onListen", "onError", "signal", "automaticCompression"],
};

type Options = Record<string, unknown>;

/** Replaces the functions. */
export function installWrappers(host: WrappersHost): void {
  const { generation } = host;

  const wrapped = {
    // deno-lint-ignore no-explicit-any -- the overloads of Deno.serve
    serve(...args: any[]): Deno.HttpServer {
      // deno-lint-ignore no-explicit-any -- as above
      const native = () => (runtime.serve as any)(...args);
      const isAlone = typeof args[0] === "function";
      const options = (isAlone ? {} : args[0] ?? {}) as Options;
      const handler = isAlone ? args[0] : args[1] ?? options.handler;
      const transport = transportOf(options);
      // Deno's own function has the right error, or a transport that is not handed over.
      if (typeof handler !== "function" || transport === undefined) return native();
      if (!hasAddress(options)) return native();
      const where = pick(options, addressOptions[transport]);
      const address = transport === "unix" ? where : { port: 8000, ...where };
      const given = {
        ...where,
        ...modeOf(host, options),
        ...pick(options, serveOptions[transport]),
      };
      const own = () => generation.serve(given as ServeTcpOptions, handler);
      return make<Deno.HttpServer>(host, address as AnyListenAddress, native, own);
    },

    listen(options: Options): Deno.Listener {
      // deno-lint-ignore no-explicit-any -- the overloads of Deno.listen
      const native = () => runtime.listen(options as any);
      const transport = transportOf(options ?? {});
      if (transport === undefined || !hasAddress(options)) return native();
      const address = { ...pick(options, addressOptions[transport]), ...modeOf(host, options) };
      // deno-lint-ignore no-explicit-any -- as above
      return make(host, address as any, native, () => generation.listen(address as any));
    },

    listenTls(options: Options): Deno.TlsListener {
      // deno-lint-ignore no-explicit-any -- Deno's own type has certificates in more forms
      const native = () => runtime.listenTls(options as any);
      const isKnown = options && hasAddress(options) && typeof options.cert === "string" &&
        typeof options.key === "string";
      if (!isKnown) return native();
      const given = pick(options, [
        ...addressOptions.tcp,
        "cert",
        "key",
        "keyFormat",
        "alpnProtocols",
      ]);
      // deno-lint-ignore no-explicit-any -- as above
      return make(host, given as any, native, () => generation.listenTls(given as any));
    },

    listenDatagram(options: Options): Deno.DatagramConn {
      // deno-lint-ignore no-explicit-any -- the overloads of Deno.listenDatagram
      const native = () => runtime.listenDatagram(options as any);
      const transport = options?.transport;
      if (transport !== "udp" && transport !== "unixpacket" || !hasAddress(options)) {
        return native();
      }
      const given = {
        ...pick(options, [...addressOptions[transport], "transport"]),
        ...modeOf(host, options),
      };
      // deno-lint-ignore no-explicit-any -- as above
      return make(host, given as any, native, () => generation.listenDatagram(given as any));
    },

    upgradeWebSocket(
      request: Request,
      options?: Deno.UpgradeWebSocketOptions,
    ): Deno.WebSocketUpgrade {
      return generation.upgradeWebSocket(request, options);
    },
  };
  for (const [name, value] of Object.entries(wrapped)) {
    if (!(name in Deno)) continue;
    Object.defineProperty(Deno, name, {
      value,
      configurable: true,
      enumerable: true,
      writable: true,
    });
  }
}

/**
 * Makes a socket of the generation, or one of the program's own when the generation has left.
 *
 * @throws {Deno.errors.AddrInUse} Also for an address that the previous generation could not have, while the program has not
 * asked for all that was inherited.
 */
export function make<T>(
  host: WrappersHost,
  address: AnyListenAddress,
  native: () => T,
  own: () => T,
): T {
  const { inUse } = host;
  if (host.hasLeft()) return native();
  // The previous generation has an inherited one: it was in use when the program asked for it twice.
  if (inUse.has(address) && host.unclaimed() > 0 && !host.isInherited(address)) {
    const what =
      `Cannot listen on ${
        formatListenAddress(address)
      }: it was in use when the previous generation ` +
      "asked for it, which listens at other addresses since";
    throw Object.assign(new Deno.errors.AddrInUse(what), { code: "EADDRINUSE" });
  }
  let made: T;
  try {
    made = own();
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) inUse.add(address);
    throw error;
  }
  inUse.delete(address);
  host.socketMade(address);
  return made;
}

/** The transport that a generation has; undefined for any other. */
function transportOf(options: Options): "tcp" | "unix" | undefined {
  const { transport = options.path === undefined ? "tcp" : "unix" } = options;
  return transport === "tcp" || transport === "unix" ? transport : undefined;
}

/** Whether Deno takes the address: its own function has the right error otherwise. */
function hasAddress({ path, port, transport }: Options): boolean {
  const isPath = transport === "unix" || transport === "unixpacket" || path !== undefined;
  return isPath ? typeof path === "string" : port === undefined || isPort(port);
}

function isPort(port: unknown): boolean {
  const number = typeof port === "string" && port !== "" ? Number(port) : port;
  return Number.isInteger(number) && (number as number) >= 0 && (number as number) < 65536;
}

function pick(options: Options, names: readonly string[]): Options {
  return Object.fromEntries(
    names.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]),
  );
}

/**
 * The permissions of a new socket's file: those that bind(2) gives it, where the library's own default is the user alone. An
 * inherited one keeps those that the program has given it since: a client may connect before it does so again.
 */
export function modeOf(host: WrappersHost, { path }: { path?: unknown }): {
  mode?: number;
} {
  if (typeof path !== "string" || host.isInheritedPath(path)) return {};
  return { mode: 0o777 & ~umask() };
}

/** The umask of this process (proc(5), "status"), which `Deno.umask()` needs a permission for. */
function umask(): number {
  const [, octal = "22"] = /^Umask:\s*([0-7]+)$/m.exec(readText("/proc/self/status") ?? "") ?? [];
  return parseInt(octal, 8);
}
