/**
 * Addresses to listen on: the options of the calls that make listeners, servers and datagram sockets. An option is
 * applied, or throws with its name: none is dropped.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { quoted } from "../ffi/quote.ts";

/** The options of every listener and datagram socket of a generation. */
export interface NamedListenAddress {
  /**
   * The name by which the next generations find the socket. Without a name it is found by its address, and several
   * sockets at port 0 by the order in which they are asked for. A socket that has the name and
   * another address is not found: the address is bound anew, and that socket is closed.
   */
  name?: string;
}

/** A TCP address to listen on, as in `Deno.listen`. */
export interface TcpListenAddress extends NamedListenAddress {
  /** The transport. @default {"tcp"} */
  transport?: "tcp";
  /** The address or name to bind to. @default {"0.0.0.0"} */
  hostname?: string;
  /** The port; with 0 the first generation gets a free one, and the others inherit it. @default {0} */
  port?: number;
  /**
   * Whether other sockets may listen there too (socket(7), SO_REUSEPORT). The kernel deals connections
   * out to all of them, from the moment in which they are bound: if a generation has fewer of them than its
   * predecessor, the connections that are queued at the others are lost. @default {false}
   */
  reusePort?: boolean;
  /**
   * The length of the accept queue (listen(2)), also of an inherited listener; the system allows
   * net.core.somaxconn. @default {511, or that of an inherited listener, if it is longer}
   */
  backlog?: number;
  /** The same, under Deno's name. */
  tcpBacklog?: number;
}

/** A unix path to listen on. */
export interface UnixListenAddress extends NamedListenAddress {
  /** The transport. @default {"unix"} */
  transport?: "unix";
  /** The path; it is never missing while one generation takes over from another. */
  path: string;
  /** Permissions of the socket's file. @default {0o600} */
  mode?: number;
  /**
   * The length of the accept queue (listen(2)), also of an inherited listener. The peer credentials that clients
   * see are those of the process that has set it last (unix(7), SO_PEERCRED).
   * @default {4096, or that of an inherited listener}
   */
  backlog?: number;
}

/** The address of a listener. */
export type ListenAddress = TcpListenAddress | UnixListenAddress;

/** A UDP address, as in `Deno.listenDatagram`. */
export interface UdpListenAddress extends NamedListenAddress {
  /** The transport. @default {"udp"} */
  transport?: "udp";
  /** The address or name to bind to. @default {"0.0.0.0"} */
  hostname?: string;
  /** The port; with 0 the first generation gets a free one, and the others inherit it. @default {0} */
  port?: number;
  /** Whether another socket may be bound to the same address (socket(7), SO_REUSEADDR). @default {false} */
  reuseAddress?: boolean;
  /**
   * Whether multicast datagrams that are sent come back to this machine (ip(7), IP_MULTICAST_LOOP).
   * @default {false, or as the inherited socket has it}
   */
  loopback?: boolean;
}

/** A unix path to receive datagrams at. */
export interface UnixDatagramListenAddress extends NamedListenAddress {
  /** The transport. @default {"unixpacket"} */
  transport?: "unixpacket";
  /** The path; it is never missing while one generation takes over from another. */
  path: string;
  /** Permissions of the socket's file. @default {0o600} */
  mode?: number;
}

/** The address of a datagram socket. */
export type DatagramListenAddress = UdpListenAddress | UnixDatagramListenAddress;

/** The address options of each transport. */
const optionsOf: Record<string, readonly string[]> = {
  tcp: ["name", "transport", "hostname", "port", "reusePort", "backlog", "tcpBacklog"],
  unix: ["name", "transport", "path", "mode", "backlog"],
  udp: ["name", "transport", "hostname", "port", "reuseAddress", "loopback"],
  unixpacket: ["name", "transport", "path", "mode"],
};

/** The greatest int, which is what listen(2) takes. */
const mostBacklog = 2 ** 31 - 1;

