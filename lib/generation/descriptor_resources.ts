/**
 * The sockets and files of a generation as descriptors: inherited from the predecessor or new, and offered to the next
 * generation.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { quoted } from "../../ffi/quote.ts";
import { formatAddress } from "../../ffi/sockaddr.ts";
import { localAddress } from "../../ffi/socket.ts";
import { DisposableStack } from "../disposable_stack.ts";
import {
  Connections,
  countConnections,
  findConnections,
  threadSockets,
} from "../http/connections.ts";
import { reapToldToClose } from "../http/idle_reaper.ts";
import { serveHttp, type ServeHttpOptions, trackerOf } from "../http/serve.ts";
import type { HttpHandler } from "../http/tracker.ts";
import type { DatagramListenAddress, ListenAddress, TcpListenAddress } from "../listen_address.ts";
import { fdListener, fdPacketConn, type TlsOptions } from "../native/adopt.ts";
import type { NodeServer } from "../native/objects.ts";
import { closeForProgram } from "../node/close.ts";
import { NodeHttpTracker } from "../node/http_tracker.ts";
import { listenOn } from "../node/listen.ts";
import { checkNodeServer, isHttpServer } from "../node/node_objects.ts";
import { upgradesOf } from "../node/upgrades.ts";
import { pause } from "../time.ts";
import {
  bindSocket,
  type BoundSocket,
  formatListenAddress,
  locateError,
  type SocketKind,
  withPath,
} from "./bind.ts";
import { type AnyListenAddress, type Inheritance, keyOf } from "./inheritance.ts";
import { OpenFiles } from "./open_files.ts";
import type { SocketStatus } from "./protocol.ts";
import type { DrainLimits, OfferedResource, ResourceOptions, Resources } from "./resources.ts";
import { type NativeObject, SocketResource } from "./socket_resource.ts";
import { whenClosed } from "./when_closed.ts";

/** What each kind of socket is called in messages. */
const kindNames = { listener: "listener", datagram: "datagram socket" };

/** Sockets and files that the next generation gets. */
export class DescriptorResources implements Resources {
  readonly #inheritance: Inheritance;
  readonly #options: ResourceOptions;
  readonly #sockets = new Set<SocketResource>();
  readonly #files = new OpenFiles();
  /** The keys of the sockets whose order was warned about. */
  readonly #warned = new Set<string>();
  #isOpen = false;
  #isReleased = false;
  #isAnnouncingClose = false;
  /** The clients at the last `shut()`. */
  #clients: ConnectedClients | undefined;

  /** @param inheritance Where each socket and file is looked for before it is bound or opened. */
  constructor(inheritance: Inheritance, options: ResourceOptions) {
    this.#inheritance = inheritance;
    this.#options = options;
  }

