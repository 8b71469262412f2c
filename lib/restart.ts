/**
 * Generations of a service: each takes everything over from the one before it, and at any point in
 * time one or two of them run, one of which accepts.
 *
 * What can be undone happens at `ready`: the old generation stops accepting, and keeps its sockets.
 * What cannot be undone happens when the new one has lived on for the probation, and says `healthy`.
 * Until then its death makes the old one accept again.
 *
 * @module
 */

import { dup, Fd, replace } from "../ffi/fd.ts";
import { lockFile } from "../ffi/file.ts";
import { pause } from "../ffi/poll.ts";
import { type Address, formatAddress, formatPath } from "../ffi/sockaddr.ts";
import { isBound, localAddress } from "../ffi/socket.ts";
import { fdFile, fdListener, fdPacketConn, type TlsOptions } from "./adopt.ts";
import { capture, keep as keepSlot, prepare } from "./capture.ts";
import { Channel, type Passed } from "./channel.ts";
import { receiveAllFrom } from "./client.ts";
import { connect, type PeerCheck, sameUserOrRoot, type UnixConn } from "./conn.ts";
import { type ConnLike, fileDescriptor, findConn, type FoundConn } from "./descriptor.ts";
import {
  census,
  checkDrainOptions,
  type Clients,
  clientsOf,
  countConnections,
  type DrainOptions,
  finish,
} from "./drain.ts";
import { HandoverError, PeerNotAllowedError } from "./errors.ts";
import { type Frame, type OfferedItem, protocolVersion, type Status } from "./frame.ts";
import { Gate } from "./gate.ts";
import {
  type HttpHandler,
  serveHttp,
  type ServeHttpOptions,
  type Serving,
  servingOf,
} from "./http.ts";
import { Inheritance, keyOf, type Place, type TcpPlace, type UnixPlace } from "./inheritance.ts";
import { listen, UnixListener } from "./listener.ts";
import { checkDuration, type Logger } from "./response.ts";
import { type Command, ownCommand, Successor } from "./successor.ts";

/** Options of {@linkcode start}. Durations are in milliseconds. */
export interface StartOptions extends DrainOptions {
  /** How long a successor may take from the offer to `ready()`. @default {60_000} */
  readyTimeout?: number;
  /**
   * How long this generation is to live after `ready()` before its predecessor lets go: if it dies
   * earlier, the predecessor accepts again. @default {5000}
   */
  probation?: number;
  /** How long the other generation may take for an answer. @default {10_000} */
  answerTimeout?: number;
  /** Signals that stop the service, gracefully; the second one of a kind ends the process. @default {["SIGTERM", "SIGINT"]} */
  stopOn?: Deno.Signal[];
  /** Signals that restart it. @default {none} */
  restartOn?: Deno.Signal[];
  /** What `restart()` starts. @default {the command and arguments of this process} */
  command?: Command;
  /**
   * A control socket of a plain `serve()`, here or in the Go library: where no generation runs yet,
   * its listeners are what the first one inherits.
   */
  predecessor?: string;
  /** Permissions of the control socket. @default {0o600} */
  mode?: number;
  /** Asked about whoever connects, and about whoever is connected to. @default {those of the same user, and of root} */
  allow?: PeerCheck;
  /** Where to log each phase, with its duration. @default {the console: errors alone} */
  logger?: Logger;
  /** Ends the wait for the generation that runs. */
  signal?: AbortSignal;
}

/** Options of {@linkcode Generation.serve}. */
export interface ServeOptions extends ServeHttpOptions {
  /** The address or name to bind to. @default {"0.0.0.0"} */
  hostname?: string;
  /** The port; with 0 the first generation gets a free one. @default {8000} */
  port?: number;
  /** Whether other sockets may listen there too. @default {false} */
  reusePort?: boolean;
  /** A unix path to listen on, in place of hostname and port. */
  path?: string;
  /** Permissions of that path. @default {0o600} */
  mode?: number;
}

/** What can be kept under a name. */
export type Keepable = Fd | number | Deno.FsFile | Uint8Array | (() => Uint8Array);

/** A connection that moved here from the generation before. */
export interface Arrival {
  /** The name it was moved under. */
  name: string;
  /** The connection: `fdConn` makes it a native one. */
  fd: Fd;
  /** What the other generation had read, or knows of it. */
  state: Uint8Array | null;
}

/**
 * Starts a generation of the service whose control socket is `path`: takes over from the one that
 * runs there, or is the first.
 *
 * ```ts
 * import { start } from "@graceful/deno";
 *
 * const app = await start(`${await Deno.makeTempDir()}/app.sock`); // "/run/app.sock"
 * app.serve({ hostname: "127.0.0.1", port: 0 }, () => new Response("hello"));
 * await app.ready();
 * console.log("generation", app.generation, "accepts");
 * await app.stop(); // in a service: await app.finished
 * ```
 *
 * @throws {HandoverError} When the running generation refuses, or does not answer.
 * @throws {PeerNotAllowedError} When another user's process has the path.
 */
