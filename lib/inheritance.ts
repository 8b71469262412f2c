/**
 * What a generation gets from the one before it, until it asks for it: by what it listens on, by its
 * path, or by its name.
 *
 * @module
 */

import { Fd } from "../ffi/fd.ts";
import { quoted } from "../ffi/quote.ts";
import { type Address, formatAddress, formatPath } from "../ffi/sockaddr.ts";
import { localAddress, socketKind } from "../ffi/socket.ts";
import type { OfferedItem } from "./frame.ts";
import { UnixListener } from "./listener.ts";

/** A TCP address to listen on, as in `Deno.listen`. */
export interface TcpPlace {
  /** The address or name to bind to. @default {"0.0.0.0"} */
  hostname?: string;
  /** The port; with 0 the first generation gets a free one, and the others inherit it. */
  port: number;
  /**
   * Whether other sockets may listen there too (socket(7), SO_REUSEPORT). The kernel deals connections
   * out to all of them, from the moment in which they are bound: with another number of them than the
   * generation before, those that queue at one too many are lost. @default {false}
   */
  reusePort?: boolean;
}

/** A unix path to listen on. */
export interface UnixPlace {
  /** The path; it is never missing while one generation takes over from another. */
  path: string;
  /** Permissions of the socket's file. @default {0o600} */
  mode?: number;
}

/** Where a listener listens. */
export type Place = TcpPlace | UnixPlace;

/** What names a listener or datagram socket in every generation: where it was asked to listen. */
export function keyOf(place: Place): string {
  if ("path" in place) return `unix ${place.path}`;
  const { hostname = "0.0.0.0", port, reusePort } = place;
  return `${hostname} ${port}${reusePort ? " reusePort" : ""}`;
}

/** One thing that was inherited. */
export interface Inherited {
  item: OfferedItem;
  /** What it is open on; state has none. */
  fd?: Fd;
  /** What was kept of state; others have none. */
  state?: Uint8Array;
}

/** Something that nobody asked for. */
export interface Unclaimed {
  /** What it is. */
  kind: OfferedItem["kind"];
  /** The same with its address, path or name. */
  words: string;
}

/** Things of one kind and one key are given out in the order in which they came. */
export class Inheritance implements Disposable {
  #left: Inherited[] = [];

  /** Takes the descriptor over. */
  add(inherited: Inherited): void {
    this.#left.push(inherited);
  }

  /** Takes back what `take` or `takeBound` gave: of its key it is the first again. */
  putBack(inherited: Inherited): void {
    this.#left.unshift(inherited);
  }

  /**
   * Takes a socket or file over from a process that did not say what it was asked to listen on, and
   * told of it in `meta`: what has no address is found under that name. Where it is not known what it is,
   * it stays the caller's.
   */
  addForeign(fd: Fd, name: string): void {
    const kind = socketKind(fd.raw);
    const isDatagram = kind?.type === "datagram";
    const item: OfferedItem = isDatagram || kind?.listening
      ? { kind: isDatagram ? "datagram" : "listener", key: bound }
      : { kind: "kept", key: name };
    this.add({ item, fd: new Fd(fd.take(), fd.donor) });
  }

  /** What was inherited under that name, if anything is left of it. */
  take(kind: OfferedItem["kind"], key: string): Inherited | undefined {
    return this.#remove(({ item }) => item.kind === kind && item.key === key);
  }

  /**
   * The listener or datagram socket that is to listen there: one that was asked for in the same words,
   * or else one that is bound to the very same address.
   */
  takeBound(kind: "listener" | "datagram", place: Place): Inherited | undefined {
    return this.take(kind, keyOf(place)) ??
      this.#remove(({ item, fd }) =>
        item.kind === kind && isAt(place, localAddress(fd!.raw), item.key === bound)
      );
  }

  /** Where a socket with the same port is bound that nobody has asked for. */
  boundBeside(place: Place): Address | undefined {
    if ("path" in place) return undefined;
    const addresses = this.#left.filter(isSocket).map(({ fd }) => localAddress(fd!.raw));
    return addresses.find((address) => address && "port" in address && address.port === place.port);
  }

  #remove(fits: (inherited: Inherited) => boolean): Inherited | undefined {
    const at = this.#left.findIndex(fits);
    return at < 0 ? undefined : this.#left.splice(at, 1)[0];
  }

  /** Where the listeners and datagram sockets are bound that nobody has asked for yet. */
  addresses(): string[] {
    return this.#left.filter(isSocket).map(addressOf);
  }

  /**
   * Closes what nobody asked for, and removes the paths that nobody listens on any more; gives what
   * that was.
   */
  clear(): Unclaimed[] {
    const left = this.#left.map((inherited) => {
      const { item, fd } = inherited;
      const unclaimed = { kind: item.kind, words: describe(inherited) };
      if (item.kind !== "listener" || item.path === undefined) return unclaimed;
      try {
        // Another service may have the path by now.
        new UnixListener(fd!, item.path).leave();
      } catch (error) {
        // Whether this process may remove it is up to its directory.
        unclaimed.words += ` (its path stays: ${(error as Error).message})`;
      }
      return unclaimed;
    });
    this[Symbol.dispose]();
    return left;
  }

  /** Closes what is left; the paths are another generation's. */
  [Symbol.dispose](): void {
    for (const { fd } of this.#left.splice(0)) fd?.[Symbol.dispose]();
  }
}

/** The key of what is known by where it is bound alone. */
const bound = "";

function describe(inherited: Inherited): string {
  const { kind, key } = inherited.item;
  if (kind === "listener") return `the listener at ${addressOf(inherited)}`;
  if (kind === "datagram") return `the datagram socket at ${addressOf(inherited)}`;
  return `the ${kind === "kept" ? "descriptor" : kind} ${quoted(key)}`;
}

function isSocket({ item: { kind } }: Inherited): boolean {
  return kind === "listener" || kind === "datagram";
}

/** Where a socket is bound: by a path, where it is known by that. */
function addressOf({ item: { path }, fd }: Inherited): string {
  return path === undefined ? formatAddress(localAddress(fd!.raw)) : formatPath(path);
}

/**
 * Whether a socket that is bound to `address` is what listening at `place` would give; or, of a foreign
 * one, as good: Go's ":8000" is all addresses of IPv4 as well.
 */
function isAt(place: Place, address: Address | undefined, isForeign: boolean): boolean {
  if (!address) return false;
  if ("path" in place) return "path" in address && address.path === place.path;
  if (!("port" in address) || address.port !== place.port) return false;
  const { hostname = "0.0.0.0" } = place;
  if (hostname === "localhost") return loopback.has(address.hostname);
  return hostname === address.hostname ||
    isForeign && any.has(hostname) && any.has(address.hostname);
}

const any = new Set(["0.0.0.0", "::"]);
const loopback = new Set(["127.0.0.1", "::1"]);
