/**
 * The sockets, files and values that a generation has inherited, until its program asks for them: for a socket by its
 * address, for a file by its path, for a kept value by its name.
 *
 * @module
 */

import { isBoundTo } from "../../ffi/diag.ts";
import { Fd } from "../../ffi/fd.ts";
import { type FileIdentity, isSameFile, locate, pathStatus } from "../../ffi/file.ts";
import { quoted } from "../../ffi/quote.ts";
import { type Address, formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import { isBound, localAddress } from "../../ffi/socket.ts";
import {
  cookieIfSocket,
  isUnixStream,
  socketCookie,
  socketKind,
} from "../../ffi/socket_options.ts";
import { DisposableStack } from "../disposable_stack.ts";
import type { ListenFd } from "../systemd/listen_fds.ts";
import { parseStoreName, type StoredSocket, storeName } from "../systemd/store_name.ts";
import type { State } from "./channel.ts";
import { fileOf, type OfferedItem } from "./protocol.ts";
import { DatagramPath } from "../unix/datagram_path.ts";
import { UnixListener } from "../unix/listener.ts";
import type { DatagramListenAddress, ListenAddress } from "../listen_address.ts";

/** The address of a listener or datagram socket. */
export type AnyListenAddress = ListenAddress | DatagramListenAddress;

/** Whether the kernel chooses the port. */
export function isAtAnyPort(address: AnyListenAddress): boolean {
  return !("path" in address) && !address.port;
}

/** The key of a listener or datagram socket, the same in every generation: the address that was asked for. */
export function keyOf(address: AnyListenAddress): string {
  if ("path" in address) return unixKey + address.path;
  const { hostname = "0.0.0.0", port = 0 } = address;
  return `${hostname} ${port}${"reusePort" in address && address.reusePort ? " reusePort" : ""}`;
}

/** An inherited socket, file or kept value. */
export interface Inherited {
  /** Its description in the offer. */
  item: OfferedItem;
  /** Its descriptor; state has none. */
  fd?: Fd;
  /** The bytes of state, in memory that several states share. */
  state?: State;
  /** The file that a unix socket is bound to, as far as it is known. */
  file?: FileIdentity;
}

/** An inherited socket, file or kept value that the program has not asked for. */
export interface InheritedItem {
  /** Its kind: "kept" is a kept descriptor, "state" are kept bytes. */
  kind: "listener" | "datagram" | "file" | "kept" | "state";
  /** Its name; of a file, its path. */
  name?: string;
  /** The address that a listener or datagram socket is bound to. */
  address?: string;
}

const itemKinds = ["listener", "datagram", "file", "kept", "state"] as const;

/** The inheritances of this process with sockets of the service manager. */
const activatedHere = new Set<Inheritance>();

/** An inherited socket, file or kept value that was closed because the program did not ask for it. */
export interface Unclaimed {
  /** Its kind. */
  kind: OfferedItem["kind"];
  /** Its kind with its address, path or name, for a message. */
  words: string;
}

/** The inherited sockets, files and kept values. Those with the same kind and key are given out in the order of the offer. */
export class Inheritance implements Disposable {
  /** By kind, and by name or key: a look-up costs the same, however many there are. */
  readonly #left = new Map<OfferedItem["kind"], Map<string, Inherited[]>>();
  /** The sockets of the service manager that are left: their cookies, and their names. */
  readonly #activated = new Map<Inherited, { cookie: bigint; name: string }>();

  /** Takes the descriptor over. */
  add(inherited: Inherited): void {
    const { item: { kind, file }, fd } = inherited;
    if (kind === "listener" || kind === "datagram") {
      inherited.file = file ? fileOf(file) : fileByName(fd!);
    }
    this.#queueOf(inherited.item).push(inherited);
  }

  /** Undoes `take` or `takeBound`: of its key it is the first again. */
  putBack(inherited: Inherited): void {
    this.#queueOf(inherited.item).unshift(inherited);
  }

  /** The queue of an item; added if there is none. */
  #queueOf(item: OfferedItem): Inherited[] {
    const { kind } = item;
    const index = indexOf(item);
    const queues = this.#left.get(kind) ?? new Map<string, Inherited[]>();
    const queue = queues.get(index) ?? [];
    this.#left.set(kind, queues.set(index, queue));
    return queue;
  }

  /** All that are left of some kinds, by kind and key in the order of the offer. */
  #all(...kinds: OfferedItem["kind"][]): Inherited[] {
    return kinds.flatMap((kind) => [...this.#left.get(kind)?.values() ?? []].flat());
  }

  /**
   * Adds a descriptor of a plain server, which does not send the address that it was asked to listen on. A listener or
   * datagram socket is found by the address that it is bound to, any other descriptor by `name`: the text of its meta.
   */
  addForeign(fd: Fd, name: string): void {
    const kind = socketKind(fd.raw);
    const isDatagram = kind?.type === "datagram";
    const item: OfferedItem = isDatagram || kind?.listening
      ? { kind: isDatagram ? "datagram" : "listener", key: unknownKey }
      : { kind: "kept", key: name };
    this.add({ item, fd: new Fd(fd.take(), fd.senderPid) });
  }

  /**
   * Adds a descriptor of the service manager, unless the previous generation has handed over the same socket. One from its
   * store is found as if it had been handed over; a listener or datagram socket of a socket unit by `name` or by the address
   * that it is bound to; any other descriptor is kept under its name. On an error the descriptor stays the caller's.
   */
  addActivated({ fd, name }: ListenFd): void {
    const cookie = cookieIfSocket(fd.raw);
    const isSame = (other: Inherited) => cookieIfSocket(other.fd!.raw) === cookie;
    if (cookie !== undefined && this.#all("listener", "datagram").some(isSame)) {
      return fd.close();
    }
    const is = socketKind(fd.raw);
    const kind = is?.type === "datagram" ? "datagram" : "listener";
    const isBoundSocket = kind === "datagram" || is?.listening;
    const stored = parseStoreName(name);
    const item: OfferedItem = !isBoundSocket
      ? { kind: "kept", key: name }
      : stored?.kind === kind
      ? { kind, key: stored.key ?? unknownKey, name: stored.name, path: pathIn(stored.key) }
      : { kind, key: unknownKey, name, activated: true };
    const inherited = { item, fd };
    this.add(inherited);
    if (!isBoundSocket || cookie === undefined) return;
    this.#activated.set(inherited, { cookie, name });
    activatedHere.add(this);
  }

  /**
   * Adds duplicates of the sockets of the service manager that other generations of this process have left: the manager does
   * not tell which of its sockets belong to which service of a process. The first that asks for one has it alone.
   */
  addActivatedHere(): void {
    for (const other of activatedHere) {
      if (other === this) continue;
      for (const [inherited, { name }] of other.#activated) {
        using undo = new DisposableStack();
        const fd = undo.use(inherited.fd!.dup());
        this.addActivated({ fd, name });
        undo.move();
      }
    }
  }

  /** The other generations of this process that have a duplicate of a socket, with that. */
  #duplicates(inherited: Inherited): [Inheritance, Inherited][] {
    const cookie = this.#activated.get(inherited)?.cookie;
    if (cookie === undefined) return [];
    return [...activatedHere].filter((other) => other !== this).flatMap((other) =>
      [...other.#activated].filter(([, each]) => each.cookie === cookie)
        .map(([each]): [Inheritance, Inherited] => [other, each])
    );
  }

  /** The sockets that are left and may be in the store of the service manager: their cookies, and their names there. */
  storedSockets(): Map<bigint, string> {
    const stored = this.#all("listener", "datagram").filter(({ item }) => !item.activated);
    return new Map(stored.map(({ item, fd }) => [
      socketCookie(fd!.raw),
      storeName(item as StoredSocket),
    ]));
  }

  /** Takes the first of that kind and key, if there is one. */
  take(kind: OfferedItem["kind"], key: string): Inherited | undefined {
    const queues = this.#left.get(kind);
    const queue = queues?.get(key);
    const first = queue?.shift();
    if (queue?.length === 0) queues!.delete(key);
    return first;
  }

  /** Takes the state that was kept under that name, in memory of its own. */
  takeState(name: string): Uint8Array | undefined {
    const { item, state } = this.take("state", name) ?? {};
    if (!item || !state) return undefined;
    const { bytes, at } = state;
    const isAlone = bytes.length === item.bytes;
    return isAlone ? bytes : bytes.slice(at, at + item.bytes!);
  }

  /** The sockets that match an address with port 0, if several do: only the order of the calls distinguishes them. */
  alike(kind: "listener" | "datagram", address: AnyListenAddress): Inherited[] {
    const all = isAtAnyPort(address) ? this.#candidates(kind, address) : [];
    return all.length > 1 ? all : [];
  }

  /** Takes the socket for an address: the first of `#candidates`. */
  takeBound(kind: "listener" | "datagram", address: AnyListenAddress): Inherited | undefined {
    const [first] = this.#candidates(kind, address);
    if (!first) return undefined;
    for (const [other, duplicate] of this.#duplicates(first)) other.#remove(duplicate).fd!.close();
    return this.#remove(first);
  }

  /**
   * The sockets for an address, by the first of these rules that finds any:
   *
   * 1. The path leads to the socket.
   * 2. The socket has the same name, and its address fits, or the service manager has chosen that.
   * 3. The socket was asked for by the same address, without a name.
   * 4. The socket is bound to the address.
   */
  #candidates(kind: "listener" | "datagram", address: AnyListenAddress): Inherited[] {
    const atPath = "path" in address && this.#atPath(kind, address.path);
    return atPath ? [atPath] : this.#byNameOrAddress(kind, address);
  }

  /** The socket that a path leads to. */
  #atPath(kind: "listener" | "datagram", path: string): Inherited | undefined {
    const status = pathStatus(path);
    if (status?.kind !== "socket") return undefined;
    return this.#all(kind).find((inherited) => {
      const { fd, file } = inherited;
      if (file) return isSameFile(file, status);
      if (kind === "listener" && !isUnixStream(fd!.raw, { listening: true })) return false;
      if (!isBoundTo(fd!.raw, path, status)) return false;
      inherited.file = locate(path);
      return true;
    });
  }

  /** Whether a socket for an address is left. */
  has(address: AnyListenAddress): boolean {
    return (["listener", "datagram"] as const).some((kind) =>
      this.#candidates(kind, address).length > 0
    );
  }

  /** Whether a path leads to one of the sockets that are left. */
  hasPath(path: string): boolean {
    return (["listener", "datagram"] as const).some((kind) => this.#atPath(kind, path));
  }

  /** The sockets by rules 2 to 4. */
  #byNameOrAddress(kind: "listener" | "datagram", address: AnyListenAddress): Inherited[] {
    const queue = (index: string) => this.#left.get(kind)?.get(index) ?? [];
    const { name } = address;
    const named = name === undefined ? [] : queue(quoted(name));
    const fitting = named.filter((inherited) =>
      inherited.item.activated || fits(address, inherited, { anyPort: true })
    );
    if (fitting.length > 0) return fitting;
    const same = queue(keyOf(address));
    if (same.length > 0) return same;
    // With port 0, the name alone identifies a socket.
    if (name !== undefined && isAtAnyPort(address)) return [];
    return this.#all(kind).filter((inherited) => fits(address, inherited));
  }

  /** The sockets, files and kept values that the program has not asked for yet. */
  items(): InheritedItem[] {
    return this.#all(...itemKinds).map((inherited) => {
      const { name, key } = inherited.item;
      const kind = inherited.item.kind as InheritedItem["kind"];
      if (kind !== "listener" && kind !== "datagram") return { kind, name: key };
      return { kind, ...name !== undefined && { name }, address: addressOf(inherited) };
    });
  }

  /** The address of an inherited socket with the same port, if one is left. */
  boundBeside(address: AnyListenAddress): Address | undefined {
    if ("path" in address) return undefined;
    const bound = this.#all("listener", "datagram").map(({ fd }) => localAddress(fd!.raw));
    return bound.find((each) => each && "port" in each && each.port === address.port);
  }

  #remove(inherited: Inherited): Inherited {
    this.#activated.delete(inherited);
    const queue = this.#queueOf(inherited.item);
    queue.splice(queue.indexOf(inherited), 1);
    if (queue.length === 0) this.#left.get(inherited.item.kind)!.delete(indexOf(inherited.item));
    return inherited;
  }

  /** The addresses of the sockets that the program has not asked for yet. */
  addresses(): string[] {
    return this.#all("listener", "datagram").map(addressOf);
  }

  /** Closes all that are left, and removes the paths on which no process listens any more; returns what was closed. */
  clear(): Unclaimed[] {
    const all = this.#all(...this.#left.keys());
    // Another service of this process may ask for the others.
    const own = all.filter((inherited) => this.#duplicates(inherited).length === 0);
    const left = own.map((inherited) => {
      const { item, fd } = inherited;
      const unclaimed = { kind: item.kind, words: describe(inherited) };
      if (item.path === undefined) return unclaimed;
      try {
        // Only if the path still leads to this socket: another service may have bound it by now.
        guardPath(item.kind, fd!, item.path, inherited.file).release();
      } catch (error) {
        // The permissions of its directory may not allow to remove it.
        unclaimed.words += ` (its path stays: ${(error as Error).message})`;
      }
      return unclaimed;
    });
    this[Symbol.dispose]();
    return left;
  }

  /** Closes all that are left; the paths belong to another generation. */
  [Symbol.dispose](): void {
    const left = this.#all(...this.#left.keys());
    this.#left.clear();
    this.#activated.clear();
    activatedHere.delete(this);
    for (const { fd } of left) fd?.[Symbol.dispose]();
  }
}