  /** Serves HTTP on the listener at `address`, inherited or new. */
  http(
    address: ListenAddress,
    { onListen, ...options }: ServeHttpOptions,
    handler: HttpHandler,
  ): Deno.HttpServer {
    return this.#create("listener", address, (fd) => {
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

  /** Makes a native listener on the socket at `address`, inherited or new; of TLS if `tls` is given. */
  listener(address: ListenAddress): Deno.Listener;
  listener(address: TcpListenAddress, tls: TlsOptions): Deno.TlsListener;
  listener(address: ListenAddress, tls?: TlsOptions): Deno.Listener {
    return this.#create("listener", address, (fd) => {
      const listener = tls ? fdListener(fd, tls) : fdListener(fd);
      return { object: listener, close: () => listener.close() };
    });
  }

  /** Has a server of node listen on the socket at `address`, inherited or new. */
  node(address: ListenAddress, server: NodeServer): void {
    checkNodeServer(server, address);
    this.#create("listener", address, (fd) => {
      const bound = localAddress(fd.raw);
      listenOn(server, fd, "path" in address ? address.path : undefined);
      const upgraded = upgradesOf(server, this.#options.webSockets);
      return {
        object: server,
        tracker: isHttpServer(server) ? new NodeHttpTracker(server, bound, upgraded) : undefined,
        close: () => closeForProgram(server),
      };
    });
  }

  /** Makes a native object on the datagram socket at `address`, inherited or new. */
  datagram(address: DatagramListenAddress): Deno.DatagramConn {
    return this.#create("datagram", address, (fd) => {
      const socket = fdPacketConn(fd);
      return { object: socket, close: () => socket.close() };
    });
  }

  /**
   * Finds the inherited socket or binds a new one, makes a native object on it, and registers both. On an error
   * everything is undone in reverse order, and an inherited socket stays in the inheritance.
   */
  #create<T extends object>(
    kind: SocketKind,
    address: AnyListenAddress,
    make: (fd: Fd) => NativeObject<T>,
  ): T {
    this.#check(kind, address);
    const { logger, onSocket } = this.#options;
    using undo = new DisposableStack();
    const inherited = this.#inheritance.takeBound(kind, address);
    const isInherited = inherited !== undefined;
    if (inherited) undo.defer(() => this.#inheritance.putBack(inherited));
    const bound = inherited
      ? withPath(kind, inherited, address, logger)
      : this.#bind(kind, address);
    undo.defer(() => discard(bound, isInherited));
    using duplicate = bound.fd.dup();
    const native = make(duplicate);
    undo.defer(native.close);
    const socket = undo.use(
      new SocketResource(kind, address, native, { ...bound, isInherited }, this.#isOpen),
    );
    if (socket.isElsewhere) this.#warnOfNetwork(kind, socket);
    this.#sockets.add(socket);
    undo.defer(() => this.#sockets.delete(socket));
    native.announce?.();
    this.#releaseWhenClosed(native);
    socket.trackFile();
    if (this.#isOpen) socket.moveToReplacement();
    undo.move();
    bound.fd[Symbol.dispose]();
    onSocket(socket.formattedAddress, isInherited);
    return native.object;
  }

  /** @throws {TypeError} When no socket can be added, or its name is taken. */
  #check(kind: SocketKind, address: AnyListenAddress): void {
    if (this.#isReleased) {
      throw new TypeError("Cannot listen: this generation is draining, or has stopped");
    }
    const { name } = address;
    const isTaken = name !== undefined &&
      [...this.#sockets].some(({ item, isClosed }) =>
        item.kind === kind && item.name === name && !isClosed
      );
    if (isTaken) {
      throw new TypeError(
        `Cannot listen: this generation has a ${kindNames[kind]} with the name ${
          quoted(name)
        } already; give each one its own \`name\``,
      );
    }
    this.#warnOfOrder(kind, address);
  }

  /** Warns once when several inherited sockets match, so that another order of the calls would swap them. */
  #warnOfOrder(kind: SocketKind, address: AnyListenAddress): void {
    const alike = this.#inheritance.alike(kind, address);
    const key = `${kind} ${keyOf(address)}`;
    if (alike.length === 0 || this.#warned.has(key)) return;
    this.#warned.add(key);
    const all = alike.map(({ fd }) => formatAddress(localAddress(fd!.raw))).join(", ");
    this.#options.logger.warn?.(
      `The previous generation asked for ${alike.length} ${kindNames[kind]}s at ${
        formatListenAddress(address)
      }: ${all}. They are given out in the order in which they are asked for, so another order swaps them; ` +
        "give each one a `name`",
    );
  }

  /** @throws {Deno.errors.AddrInUse} With the socket that is in the way, as far as it is known, and advice. */
  #bind(kind: SocketKind, address: AnyListenAddress): BoundSocket {
    try {
      return bindSocket(kind, address, this.#options.mayBeFreed);
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw locateError(address, error);
      const beside = this.#inheritance.boundBeside(address);
      if (!beside) throw locateError(address, error, this.#adviceFor(address));
      throw new Deno.errors.AddrInUse(
        `Cannot listen on ${
          formatListenAddress(address)
        }: an inherited socket, of the previous generation or a ` +
          `socket unit, is bound to ${
            formatAddress(beside)
          }, which covers some of it; ask for that, or stop the service (and its socket unit) before this change`,
      );
    }
  }

  /** Advice for an address in use. */
  #adviceFor(address: AnyListenAddress): string {
    const { inUseAdvice } = this.#options;
    if ("path" in address) return inUseAdvice ?? "";
    // The control path has nothing to do with it.
    if (this.addresses().includes(formatListenAddress(address))) {
      return "this generation listens there already";
    }
    const reason =
      "another socket has that address: end its process (`ss -ltunp` names it), or ask for another port";
    return [reason, inUseAdvice].filter((each) => each !== undefined).join("; ");
  }

  #warnOfNetwork(kind: SocketKind, socket: SocketResource): void {
    if (this.#options.isForeignNetworkExpected()) return;
    this.#options.logger.warn?.(
      `The ${kindNames[kind]} at ${
        formatAddress(socket.address)
      } was inherited from a process of another ` +
        "network namespace, and is reached only there: in the one of this process nothing listens at that " +
        "address. Containers with a network each need a control path each",
    );
  }

  /** Gives a socket up when the program has closed its object. */
  #releaseWhenClosed({ object, signal }: NativeObject): void {
    const notice = () => this.#releaseClosed();
    whenClosed(object, notice);
    // Deno closes the listener of a server in the turn after the abort, or at the latest when the server has finished.
    signal?.addEventListener("abort", () => void pause(0).then(notice), { once: true });
  }

  #releaseClosed(): void {
    const closed = [...this.#sockets].filter(({ isClosed }) => isClosed);
    for (const socket of closed) {
      this.#sockets.delete(socket);
      if (socket.isInherited && this.#options.keepsClosed()) {
        this.#inheritance.putBack(socket.giveBack());
      } else socket.release();
    }
    if (closed.length > 0) this.#options.onClosed();
  }

  /** Opens the file at `path`, or goes on with the inherited one. */
  file(path: string, options: Deno.OpenOptions): Deno.FsFile {
    return this.#files.open(path, options, this.#inheritance);
  }

  /** The sockets and files to hand over. */
  offered(): OfferedResource[] {
    this.#releaseClosed();
    return [
      ...Array.from(this.#sockets, (socket) => socket.offered()),
      ...this.#files.offered(),
    ];
  }

  /** Makes the paths of unix sockets lead to them again; returns a message for each that fails. */
  restorePaths(): string[] {
    const problems: string[] = [];
    if (!this.#isOpen) return problems;
    this.#releaseClosed();
    for (const socket of this.#sockets) {
      try {
        socket.restorePath(this.#options.logger);
      } catch (error) {
        problems.push((error as Error).message);
      }
    }
    return problems;
  }

  /** Starts accepting, or accepts again. */
  open(): void {
    this.#isOpen = true;
    for (const socket of this.#sockets) socket.open();
    // A socket that opens again withdraws it.
    if (this.#isAnnouncingClose) this.announceClose();
    for (const socket of this.#sockets) socket.moveToReplacement();
  }

  /** Starts recording the protocol of each HTTP client. */
  watch(): void {
    for (const { tracker } of this.#sockets) tracker?.trackClients();
  }

  /** Answers HTTP/1 requests with `Connection: close` from here on. */
  announceClose(): void {
    this.#isAnnouncingClose = true;
    for (const { tracker } of this.#sockets) tracker?.announceClose();
  }

  /** Stops accepting, until `open()`. */
  shut(): void {
    const wasOpen = this.#isOpen;
    this.#isOpen = false;
    const each = new DisposableStack();
    for (const socket of this.#sockets) each.defer(() => socket.shut());
    try {
      // A socket that fails does not keep the others open.
      each[Symbol.dispose]();
    } finally {
      if (wasOpen || !this.#clients) {
        this.#clients?.stop();
        const listeners = [...this.#sockets].filter(({ item }) => item.kind === "listener");
        this.#clients = new ConnectedClients(listeners);
      }
    }
  }

  /** Gives the sockets up for good; connections go on. */
  release(isReplaced: boolean): void {
    this.#isReleased = true;
    this.#clients?.stop();
    using each = new DisposableStack();
    for (const socket of this.#sockets) {
      each.defer(() => socket.release());
      if (!isReplaced) each.defer(() => socket.allowBlocking());
    }
  }

  /** Waits until the clients have disconnected, cuts the connections of those that do not, and closes everything. */
  async drain(limits: DrainLimits): Promise<void> {
    const clients = this.#clients ?? new ConnectedClients([]);
    const drained = [...this.#sockets].map(async (socket) =>
      await socket.drain(await clients.of(socket), limits)
    );
    this.#files[Symbol.dispose]();
    const failed = (await Promise.allSettled(drained)).find(({ status }) => status === "rejected");
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }

  /** The number of clients at `shut()` that are still connected. */
  get remainingClients(): number {
    return this.#isOpen ? 0 : this.#clients?.remaining ?? 0;
  }

  /** The status of each socket. */
  sockets(): SocketStatus[] {
    const open = [...this.#sockets].filter(({ isClosed }) => !isClosed);
    const counts = countConnections(open);
    return open.map(({ item: { kind, name }, formattedAddress, isElsewhere }, i) => ({
      kind: kind as SocketStatus["kind"],
      address: formattedAddress,
      connections: kind === "listener" ? counts[i] : 0,
      ...name !== undefined && { name },
      ...isElsewhere && { elsewhere: true as const },
    }));
  }

  /** The address of each socket. */
  addresses(): string[] {
    return [...this.#sockets].filter(({ isClosed }) => !isClosed)
      .map(({ formattedAddress }) => formattedAddress);
  }

  /** The path of each file. */
  files(): string[] {
    return this.#files.paths();
  }
}

/** The clients that were connected to the listeners of a generation when it stopped accepting. */
class ConnectedClients {
  readonly #byListener: Promise<Map<SocketResource, Connections>>;
  /** The same clients, as far as they were found. */
  #found: Connections[] = [];
  #isStopped = false;

  /** Finds the clients, and hangs up on those that had `Connection: close` and are idle, until `stop()`. */
  constructor(listeners: SocketResource[]) {
    this.#byListener = this.#find(listeners);
    // of() awaits the same promise, and throws its error.
    this.#reapToldToClose().catch(() => {});
  }

  async #find(listeners: SocketResource[]): Promise<Map<SocketResource, Connections>> {
    const clients = this.#found = await findConnections(listeners, threadSockets());
    return new Map(listeners.map((listener, i) => [listener, clients[i]]));
  }

  async #reapToldToClose(): Promise<void> {
    const isOver = () => this.#isStopped;
    const hangingUp = [...await this.#byListener].map(([{ tracker }, clients]) =>
      tracker && reapToldToClose(tracker, clients, isOver)
    );
    await Promise.all(hangingUp);
  }

  /** The clients of one listener; none of a socket that was not among the listeners. */
  async of(socket: SocketResource): Promise<Connections> {
    return (await this.#byListener).get(socket) ?? new Connections();
  }

  /** The number of clients that are still connected. */
  get remaining(): number {
    return this.#found.reduce((sum, clients) => sum + clients.open().length, 0);
  }

  /** Stops hanging up. */
  stop(): void {
    this.#isStopped = true;
  }
}

/** Closes a bound socket; an inherited one stays the inheritance's, together with its path. */
function discard({ fd, unix, replacement }: BoundSocket, isInherited: boolean): void {
  if (isInherited) unix?.keepPath();
  else fd[Symbol.dispose]();
  // Last: a path is removed only where no socket is bound to it any more.
  unix?.release();
  replacement?.release();
}
