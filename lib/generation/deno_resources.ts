/**
 * What a generation has open on a system that passes no descriptors: the sockets and files of Deno's own
 * calls. Clients see what they see of {@linkcode Resources}, as far as Deno lets them.
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
import { closeNative } from "../unix/listener.ts";
import type { DatagramListenAddress, ListenAddress, TcpListenAddress } from "../listen_address.ts";
import {
  type AnyResources,
  type LeaveOptions,
  listenTcp,
  listenUdp,
  type ResourceOptions,
  whenClosed,
} from "./resources.ts";
import { type HttpHandler, HttpTracker } from "../http/tracker.ts";

/** A socket or file of a generation. */
interface Resource {
  kind: "listener" | "datagram" | "file";
  /** Where it is. */
  name: string;
  /** How many connections are known to be open: of HTTP, those on which a request is being answered. */
  connections(): number;
  /** Tells the clients to leave from here on. */
  shut?(): void;
  /** Accepts no more, for good. */
  release?(): void;
  /** Waits for the clients, and closes it. */
  leave?(options: LeaveOptions): Promise<void>;
}

/** Sockets and files that no other process gets; nothing is answered before `open()`. */
export class DenoResources implements AnyResources {
  readonly #onSocket: ResourceOptions["onSocket"];
  readonly #all = new Set<Resource>();
  readonly #opened = Promise.withResolvers<void>();
  #isOpen = false;
  #hasLeft = false;
  /** What was there at the moment in which it was shut. */
  #leaving: Resource[] = [];

  /** Tells of each socket that is made. */
  constructor({ onSocket }: Pick<ResourceOptions, "onSocket">) {
    this.#onSocket = onSocket;
  }