export async function start(path: string, options: StartOptions = {}): Promise<Generation> {
  checkDrainOptions(options);
  for (const name of ["readyTimeout", "probation", "answerTimeout"] as const) {
    checkDuration(name, options[name] ?? 0);
  }
  const { answerTimeout = 10_000, allow = sameUserOrRoot, mode, signal } = options;
  const began = performance.now();
  for (let delay = 5;; delay = Math.min(2 * delay, 200)) {
    const taken = await takePath(path, { allow, mode, signal });
    if (taken instanceof UnixListener) return await first(path, taken, options);
    const channel = new Channel(taken);
    try {
      logPhase(options.logger, "connected", began);
      await channel.send({ type: "hello", version: protocolVersion, pid: Deno.pid });
      logPhase(options.logger, "asked", began);
      prepare();
      const answer = await channel.receive({ timeout: answerTimeout, signal });
      if (answer?.type === "offer") return await takeOver(path, channel, answer, options, began);
      channel[Symbol.dispose]();
      // It has died, or is about to leave, or has another successor: there will be another answer.
      if (answer?.type !== "refused") {
        if (answer) throw unexpected(answer);
      } else if (answer.code === "version") {
        throw new HandoverError(`Cannot take over: ${answer.reason}`, "ERR_HANDOVER_VERSION");
      } else {
        options.logger?.debug?.(`Waiting to take over: ${answer.reason}`);
      }
    } catch (error) {
      channel[Symbol.dispose]();
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
    }
    await pause(delay, signal);
  }
}

function unexpected(frame: Frame): HandoverError {
  return new HandoverError(
    `A frame of type "${frame.type}" was not expected`,
    "ERR_HANDOVER_PROTOCOL",
  );
}

/** Connects to the generation that runs at `path`, or listens there if none does. */
async function takePath(
  path: string,
  { allow, mode, signal }: { allow: PeerCheck; mode?: number; signal?: AbortSignal },
): Promise<UnixConn | UnixListener> {
  using _lock = await locked(`${path}.lock`, signal);
  try {
    return await connect(path, { allow, signal });
  } catch (error) {
    const { NotFound, ConnectionRefused } = Deno.errors;
    if (!(error instanceof NotFound || error instanceof ConnectionRefused)) throw error;
    return listen(path, { mode, replace: true });
  }
}

/** Two that start at once do so one after the other. */
async function locked(path: string, signal: AbortSignal | undefined): Promise<Fd> {
  for (;;) {
    const raw = lockFile(path, `Cannot lock ${formatPath(path)}`);
    if (raw !== undefined) return new Fd(raw);
    await pause(5, signal);
  }
}

async function first(
  path: string,
  control: UnixListener,
  options: StartOptions,
): Promise<Generation> {
  using started = new DisposableStack();
  started.use(control);
  const inheritance = started.use(new Inheritance());
  let foreign: UnixConn | undefined;
  if (options.predecessor !== undefined) {
    foreign = await receiveForeign(options.predecessor, inheritance, options);
    if (foreign) started.use(foreign);
  }
  started.move();
  return new Generation(path, options, { generation: 1, control, inheritance, foreign });
}

/** Takes what a plain server sends; resolves to the connection, by whose end it learns of the start. */
async function receiveForeign(
  path: string,
  inheritance: Inheritance,
  { allow, signal }: StartOptions,
): Promise<UnixConn | undefined> {
  let conn: UnixConn;
  try {
    conn = await connect(path, { allow, signal });
  } catch (error) {
    const { NotFound, ConnectionRefused } = Deno.errors;
    if (error instanceof NotFound || error instanceof ConnectionRefused) return undefined;
    throw error;
  }
  try {
    await receiveAllFrom(conn, (fd, meta) => {
      const { donor } = fd;
      const name = meta ? new TextDecoder().decode(meta) : "";
      inheritance.addForeign(new Fd(fd.take(), donor), name);
    }, { signal });
    return conn;
  } catch (error) {
    conn.close();
    throw error;
  }
}

async function takeOver(
  path: string,
  channel: Channel,
  offer: Frame & { type: "offer" },
  options: StartOptions,
  began: number,
): Promise<Generation> {
  using taken = new DisposableStack();
  const inheritance = taken.use(new Inheritance());
  const { answerTimeout = 10_000 } = options;
  const late = AbortSignal.timeout(answerTimeout);
  const signal = options.signal ? AbortSignal.any([options.signal, late]) : late;
  const states: Uint8Array[] = [];
  for (const { bytes } of offer.items) {
    if (bytes !== undefined) states.push(await channel.receiveBytes(bytes, { signal }));
  }
  const withDescriptor = offer.items.filter(({ bytes }) => bytes === undefined);
  const received = await channel.receiveDescriptors(withDescriptor.length, offer.pid, { signal });
  for (const item of offer.items) {
    if (item.bytes !== undefined) inheritance.add({ item, state: states.shift() });
    else inheritance.add({ item, fd: received.shift()!.fd });
  }
  const passed = inheritance.take("control", "");
  if (!passed) {
    throw new HandoverError("The offer is without a control socket", "ERR_HANDOVER_PROTOCOL");
  }
  const control = new UnixListener(taken.use(passed.fd!), path);
  taken.move();
  const { pid, generation } = offer;
  logPhase(options.logger, "inherited", began, { generation: generation + 1, predecessor: pid });
  return new Generation(path, options, {
    generation: generation + 1,
    control,
    inheritance,
    predecessor: { channel, pid, generation },
  });
}

/** How a generation came to be. */
interface Origin {
  generation: number;
  control: UnixListener;
  inheritance: Inheritance;
  predecessor?: { channel: Channel; pid: number; generation: number };
  foreign?: UnixConn;
}

/** A socket or file that the next generation is to have. */
interface Resource {
  item: OfferedItem;
  fd: Fd;
  gate?: Gate;
  serving?: Serving;
  /** What the kernel says that it is bound to. */
  address?: Address;
  /** Who removes its path, if it has one. */
  unix?: UnixListener;
  close(): void;
}

/** What was found out of the generation before. */
interface Predecessor {
  channel: Channel;
  pid: number;
  generation: number;
  connections: number;
  /** Resolves when it has stopped accepting, or ended; rejects when it has taken the offer back. */
  withdrawn: PromiseWithResolvers<void>;
  gone: boolean;
}

