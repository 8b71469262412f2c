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
import { pause } from "../ffi/poll.ts";
import { formatPath } from "../ffi/sockaddr.ts";
import { fdListener, type TlsOptions } from "./adopt.ts";
import { Channel, type Passed } from "./channel.ts";
import { type PeerCheck, sameUserOrRoot, type UnixConn } from "./conn.ts";
import { type ConnLike, fileDescriptor, findConn, type FoundConn } from "./descriptor.ts";
import type { DrainOptions } from "./drain.ts";
import { HandoverError, PeerNotAllowedError } from "./errors.ts";
import { type Frame, type OfferedItem, protocolVersion, type Status, unexpected } from "./frame.ts";
import { type HttpHandler, serveHttp, type ServeHttpOptions, servingOf } from "./http.ts";
import type { Inheritance, TcpPlace, UnixPlace } from "./inheritance.ts";
import type { UnixListener } from "./listener.ts";
import { logPhase, type Phase } from "./phase.ts";
import type { Arrival, Predecessor } from "./predecessor.ts";
import { Resources } from "./resources.ts";
import type { Logger } from "./response.ts";
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
   * its listeners are what the first one inherits. It has sent all when its stream ends, or pauses for
   * half a second; when they are served it is told "ready", and hung up on.
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

/** How a generation came to be. */
export interface Origin {
  generation: number;
  control: UnixListener;
  inheritance: Inheritance;
  predecessor?: Predecessor;
  /** A connection to a plain server that handed over, which waits for a word, or for its end. */
  foreign?: UnixConn;
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
  readonly #resources: Resources;
  readonly #kept = new Map<string, Fd | (() => Uint8Array)>();
  readonly #sockets = new Set<WebSocket>();
  readonly #moves = new Set<Promise<boolean>>();
  readonly #signals = new Map<Deno.Signal, () => void>();
  #state: Status["state"] = "starting";
  /** Aborted when it is no longer the one that answers at the control socket. */
  #answering = new AbortController();
  #probation: AbortController | undefined;
  #successor: { channel: Channel; pid: number } | undefined;
  #attempt: Attempt | undefined;
  #stopping = false;

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
    this.#predecessor = origin.predecessor;
    this.#resources = new Resources(
      origin.inheritance,
      () => origin.predecessor !== undefined && origin.predecessor.gone,
    );
    // Whoever comes to the first generation before it is ready is told so.
    if (this.#predecessor) void this.#follow(this.#predecessor);
    else void this.#answer();
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
    const server = this.#resources.listener(place, (fd) => {
      const server = serveHttp(fd, rest, handler);
      return { object: server, serving: servingOf(server), close: () => void server.shutdown() };
    });
    onListen?.(server.addr);
    return server;
  }

  /** Listens for TCP or unix connections, from `ready()` on. */
  listen(place: TcpPlace | UnixPlace): Deno.Listener {
    return this.#resources.listener(place, (fd) => {
      const listener = fdListener(fd);
      return { object: listener, close: () => listener.close() };
    });
  }

  /** Listens for TLS connections, from `ready()` on; the certificate may be another one each time. */
  listenTls(options: TcpPlace & TlsOptions): Deno.TlsListener {
    const { cert, key, alpnProtocols, ...place } = options;
    const tls = alpnProtocols ? { cert, key, alpnProtocols } : { cert, key };
    return this.#resources.listener(place, (fd) => {
      const listener = fdListener(fd, tls);
      return { object: listener, close: () => listener.close() };
    });
  }

  /** Receives UDP datagrams, from `ready()` on; needs `--unstable-net`. */
  listenDatagram(place: TcpPlace): Deno.DatagramConn {
    return this.#resources.datagram(place);
  }

  /**
   * Opens a file, or goes on with the one that the generation before has open at that path: its offset
   * is shared, its lock is kept.
   */
  open(path: string, options: Deno.OpenOptions = {}): Deno.FsFile {
    return this.#resources.file(path, options);
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
    if (this.#predecessor) yield* this.#predecessor.arrivals();
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
    await this.#tellForeign();
    this.#log("ready", began, predecessor ? { predecessor: predecessor.pid } : {});
    if (this.#probation) void this.#prove(predecessor!, this.#probation.signal);
    else this.#closeUnclaimed();
  }

  #accept(): void {
    this.#takeStreams();
    this.#state = "serving";
    this.#resources.open();
  }

  #closeUnclaimed(): void {
    const unclaimed = this.#inheritance.clear();
    if (unclaimed.length === 0) return;
    this.#logger.info?.(`Closed what was inherited and not asked for: ${unclaimed.join(", ")}`);
  }

  /** A plain server that sent the first listeners learns by a word, and the end, that they are served. */
  async #tellForeign(): Promise<void> {
    const foreign = this.#foreign;
    try {
      await foreign?.write(new TextEncoder().encode("ready"));
    } catch (error) {
      this.#logger.debug?.("Whoever sent the first listeners does not wait for a word", error);
    } finally {
      foreign?.[Symbol.dispose]();
    }
  }

  /** Accepts, tells the generation before, and waits until it has stopped accepting. */
  async #commit(predecessor: Predecessor, began: number): Promise<void> {
    const { probation = 5000, answerTimeout = 10_000 } = this.#options;
    const late = new AbortController();
    try {
      // Either it has ended, or it has taken the offer back.
      if (predecessor.gone) await predecessor.withdrawn;
      this.#accept();
      this.#log("accepting", began, { predecessor: predecessor.pid });
      if (!predecessor.gone) {
        await predecessor.say({ type: "ready", probation }).catch(() => {});
        this.#log("committed", began, { predecessor: predecessor.pid });
      }
      await Promise.race([
        predecessor.withdrawn,
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
  async #prove(predecessor: Predecessor, signal: AbortSignal): Promise<void> {
    const { probation = 5000 } = this.#options;
    const began = performance.now();
    try {
      await pause(probation, signal).catch(() => {});
      await predecessor.say({ type: "healthy" });
      this.#log("healthy", began, { predecessor: predecessor.pid });
    } catch (error) {
      this.#logger.debug?.("The generation before has gone already", error);
    } finally {
      this.#probation = undefined;
    }
    // The generation before does not come back to them any more.
    if (this.#state === "serving") this.#closeUnclaimed();
  }

  /** Heeds what the generation before has to say, to its end. */
  async #follow(predecessor: Predecessor): Promise<void> {
    const { pid } = predecessor;
    try {
      const takenBack = await predecessor.follow();
      if (!takenBack) this.#logger.info?.(`Process ${pid}, the generation before, has left`);
      else if (this.#state === "serving") this.#rolledBack(takenBack);
    } catch (error) {
      // When this one leaves, it hangs up itself.
      if (this.#hasLeft) return;
      this.#logger.error?.(`Cannot follow process ${pid}, the generation before`, error);
    }
  }

  /** Leaves the service to the generation before, which has it back. */
  #rolledBack(reason: unknown): void {
    if (this.#hasLeft) return;
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
        await predecessor.say({ type: "healthy" }).catch(() => {});
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
    const predecessor = this.#predecessor;
    return {
      generation: this.generation,
      pid: Deno.pid,
      since: this.since.getTime(),
      state: this.#state,
      sockets: this.#resources.sockets(),
      kept: [...this.#kept.keys(), ...this.#resources.files()],
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
    for (const { item, fd } of this.#resources.offered()) pass(item, fd);
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

  /** Stops accepting, in a way that can be undone. */
  #withdraw(): void {
    this.#answering.abort();
    this.#resources.shut();
  }

  /** Accepts again, or still: the successor has failed. */
  async #goOn(channel: Channel, withdrawn: boolean, reason: unknown): Promise<void> {
    const error = reason instanceof HandoverError
      ? reason
      : new HandoverError("The handover failed", undefined, { cause: reason });
    if (this.#state === "handing over") {
      this.#state = "serving";
      if (withdrawn) {
        this.#resources.open();
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
    this.#resources.release();
    this.#draining.abort(reason ?? new Error(this.#successor ? "replaced" : "stopped"));
    // Where nobody takes over there is nobody to go to: who is idle is not waited for.
    const { deadline = 60_000, forceLimit } = this.#options;
    const idle = this.#successor || reason !== undefined ? deadline : 0;
    this.#closeWebSockets(idle);
    const reporting = setInterval(() => this.#report(), reportInterval);
    const spent = performance.now() - since;
    try {
      await this.#resources.finish({
        deadline: Math.max(0, deadline - spent),
        httpDeadline: Math.max(0, idle - spent),
        forceLimit,
      });
    } catch (error) {
      this.#logger.error?.("Cannot drain to the end", error);
    } finally {
      clearInterval(reporting);
    }
    while (this.#moves.size > 0) await Promise.allSettled(this.#moves);
    // What was moved is on its way before.
    await this.#successor?.channel.send({ type: "progress", connections: 0 }).catch(() => {});
    for (const value of this.#kept.values()) if (value instanceof Fd) value[Symbol.dispose]();
    for (const [signal, listener] of this.#signals) Deno.removeSignalListener(signal, listener);
    this.#predecessor?.[Symbol.dispose]();
    this.#successor?.channel[Symbol.dispose]();
    this.#state = "stopped";
    this.#log("left", began, {});
    if (reason === undefined) this.#finished.resolve();
    else this.#finished.reject(reason);
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
  #report(): void {
    const { left } = this.#resources;
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