  /**
   * Serves HTTP at `place`. The server accepts before `open()`, which Deno leaves no choice in: requests
   * wait for that.
   */
  http(
    place: ListenAddress,
    { onListen, onError = internalServerError, signal, ...options }: ServeHttpOptions,
    handler: HttpHandler,
  ): Deno.HttpServer {
    const isTls = options.cert !== undefined;
    const cut = new AbortController();
    // deno-lint-ignore no-explicit-any -- the overloads of Deno.serve tell TCP, TLS and unix apart
    const serveAny = Deno.serve as any;
    const [tracker, removePath] = this.#bind(
      place,
      (where) =>
        new HttpTracker({ handler, onError, isTls }, (handle, handleError) =>
          serveAny(
            {
              ...options,
              ...where,
              ..."backlog" in where && { tcpBacklog: where.backlog },
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
    // Every answer is tracked: whether one is under way, no look at its connection tells.
    tracker.trackClients();
    const drop = this.#add({
      kind: "listener",
      name: formatAddress(server.addr as Address),
      connections: () => tracker.requestsInFlight().size,
      shut: () => tracker.announceClose(),
      leave: async (options) => {
        // No request was answered yet: there is nothing to wait for.
        if (!this.#isOpen) cut.abort();
        await finish(tracker, cut, options);
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

  /** Listens at `place`, for TLS where that is asked for; nothing is accepted before `open()`. */
  listener(place: ListenAddress): Deno.Listener;
  listener(place: TcpListenAddress, tls: TlsOptions): Deno.TlsListener;
  listener(place: ListenAddress, tls?: TlsOptions): Deno.Listener {
    const [listener, removePath] = this.#bind<Deno.Listener>(place, (where) => {
      if ("path" in where) return Deno.listen({ transport: "unix", path: where.path });
      if (!tls) return listenTcp(where);
      // deno-lint-ignore no-explicit-any -- a certificate is two texts, or whatever Deno takes beside
      return Deno.listenTls({ ...where, tcpBacklog: where.backlog, ...tls } as any);
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
        // The socket is closed when this generation begins to leave; for the program, when it has left.
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
      leave: async (options) => {
        await accepted.leave(options);
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

  /** Receives datagrams at `place`, from `open()` on. */
  datagram(place: DatagramListenAddress): Deno.DatagramConn {
    checkDatagrams();
    const [socket, removePath] = this.#bind<Deno.DatagramConn, DatagramListenAddress>(
      place,
      (where) =>
        "path" in where
          ? Deno.listenDatagram({ transport: "unixpacket", path: where.path })
          : listenUdp(where),
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
      leave: async () => {
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
    const before = [...this.#all].find(({ kind, name }) => kind === "file" && name === path);
    if (before) this.#all.delete(before);
    whenClosed(file, this.#add({ kind: "file", name: path, connections: () => 0 }));
    return file;
  }

  /** Binds with one of Deno's calls, and gives a path its mode; gives what removes the path, too. */
  #bind<T, P extends ListenAddress | DatagramListenAddress = ListenAddress>(
    place: P,
    bind: (place: P) => T,
    close: (bound: T) => void,
  ): [bound: T, removePath: () => void] {
    if (this.#hasLeft) {
      throw new TypeError("Cannot listen: this generation has left, or is leaving");
    }
    if (!("path" in place)) {
      return [bind({ ...place, hostname: place.hostname ?? "0.0.0.0" }), () => {}];
    }
    const { path, mode = 0o600 } = place;
    const bound = bindPath(path, () => bind(place));
    try {
      const removePath = remover(path);
      Deno.chmodSync(path, mode);
      return [bound, removePath];
    } catch (error) {
      close(bound);
      throw error;
    }
  }

  /** Gives what lets go of it, when its owner has closed it. */
  #add(resource: Resource, removePath = () => {}): () => void {
    this.#all.add(resource);
    if (resource.kind !== "file") this.#onSocket(resource.name, false);
    return () => {
      if (this.#all.delete(resource)) removePath();
    };
  }

  /** Nothing: there is no next generation. */
  offered(): [] {
    return [];
  }

  /** Nothing: a path that was removed stays removed. */
  restorePaths(): [] {
    return [];
  }

  /** Answers and accepts from here on. */
  open(): void {
    this.#isOpen = true;
    this.#opened.resolve();
  }

  /** Nothing to do: clients are watched from the start. */
  watch(): void {}

  /** Tells clients to leave. Servers accept until `leave()`, for Deno ends that together with the rest. */
  shut(): void {
    this.#leaving = [...this.#all];
    for (const { shut } of this.#leaving) shut?.();
  }

  /** Closes what can be closed while its connections go on. */
  release(): void {
    this.#hasLeft = true;
    using each = new DisposableStack();
    for (const { release } of this.#all) if (release) each.defer(release);
  }

  /** Waits until the clients have left, cuts off those that do not, and closes everything. */
  async leave(options: LeaveOptions): Promise<void> {
    const all = [...this.#all].map(({ leave }) => leave?.(options));
    const failed = (await Promise.allSettled(all)).find(({ status }) => status === "rejected");
    for (const resource of this.#all) if (resource.leave) this.#all.delete(resource);
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }

  /** How many connections are left. */
  get left(): number {
    return this.#leaving.reduce((sum, { connections }) => sum + connections(), 0);
  }

  /** Every socket, as it is told to who asks. */
  sockets(): SocketStatus[] {
    return [...this.#all].flatMap(({ kind, name, connections }) =>
      kind === "file" ? [] : [{ kind, address: name, connections: connections() }]
    );
  }

  /** Where every listener and datagram socket is bound. */
  addresses(): string[] {
    return [...this.#all].flatMap(({ kind, name }) => kind === "file" ? [] : [name]);
  }

  /** The paths of every file. */
  files(): string[] {
    return [...this.#all].flatMap(({ kind, name }) => kind === "file" ? [name] : []);
  }
}

/** The connections that a listener has accepted, as long as they are open. */
class Accepted {
  readonly #open = new Set<Deno.Conn>();
  /** Those that are being written to, to see whether they are open. */
  readonly #asked = new Set<Deno.Conn>();
  #count = 0;

  /** How many are not known to be closed. */
  get size(): number {
    return this.#open.size;
  }

  add(conn: Deno.Conn): void {
    this.#open.add(conn);
    whenClosed(conn, () => this.#open.delete(conn));
    if (++this.#count % lookEvery === 0) this.#look();
  }

  /** Writes nothing to each: that a connection was closed by way of its streams, an error alone tells. */
  #look(): void {
    for (const conn of this.#open) {
      if (this.#asked.has(conn)) continue;
      this.#asked.add(conn);
      const { BadResource, Interrupted } = Deno.errors;
      conn.write(new Uint8Array(0)).catch((error) => {
        const isClosed = error instanceof BadResource || error instanceof Interrupted;
        if (isClosed) this.#open.delete(conn);
      }).finally(() => this.#asked.delete(conn));
    }
  }

  /** Waits until all are closed, and closes those that are not in time. */
  async leave({ drainTimeout, forceCloseAfter, hurry }: LeaveOptions): Promise<void> {
    await this.#untilClosed(drainTimeout, hurry);
    await this.#untilClosed(forceCloseAfter);
    for (const conn of this.#open) closeNative(conn);
  }

  async #untilClosed(milliseconds: number, hurry?: AbortSignal): Promise<void> {
    const end = performance.now() + milliseconds;
    for (;;) {
      const now = performance.now();
      if (this.size === 0 || now >= end || hurry?.aborted) return;
      this.#look();
      await pause(Math.min(pollIntervalFor(this.size), end - now));
    }
  }
}

/** How many more connections make it worth a look at which of them are still open. */
const lookEvery = 1000;

/**
 * Has clients leave by what they are answered, and shuts the server down when none is being answered, or
 * after half of `forceCloseAfter` none of those that were at the deadline. A server that is shut down cannot be
 * cut any more (Deno 2.9.6: the signal's listener throws BadResource): what is under way at the end is cut
 * without.
 */
async function finish(
  tracker: HttpTracker,
  cut: AbortController,
  { httpDrainTimeout, forceCloseAfter, hurry, isClosing }: LeaveOptions,
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

/** Binds to a path where there is no file: whether a socket file there is still in use cannot be told. */
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

/** Gives what removes a path, if it is still that of the same file: Deno does from 2.7 on, not before. */
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

/** Gives an object a method of its own in place of that of its class. */
function redefine(object: object, name: string, value: (...args: never[]) => unknown): void {
  Object.defineProperty(object, name, { value, configurable: true });
}