/**
 * Splits the options of a call into the address, checked and with every default of Deno's, and all others.
 *
 * @param attempt The call, for errors: "Cannot serve".
 * @param transports The transports of the call, each with its further options; the first one of an address, and the
 * first one of a path, are the defaults.
 * @param defaultPort The port if none is given.
 * @throws {TypeError} For an option, or a transport, that would be dropped.
 */
export function splitListenAddress<
  P extends ListenAddress | DatagramListenAddress,
  O extends object = object,
>(
  attempt: string,
  options: object,
  transports: Record<string, readonly string[]>,
  defaultPort = 0,
): { address: P; rest: O } {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(
      `${attempt}: its options are an object, such as { port: 8000 }, not ${String(options)}`,
    );
  }
  const given: Record<string, unknown> = { ...options };
  const names = Object.keys(transports);
  const byPath = given.path !== undefined;
  const transport = given.transport ??
    names.find((name) => optionsOf[name].includes("path") === byPath) ?? names[0];
  if (typeof transport !== "string" || !names.includes(transport)) {
    const known = names.map(quoted).join(" and ");
    throw new TypeError(
      `${attempt}: there is no transport ${quoted(String(transport))} here; there is ${known}`,
    );
  }
  checkOptions(`${attempt} (transport ${quoted(transport)})`, options, [
    ...optionsOf[transport],
    ...transports[transport],
  ]);
  const address: Record<string, unknown> = {};
  const rest: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(given)) {
    const part = optionsOf[transport].includes(name) ? address : rest;
    if (value !== undefined && name !== "transport") part[name] = value;
  }
  checkName(attempt, address.name);
  if (optionsOf[transport].includes("path")) {
    if (typeof address.path !== "string") throw wrong(attempt, "path", address.path, "a path");
  } else {
    address.port = toPort(attempt, address.port ?? defaultPort);
  }
  checkBacklog(attempt, address);
  return { address: address as unknown as P, rest: rest as O };
}

/**
 * Throws for an option that a call does not have: if it was dropped, a wrong name would not be noticed.
 *
 * @throws {TypeError} With the names of the options that it has.
 */
export function checkOptions(attempt: string, options: object, known: readonly string[]): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (name === "keyFormat" && value !== "pem") throw wrong(attempt, name, value, '"pem"');
    if (known.includes(name)) continue;
    throw new TypeError(
      `${attempt}: there is no option ${quoted(name)} here; there is ${known.join(", ")}`,
    );
  }
}

function checkName(attempt: string, name: unknown): void {
  if (name === undefined || typeof name === "string" && name !== "") return;
  throw wrong(attempt, "name", name, "a text that is not empty");
}

/** Converts digits to a number, as Deno does. */
function toPort(attempt: string, value: unknown): number {
  const port = typeof value === "string" && value !== "" ? Number(value) : value;
  if (!Number.isInteger(port)) throw wrong(attempt, "port", value, "a number");
  if ((port as number) >= 0 && (port as number) <= 65535) return port as number;
  throw new RangeError(`${attempt}: the port ${port} is not within 0 to 65535`);
}

/** Replaces `tcpBacklog`, which is Deno's name, by `backlog`. */
function checkBacklog(attempt: string, address: Record<string, unknown>): void {
  const { backlog, tcpBacklog } = address;
  delete address.tcpBacklog;
  if (backlog !== undefined && tcpBacklog !== undefined && backlog !== tcpBacklog) {
    throw new TypeError(`${attempt}: \`backlog\` and \`tcpBacklog\` are two names of one option`);
  }
  const value = backlog ?? tcpBacklog;
  if (value === undefined) return;
  const isLength = Number.isInteger(value) && (value as number) >= 0 &&
    (value as number) <= mostBacklog;
  if (!isLength) throw wrong(attempt, "backlog", value, "a number of connections");
  address.backlog = value;
}

function wrong(attempt: string, option: string, value: unknown, wanted: string): TypeError {
  const given = typeof value === "string" ? `the text ${quoted(value)}` : String(value);
  return new TypeError(`${attempt}: \`${option}\` has to be ${wanted}, not ${given}`);
}
