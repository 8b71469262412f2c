/**
 * Where something listens: the options of the calls that make listeners, servers and datagram sockets. Each
 * is honoured, or refused with its name; none is dropped.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { quoted } from "../ffi/quote.ts";

/** What every listener and datagram socket of a generation may have. */
export interface NamedListenAddress {
  /**
   * What identifies it in the next generations. Without a name it is found by its address; where that has
   * port 0 several times, by the order in which they are asked for. A socket that has the name and
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
   * out to all of them, from the moment in which they are bound: with another number of them than the
   * generation before, those that queue at one too many are lost. @default {false}
   */
  reusePort?: boolean;
  /**
   * How many connections may wait to be accepted (listen(2)), also on an inherited listener; the system
   * allows net.core.somaxconn. @default {511, or as many as an inherited one has room for, if that is more}
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
   * How many connections may wait to be accepted (listen(2)); on an inherited listener too. Clients see the
   * process that has set it last as the peer (unix(7), SO_PEERCRED).
   * @default {4096, or as many as an inherited one has room for}
   */
  backlog?: number;
}

/** Where a listener listens. */
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

/** Where a datagram socket receives. */
export type DatagramListenAddress = UdpListenAddress | UnixDatagramListenAddress;

/** What a transport needs beside `path` or `hostname` and `port`. */
const optionsOf: Record<string, readonly string[]> = {
  tcp: ["name", "transport", "hostname", "port", "reusePort", "backlog", "tcpBacklog"],
  unix: ["name", "transport", "path", "mode", "backlog"],
  udp: ["name", "transport", "hostname", "port", "reuseAddress", "loopback"],
  unixpacket: ["name", "transport", "path", "mode"],
};

/** The greatest int, which is what listen(2) takes. */
const mostBacklog = 2 ** 31 - 1;

/**
 * Splits the options of a call into where to listen, checked and with every default of Deno's, and the others.
 *
 * @param attempt The call, for errors: "Cannot serve".
 * @param transports Those that the call has, each with the further options that it takes with that one; the
 * first of an address, and the first of a path, are the defaults.
 * @param defaultPort The port where none is given.
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
): { place: P; rest: O } {
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
  const place: Record<string, unknown> = {};
  const rest: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(given)) {
    const part = optionsOf[transport].includes(name) ? place : rest;
    if (value !== undefined && name !== "transport") part[name] = value;
  }
  checkName(attempt, place.name);
  if (optionsOf[transport].includes("path")) {
    if (typeof place.path !== "string") throw wrong(attempt, "path", place.path, "a path");
  } else {
    place.port = toPort(attempt, place.port ?? defaultPort);
  }
  checkBacklog(attempt, place);
  return { place: place as unknown as P, rest: rest as O };
}

/**
 * Refuses what a call does not know: an option that is dropped, or misspelt, would not be noticed.
 *
 * @throws {TypeError} With the names of those that it knows.
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

/** As Deno does, which takes digits for a number. */
function toPort(attempt: string, value: unknown): number {
  const port = typeof value === "string" && value !== "" ? Number(value) : value;
  if (!Number.isInteger(port)) throw wrong(attempt, "port", value, "a number");
  if ((port as number) >= 0 && (port as number) <= 65535) return port as number;
  throw new RangeError(`${attempt}: the port ${port} is not within 0 to 65535`);
}

/** Replaces `tcpBacklog`, which is Deno's name, by `backlog`. */
function checkBacklog(attempt: string, place: Record<string, unknown>): void {
  const { backlog, tcpBacklog } = place;
  delete place.tcpBacklog;
  if (backlog !== undefined && tcpBacklog !== undefined && backlog !== tcpBacklog) {
    throw new TypeError(`${attempt}: \`backlog\` and \`tcpBacklog\` are two names of one option`);
  }
  const value = backlog ?? tcpBacklog;
  if (value === undefined) return;
  const isLength = Number.isInteger(value) && (value as number) >= 0 &&
    (value as number) <= mostBacklog;
  if (!isLength) throw wrong(attempt, "backlog", value, "a number of connections");
  place.backlog = value;
}

function wrong(attempt: string, option: string, value: unknown, wanted: string): TypeError {
  const given = typeof value === "string" ? `the text ${quoted(value)}` : String(value);
  return new TypeError(`${attempt}: \`${option}\` has to be ${wanted}, not ${given}`);
}
