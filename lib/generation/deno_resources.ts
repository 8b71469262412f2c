/**
 * The sockets and files of a generation on a system that passes no descriptors, made by Deno's own calls. Clients see
 * the behaviour of {@linkcode DescriptorResources}, as far as Deno allows it.
 *
 * @module
 */

import { type Address, formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import { either, pause } from "../time.ts";
import { checkDatagrams, type TlsOptions } from "../native/adopt.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { pollIntervalFor } from "../http/connections.ts";
import { forceCloseGrace, settlesBy } from "../http/drain.ts";
import type { SocketStatus } from "./protocol.ts";
import { internalServerError, type ServeHttpOptions } from "../http/serve.ts";
import { closeNative } from "../native/close.ts";
import type { NodeServer } from "../native/objects.ts";
import { checkNodeServer } from "../node/node_objects.ts";
import type { DatagramListenAddress, ListenAddress, TcpListenAddress } from "../listen_address.ts";
import { type HttpHandler, HttpTracker } from "../http/tracker.ts";
import { listenTcp, listenUdp } from "./bind.ts";
import type { DrainLimits, ResourceOptions, Resources } from "./resources.ts";
import { whenClosed } from "./when_closed.ts";
import { runtime } from "../runtime.ts";

/** A socket or file of a generation. */
interface Resource {
  kind: "listener" | "datagram" | "file";
  /** The address of a socket, the path of a file. */
  name: string;
  /** The number of open connections, as far as it is known: of HTTP, those with an unfinished answer. */
  connections(): number;
  /** Answers with `Connection: close` from here on. */
  shut?(): void;
  /** Stops accepting for good. */
  release?(): void;
  /** Waits for the clients, and closes it. */
  drain?(limits: DrainLimits): Promise<void>;
}

/** Sockets and files that no other process gets. */
export class DenoResources implements Resources {
  readonly #onSocket: ResourceOptions["onSocket"];
  readonly #all = new Set<Resource>();
  readonly #opened = Promise.withResolvers<void>();
  #isOpen = false;
  #isReleased = false;
  /** The resources at `shut()`. */
  #draining: Resource[] = [];

  /** @param options Of them, `onSocket` alone is used. */
  constructor({ onSocket }: Pick<ResourceOptions, "onSocket">) {
    this.#onSocket = onSocket;
  }

  /**
   * Serves HTTP at `address`. Deno.serve() accepts at once: requests that come before `open()` wait for it.
   */
  http(
    address: ListenAddress,
    { onListen, onError = internalServerError, signal, ...options }: ServeHttpOptions,
    handler: HttpHandler,
  ): Deno.HttpServer {
    const isTls = options.cert !== undefined;
    const cut = new AbortController();
    // deno-lint-ignore no-explicit-any -- the overloads of Deno.serve tell TCP, TLS and unix apart
    const serveAny = runtime.serve as any;
    const [tracker, removePath] = this.#bind(
      address,
      (address) =>
        new HttpTracker({ handler, onError, isTls }, (handle, handleError) =>
          serveAny(
            {
              ...options,
              ...address,
              ..."backlog" in address && { tcpBacklog: address.backlog },
              signal: either(cut.signal, signal),
              onListen: () => {},
              onError: handleError,
            },
            (request: Request, info: Deno.ServeHandlerInfo) =>
              this.#isOpen
                ? handle(request, info)
                : this.#opened.promise.then(() => handle(request, info)),
          )),
      ({ server }) => void server.shutdown(),
    );
    const { server } = tracker;
    // Without descriptors, a connection does not show whether it has an unfinished answer: track every one.
    tracker.trackClients();
    const drop = this.#add({
      kind: "listener",
      name: formatAddress(server.addr as Address),
      connections: () => tracker.requestsInFlight().size,
      shut: () => tracker.announceClose(),
      drain: async (limits) => {
        // Before open() no request was answered: there is no client to wait for.
        if (!this.#isOpen) cut.abort();
        await finish(tracker, cut, limits);
        removePath();
      },
    }, removePath);
    try {
      onListen?.(server.addr);
    } catch (error) {
      drop();
      void server.shutdown();
      throw error;
    }
    whenClosed(server, drop);
    return server;
  }

  /** Listens at `address`, for TLS if `tls` is given; `accept()` waits for `open()`. */
  listener(address: ListenAddress): Deno.Listener;
  listener(address: TcpListenAddress, tls: TlsOptions): Deno.TlsListener;
  listener(address: ListenAddress, tls?: TlsOptions): Deno.Listener {
    const [listener, removePath] = this.#bind<Deno.Listener>(address, (address) => {
      if ("path" in address) return runtime.listen({ transport: "unix", path: address.path });
      if (!tls) return listenTcp(address);
      // deno-lint-ignore no-explicit-any -- Deno.listenTls takes more forms of a certificate than TlsOptions has
      return runtime.listenTls({ ...address, tcpBacklog: address.backlog, ...tls } as any);
    }, (listener) => listener.close());
    const accepted = new Accepted();
    const ended = Promise.withResolvers<void>();
    let isReleased = false;
    const { accept, close } = listener;
    redefine(listener, "accept", async () => {
      if (!this.#isOpen) await Promise.race([this.#opened.promise, ended.promise]);
      try {
        const conn = await accept.call(listener);
        accepted.add(conn);
        return conn;
      } catch (error) {
        // release() has closed the socket; for the program, the listener is open until its clients have disconnected.
        if (isReleased) await ended.promise;
        throw error;
      }
    });
    redefine(listener, "close", () => {
      if (!isReleased || !this.#all.has(resource)) close.call(listener);
    });
    const resource: Resource = {
      kind: "listener",
      name: formatAddress(listener.addr as Address),
      connections: () => accepted.size,
      release: () => {
        isReleased = true;
        close.call(listener);
        removePath();
      },
      drain: async (limits) => {
        await accepted.drain(limits);
        ended.resolve();
      },
    };
    const drop = this.#add(resource, removePath);
    whenClosed(listener, () => {
      drop();
      ended.resolve();
    });
    return listener;
  }

  /** Has a server of node listen at `address`: it accepts at once. */
  node(address: ListenAddress, server: NodeServer): void {
    checkNodeServer(server);
    const hostname = "hostname" in address ? address.hostname ?? "0.0.0.0" : undefined;
    // It binds in this turn: a path or an address of IP is not looked up.
    this.#bind(address, () => {
      server.listen("path" in address ? { path: address.path } : { ...address, host: hostname });
    }, () => server.close());
    const bound = server.address();
    const drop = this.#add({
      kind: "listener",
      name: typeof bound === "object" && bound
        ? formatAddress({ transport: "tcp", hostname: bound.address, port: bound.port })
        : formatPath(bound ?? ""),
      connections: () => 0,
      drain: async ({ drainTimeout, hurry }) => {
        const closed = new Promise<void>((resolve) => server.close(() => resolve()));
        const limit = hurry.aborted ? 0 : drainTimeout;
        await settlesBy(closed, performance.now() + limit);
      },
    });
    server.once("close", drop);
  }

  /** Receives datagrams at `address`; `receive()` waits for `open()`. */
  datagram(address: DatagramListenAddress): Deno.DatagramConn {
    checkDatagrams();
    const [socket, removePath] = this.#bind<Deno.DatagramConn, DatagramListenAddress>(
      address,
      (address) =>
        "path" in address
          ? runtime.listenDatagram({ transport: "unixpacket", path: address.path })
          : listenUdp(address),
      (socket) => socket.close(),
    );
    const ended = Promise.withResolvers<void>();
    const receive = socket.receive;
    redefine(socket, "receive", async (into?: Uint8Array) => {
      if (!this.#isOpen) await Promise.race([this.#opened.promise, ended.promise]);
      return await receive.call(socket, into);
    });
    const drop = this.#add({
      kind: "datagram",
      name: formatAddress(socket.addr as Address),
      connections: () => 0,
      drain: async () => {
        await closeNative(socket);
        removePath();
      },
    }, removePath);
    whenClosed(socket, () => {
      drop();
      ended.resolve();
    });
    return socket;
  }

  /** Opens a file. */
  file(path: string, options: Deno.OpenOptions): Deno.FsFile {
    const file = Deno.openSync(path, options);
    const previous = [...this.#all].find(({ kind, name }) => kind === "file" && name === path);
    if (previous) this.#all.delete(previous);
    whenClosed(file, this.#add({ kind: "file", name: path, connections: () => 0 }));
    return file;
  }

  /** Binds with a call of Deno, and sets the mode of a path; also returns the function that removes the path. */
  #bind<T, P extends ListenAddress | DatagramListenAddress = ListenAddress>(
    address: P,
    bind: (address: P) => T,
    close: (bound: T) => void,
  ): [bound: T, removePath: () => void] {
    if (this.#isReleased) {
      throw new TypeError("Cannot listen: this generation is draining, or has stopped");
    }
    if (!("path" in address)) {
      return [bind({ ...address, hostname: address.hostname ?? "0.0.0.0" }), () => {}];
    }
    const { path, mode = 0o600 } = address;
    const bound = bindPath(path, () => bind(address));
    try {
      const removePath = remover(path);
      Deno.chmodSync(path, mode);
      return [bound, removePath];
    } catch (error) {
      close(bound);
      throw error;
    }
  }

  /** Adds a resource; returns the function that forgets it and removes its path, for the call that closes it. */
  #add(resource: Resource, removePath = () => {}): () => void {
    this.#all.add(resource);
    if (resource.kind !== "file") this.#onSocket(resource.name, false);
    return () => {
      if (this.#all.delete(resource)) removePath();
    };
  }

  /** None: there is no next generation. */
  offered(): [] {
    return [];
  }

  /** None: a removed path is not restored. */
  restorePaths(): [] {
    return [];
  }

  /** Starts accepting and answering. */
  open(): void {
    this.#isOpen = true;
    this.#opened.resolve();
  }

  /** Does nothing: HTTP clients are recorded from the start. */
  watch(): void {}

  /** Answers with `Connection: close` from here on. */
  announceClose(): void {
    for (const { shut } of this.#all) shut?.();
  }

  /** Answers with `Connection: close` from here on. HTTP servers accept until `drain()`: Deno stops both together. */
  shut(): void {
    this.#draining = [...this.#all];
    for (const { shut } of this.#draining) shut?.();
  }

  /** Closes the sockets that can be closed while their connections go on. */
  release(): void {
    this.#isReleased = true;
    using each = new DisposableStack();
    for (const { release } of this.#all) if (release) each.defer(release);
  }

  /** Waits until the clients have disconnected, cuts the connections of those that do not, and closes everything. */
  async drain(limits: DrainLimits): Promise<void> {
    const drained = [...this.#all].map(({ drain }) => drain?.(limits));
    const failed = (await Promise.allSettled(drained)).find(({ status }) => status === "rejected");
    for (const resource of this.#all) if (resource.drain) this.#all.delete(resource);
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }

  /** The number of clients at `shut()` that are still connected. */
  get remainingClients(): number {
    return this.#draining.reduce((sum, { connections }) => sum + connections(), 0);
  }

  /** The status of each socket. */
  sockets(): SocketStatus[] {
    return [...this.#all].flatMap(({ kind, name, connections }) =>
      kind === "file" ? [] : [{ kind, address: name, connections: connections() }]
    );
  }

  /** The address of each socket. */
  addresses(): string[] {
    return [...this.#all].flatMap(({ kind, name }) => kind === "file" ? [] : [name]);
  }

  /** The path of each file. */
  files(): string[] {
    return [...this.#all].flatMap(({ kind, name }) => kind === "file" ? [name] : []);
  }
}

/** The open connections of a listener. */
class Accepted {
  readonly #open = new Set<Deno.Conn>();
  /** The connections on which an empty write is pending. */
  readonly #probed = new Set<Deno.Conn>();
  #count = 0;

  /** The number of connections that are not known to be closed. */
  get size(): number {
    return this.#open.size;
  }

  add(conn: Deno.Conn): void {
    this.#open.add(conn);
    whenClosed(conn, () => this.#open.delete(conn));
    if (++this.#count % probeEvery === 0) this.#probe();
  }

  /** Writes 0 bytes to each connection: only the error shows that the program closed it through its streams. */
  #probe(): void {
    for (const conn of this.#open) {
      if (this.#probed.has(conn)) continue;
      this.#probed.add(conn);
      const { BadResource, Interrupted } = Deno.errors;
      conn.write(new Uint8Array(0)).catch((error) => {
        const isClosed = error instanceof BadResource || error instanceof Interrupted;
        if (isClosed) this.#open.delete(conn);
      }).finally(() => this.#probed.delete(conn));
    }
  }

  /** Waits until all connections are closed, and closes those that are not in time. */
  async drain({ drainTimeout, forceCloseAfter, hurry }: DrainLimits): Promise<void> {
    await this.#untilClosed(drainTimeout, hurry);
    await this.#untilClosed(forceCloseAfter);
    for (const conn of this.#open) closeNative(conn);
  }

  async #untilClosed(milliseconds: number, hurry?: AbortSignal): Promise<void> {
    const end = performance.now() + milliseconds;
    for (;;) {
      const now = performance.now();
      if (this.size === 0 || now >= end || hurry?.aborted) return;
      this.#probe();
      await pause(Math.min(pollIntervalFor(this.size), end - now));
    }
  }
}

/** After so many accepted connections, all open ones are probed. */
const probeEvery = 1000;

/**
 * Shuts an HTTP server down. It answers with `Connection: close` until then, and it is shut down when no answer is
 * unfinished, or half of `forceCloseAfter` after the deadline when the answers of the deadline are finished. A server
 * that is shut down cannot be cut any more (Deno 2.9.6: the listener of its signal throws BadResource): answers that
 * are unfinished at the end are cut without a shutdown.
 */
async function finish(
  tracker: HttpTracker,
  cut: AbortController,
  { httpDrainTimeout, forceCloseAfter, hurry, isClosing }: DrainLimits,
): Promise<void> {
  const due = performance.now() + httpDrainTimeout;
  const limit = due + forceCloseAfter;
  while (!cut.signal.aborted && !hurry.aborted && performance.now() < due) {
    await pause(Math.min(pollIntervalFor(0), due - performance.now()));
  }
  const old = tracker.requestsInFlight();
  const isCalm = () => {
    if (isClosing() || tracker.isAnyInFlight(old)) return false;
    return tracker.requestsInFlight().size === 0 || performance.now() >= due + forceCloseAfter / 2;
  };
  while (!cut.signal.aborted && !isCalm()) {
    if (performance.now() >= limit) cut.abort();
    else await pause(pollIntervalFor(tracker.requestsInFlight().size));
  }
  const { server } = tracker;
  const ended = cut.signal.aborted ? server.finished : server.shutdown();
  await settlesBy(ended, Math.max(limit, performance.now()) + forceCloseGrace);
  server.unref();
}

/** Binds to a path where there is no file: Deno has no call that tells whether a socket file is in use. */
function bindPath<T>(path: string, bind: () => T): T {
  try {
    return bind();
  } catch (cause) {
    if (!(cause instanceof Deno.errors.AddrInUse)) throw cause;
    const inUse = new Deno.errors.AddrInUse(
      `Cannot listen on ${
        formatPath(path)
      }: another instance is serving there, or has left its file ` +
        "behind: stop it, or remove the file",
    );
    throw Object.assign(inUse, { code: "EADDRINUSE", cause });
  }
}

/**
 * Returns the function that removes a path, if it still has the same file. `close()` of Deno does that from 2.7 on, not
 * before.
 */
function remover(path: string): () => void {
  const { dev, ino } = Deno.lstatSync(path);
  return () => {
    try {
      const now = Deno.lstatSync(path);
      if (now.dev === dev && now.ino === ino) Deno.removeSync(path);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  };
}

/** Overrides a method of one object. */
function redefine(object: object, name: string, value: (...args: never[]) => unknown): void {
  Object.defineProperty(object, name, { value, configurable: true });
}