/** The owner of a unix socket and its path: `leave()` removes the path unless another process listens there. Takes `fd`. */
export function guardPath(
  kind: OfferedItem["kind"],
  fd: Fd,
  path: string,
  file?: FileIdentity,
): UnixListener | DatagramPath {
  return kind === "datagram" ? new DatagramPath(fd, path, file) : new UnixListener(fd, path, file);
}

/** The file of a socket whose offer does not name it: the file at its address. */
function fileByName(fd: Fd): FileIdentity | undefined {
  const address = localAddress(fd.raw);
  const name = address && "path" in address ? address.path : null;
  if (name === null || name.startsWith("\0")) return undefined;
  const found = locate(name);
  if (found?.kind !== "socket") return undefined;
  return isBoundTo(fd.raw, name, found) ?? isBound(name) ? found : undefined;
}

/** The key of a socket of a plain server or a socket unit: the address that it was asked to listen on is not known. */
const unknownKey = "";

/** What the key of a unix socket begins with. */
const unixKey = "unix ";

/** The path in a key, if it has one. */
function pathIn(key: string | undefined): string | undefined {
  return key?.startsWith(unixKey) ? key.slice(unixKey.length) : undefined;
}

/** The key in `#left`. No key of a socket begins like a name in quotes. */
function indexOf({ name, key }: Pick<OfferedItem, "name" | "key">): string {
  return name === undefined ? key : quoted(name);
}

