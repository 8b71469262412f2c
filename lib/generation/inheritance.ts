/**
 * What a generation gets from the one before it, until it asks for it: by what it listens on, by its
 * path, or by its name.
 *
 * @module
 */

import { isBoundTo } from "../../ffi/diag.ts";
import { Fd } from "../../ffi/fd.ts";
import { type FileIdentity, isSameFile, locate, pathStatus } from "../../ffi/file.ts";
import { quoted } from "../../ffi/quote.ts";
import { type Address, formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import { isBound, isUnixStream, localAddress, socketKind } from "../../ffi/socket.ts";
import type { State } from "./channel.ts";
import { fileOf, type OfferedItem } from "./protocol.ts";
import { DatagramPath, UnixListener } from "../unix/listener.ts";
import type { DatagramListenAddress, ListenAddress } from "../listen_address.ts";

/** Where a listener or datagram socket is. */
export type AnyListenAddress = ListenAddress | DatagramListenAddress;

/** Whether the kernel chooses the port. */
export function isAtAnyPort(place: AnyListenAddress): boolean {
  return !("path" in place) && !place.port;
}

/** What names a listener or datagram socket in every generation: where it was asked to listen. */
export function keyOf(place: AnyListenAddress): string {
  if ("path" in place) return `unix ${place.path}`;
  const { hostname = "0.0.0.0", port = 0 } = place;
  return `${hostname} ${port}${"reusePort" in place && place.reusePort ? " reusePort" : ""}`;
}

/** One thing that was inherited. */
export interface Inherited {
  item: OfferedItem;
  /** What it is open on; state has none. */
  fd?: Fd;
  /** What was kept of state, and others in the same memory; what is no state has none. */
  state?: State;
  /** Which file a unix socket is bound to, as far as that is known. */
  file?: FileIdentity;
}

/** Something that was inherited, and that the program has not asked for. */
export interface InheritedItem {
  /** What it is: state are bytes that were kept, and "kept" are descriptors that were. */
  kind: "listener" | "datagram" | "file" | "kept" | "state";
  /** Its name; that of a file is its path. */
  name?: string;
  /** Where a listener or datagram socket is bound. */
  address?: string;
}

const itemKinds = ["listener", "datagram", "file", "kept", "state"] as const;

/** Something inherited that the program has not asked for. */
export interface Unclaimed {
  /** What it is. */
  kind: OfferedItem["kind"];
  /** The same with its address, path or name. */
  words: string;
}

/** Things of one kind and one key are given out in the order in which they came. */
export class Inheritance implements Disposable {
  /** By kind and by name or key: to find one costs the same, however many there are. */
  readonly #left = new Map<OfferedItem["kind"], Map<string, Inherited[]>>();

  /** Takes the descriptor over. */
  add(inherited: Inherited): void {
    const { item: { kind, file }, fd } = inherited;
    if (kind === "listener" || kind === "datagram") {
      inherited.file = file ? fileOf(file) : fileByName(fd!);
    }
    this.#queueOf(inherited.item).push(inherited);
  }

  /** Takes back what `take` or `takeBound` gave: of its key it is the first again. */
  putBack(inherited: Inherited): void {
    this.#queueOf(inherited.item).unshift(inherited);
  }

  /** Where an item belongs; made if need be. */
  #queueOf(item: OfferedItem): Inherited[] {
    const { kind } = item;
    const index = indexOf(item);
    const queues = this.#left.get(kind) ?? new Map<string, Inherited[]>();
    const queue = queues.get(index) ?? [];
    this.#left.set(kind, queues.set(index, queue));
    return queue;
  }

  /** What is left of some kinds, by kind and key in the order in which they came. */
  #all(...kinds: OfferedItem["kind"][]): Inherited[] {
    return kinds.flatMap((kind) => [...this.#left.get(kind)?.values() ?? []].flat());
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
    this.add({ item, fd: new Fd(fd.take(), fd.senderPid) });
  }

  /** What was inherited under that name, if anything is left of it. */
  take(kind: OfferedItem["kind"], key: string): Inherited | undefined {
    const queues = this.#left.get(kind);
    const queue = queues?.get(key);
    const first = queue?.shift();
    if (queue?.length === 0) queues!.delete(key);
    return first;
  }

  /** The state that was kept under that name, in memory of its own. */
  takeState(name: string): Uint8Array | undefined {
    const { item, state } = this.take("state", name) ?? {};
    if (!item || !state) return undefined;
    const { bytes, at } = state;
    const isAlone = bytes.length === item.bytes;
    return isAlone ? bytes : bytes.slice(at, at + item.bytes!);
  }

  /**
   * Those that could as well be taken for one at a port that the kernel has chosen: nothing but the order in
   * which they are asked for tells them apart.
   */
  alike(kind: "listener" | "datagram", place: AnyListenAddress): Inherited[] {
    const all = isAtAnyPort(place) ? this.#candidates(kind, place) : [];
    return all.length > 1 ? all : [];
  }

  /** The listener or datagram socket that is to be there: the first of `candidates`. */
  takeBound(kind: "listener" | "datagram", place: AnyListenAddress): Inherited | undefined {
    const [first] = this.#candidates(kind, place);
    return first && this.#remove(first);
  }

  /**
   * The sockets that `takeBound` chooses from, by the first rule that finds any: the path leads to the socket; it
   * has the same name, and may listen there; it was asked for in the same words; it is bound to the same address.
   */
  #candidates(kind: "listener" | "datagram", place: AnyListenAddress): Inherited[] {
    const there = "path" in place && this.#at(kind, place.path);
    return there ? [there] : this.#elsewhere(kind, place);
  }

  /** The socket that a path leads to. */
  #at(kind: "listener" | "datagram", path: string): Inherited | undefined {
    const there = pathStatus(path);
    if (there?.kind !== "socket") return undefined;
    return this.#all(kind).find((inherited) => {
      const { fd, file } = inherited;
      if (file) return isSameFile(file, there);
      if (kind === "listener" && !isUnixStream(fd!.raw, { listening: true })) return false;
      if (!isBoundTo(fd!.raw, path, there)) return false;
      inherited.file = locate(path);
      return true;
    });
  }

  /** The same, where no path leads to one. */
  #elsewhere(kind: "listener" | "datagram", place: AnyListenAddress): Inherited[] {
    const queue = (index: string) => this.#left.get(kind)?.get(index) ?? [];
    const { name } = place;
    const own = name === undefined ? [] : queue(quoted(name));
    const fitting = own.filter((inherited) => fits(place, inherited, { anyPort: true }));
    if (fitting.length > 0) return fitting;
    const same = queue(keyOf(place));
    if (same.length > 0) return same;
    // At a port that the kernel chooses, one of another name is another one.
    if (name !== undefined && isAtAnyPort(place)) return [];
    return this.#all(kind).filter((inherited) => fits(place, inherited));
  }

  /** What the program has not asked for yet. */
  items(): InheritedItem[] {
    return this.#all(...itemKinds).map((inherited) => {
      const { name, key } = inherited.item;
      const kind = inherited.item.kind as InheritedItem["kind"];
      if (kind !== "listener" && kind !== "datagram") return { kind, name: key };
      return { kind, ...name !== undefined && { name }, address: addressOf(inherited) };
    });
  }

  /** Where a socket with the same port is bound that nobody has asked for. */
  boundBeside(place: AnyListenAddress): Address | undefined {
    if ("path" in place) return undefined;
    const addresses = this.#all("listener", "datagram").map(({ fd }) => localAddress(fd!.raw));
    return addresses.find((address) => address && "port" in address && address.port === place.port);
  }

  #remove(inherited: Inherited): Inherited {
    const queue = this.#queueOf(inherited.item);
    queue.splice(queue.indexOf(inherited), 1);
    if (queue.length === 0) this.#left.get(inherited.item.kind)!.delete(indexOf(inherited.item));
    return inherited;
  }

  /** The addresses of the listeners and datagram sockets that the program has not asked for yet. */
  addresses(): string[] {
    return this.#all("listener", "datagram").map(addressOf);
  }

  /**
   * Closes what nobody asked for, and removes the paths that nobody listens on any more; gives what
   * that was.
   */
  clear(): Unclaimed[] {
    const left = this.#all(...this.#left.keys()).map((inherited) => {
      const { item, fd } = inherited;
      const unclaimed = { kind: item.kind, words: describe(inherited) };
      if (item.path === undefined) return unclaimed;
      try {
        // Another service may have the path by now.
        guardPath(item.kind, fd!, item.path, inherited.file).leave();
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
    const left = this.#all(...this.#left.keys());
    this.#left.clear();
    for (const { fd } of left) fd?.[Symbol.dispose]();
  }
}

