/**
 * One generation of a service: the public object, which connects the parts of its process. At any point in time one or
 * two generations of a service run, and one of them accepts.
 *
 * The new process's half of a handover is `takeover.ts`, the old one's `handover.ts`; `protocol.ts` has the frames and
 * the states. `ready` can be undone: the predecessor stops accepting, and keeps its sockets until the successor has
 * lived through its probation.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { quoted } from "../../ffi/quote.ts";
import {
  type DatagramListenAddress,
  type ListenAddress,
  splitListenAddress,
  type TcpListenAddress,
  type UnixListenAddress,
} from "../listen_address.ts";
import type { TlsOptions } from "../native/adopt.ts";
import type { ConnLike, NodeServer } from "../native/objects.ts";
import { findConn, type FoundConn } from "../native/conn_descriptor.ts";
import { pause } from "../time.ts";
import type { Channel } from "./channel.ts";
import type { Command } from "./command.ts";
import { healthOf } from "./health.ts";
import type { InheritedItem } from "./inheritance.ts";
import type { Settings } from "./options.ts";
import { type Origin, Parts } from "./parts.ts";
import type { Arrival } from "./predecessor.ts";
import { type GenerationStatus, maxNameLength } from "./protocol.ts";
import type { Restarted } from "./restart.ts";
import { serve, serveCall, type ServeTcpOptions, type ServeUnixOptions } from "./serve.ts";
import { checkKeepable, type Keepable, KeptValue } from "./state.ts";

/** The parts of a generation, for the preload module: its program has no generation to call. */
export let partsOf: (generation: Generation) => Parts;

/**
 * One running generation of a service. {@linkcode start} makes one.
 *
 * ```ts
 * import { Generation, start } from "@graceful/deno";
 *
 * const app: Generation = await start(`${await Deno.makeTempDir()}/app.sock`);
 * console.log("generation", app.generation);
 * await app.stop();
 * ```
 */
export class Generation implements AsyncDisposable {
  /** The control path. */
  readonly path: string;
  /** 1 for the first generation, and one more with each handover. */
  readonly generation: number;
  /** When `start()` made it. */
  readonly since: Date;
  /** Resolves when it was replaced and has drained, or was stopped; rejects when it was rolled back. */
  readonly finished: Promise<void>;
  readonly #parts: Parts;

  static {
    partsOf = (generation) => generation.#parts;
  }

  /** Use {@linkcode start}. */
  constructor(path: string, settings: Settings, origin: Origin) {
    this.path = path;
    this.generation = origin.generation;
    const parts = this.#parts = new Parts(path, settings, origin);
    this.since = parts.since;
    this.finished = parts.finished;
    parts.begin();
  }

  /**
   * Aborted when this generation drains: a program ends event streams and endless loops then. A listener that
   * throws or rejects is logged; a listener of a signal that is made of this one, with `AbortSignal.any`, must not
   * reject, which would be an unhandled rejection.
   */
  get draining(): AbortSignal {
    return this.#parts.draining.signal;
  }

