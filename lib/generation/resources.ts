/**
 * What a generation has open for its service: listeners, datagram sockets and files, inherited or new.
 * The next generation gets all of it.
 *
 * @module
 */

import { isBoundTo } from "../../ffi/diag.ts";
import { dup, Fd } from "../../ffi/fd.ts";
import { fileStatus, pathStatus } from "../../ffi/file.ts";
import { isRunning } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { type Address, formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import {
  belongsToNetwork,
  isBound,
  localAddress,
  networkNamespace,
  ownNetworkNamespace,
  setAcceptQueueLength,
  setMulticastLoop,
} from "../../ffi/socket.ts";
import { pause } from "../time.ts";
import {
  checkDatagrams,
  fdFile,
  fdListener,
  fdPacketConn,
  type TlsOptions,
} from "../native/adopt.ts";
import { capture, keep } from "../event_loop/registration.ts";
import { fileDescriptor } from "../native/descriptor.ts";
import { DisposableStack } from "../disposable_stack.ts";
import {
  Connections,
  countConnections,
  findConnections,
  threadSockets,
} from "../http/connections.ts";
import { drainConnections } from "../http/drain.ts";
import { reapToldToClose } from "../http/idle_reaper.ts";
import { offeredFile, type OfferedItem, type SocketStatus } from "./protocol.ts";
import { Gate } from "../native/accept_switch.ts";
import { serveHttp, type ServeHttpOptions, trackerOf } from "../http/serve.ts";
import {
  type AnyListenAddress,
  guardPath,
  type Inheritance,
  type Inherited,
  keyOf,
} from "./inheritance.ts";
import { bindDatagrams, DatagramPath, listenWhereFree, UnixListener } from "../unix/listener.ts";
import type { Logger } from "../logger.ts";
import type {
  DatagramListenAddress,
  ListenAddress,
  TcpListenAddress,
  UdpListenAddress,
} from "../listen_address.ts";
import type { HttpHandler, HttpTracker } from "../http/tracker.ts";

/** A native object on a listener. */
interface Listening<T> {
  object: T;
  /** Tells the program where it listens; when that throws, nothing listens. */
  announce?(): void;
  /** How to close the object. */
  close(): void;
  /** Closes it when it is aborted. */
  signal?: AbortSignal;
  /** What leaving has to know, if it answers HTTP. */
  tracker?: HttpTracker;
}

/** What a generation knows of itself. */
export interface ResourceOptions {
  /**
   * Whether the generation before was ended just now: its addresses may take a moment to be free.
   */
  isRecent: () => boolean;
  /**
   * Whether a socket of another network namespace is what the service has on purpose: its generations share
   * one, and were given a socket of another one.
   */
  isNetworkMeant: () => boolean;
  /** What to do about an address that is in use. @default {nothing to say} */
  inUseAdvice?: string;
  /** Called for each listener and datagram socket that was made, with its address. */
  onSocket: (address: string, isInherited: boolean) => void;
  logger: Logger;
}

/** How long leaving may take, in milliseconds. */
export interface LeaveOptions {
  /** For the clients of listeners. */
  drainTimeout: number;
  /** For the clients of HTTP to move to another process. */
  httpDrainTimeout: number;
  /** For what is under way then; after that it is cut. */
  forceCloseAfter: number;
  /** Makes the deadlines now, when it is aborted. */
  hurry: AbortSignal;
  /** Whether WebSockets are being closed. */
  isClosing: () => boolean;
}

/** A socket or file that the next generation is to have. */
interface Resource {
  item: OfferedItem;
  fd: Fd;
  gate?: Gate;
  tracker?: HttpTracker;
  /** What the kernel says that it is bound to. */
  address?: Address;
  /** Where it was bound before its path was restored. */
  formerAddresses?: Address[];
  /** Whether its address is one of another network namespace than that of this process. */
  isElsewhere: boolean;
  /** Who removes its path, if it has one. */
  unix?: UnixListener | DatagramPath;
  /** What was bound at its path in its place: it goes there when no client waits at the old socket. */
  next?: UnixListener | DatagramPath;
  /** The timer of the next look at whether that is possible. */
  looking?: ReturnType<typeof setTimeout>;
  /** How many connections may wait at it, if that was asked for. */
  backlog?: number;
  close(): void;
}

/** What an object is made on. */
interface Bound extends Pick<Resource, "fd" | "unix" | "next"> {}
/**
 * What a generation asks for, and has open. {@linkcode Resources} stand on descriptors; a system that passes
 * none has others.
 */
export type AnyResources = Pick<Resources, keyof Resources>;

/** Everything that one generation has open; nothing is accepted before `open()`. */
export class Resources {
  readonly #inheritance: Inheritance;
  readonly #options: ResourceOptions;
  readonly #all = new Set<Resource>();
  /** What was said once. */
  readonly #warned = new Set<string>();
  #isOpen = false;
  #hasLeft = false;
  /** Who was connected at the moment in which it stopped accepting. */
  #clients: Promise<Map<Resource, Connections>> | undefined;
  /** The same, as far as they were found. */
  #found: Connections[] = [];

  /** Looks for what is asked for in `inheritance` first. */
  constructor(inheritance: Inheritance, options: ResourceOptions) {
    this.#inheritance = inheritance;
    this.#options = options;
  }

  /** Makes an HTTP server on the listener at `place`, inherited or new. */
  http(
    place: ListenAddress,
    { onListen, ...options }: ServeHttpOptions,
    handler: HttpHandler,
  ): Deno.HttpServer {
    return this.#listener(place, (fd) => {
      const server = serveHttp(fd, options, handler);
      return {
        object: server,
        tracker: trackerOf(server),
        announce: () => onListen?.(server.addr),
        close: () => void server.shutdown(),
        signal: options.signal,
      };
    });
  }

  /** Makes a native listener, of TLS where that is asked for, on the one at `place`, inherited or new. */
  listener(place: ListenAddress): Deno.Listener;
  listener(place: TcpListenAddress, tls: TlsOptions): Deno.TlsListener;
  listener(place: ListenAddress, tls?: TlsOptions): Deno.Listener {
    return this.#listener(place, (fd) => {
      const listener = tls ? fdListener(fd, tls) : fdListener(fd);
      return { object: listener, close: () => listener.close() };
    });
  }

  /** Makes a native object on the listener at `place`, inherited or new. */
  #listener<T extends object>(place: ListenAddress, make: (fd: Fd) => Listening<T>): T {
    return this.#claim("listener", place, bindListener, (bound) => {
      using used = bound.fd.dup();
      const { object, tracker, ...rest } = make(used);
      return this.#add("listener", place, object, bound, rest, tracker);
    });
  }

  /** Makes a native object on the datagram socket at `place`, inherited or new. */
  datagram(place: DatagramListenAddress): Deno.DatagramConn {
    return this.#claim("datagram", place, bindDatagram, (bound) => {
      using used = bound.fd.dup();
      const socket = fdPacketConn(used);
      return this.#add("datagram", place, socket, bound, { close: () => socket.close() });
    });
  }

  /** Makes a native file of the one that is open at `path`, inherited or new. */
  file(path: string, options: Deno.OpenOptions): Deno.FsFile {
    using unfinished = new DisposableStack();
    const file = unfinished.use(this.#inheritedFile(path) ?? Deno.openSync(path, options));
    const fd = unfinished.use(fileDescriptor(file));
    const before = [...this.#all].find(({ item }) => item.kind === "file" && item.key === path);
    if (before) this.#drop(before);
    const item = { kind: "file", key: path } as const;
    const resource = { item, fd, isElsewhere: false, close: () => {} };
    this.#all.add(resource);
    whenClosed(file, () => this.#drop(resource));
    unfinished.move();
    return file;
  }

  /** The file of the generation before, unless another one is at its path by now: a log was rotated. */
  #inheritedFile(path: string): Deno.FsFile | undefined {
    using fd = this.#inheritance.take("file", path)?.fd;
    if (!fd) return undefined;
    const now = pathStatus(path);
    const { dev, ino } = fileStatus(fd.raw);
    return now && (now.dev !== dev || now.ino !== ino) ? undefined : fdFile(fd);
  }

  /** Has `make` make something of a socket that was inherited, which stays so if that fails, or is new. */
  #claim<P extends AnyListenAddress, T>(
    kind: "listener" | "datagram",
    place: P,
    bind: (place: P) => Bound,
    make: (bound: Bound) => T,
  ): T {
    if (this.#hasLeft) {
      throw new TypeError("Cannot listen: this generation has left, or is leaving");
    }
    this.#checkName(kind, place);
    this.#warnOfOrder(kind, place);
    using claimed = new DisposableStack();
    const inherited = this.#inheritance.takeBound(kind, place);
    if (inherited) claimed.defer(() => this.#inheritance.putBack(inherited));
    const bound = inherited ? this.#inherit(kind, inherited, place) : this.#bind(place, bind);
    claimed.defer(() => {
      // What was inherited is still the other generation's.
      if (inherited) bound.unix?.keepPath();
      else bound.fd[Symbol.dispose]();
      // Last: the path is removed only where no socket is bound to it any more.
      bound.unix?.leave();
      bound.next?.leave();
    });
    const made = make(bound);
    claimed.move();
    using fd = bound.fd;
    const address = "path" in place ? formatPath(place.path) : formatAddress(localAddress(fd.raw));
    this.#options.onSocket(address, inherited !== undefined);
    return made;
  }

  /** What was inherited, with its path leading to it. */
  #inherit(kind: "listener" | "datagram", { fd, file }: Inherited, place: AnyListenAddress): Bound {
    if (!("path" in place) || place.path.startsWith("\0")) return { fd: fd! };
    const { path, mode } = place;
    using unfinished = new DisposableStack();
    const isAnothers = !file && !leadsTo(path, fd!);
    const unix = guardPath(kind, fd!.dup(), path, file);
    unfinished.defer(() => {
      unix.keepPath();
      unix[Symbol.dispose]();
    });
    const next = !isAnothers
      ? this.#restorePath(path, unix, mode)
      : kind === "datagram"
      ? new DatagramPath(bindDatagrams(path, mode), path)
      : listenWhereFree(path, { mode });
    // Where it is not known whose file is there, its mode is left as it is.
    if (mode !== undefined && file && !next) unix.setMode(mode);
    unfinished.move();
    return { fd: fd!, unix, next };
  }

  /** Sees to it that a path leads to a socket; gives the one that was bound there in its place. */
  #restorePath(
    path: string,
    unix: UnixListener | DatagramPath,
    mode?: number,
  ): UnixListener | DatagramPath | undefined {
    const restored = unix.restorePath(mode);
    if (!restored) return undefined;
    const { logger } = this.#options;
    if (restored.by === "link") {
      // As when a link in the path leads to another release.
      logger.info?.(`${formatPath(path)} led to another place: the socket was linked there`);
      return undefined;
    }
    logger.warn?.(
      `The socket file ${formatPath(path)} was removed, so that no client could connect: ` +
        "the path was bound anew; keep cleaners of temporary files away from it",
    );
    return restored.socket;
  }

  /** @throws {TypeError} When a name would stand for two sockets. */
  #checkName(kind: "listener" | "datagram", { name }: AnyListenAddress): void {
    const isTaken = ({ item, gate }: Resource) =>
      item.kind === kind && item.name === name && !gate?.closed;
    if (name === undefined || ![...this.#all].some(isTaken)) return;
    throw new TypeError(
      `Cannot listen: this generation has a ${words[kind]} with the name ${
        quoted(name)
      } already; ` +
        "give each one its own `name`",
    );
  }

  /** Says of several inherited sockets that another order would swap them. */
  #warnOfOrder(kind: "listener" | "datagram", place: AnyListenAddress): void {
    const alike = this.#inheritance.alike(kind, place);
    const said = `${kind} ${keyOf(place)}`;
    if (alike.length === 0 || this.#warned.has(said)) return;
    this.#warned.add(said);
    const where = formatAddress({ transport: "tcp", hostname: "0.0.0.0", port: 0, ...place });
    const all = alike.map(({ fd }) => formatAddress(localAddress(fd!.raw))).join(", ");
    this.#options.logger.warn?.(
      `The generation before asked for ${alike.length} ${
        words[kind]
      }s at ${where}: ${all}. They are given out in ` +
        "the order in which they are asked for, so another order swaps them; give each one a `name`",
    );
  }

  /** Whether only another network namespace leads to a socket; says so, unless that is meant. */
  #isElsewhere(kind: "listener" | "datagram", raw: number): boolean {
    if (!belongsToNetwork(raw)) return false;
    const network = networkNamespace(raw);
    const own = ownNetworkNamespace();
    if (network === undefined || own === undefined || network === own) return false;
    if (!this.#options.isNetworkMeant()) {
      this.#options.logger.warn?.(
        `The ${words[kind]} at ${
          formatAddress(localAddress(raw))
        } was inherited from a process of another network ` +
          "namespace, and is reached only there: in the one of this process nothing listens at that " +
          "address. Containers with a network each need a control path each",
      );
    }
    return true;
  }

  /** Adds what is on `bound`, which stays the caller's; closes the object if it cannot. */
  #add<T extends object>(
    kind: "listener" | "datagram",
    place: AnyListenAddress,
    object: T,
    bound: Bound,
    { announce, close, signal }: Pick<Listening<T>, "announce" | "close" | "signal">,
    tracker?: HttpTracker,
  ): T {
    using unfinished = new DisposableStack();
    unfinished.defer(close);
    const fd = unfinished.use(bound.fd.dup());
    const gate = unfinished.use(new Gate(object, fd));
    // A server lets go of its socket a turn after it is closed.
    unfinished.defer(() => gate.shut());
    if (!this.#isOpen) gate.shut();
    const backlog = "backlog" in place ? place.backlog : undefined;
    if (backlog !== undefined) {
      // After adoption, which has made it as long as that of Deno's own listeners.
      setAcceptQueueLength(fd.raw, backlog);
      if (bound.next) setAcceptQueueLength(bound.next.fd.raw, backlog);
    }
    if ("loopback" in place && place.loopback !== undefined) {
      setMulticastLoop(fd.raw, place.loopback);
    }
    const item: OfferedItem = { kind, key: keyOf(place), name: place.name };
    const resource: Resource = {
      item,
      fd,
      gate,
      tracker,
      address: localAddress(fd.raw),
      isElsewhere: this.#isElsewhere(kind, fd.raw),
      unix: bound.unix,
      next: bound.next,
      backlog,
      close,
    };
    if ("path" in place) {
      item.path = place.path;
      Object.assign((object as { addr?: Deno.Addr }).addr ?? {}, { path: place.path });
    }
    this.#all.add(resource);
    unfinished.defer(() => this.#all.delete(resource));
    announce?.();
    const notice = () => this.#dropClosed();
    whenClosed(object, notice);
    // Deno closes the listener of a server in that turn, or later: at the latest when the server has finished.
    signal?.addEventListener("abort", () => void pause(0).then(notice), { once: true });
    unfinished.move();
    resource.unix?.followFile();
    if (this.#isOpen) this.#goToNext(resource);
    return object;
  }

  /** Binds anew; what a predecessor that was killed has left behind may take a moment to go. */
  #bind<P extends AnyListenAddress>(place: P, bind: (place: P) => Bound): Bound {
    const end = performance.now() + bindPatience;
    for (;;) {
      try {
        return bind(place);
      } catch (error) {
        if (!(error instanceof Deno.errors.AddrInUse)) throw located(place, error);
        if (this.#options.isRecent() && performance.now() < end) sleep(10);
        else throw this.#inUse(place, error);
      }
    }
  }

  /** The same error, with what is in the way as far as that is known here, and what to do. */
  #inUse(place: AnyListenAddress, error: Error): Error {
    const { inUseAdvice } = this.#options;
    const beside = this.#inheritance.boundBeside(place);
    if (!beside) {
      const what = "path" in place
        ? undefined
        : this.addresses().includes(addressAsked(place))
        ? "this generation listens there already"
        : "another socket has that address: end its process (`ss -ltunp` names it), or ask for another port";
      const all = [what, inUseAdvice].filter((each) => each !== undefined);
      return located(place, error, all.join("; "));
    }
    return new Deno.errors.AddrInUse(
      `Cannot listen on ${addressAsked(place)}: the generation before listens on ${
        formatAddress(beside)
      }, ` +
        "which covers some of it; ask for that, or stop the service before this change",
    );
  }

  /** What there is to hand over; the descriptors stay here. */
  offered(): { item: OfferedItem; fd: Fd }[] {
    this.#dropClosed();
    return [...this.#all].map(({ item, fd, unix, next }) => {
      const senderPid = fd.senderPid !== undefined && isRunning(fd.senderPid)
        ? fd.senderPid
        : undefined;
      const { file } = next ?? unix ?? {};
      return {
        item: { ...item, senderPid, file: file && offeredFile(file) },
        // The clients at the old one are this generation's.
        fd: next?.fd ?? fd,
      };
    });
  }

  /**
   * Sees to it that the paths of unix sockets lead to them, while this generation accepts; gives what is in
   * the way, in words.
   */
  restorePaths(): string[] {
    const problems: string[] = [];
    if (!this.#isOpen) return problems;
    this.#dropClosed();
    for (const resource of this.#all) {
      const { unix, next, backlog, item: { path } } = resource;
      if (!unix || path === undefined) continue;
      try {
        const restored = this.#restorePath(path, next ?? unix);
        if (restored) {
          next?.leave();
          resource.next = restored;
          if (backlog !== undefined) setAcceptQueueLength(restored.fd.raw, backlog);
        }
        this.#goToNext(resource);
      } catch (error) {
        problems.push((error as Error).message);
      }
    }
    return problems;
  }

  /** Puts an object on the socket that was bound in its place, as soon as no client waits at the old one. */
  #goToNext(resource: Resource): void {
    const { fd, gate, unix, next, address } = resource;
    if (!next || !gate || !unix) return;
    // One at a time, however often the paths are looked at meanwhile.
    clearTimeout(resource.looking);
    if (!this.#isOpen || !this.#all.has(resource) || gate.closed) return;
    // The one that serves here accepts them at once, as a rule.
    if (!unix.isIdle) {
      resource.looking = setTimeout(() => this.#goToNext(resource), queueInterval);
      Deno.unrefTimer(resource.looking);
      return;
    }
    gate.exchange(next.fd.raw);
    if (unix instanceof UnixListener) unix.become(next as UnixListener);
    else unix.become(next as DatagramPath);
    resource.next = undefined;
    if (address) (resource.formerAddresses ??= []).push(address);
    resource.address = localAddress(fd.raw);
  }

  /** Lets go of the sockets whose objects their owner has closed: nobody is to be connected to them. */
  #dropClosed(): void {
    for (const resource of this.#all) if (resource.gate?.closed) this.#drop(resource);
  }

  #drop(resource: Resource): void {
    this.#all.delete(resource);
    resource.fd[Symbol.dispose]();
    resource.gate?.[Symbol.dispose]();
    // The next generation may have it, and its path.
    resource.unix?.leave();
    resource.next?.leave();
  }

  /** Accepts, for the first time or again. */
  open(): void {
    this.#isOpen = true;
    this.#clients = undefined;
    this.#found = [];
    for (const { gate, tracker } of this.#all) {
      tracker?.withdrawClose();
      gate?.open();
    }
    for (const resource of this.#all) this.#goToNext(resource);
  }

  /** Takes note of the clients from here on: they may soon have to leave. */
  watch(): void {
    for (const { tracker } of this.#all) tracker?.trackClients();
  }

  /** Stops accepting, in a way that can be undone. */
  shut(): void {
    this.watch();
    this.#isOpen = false;
    const each = new DisposableStack();
    for (const { gate, tracker } of this.#all) {
      tracker?.announceClose();
      if (gate) each.defer(() => gate.shut());
    }
    try {
      // A gate that fails does not keep the others open.
      each[Symbol.dispose]();
    } finally {
      if (!this.#clients) {
        this.#clients = this.#findClients();
        // A failure is thrown where they are waited for.
        this.#hangUpOnTold(this.#clients).catch(() => {});
      }
    }
  }

  async #findClients(): Promise<Map<Resource, Connections>> {
    const listening = [...this.#all].filter(({ item }) => item.kind === "listener");
    const clients = await findConnections(listening, threadSockets());
    if (!this.#isOpen) this.#found = clients;
    return new Map(listening.map((resource, i) => [resource, clients[i]]));
  }

  /** Until this generation leaves for good, or accepts again and no such client is left. */
  async #hangUpOnTold(clients: Promise<Map<Resource, Connections>>): Promise<void> {
    const isOver = () => this.#hasLeft || this.#clients !== undefined && this.#clients !== clients;
    const found = await clients;
    const all = [...found].map(([{ tracker }, clients]) =>
      tracker && reapToldToClose(tracker, clients, isOver)
    );
    await Promise.all(all);
  }

  /** Lets go of the sockets on which it has stopped accepting: they are another one's, or nobody's. */
  release(): void {
    this.#hasLeft = true;
    using each = new DisposableStack();
    for (const { gate, unix, next } of this.#all) {
      // The last one first: nobody is bound to the path any more when it is looked for.
      if (unix) each.defer(() => unix.leave());
      if (next) each.defer(() => next.leave());
      if (gate) each.use(gate);
    }
  }

  /** Waits until the clients have left, cuts off those that do not, and closes everything. */
  async leave(options: LeaveOptions): Promise<void> {
    const clients = await this.#clients ?? new Map<Resource, Connections>();
    const all = [...this.#all].map((resource) =>
      leave(resource, clients.get(resource) ?? new Connections(), options)
    );
    const failed = (await Promise.allSettled(all)).find(({ status }) => status === "rejected");
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }

  /** How many clients have not left, of those that were there when it stopped accepting. */
  get left(): number {
    return this.#found.reduce((sum, clients) => sum + clients.open().length, 0);
  }

  /** Every socket, as it is told to who asks. */
  sockets(): SocketStatus[] {
    const all = [...this.#all].filter(({ gate }) => gate && !gate.closed);
    const counts = countConnections(all);
    return all.map((resource, i) => ({
      kind: resource.item.kind as SocketStatus["kind"],
      address: addressOf(resource),
      connections: resource.item.kind === "listener" ? counts[i] : 0,
      ...resource.item.name !== undefined && { name: resource.item.name },
      ...resource.isElsewhere && { elsewhere: true as const },
    }));
  }

  /** Where every listener and datagram socket is bound. */
  addresses(): string[] {
    return [...this.#all].filter(({ gate }) => gate && !gate.closed).map(addressOf);
  }

  /** The paths of every file. */
  files(): string[] {
    return [...this.#all].flatMap(({ item: { kind, key } }) => kind === "file" ? [key] : []);
  }
}

/** Whether a path leads to a listener, of which it is not known what file it is bound to. */
function leadsTo(path: string, { raw }: Fd): boolean {
  const there = pathStatus(path);
  return there !== undefined && isBound(path) && isBoundTo(raw, path, there) !== false;
}

/** Milliseconds between two looks at whether clients still wait at a socket. */
const queueInterval = 20;

/** What each kind of socket is called in messages. */
const words = { listener: "listener", datagram: "datagram socket" };
function addressOf({ item: { path }, address }: Resource): string {
  return path === undefined ? formatAddress(address) : formatPath(path);
}

function addressAsked(place: AnyListenAddress): string {
  if ("path" in place) return formatPath(place.path);
  const { hostname = "0.0.0.0", port = 0 } = place;
  return formatAddress({ transport: "tcp", hostname, port });
}

/** The same error, with the address that was asked for, which Deno's own do not name. */
function located<E>(place: AnyListenAddress, error: E, what = ""): E {
  if (error instanceof Error) {
    const where = "path" in place ? "" : `Cannot listen on ${addressAsked(place)}: `;
    error.message = where + error.message + (what && `; ${what}`);
  }
  return error;
}

/** Milliseconds for which an address may still be in use after its owner was killed. */
const bindPatience = 1000;

/** Waits for the clients of one resource, and closes it. */
async function leave(
  { tracker, gate, fd, close }: Resource,
  clients: Connections,
  { drainTimeout, httpDrainTimeout, forceCloseAfter, hurry, isClosing }: LeaveOptions,
): Promise<void> {
  if (tracker) {
    await drainConnections(tracker, clients, {
      drainTimeout: httpDrainTimeout,
      forceCloseAfter,
      hurry,
      isClosingWebSockets: isClosing,
    });
    return;
  }
  // What is under way on a connection of another protocol, nobody but its two ends can tell.
  await clients.waitUntilClosed({ milliseconds: drainTimeout, hurry });
  await clients.waitUntilClosed({ milliseconds: forceCloseAfter });
  clients.forceClose();
  if (gate && !gate.closed) close();
  fd[Symbol.dispose]();
}

/** Calls `notice` when the owner of a native object has closed it, or shut it down. */
export function whenClosed(object: object, notice: () => void): void {
  // A server has a signal as well, which shuts it down.
  (object as Partial<Deno.HttpServer>).finished?.then(notice, notice);
  const methods = object as Record<string | symbol, ((...args: unknown[]) => unknown) | undefined>;
  for (const name of ["close", "shutdown", Symbol.dispose, Symbol.asyncDispose]) {
    const method = methods[name];
    if (!method) continue;
    const value = (...args: unknown[]) => {
      const result = method.apply(object, args);
      notice();
      if (!(result instanceof Promise)) return result;
      // A server has closed its listener a turn later, and is done when its answers are.
      void pause(0).then(notice);
      return result.finally(notice);
    };
    Object.defineProperty(object, name, { value, configurable: true });
  }
}

function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

function bindListener(place: ListenAddress): Bound {
  if (!("path" in place)) {
    return { fd: bindNative(() => listenTcp(place)) };
  }
  const { path, mode } = place;
  const unix = listenWhereFree(path, { mode });
  return { fd: unix.fd.dup(), unix };
}

function bindDatagram(place: DatagramListenAddress): Bound {
  if ("path" in place) {
    const fd = bindDatagrams(place.path, place.mode);
    return { fd, unix: new DatagramPath(fd.dup(), place.path) };
  }
  return { fd: bindNative(() => listenUdp(place)) };
}

/** Binds and listens with Deno's own call. */
export function listenTcp(
  { hostname, port = 0, reusePort, backlog }: TcpListenAddress,
): Deno.TcpListener {
  const options: Deno.TcpListenOptions & { reusePort?: boolean; tcpBacklog?: number } = {
    hostname,
    port,
    reusePort,
    tcpBacklog: backlog,
  };
  return Deno.listen(options);
}

/** The same for datagrams. */
export function listenUdp(
  { hostname = "0.0.0.0", port = 0, reuseAddress, loopback }: UdpListenAddress,
): Deno.DatagramConn {
  checkDatagrams();
  return Deno.listenDatagram({ transport: "udp", hostname, port, reuseAddress, loopback });
}

/** What a native object is bound to, without the object. */
function bindNative(bind: () => { close(): void }): Fd {
  const { dummy, registration } = capture(bind, (object) => object.close());
  keep(registration);
  try {
    return new Fd(dup(registration.tfd));
  } finally {
    dummy.close();
  }
}