/** Takes over a unix socket with its path, to remove both when no process needs them any more. */
export function guardPath(
  kind: OfferedItem["kind"],
  fd: Fd,
  path: string,
  file?: FileIdentity,
): UnixListener | DatagramPath {
  return kind === "datagram" ? new DatagramPath(fd, path, file) : new UnixListener(fd, path, file);
}

/** The file of a socket whose offer does not name it: the file at the address of the socket. */
function fileByName(fd: Fd): FileIdentity | undefined {
  const address = localAddress(fd.raw);
  const name = address && "path" in address ? address.path : null;
  if (name === null || name.startsWith("\0")) return undefined;
  const there = locate(name);
  if (there?.kind !== "socket") return undefined;
  return isBoundTo(fd.raw, name, there) ?? isBound(name) ? there : undefined;
}

/** The key of what is known by where it is bound alone. */
const bound = "";

/** By what an item is found. No key of a socket begins like a name in quotes. */
function indexOf({ name, key }: Pick<OfferedItem, "name" | "key">): string {
  return name === undefined ? key : quoted(name);
}

function describe(inherited: Inherited): string {
  const { kind, key } = inherited.item;
  if (kind === "listener") return `the listener at ${addressOf(inherited)}`;
  if (kind === "datagram") return `the datagram socket at ${addressOf(inherited)}`;
  return `the ${kind === "kept" ? "descriptor" : kind} ${quoted(key)}`;
}