  /**
   * Serves HTTP as `Deno.serve` does, on the inherited listener at the address or on a new one, from `ready()` on. The
   * first server of each generation listens where DENO_SERVE_ADDRESS says, if that is set, as that of `Deno.serve` does
   * since Deno 2.3. Binding an address that a killed generation has just used may block for a second.
   *
   * @throws {Deno.errors.AddrInUse} When a socket of another process listens there.
   * @throws {TypeError} When an option does not exist, or DENO_SERVE_ADDRESS is no address of TCP or unix.
   */
  serve(handler: Deno.ServeHandler<Deno.NetAddr>): Deno.HttpServer<Deno.NetAddr>;
  /** Serves HTTP on a unix path. */
  serve(
    options: ServeUnixOptions,
    handler: Deno.ServeHandler<Deno.UnixAddr>,
  ): Deno.HttpServer<Deno.UnixAddr>;
  /** Serves HTTP, or with a certificate HTTPS, on a TCP port. */
  serve(
    options: ServeTcpOptions | (ServeTcpOptions & Deno.TlsCertifiedKeyPem),
    handler: Deno.ServeHandler<Deno.NetAddr>,
  ): Deno.HttpServer<Deno.NetAddr>;
  /** Serves HTTP on a unix path, with the handler among the options. */
  serve(
    options: ServeUnixOptions & Deno.ServeInit<Deno.UnixAddr>,
  ): Deno.HttpServer<Deno.UnixAddr>;
  /** Serves HTTP, or with a certificate HTTPS, on a TCP port, with the handler among the options. */
  serve(
    options:
      & (ServeTcpOptions | (ServeTcpOptions & Deno.TlsCertifiedKeyPem))
      & Deno.ServeInit<Deno.NetAddr>,
  ): Deno.HttpServer<Deno.NetAddr>;
  // deno-lint-ignore no-explicit-any -- the overloads say which address belongs to which options
  serve(first: any, second?: any): Deno.HttpServer<any> {
    const call = serveCall(first, second);
    return serve(this.#parts.resources, call, this.#parts.isFirstServer());
  }

  /** Listens for TCP connections, on the inherited listener at the address or on a new one, from `ready()` on. */
  listen(options: TcpListenAddress): Deno.TcpListener;
  /** Listens for connections on a unix path. */
  listen(options: UnixListenAddress): Deno.UnixListener;
  /** Listens for connections. */
  listen(options: ListenAddress): Deno.Listener;
  listen(options: ListenAddress): Deno.Listener {
    const { address } = splitListenAddress<ListenAddress>("Cannot listen", options, {
      tcp: [],
      unix: [],
    });
    return this.#parts.resources.listener(address);
  }

  /** Listens for TLS connections, from `ready()` on; each generation may have another certificate. */
  listenTls(options: TcpListenAddress & TlsOptions): Deno.TlsListener {
    const { address, rest } = splitListenAddress<TcpListenAddress, TlsOptions>(
      "Cannot listen for TLS",
      options,
      { tcp: ["cert", "key", "keyFormat", "alpnProtocols"] },
    );
    return this.#parts.resources.listener(address, rest);
  }

  /**
   * Has a server of node:net, http, https or http2 listen, on the inherited listener at the address or on a new one. It
   * accepts from `ready()` on, and drains as the servers of `serve()` do; WebSockets of npm:ws get close frames. Returns
   * the server, which emits "listening" as after `listen()`. It takes Deno 2.8 or later.
   *
   * ```ts
   * import { createServer } from "node:http";
   * import { start } from "@graceful/deno";
   *
   * const app = await start(`${await Deno.makeTempDir()}/app.sock`);
   * const server = createServer((_request, response) => response.end("hello"));
   * app.listenNode(server, { hostname: "127.0.0.1", port: 0 }); // Express: createServer(express())
   * await app.ready();
   * const { port } = server.address() as { port: number };
   * console.log(await (await fetch(`http://127.0.0.1:${port}`)).text());
   * await app.stop();
   * ```
   *
   * @throws {Deno.errors.AddrInUse} When a socket of another process listens there.
   * @throws {TypeError} When it is no server of node's, or listens already.
   * @throws {UnsupportedRuntimeError} Before Deno 2.8.
   */
  listenNode<S extends NodeServer>(server: S, options: ListenAddress): S {
    const { address } = splitListenAddress<ListenAddress>("Cannot listen", options, {
      tcp: [],
      unix: [],
    });
    this.#parts.resources.node(address, server);
    return server;
  }

  /** Receives UDP or unix datagrams, from `ready()` on; needs `--unstable-net`. */
  listenDatagram(options: DatagramListenAddress): Deno.DatagramConn {
    const { address } = splitListenAddress<DatagramListenAddress>(
      "Cannot receive datagrams",
      options,
      { udp: [], unixpacket: [] },
    );
    return this.#parts.resources.datagram(address);
  }

  /**
   * Opens a file, or goes on with the one that the previous generation has open at that path: its offset is shared, its
   * lock is kept. Where the path names another file by now, that one is opened.
   */
  open(path: string, options: Deno.OpenOptions = {}): Deno.FsFile {
    return this.#parts.resources.file(path, options);
  }

  /**
   * Keeps a value for the next generation, under a name: a duplicate of anything that `sendListener`, `sendConn`,
   * `sendPacketConn` and `sendFile` take; or bytes (2 GiB at most), or a function that is called for them when
   * the next generation takes over.
   *
   * A connection goes to the next generation when this one drains: from then on nothing is read or written here, and
   * closing it ends nothing there. A listener of Deno's own on a unix path removes the path when it is closed:
   * {@linkcode Generation.listen} makes one that does not.
   *
   * @throws {NoDescriptorError} When its descriptor cannot be told for certain, or it is a TLS connection: its
   * keys live in this process.
   */
  keep(name: string, value: Keepable): void {
    checkKeepable(name, value);
    if (name.length > maxNameLength) {
      throw new RangeError(
        `Cannot keep something under a name of ${name.length} characters: it may have ${maxNameLength}`,
      );
    }
    const { kept: all, logger } = this.#parts;
    const kept = KeptValue.of(name, value, (error) => {
      if (all.get(name) !== kept) return;
      all.delete(name);
      logger.error?.(
        `Cannot keep ${quoted(name)}; the next generation does not get it`,
        error,
      );
    });
    all.get(name)?.[Symbol.dispose]();
    all.set(name, kept);
  }

  /** Gives, once, what the previous generation kept under that name: bytes, or a descriptor that is the caller's. */
  take(name: string): Fd | Uint8Array | undefined {
    const { inheritance } = this.#parts;
    return inheritance.takeState(name) ?? inheritance.take("kept", name)?.fd;
  }

  /**
   * The inherited items that this generation has not asked for: they are closed at the end of the probation. A
   * program that does not know its addresses beforehand, such as a proxy with a listener for each customer,
   * finds them here.
   */
  get inherited(): InheritedItem[] {
    return this.#parts.inheritance.items();
  }

  /**
   * Resolves when the previous generation has ended; at once for the first one. Rejects when this generation ends
   * before, or is rolled back.
   */
  get alone(): Promise<void> {
    return this.#parts.takeover?.alone ?? Promise.resolve();
  }

  /**
   * `Deno.upgradeWebSocket`, for sockets that are closed when this generation drains: with code 1012, "service restart",
   * and spread over time. Messages that were sent before are sent to the end. A message that the client sends
   * before it has read the Close frame is not delivered: no answer to it could be sent.
   */
  upgradeWebSocket(
    request: Request,
    options?: Deno.UpgradeWebSocketOptions,
  ): Deno.WebSocketUpgrade {
    return this.#parts.webSockets.upgrade(request, options);
  }

  /**
   * Moves a connection to the next generation while this one is draining; resolves to false when there is no next
   * generation, or it has ended. From the call on nothing is read or written here, and a pending read rejects.
   * Unread bytes move with the connection; bytes that were read go along as `state`: a function is called for
   * them after a read that had just ended has been noticed.
   */
  async move(
    name: string,
    conn: ConnLike,
    state?: Uint8Array | (() => Uint8Array),
  ): Promise<boolean> {
    const { lifecycle, successor, moves, logger } = this.#parts;
    if (!successor || lifecycle.state !== "draining") return false;
    const moving = move(successor.channel, name, findConn(conn), state);
    moves.add(moving);
    try {
      return await moving;
    } catch (error) {
      logger.error?.("Cannot move a connection", error);
      return false;
    } finally {
      moves.delete(moving);
    }
  }

  /** The connections that the previous generation moves here, until it has ended. */
  async *arrivals(): AsyncGenerator<Arrival> {
    const { takeover } = this.#parts;
    if (takeover) yield* takeover.predecessor.arrivals();
  }

  /**
   * Accepts from here on, and has the previous generation stop accepting; resolves when that has. To be called after
   * `serve()` and `listen()`: an inherited socket that is not asked for is closed at the end of the probation, with a
   * warning. If this generation is stopped meanwhile, it resolves when it has ended.
   *
   * @throws {HandoverError} When the previous generation has not waited for it, and goes on.
   */
  async ready(): Promise<void> {
    await this.#parts.ready();
  }

  /**
   * Starts the next generation and waits for the outcome: it has taken over and lived through its probation, or
   * it has failed and this one goes on.
   *
   * @param command What to start in place of this process's own command.
   * @throws {HandoverError} When it failed; the message says how, and has the last output of its process.
   */
  async restart(command?: Command): Promise<Restarted> {
    return await this.#parts.restarts.restart(command);
  }

  /**
   * Stops the service: accepts no more, answers what is under way, and removes the control socket. A next generation
   * that is not ready gets nothing. A next generation that is ready goes on, and this one drains; if it
   * drains already, idle clients are not waited for any more.
   */
  async stop(): Promise<void> {
    await this.#parts.departure.stop();
  }

  /** {@linkcode Generation.stop} */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /**
   * The answer to a health check of a load balancer: 200 while this generation accepts, or another one does in its place;
   * 503 before `ready()`, and from a signal of `stopOn` or a `stop()` on. The body is a line: the state, as `status()` has
   * it, or "stopping" in `stopDelay`. The boolean is `health().ok`.
   *
   * ```ts
   * import { start } from "@graceful/deno";
   *
   * const app = await start(`${await Deno.makeTempDir()}/app.sock`, { stopDelay: 10_000 });
   * app.serve({ hostname: "127.0.0.1", port: 0 }, ({ url }) => {
   *   return new URL(url).pathname === "/health" ? app.health() : new Response("hello");
   * });
   * await app.ready();
   * console.log(app.health().ok, await app.health().text()); // true "serving\n"
   * await app.stop();
   * console.log(app.health().ok, app.health().status); // false 503
   * ```
   */
  health(): Response {
    return healthOf(this.#parts);
  }

  /** The state of this generation, its sockets and what it keeps. */
  status(): GenerationStatus {
    return this.#parts.status();
  }
}

/** Sends a connection to the next generation; resolves to true when it was sent. */
async function move(
  channel: Channel,
  name: string,
  { fd, detach, closeHere }: FoundConn,
  state: Uint8Array | (() => Uint8Array) | undefined,
): Promise<boolean> {
  using _fd = fd;
  try {
    detach();
    await pause(0);
    const meta = typeof state === "function" ? state() : state;
    await channel.send({ type: "moved", name }, { descriptors: [{ fd, meta }] });
    return true;
  } finally {
    closeHere();
  }
}