/** A restart that somebody waits for. */
interface Attempt {
  successor: Successor;
  /** Whether it has come to take over: from then on the handover has limits of its own. */
  asked: boolean;
  outcome: PromiseWithResolvers<{ pid: number; generation: number }>;
}

/**
 * One running process of a service. {@linkcode start} makes one.
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
  /** The control socket. */
  readonly path: string;
  /** 1 for the first, and one more for each that took over. */
  readonly generation: number;
  /** When it began. */
  readonly since: Date = new Date();
  /** Resolves when it was replaced and has drained, or was stopped; rejects when it was rolled back. */
  readonly finished: Promise<void>;
  readonly #options: StartOptions;
  readonly #logger: Logger;
  readonly #finished = Promise.withResolvers<void>();
  readonly #draining = new AbortController();
  readonly #control: UnixListener;
  readonly #inheritance: Inheritance;
  readonly #predecessor: Predecessor | undefined;
  readonly #foreign: UnixConn | undefined;
  readonly #resources = new Set<Resource>();
  readonly #kept = new Map<string, Fd | (() => Uint8Array)>();
  readonly #sockets = new Set<WebSocket>();
  readonly #moves = new Set<Promise<boolean>>();
  readonly #arrivals: Arrival[] = [];
  readonly #signals = new Map<Deno.Signal, () => void>();
  #arrived = Promise.withResolvers<void>();
  #arriving: boolean;
  #state: Status["state"] = "starting";
  /** Aborted when it is no longer the one that answers at the control socket. */
  #answering = new AbortController();
  #probation: AbortController | undefined;
  #successor: { channel: Channel; pid: number } | undefined;
  #attempt: Attempt | undefined;
  #stopping = false;
  /** Who was connected at the moment in which it stopped accepting. */
  #clients: Promise<Map<Resource, Clients>> | undefined;

  /** Use {@linkcode start}. */
  constructor(path: string, options: StartOptions, origin: Origin) {
    this.path = path;
    this.generation = origin.generation;
    this.finished = this.#finished.promise;
    // It is logged; that nobody waits for it must not end the process.
    this.finished.catch(() => {});
    this.#options = options;
    this.#logger = options.logger ?? { error: console.error };
    this.#control = origin.control;
    this.#inheritance = origin.inheritance;
    this.#foreign = origin.foreign;
    this.#arriving = origin.predecessor !== undefined;
    if (origin.predecessor) {
      this.#predecessor = {
        ...origin.predecessor,
        connections: 0,
        withdrawn: Promise.withResolvers(),
        gone: false,
      };
      this.#predecessor.withdrawn.promise.catch(() => {});
      void this.#follow(this.#predecessor);
    } else {
      // Whoever comes before it is ready is told so.
      void this.#answer();
    }
    this.#listenToSignals();
  }

  /**
   * Aborted when this generation has to leave for good: what does not end by itself, event streams and
   * loops, is to end then.
   */
  get draining(): AbortSignal {
    return this.#draining.signal;
  }

  /**
   * Serves HTTP, on the listener of the generation before or on a new one, from `ready()` on: a real
   * `Deno.HttpServer`, with the options of `Deno.serve`.
   *
   * @throws {Deno.errors.AddrInUse} When somebody else listens there.
   */
  serve(handler: HttpHandler): Deno.HttpServer;
  /** Serves HTTP, with options. */
  serve(options: ServeOptions, handler: HttpHandler): Deno.HttpServer;
  serve(optionsOrHandler: ServeOptions | HttpHandler, maybeHandler?: HttpHandler): Deno.HttpServer {
    const [options, handler] = typeof optionsOrHandler === "function"
      ? [{}, optionsOrHandler]
      : [optionsOrHandler, maybeHandler];
    if (typeof handler !== "function") throw new TypeError("Cannot serve HTTP without a handler");
    const { hostname, port = 8000, reusePort, path, mode, onListen, ...rest } = options;
    const place = path === undefined ? { hostname, port, reusePort } : { path, mode };
    const server = this.#own(place, (fd) => {
      const server = serveHttp(fd, rest, handler);
      return { object: server, serving: servingOf(server), close: () => void server.shutdown() };
    });
    onListen?.(server.addr);
    return server;
  }

  /** Listens for TCP or unix connections, from `ready()` on. */
  listen(place: TcpPlace | UnixPlace): Deno.Listener {
    return this.#own(place, (fd) => {
      const listener = fdListener(fd);
      return { object: listener, close: () => listener.close() };
    });
  }

  /** Listens for TLS connections, from `ready()` on; the certificate may be another one each time. */
  listenTls(options: TcpPlace & TlsOptions): Deno.TlsListener {
    const { cert, key, alpnProtocols, ...place } = options;
    const tls = alpnProtocols ? { cert, key, alpnProtocols } : { cert, key };
    return this.#own(place, (fd) => {
      const listener = fdListener(fd, tls);
      return { object: listener, close: () => listener.close() };
    });
  }

  /** Receives UDP datagrams, from `ready()` on; needs `--unstable-net`. */
  listenDatagram(place: TcpPlace): Deno.DatagramConn {
    const inherited = this.#inheritance.takeBound("datagram", place);
    using fd = inherited?.fd ?? this.#bind(() => bindUdp(place));
    const socket = fdPacketConn(fd.dup());
    this.#add(socket, {
      item: { kind: "datagram", key: keyOf(place) },
      fd: fd.dup(),
      close: () => socket.close(),
    });
    return socket;
  }

  /**
   * Opens a file, or goes on with the one that the generation before has open at that path: its offset
   * is shared, its lock is kept.
   */
  open(path: string, options: Deno.OpenOptions = {}): Deno.FsFile {
    const inherited = this.#inheritance.take("file", path);
    const file = inherited ? fdFile(inherited.fd!) : Deno.openSync(path, options);
    this.#resources.add({
      item: { kind: "file", key: path },
      fd: fileDescriptor(file),
      close: () => {},
    });
    return file;
  }

  /**
   * Keeps something for the next generation, under a name: a descriptor, which stays the caller's, or
   * bytes, or a function that is asked for them when the next generation comes.
   */
  keep(name: string, value: Keepable): void {
    const before = this.#kept.get(name);
    if (before instanceof Fd) before[Symbol.dispose]();
    if (typeof value === "function") this.#kept.set(name, value);
    else if (value instanceof Uint8Array) this.#kept.set(name, () => value);
    else if (value instanceof Fd) this.#kept.set(name, value.dup());
    else if (typeof value === "number") this.#kept.set(name, new Fd(dup(value)));
    else this.#kept.set(name, fileDescriptor(value));
  }

  /** What the generation before kept under that name, once: bytes, or a descriptor that is the caller's. */
  take(name: string): Fd | Uint8Array | undefined {
    return this.#inheritance.take("state", name)?.state ?? this.#inheritance.take("kept", name)?.fd;
  }

  /**
   * `Deno.upgradeWebSocket`, for sockets that are to be closed when this generation leaves: with code
   * 1012, "service restart", and not all at once.
   */
  upgradeWebSocket(
    request: Request,
    options?: Deno.UpgradeWebSocketOptions,
  ): Deno.WebSocketUpgrade {
    const upgrade = Deno.upgradeWebSocket(request, options);
    const { socket } = upgrade;
    this.#sockets.add(socket);
    socket.addEventListener("close", () => this.#sockets.delete(socket));
    return upgrade;
  }

  /**
   * Moves a connection to the next generation while this one is draining; resolves to false when
   * there is none, or it has gone. From the call on nothing is read or written here, and a read that
   * waits rejects; what was not read moves with the connection. What was, goes along as `state`: a
   * function is asked for it when a read that had just ended has been noticed.
   */
  async move(
    name: string,
    conn: ConnLike,
    state?: Uint8Array | (() => Uint8Array),
  ): Promise<boolean> {
    if (!this.#successor || this.#state === "stopped") return false;
    const moving = this.#move(this.#successor.channel, name, findConn(conn), state);
    this.#moves.add(moving);
    try {
      return await moving;
    } catch (error) {
      this.#logger.error?.("Cannot move a connection", error);
      return false;
    } finally {
      this.#moves.delete(moving);
    }
  }

  async #move(
    channel: Channel,
    name: string,
    { fd, detach, leave }: FoundConn,
    state: Uint8Array | (() => Uint8Array) | undefined,
  ): Promise<boolean> {
    using _fd = fd;
    try {
      detach();
      await pause(0);
      const meta = typeof state === "function" ? state() : state;
      await channel.send({ type: "moved", name }, [], [{ fd, meta }]);
      return true;
    } finally {
      leave();
    }
  }

  /** The connections that the generation before moves here, until it has left. */
  async *arrivals(): AsyncGenerator<Arrival> {
    for (;;) {
      const arrival = this.#arrivals.shift();
      if (arrival) {
        using _fd = arrival.fd;
        yield arrival;
      } else if (this.#arriving) {
        await this.#arrived.promise;
      } else {
        return;
      }
    }
  }

  /**
   * Says that this generation is ready: it accepts from here on, and the one before it stops.
   * Resolves when that has; what was inherited and not asked for is closed.
   *
   * @throws {HandoverError} When the one before has not waited for it, and goes on.
   */
  async ready(): Promise<void> {
    if (this.#state !== "starting") {
      throw new TypeError(`Cannot be ready: this generation is ${this.#state}`);
    }
    const began = performance.now();
    const predecessor = this.#predecessor;
    if (predecessor) await this.#commit(predecessor, began);
    else this.#accept();
    // It may have been stopped meanwhile.
    if (this.#hasLeft) return;
    if (predecessor) {
      // Before the first answer: there is no other handover before it has proved itself.
      if (!predecessor.gone) this.#probation = new AbortController();
      void this.#answer();
    }
    // Whoever sent the first listeners learns from the end of the connection that they are served.
    this.#foreign?.[Symbol.dispose]();
    this.#log("ready", began, predecessor ? { predecessor: predecessor.pid } : {});
    if (this.#probation) void this.#prove(predecessor!, this.#probation.signal);
    else this.#closeUnclaimed();
  }

  #accept(): void {
    this.#takeStreams();
    this.#state = "serving";
    for (const { gate } of this.#resources) gate?.open();
  }

  #closeUnclaimed(): void {
    const unclaimed = this.#inheritance.clear();
    if (unclaimed.length === 0) return;
    this.#logger.info?.(`Closed what was inherited and not asked for: ${unclaimed.join(", ")}`);
  }

  /** Accepts, tells the generation before, and waits until it has stopped accepting. */
  async #commit(predecessor: Predecessor, began: number): Promise<void> {
    const { probation = 5000, answerTimeout = 10_000 } = this.#options;
    const late = new AbortController();
    try {
      // Either it has ended, or it has taken the offer back.
      if (predecessor.gone) await predecessor.withdrawn.promise;
      this.#accept();
      this.#log("accepting", began, { predecessor: predecessor.pid });
      if (!predecessor.gone) {
        await predecessor.channel.send({ type: "ready", probation }).catch(() => {});
        this.#log("committed", began, { predecessor: predecessor.pid });
      }
      await Promise.race([
        predecessor.withdrawn.promise,
        pause(answerTimeout, late.signal).then(() => {
          this.#logger.error?.(
            `Process ${predecessor.pid}, the generation before, has not stopped accepting for ` +
              `${answerTimeout} ms; this one serves beside it`,
          );
        }, () => {}),
      ]);
    } catch (error) {
      this.#rolledBack(error);
      throw error;
    } finally {
      late.abort();
    }
  }

  /** Lives on for the probation, and says so. */
  async #prove({ channel, pid }: Predecessor, signal: AbortSignal): Promise<void> {
    const { probation = 5000 } = this.#options;
    const began = performance.now();
    try {
      await pause(probation, signal).catch(() => {});
      await channel.send({ type: "healthy" });
      this.#log("healthy", began, { predecessor: pid });
    } catch (error) {
      this.#logger.debug?.("The generation before has gone already", error);
    } finally {
      this.#probation = undefined;
    }
    // The generation before does not come back to them any more.
    if (this.#state === "serving") this.#closeUnclaimed();
  }

  /** Reads what the generation before has to say, to its end. */
  async #follow(predecessor: Predecessor): Promise<void> {
    const { channel, pid, withdrawn } = predecessor;
    try {
      for (;;) {
        const frame = await channel.receive();
        if (!frame) {
          this.#logger.info?.(`Process ${pid}, the generation before, has left`);
          break;
        }
        if (frame.type === "draining") withdrawn.resolve();
        else if (frame.type === "progress") predecessor.connections = frame.connections;
        else if (frame.type === "moved") {
          const [{ fd, meta }] = await channel.receiveDescriptors(1, pid);
          this.#arrivals.push({ name: frame.name, fd, state: meta });
          this.#arrived.resolve();
          this.#arrived = Promise.withResolvers();
        } else if (frame.type === "rollback") {
          const error = new HandoverError(
            `The generation before goes on: ${frame.reason}`,
            "ERR_HANDOVER_ROLLED_BACK",
          );
          withdrawn.reject(error);
          if (this.#state === "serving") this.#rolledBack(error);
          break;
        } else throw unexpected(frame);
      }
    } catch (error) {
      // When this one leaves, it hangs up itself.
      if (!this.#hasLeft) {
        this.#logger.error?.(`Cannot follow process ${pid}, the generation before`, error);
      }
    }
    predecessor.gone = true;
    withdrawn.resolve();
    this.#arriving = false;
    this.#arrived.resolve();
    channel[Symbol.dispose]();
  }

  /** Leaves the service to the generation before, which has it back. */
  #rolledBack(reason: unknown): void {
    this.#logger.error?.("This generation was rolled back", reason);
    void this.#leave({ reason });
  }

  /**
   * Starts the next generation and waits for its outcome: it has taken over and lived through its
   * probation, or it has failed and this one goes on.
   *
   * @param command What to start in place of this process's own command.
   * @throws {HandoverError} When it failed; the message says how, and what it said last.
   */
  async restart(command?: Command): Promise<{ pid: number; generation: number }> {
    if (this.#state !== "serving" || this.#attempt) {
      throw new HandoverError(
        `Cannot restart: ${
          this.#attempt || this.#state === "handing over"
            ? "another handover is under way"
            : `this generation is ${this.#state}`
        }`,
        "ERR_HANDOVER_BUSY",
      );
    }
    const began = performance.now();
    const { readyTimeout = 60_000 } = this.#options;
    const successor = new Successor(command ?? this.#options.command ?? ownCommand());
    const attempt: Attempt = {
      successor,
      asked: false,
      outcome: Promise.withResolvers<{ pid: number; generation: number }>(),
    };
    this.#attempt = attempt;
    const over = new AbortController();
    attempt.outcome.promise.catch(() => {});
    successor.ended.then(({ how, lastWords }) => {
      const words = lastWords ? `; the last it said was: ${lastWords}` : "";
      attempt.outcome.reject(
        new HandoverError(`The next generation, process ${successor.pid}, ${how}${words}`),
      );
    });
    pause(readyTimeout, over.signal).then(() => {
      if (attempt.asked || this.#state !== "serving") return;
      successor.kill("SIGKILL");
      attempt.outcome.reject(
        new HandoverError(
          `The next generation, process ${successor.pid}, was not ready after ${readyTimeout} ms`,
          "ERR_HANDOVER_TIMEOUT",
        ),
      );
    }, () => {});
    try {
      const outcome = await attempt.outcome.promise;
      this.#log("restarted", began, { successor: outcome.pid });
      return outcome;
    } catch (error) {
      this.#logger.error?.("The restart failed; this generation goes on", error);
      throw error;
    } finally {
      over.abort();
      successor.release();
      this.#attempt = undefined;
    }
  }

  /** Stops the service: accepts no more, answers what it has, and removes the control socket. */
  async stop(): Promise<void> {
    if (!this.#stopping && !this.#hasLeft) {
      this.#stopping = true;
      // The generation before is not to come back.
      this.#probation?.abort();
      const predecessor = this.#predecessor;
      const beside = predecessor !== undefined && !predecessor.gone;
      if (beside && this.#state === "serving") {
        await predecessor.channel.send({ type: "healthy" }).catch(() => {});
      }
      void this.#leave();
    }
    await this.finished;
  }

  /** {@linkcode Generation.stop} */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** What this generation says of itself. */
  status(): Status {
    const sockets = [...this.#resources].flatMap(({ item, address, gate }) =>
      gate && !gate.closed && (item.kind === "listener" || item.kind === "datagram")
        ? [{
          kind: item.kind,
          address: item.path === undefined ? formatAddress(address) : formatPath(item.path),
          connections: item.kind === "listener" ? countConnections(address) : 0,
        }]
        : []
    );
    const files = [...this.#resources].filter(({ item }) => item.kind === "file");
    const predecessor = this.#predecessor;
    return {
      generation: this.generation,
      pid: Deno.pid,
      since: this.since.getTime(),
      state: this.#state,
      sockets,
      kept: [...this.#kept.keys(), ...files.map(({ item }) => item.key)],
      ...(predecessor && !predecessor.gone && {
        predecessor: {
          pid: predecessor.pid,
          generation: predecessor.generation,
          connections: predecessor.connections,
        },
      }),
    };
  }

  /** Whether it has begun to leave, or is gone. */
  get #hasLeft(): boolean {
    return this.#state === "leaving" || this.#state === "stopped";
  }

  // Sockets.

  /** Makes a native object on the listener at `place`, inherited or new. */
  #own<T extends object>(
    place: Place,
    make: (fd: Fd) => { object: T; serving?: Serving; close(): void },
  ): T {
    const inherited = this.#inheritance.takeBound("listener", place);
    using bound = inherited?.fd ?? this.#bind(() => bindListener(place));
    const path = "path" in place ? place.path : undefined;
    const { object, serving, close } = make(bound.dup());
    const { addr } = object as { addr?: Deno.Addr };
    if (path !== undefined && addr) Object.assign(addr, { path });
    this.#add(object, {
      item: { kind: "listener", key: keyOf(place), path },
      fd: bound.dup(),
      unix: path === undefined ? undefined : new UnixListener(bound.dup(), path),
      serving,
      close,
    });
    return object;
  }

  #add(object: object, resource: Omit<Resource, "gate" | "address">): void {
    const gate = new Gate(object, resource.fd);
    if (this.#state === "starting") gate.shut();
    this.#resources.add({ ...resource, gate, address: localAddress(resource.fd.raw) });
  }

  /** Binds anew; what a predecessor that was killed has left behind may take a moment to go. */
  #bind(bind: () => Fd): Fd {
    const end = performance.now() + bindPatience;
    for (;;) {
      try {
        return bind();
      } catch (error) {
        const inUse = error instanceof Deno.errors.AddrInUse;
        if (!inUse || !this.#predecessor?.gone || performance.now() > end) throw error;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
      }
    }
  }

  // The control socket.

  /** Answers at the control socket until it is another one's turn. */
  async #answer(): Promise<void> {
    const { signal } = this.#answering = new AbortController();
    while (!signal.aborted) {
      try {
        const conn = await this.#control.accept({ signal });
        void this.#converse(conn);
      } catch (error) {
        if (signal.aborted) return;
        this.#logger.error?.(`Cannot accept on ${formatPath(this.path)}; trying again`, error);
        await pause(100);
      }
    }
  }

  async #converse(conn: UnixConn): Promise<void> {
    const { allow = sameUserOrRoot, answerTimeout = 10_000 } = this.#options;
    const channel = new Channel(conn);
    try {
      if (!allow(conn.peer)) {
        throw new PeerNotAllowedError(
          `Refused process ${conn.peer.pid} of user ${conn.peer.uid}: \`allow\` says so`,
        );
      }
      const asked = await channel.receive({ timeout: answerTimeout });
      if (asked) await this.#serveControl(channel, asked);
    } catch (error) {
      this.#logger.error?.(`A conversation at ${formatPath(this.path)} failed`, error);
    } finally {
      channel[Symbol.dispose]();
    }
  }

  async #serveControl(channel: Channel, asked: Frame): Promise<void> {
    if (asked.type === "hello") {
      await this.#handOver(channel, asked);
    } else if (asked.type === "status") {
      await channel.send({ type: "report", status: this.status() });
    } else if (asked.type === "restart") {
      const answer: Frame = await this.restart().then(
        (outcome) => ({ type: "done", ...outcome }),
        (error) => ({ type: "failed", message: error.message }),
      );
      await channel.send(answer);
    } else if (asked.type === "stop") {
      const stopped = this.stop();
      await channel.send({ type: "done", pid: Deno.pid, generation: this.generation });
      await stopped;
    } else throw unexpected(asked);
  }

  /** Hands everything over to the process at the other end of `channel`, or goes on. */
  async #handOver(channel: Channel, hello: Frame & { type: "hello" }): Promise<void> {
    const refused = this.#refusal(hello);
    if (refused) {
      this.#logger.info?.(`Refused process ${hello.pid}: ${refused.reason}`);
      await channel.send(refused);
      return;
    }
    const { readyTimeout = 60_000, answerTimeout = 10_000 } = this.#options;
    const began = performance.now();
    this.#state = "handing over";
    this.#log("asked", began, { successor: hello.pid });
    if (this.#attempt?.successor.pid === hello.pid) this.#attempt.asked = true;
    let withdrawn = false;
    try {
      await this.#offer(channel, hello.pid);
      this.#log("offered", began, { successor: hello.pid });
      const { probation } = await expect(channel, "ready", readyTimeout);
      this.#log("succeeded", began, { successor: hello.pid });
      withdrawn = true;
      this.#withdraw();
      // It may have left already, in good health: what comes next tells.
      await channel.send({ type: "draining" }).catch(() => {});
      this.#log("withdrawn", began, { successor: hello.pid });
      await expect(channel, "healthy", probation + answerTimeout);
    } catch (error) {
      this.#log("failed", began, { successor: hello.pid });
      await this.#goOn(channel, withdrawn, error);
      return;
    }
    this.#log("handed over", began, { successor: hello.pid });
    this.#successor = { channel, pid: hello.pid };
    const outcome = { pid: hello.pid, generation: this.generation + 1 };
    this.#attempt?.outcome.resolve(outcome);
    await this.#leave({ since: began });
  }

  #refusal({ version }: { version: number }): Frame & { type: "refused" } | undefined {
    if (version !== protocolVersion) {
      const reason =
        `it speaks version ${version} of the handover, and the generation that runs version ${protocolVersion}`;
      return { type: "refused", code: "version", reason };
    }
    if (this.#state === "serving" && !this.#probation) return undefined;
    if (this.#hasLeft) {
      return { type: "refused", code: "leaving", reason: "the generation that runs is leaving" };
    }
    return { type: "refused", code: "busy", reason: "another handover is under way" };
  }

  async #offer(channel: Channel, to: number): Promise<void> {
    for (const resource of this.#resources) {
      if (resource.gate?.closed) this.#drop(resource);
    }
    const states: Uint8Array[] = [];
    const passed: Passed[] = [];
    const items: OfferedItem[] = [];
    const pass = (item: OfferedItem, fd: Fd | number) => {
      items.push(item);
      passed.push({ fd });
    };
    pass({ kind: "control", key: "" }, this.#control.fd);
    if (to === this.#attempt?.successor.pid) {
      pass({ kind: "stdout", key: "" }, 1);
      pass({ kind: "stderr", key: "" }, 2);
    }
    for (const { item, fd } of this.#resources) pass(item, fd);
    for (const [name, value] of this.#kept) {
      if (value instanceof Fd) {
        pass({ kind: "kept", key: name }, value);
        continue;
      }
      const bytes = value();
      states.push(bytes);
      items.push({ kind: "state", key: name, bytes: bytes.length });
    }
    const { generation } = this;
    const offer: Frame = {
      type: "offer",
      version: protocolVersion,
      generation,
      pid: Deno.pid,
      items,
    };
    await channel.send(offer, states, passed);
  }

  #drop(resource: Resource): void {
    this.#resources.delete(resource);
    resource.gate?.[Symbol.dispose]();
    resource.unix?.[Symbol.dispose]();
  }

  /** Stops accepting, in a way that can be undone. */
  #withdraw(): void {
    this.#answering.abort();
    for (const resource of this.#resources) {
      resource.gate?.shut();
      if (resource.serving) resource.serving.leaving = true;
    }
    this.#clients ??= this.#findClients();
  }

  async #findClients(): Promise<Map<Resource, Clients>> {
    const listening = [...this.#resources].filter(({ item }) => item.kind === "listener");
    const clients = await clientsOf(listening.map(({ address }) => address), census());
    return new Map(listening.map((resource, i) => [resource, clients[i]]));
  }

  /** Accepts again, or still: the successor has failed. */
  async #goOn(channel: Channel, withdrawn: boolean, reason: unknown): Promise<void> {
    const error = reason instanceof HandoverError
      ? reason
      : new HandoverError("The handover failed", undefined, { cause: reason });
    if (this.#state === "handing over") {
      this.#state = "serving";
      if (withdrawn) {
        for (const resource of this.#resources) {
          if (resource.serving) resource.serving.leaving = false;
          resource.gate?.open();
        }
        this.#clients = undefined;
        void this.#answer();
      }
      this.#logger.error?.("The handover failed; this generation goes on", error);
    }
    // If it lives after all, it is to leave.
    await channel.send({ type: "rollback", reason: error.message }).catch(() => {});
    const { successor, outcome } = this.#attempt ?? {};
    if (!successor) return;
    // What it died of, if it did, says more than that its connection ended.
    const ended = await Promise.race([successor.ended, pause(1000).then(() => undefined)]);
    if (!ended) {
      // One that was ready has clients to answer, and has been told to leave.
      if (!withdrawn) successor.kill("SIGKILL");
      outcome!.reject(error);
    }
  }

  // The end.

  /** Leaves: waits for the clients, and lets go of everything. */
  async #leave(
    { since = performance.now(), reason }: { since?: number; reason?: unknown } = {},
  ): Promise<void> {
    if (this.#hasLeft) return;
    this.#state = "leaving";
    const began = performance.now();
    this.#withdraw();
    this.#control.leave();
    this.#inheritance[Symbol.dispose]();
    this.#foreign?.[Symbol.dispose]();
    for (const { gate, unix } of this.#resources) {
      gate?.[Symbol.dispose]();
      unix?.leave();
    }
    this.#draining.abort(reason ?? new Error(this.#successor ? "replaced" : "stopped"));
    // Where nobody takes over there is nobody to go to: who is idle is not waited for.
    const { deadline = 60_000 } = this.#options;
    const idle = this.#successor || reason !== undefined ? deadline : 0;
    this.#closeWebSockets(idle);
    const clients = await this.#clients!;
    const reporting = setInterval(() => this.#report(clients), reportInterval);
    try {
      const spent = performance.now() - since;
      const finishing = [...this.#resources].map((resource) =>
        this.#finish(resource, clients.get(resource), {
          deadline: Math.max(0, (resource.serving ? idle : deadline) - spent),
        })
      );
      await Promise.all(finishing);
    } catch (error) {
      this.#logger.error?.("Cannot drain to the end", error);
    } finally {
      clearInterval(reporting);
    }
    while (this.#moves.size > 0) await Promise.allSettled(this.#moves);
    // What was moved is on its way before.
    await this.#successor?.channel.send({ type: "progress", connections: 0 }).catch(() => {});
    for (const value of this.#kept.values()) if (value instanceof Fd) value[Symbol.dispose]();
    for (const { fd } of this.#arrivals.splice(0)) fd[Symbol.dispose]();
    for (const [signal, listener] of this.#signals) Deno.removeSignalListener(signal, listener);
    this.#predecessor?.channel[Symbol.dispose]();
    this.#successor?.channel[Symbol.dispose]();
    this.#state = "stopped";
    this.#log("left", began, {});
    if (reason === undefined) this.#finished.resolve();
    else this.#finished.reject(reason);
  }

  async #finish(
    { gate, serving, fd, close }: Resource,
    clients: Clients | undefined,
    { deadline }: { deadline: number },
  ): Promise<void> {
    if (serving) {
      await finish(serving, clients!, { deadline, forceLimit: this.#options.forceLimit });
      return;
    }
    await clients?.leave({ milliseconds: deadline });
    if (gate && !gate.closed) close();
    fd[Symbol.dispose]();
  }

  /** Their clients will connect elsewhere, and not all at the same moment. */
  #closeWebSockets(deadline: number): void {
    const stopping = deadline === 0;
    for (const socket of this.#sockets) {
      const delay = Math.random() * Math.min(deadline / 2, 30_000);
      const timer = setTimeout(() => {
        if (stopping) socket.close(1001, "going away");
        else socket.close(1012, "service restart");
      }, delay);
      socket.addEventListener("close", () => clearTimeout(timer));
    }
  }

  /** Says how far leaving has come. */
  #report(clients: Map<Resource, Clients>): void {
    const left = [...clients.values()].reduce((sum, some) => sum + some.left().length, 0);
    this.#logger.info?.(`Leaving: ${left} connections are left`);
    void this.#successor?.channel.send({ type: "progress", connections: left }).catch(() => {});
  }

  /** Writes where the generation before did, if it has started this one and passed its output on. */
  #takeStreams(): void {
    for (const [kind, raw] of [["stdout", 1], ["stderr", 2]] as const) {
      using fd = this.#inheritance.take(kind, "")?.fd;
      if (fd) replace(fd.raw, raw, { keptOnExec: true });
    }
  }

  #listenToSignals(): void {
    const { stopOn = ["SIGTERM", "SIGINT"], restartOn = [] } = this.#options;
    const add = (signal: Deno.Signal, listener: () => void) => {
      Deno.addSignalListener(signal, listener);
      this.#signals.set(signal, listener);
    };
    for (const signal of stopOn) {
      add(signal, () => {
        // A second one does what it does without this.
        Deno.removeSignalListener(signal, this.#signals.get(signal)!);
        this.#signals.delete(signal);
        this.#logger.info?.(`Stopping on ${signal}`);
        void this.stop().catch(() => {});
      });
    }
    for (const signal of restartOn) add(signal, () => void this.restart().catch(() => {}));
  }

  #log(phase: Phase, began: number, details: Record<string, unknown>): void {
    logPhase(this.#logger, phase, began, { generation: this.generation, ...details });
  }
}

/**
 * Tells the logger of a phase, and when it was reached. Those that an operator wants to know of are
 * information, the steps between them for debugging.
 */
function logPhase(
  logger: Logger | undefined,
  phase: Phase,
  began: number,
  details: Record<string, unknown> = {},
): void {
  const duration = performance.now() - began;
  const about = { phase, duration, ...details };
  const level = milestones.has(phase) ? "info" : "debug";
  const who = details.generation === undefined
    ? "A generation"
    : `Generation ${details.generation}`;
  logger?.[level]?.(`${who}: ${phase} after ${duration.toFixed(1)} ms`, about);
}

/** The steps of a handover, as the logger is told of them. */
type Phase =
  // of the next generation
  | "connected"
  | "asked"
  | "inherited"
  | "accepting"
  | "committed"
  | "ready"
  | "healthy"
  // of the one that runs
  | "offered"
  | "succeeded"
  | "withdrawn"
  | "handed over"
  | "failed"
  | "left"
  | "restarted";

const milestones = new Set<Phase>([
  "inherited",
  "ready",
  "healthy",
  "handed over",
  "failed",
  "left",
  "restarted",
]);

/** Milliseconds for which an address may still be in use after its owner was killed. */
const bindPatience = 1000;

/** Milliseconds between two lines about what is left. */
const reportInterval = 1000;

/** The frame that has to come next. */
async function expect<T extends Frame["type"]>(
  channel: Channel,
  type: T,
  timeout: number,
): Promise<Frame & { type: T }> {
  const frame = await channel.receive({ timeout });
  if (frame?.type === type) return frame as Frame & { type: T };
  if (!frame) throw new HandoverError(`The next generation ended before it was ${type}`);
  if (frame.type === "failed") {
    throw new HandoverError(`The next generation gave up: ${frame.message}`);
  }
  throw unexpected(frame);
}

function bindListener(place: Place): Fd {
  if (!("path" in place)) {
    return bindNative(() => Deno.listen(place as Deno.TcpListenOptions));
  }
  const { path, mode } = place;
  if (isBound(path)) {
    throw new Deno.errors.AddrInUse(
      `Cannot listen on ${formatPath(path)}: another instance is serving there`,
    );
  }
  const listener = listen(path, { mode, replace: true });
  return new Fd(listener.fd.take());
}

function bindUdp({ hostname = "0.0.0.0", port, reusePort }: TcpPlace): Fd {
  return bindNative(() =>
    Deno.listenDatagram({ transport: "udp", hostname, port, reuseAddress: reusePort })
  );
}

/** What a native object is bound to, without the object. */
function bindNative(bind: () => { close(): void }): Fd {
  const { dummy, slot } = capture(bind, (object) => object.close());
  keepSlot(slot);
  try {
    return new Fd(dup(slot.tfd));
  } finally {
    dummy.close();
  }
}