/** Where a socket is bound: by a path, where it is known by that. */
function addressOf({ item: { path }, fd }: Inherited): string {
  return path === undefined ? formatAddress(localAddress(fd!.raw)) : formatPath(path);
}

/** Whether an inherited socket is what listening at `place` would give. */
function fits(place: AnyListenAddress, { item, fd }: Inherited, { anyPort = false } = {}): boolean {
  if (item.key === keyOf(place)) return true;
  const isForeign = item.key === bound;
  return isAt(place, localAddress(fd!.raw), { isForeign, anyPort });
}

/**
 * Whether a socket that is bound to `address` is what listening at `place` would give; or, of a foreign
 * one, as good: Go's ":8000" is all addresses of IPv4 as well.
 */
function isAt(
  place: AnyListenAddress,
  address: Address | undefined,
  { isForeign, anyPort }: { isForeign: boolean; anyPort: boolean },
): boolean {
  if (!address) return false;
  if ("path" in place) return "path" in address && address.path === place.path;
  if (!("port" in address)) return false;
  if (address.port !== place.port && !(anyPort && isAtAnyPort(place))) return false;
  const { hostname = "0.0.0.0" } = place;
  if (hostname === "localhost") return loopback.has(address.hostname);
  return hostname === address.hostname ||
    isForeign && any.has(hostname) && any.has(address.hostname);
}

const any = new Set(["0.0.0.0", "::"]);
const loopback = new Set(["127.0.0.1", "::1"]);