function describe(inherited: Inherited): string {
  const { kind, key } = inherited.item;
  if (kind === "listener") return `the listener at ${addressOf(inherited)}`;
  if (kind === "datagram") return `the datagram socket at ${addressOf(inherited)}`;
  return `the ${kind === "kept" ? "descriptor" : kind} ${quoted(key)}`;
}

/** The address of a socket in words: the path, if it was asked for by that. */
function addressOf({ item: { path }, fd }: Inherited): string {
  return path === undefined ? formatAddress(localAddress(fd!.raw)) : formatPath(path);
}

/** Whether an inherited socket serves for an address that is asked for. */
function fits(
  address: AnyListenAddress,
  { item, fd }: Inherited,
  { anyPort = false } = {},
): boolean {
  if (item.key === keyOf(address)) return true;
  const isForeign = item.key === unknownKey;
  return isAt(address, localAddress(fd!.raw), { isForeign, anyPort });
}

/**
 * Whether a socket that is bound to `bound` serves for `asked`.
 *
 * @param options.isForeign Whether all addresses of IPv4 and of IPv6 are the same: Go's ":8000" is bound to "::".
 * @param options.anyPort Whether port 0 is asked for any port.
 */
function isAt(
  asked: AnyListenAddress,
  bound: Address | undefined,
  { isForeign, anyPort }: { isForeign: boolean; anyPort: boolean },
): boolean {
  if (!bound) return false;
  if ("path" in asked) return "path" in bound && bound.path === asked.path;
  if (!("port" in bound)) return false;
  if (bound.port !== asked.port && !(anyPort && isAtAnyPort(asked))) return false;
  const { hostname = "0.0.0.0" } = asked;
  if (hostname === "localhost") return loopback.has(bound.hostname);
  return hostname === bound.hostname ||
    isForeign && any.has(hostname) && any.has(bound.hostname);
}

const any = new Set(["0.0.0.0", "::"]);
const loopback = new Set(["127.0.0.1", "::1"]);
