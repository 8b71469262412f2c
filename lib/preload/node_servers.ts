/**
 * The servers of node in a preloaded program: `listen()` of node:net, which all of them inherit, gives them sockets of the
 * generation.
 *
 * `listen()` calls `this._listen2(address, port, addressType, backlog, fd, flags)`, a legacy name of node's own, when the
 * arguments are sorted out and the host is resolved.
 *
 * @module
 */

import { listenError } from "../../ffi/node_error.ts";
import type { ListenAddress } from "../listen_address.ts";
import type { Logger } from "../logger.ts";
import type { NodeServer } from "../native/objects.ts";
import { type Listen2, listen2, nodeServersTake } from "../node/node_objects.ts";
import { make, modeOf, type WrappersHost } from "./wrappers.ts";

/** What the wrapper needs beside what those of Deno's functions need. */
export interface NodeServersHost extends WrappersHost {
  readonly logger: Logger;
  /** Has a server of node listen on a socket of the generation. */
  listenNode(server: NodeServer, address: ListenAddress): void;
}

/** `_listen2` as a method; a path has the port -1, no host the address null. */
type Listen = (
  this: NodeServer & { _handle?: object | null; emit(event: string, ...args: unknown[]): void },
  ...args: Parameters<Listen2>
) => void;

/** Replaces `_listen2` as soon as the program loads node:net. */
export function installNodeServers(host: NodeServersHost): void {
  const [, minor] = /^2\.(\d+)\./.exec(Deno.version.deno) ?? [];
  if (minor !== undefined && Number(minor) < 8) return warnBefore28(host);
  const wrap = (prototype: object, listen: Listen) => {
    Object.defineProperty(prototype, listen2, {
      value: wrapped(host, listen),
      configurable: true,
      writable: true,
    });
  };
  // Node's modules are in the snapshot of Deno 2.8: reading them takes 6 ms.
  if (minor === "8" || isNodeLoaded()) {
    const { prototype } = builtin("node:net").Server;
    return wrap(prototype, prototype[listen2] as Listen);
  }
  // From Deno 2.9 on they are evaluated when the program loads them, for 17 ms: then `Server.prototype._listen2 = ...` calls
  // this setter, which is inherited until there is a property. No other hook is called before the program's own code.
  Object.defineProperty(Object.prototype, listen2, {
    configurable: true,
    set(this: object, listen: Listen) {
      delete (Object.prototype as Record<string, unknown>)[listen2];
      wrap(this, listen);
    },
  });
}

function wrapped(host: NodeServersHost, listen: Listen): Listen {
  return function (...args) {
    const [address, port, , backlog, fd] = args;
    const native = () => listen.apply(this, args);
    // A descriptor is one of the generation, or the program's own; a handle is that of another server.
    if (typeof fd === "number" && fd >= 0 || this._handle) return native();
    const wanted: ListenAddress = port === -1
      ? { path: address!, ...modeOf(host, { path: address }) }
      : { hostname: address ?? "::", port: port ?? 0 };
    if (backlog > 0) wanted.backlog = backlog;
    const needed = nodeServersTake(wanted);
    if (needed !== undefined) {
      warnOfVersion(host.logger, String(address), needed);
      return native();
    }
    try {
      make(host, wanted, native, () => listenAnywhere(host, this, wanted, address === null));
    } catch (error) {
      // As node reports it: the program may have set its listener of "error" after listen().
      const reported = listenError(error, address ?? "::", port ?? 0);
      builtin("node:process").nextTick(() => this.emit("error", reported));
    }
  };
}

/** Listens; on every address of IPv4 where there is no IPv6 and no host was given, as node does. */
function listenAnywhere(
  host: NodeServersHost,
  server: NodeServer,
  address: ListenAddress,
  isAnyHost: boolean,
): void {
  try {
    host.listenNode(server, address);
  } catch (error) {
    if (!isAnyHost || "path" in address || error instanceof Deno.errors.AddrInUse) throw error;
    host.listenNode(server, { ...address, hostname: "0.0.0.0" });
  }
}

/** Says for each server of node that its socket stays here: before Deno 2.8 it cannot listen on a descriptor. */
function warnBefore28({ logger }: NodeServersHost): void {
  const warned = new Set<string>();
  // Before 2.7, servers of node:http are none of node:net.
  for (const name of ["node:net", "node:http"] as const) {
    const { prototype } = builtin(name).Server;
    const { listen } = prototype;
    if (!Object.hasOwn(prototype, "listen")) continue;
    prototype.listen = function (this: NodeServer, ...args: unknown[]) {
      const words = args.filter((arg) => typeof arg === "number" || typeof arg === "string");
      const where = words.join(" ") || "an address of its own";
      if (!warned.has(where)) {
        warned.add(where);
        warnOfVersion(logger, where, "2.8");
      }
      return listen.apply(this, args);
    };
  }
}

/** Whether a module of node was loaded before: by another preload module, or an import beside this one. */
function isNodeLoaded(): boolean {
  const { internal } = Deno as unknown as { internal?: symbol };
  const internals = internal &&
    (Deno as unknown as Record<symbol, Record<string, unknown>>)[internal];
  return internals?.__nodeProcessBootstrapped === true;
}

function warnOfVersion(logger: Logger, where: string, needed: string): void {
  logger.warn?.(
    `A server of node listens at ${where}, and stays with this process: it takes Deno ${needed} or later to ` +
      `hand it over, and this is ${Deno.version.deno}. A restart fails while the next generation listens there too`,
  );
}

// deno-lint-ignore no-explicit-any -- node's own types are for programs that import them
function builtin(name: string): any {
  return (globalThis as unknown as { process: { getBuiltinModule(name: string): unknown } }).process
    .getBuiltinModule(name);
}
