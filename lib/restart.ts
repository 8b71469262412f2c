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

import { dup, Fd } from "../ffi/fd.ts";
import { pidNamespace } from "../ffi/proc.ts";
import { indented, quoted } from "../ffi/quote.ts";
import { formatPath } from "../ffi/sockaddr.ts";
import { either, expiring, longestPause, pause, unlessAborted } from "../ffi/time.ts";
import { fdListener, type TlsOptions } from "./adopt.ts";
import { Channel, type Passed, type SendFrameOptions } from "./channel.ts";
import { checkPeer, type PeerCheck, sameUserOrRoot, type UnixConn } from "./conn.ts";
import { type ConnLike, fileDescriptor, findConn, type FoundConn } from "./descriptor.ts";
import type { DrainOptions } from "./drain.ts";
import { Draining, whileReporting } from "./draining.ts";
import { HandoverError, PeerNotAllowedError } from "./errors.ts";
import { type Frame, type OfferedItem, protocolVersion, type Status, unexpected } from "./frame.ts";
import { serveHttp, type ServeHttpOptions, servingOf } from "./http.ts";
import type { Inheritance, Place, TcpPlace, UnixPlace } from "./inheritance.ts";
import type { UnixListener } from "./listener.ts";
import { logPhase, type Phase } from "./phase.ts";
import type { Arrival, Predecessor } from "./predecessor.ts";
import { isOutOfDescriptors, Reserve } from "./reserve.ts";
import { Resources } from "./resources.ts";
import { locked } from "./lock.ts";
import { guarded, type Logger } from "./logger.ts";
import { bothServers, serveAddress } from "./serve_address.ts";
import type { HttpHandler } from "./serving.ts";
import {
  type Command,
  leadStream,
  ownCommand,
  settleOutput,
  Successor,
  workingDirectory,
} from "./successor.ts";
import { WebSockets } from "./websockets.ts";

/** Options of {@linkcode start}. Durations are in milliseconds. */
export interface StartOptions extends DrainOptions {
  /**
   * How long a successor may take from the offer to `ready()`; one that `restart()` starts, from its start
   * on and over all its tries: what fails, and calls `start()` again, is not ended before. @default {60_000}
   */
  readyTimeout?: number;
  /**
   * How long this generation is to live after `ready()` before its predecessor lets go: if it dies
   * earlier, the predecessor accepts again. The predecessor refuses one that is longer than five minutes and
   * than its own. @default {5000}
   */
  probation?: number;
  /** How long the other generation may take for an answer, or to read one. @default {10_000} */
  answerTimeout?: number;
  /**
   * How long a process may take to end by itself after its generation has left, when that was replaced by
   * another process, or stopped by a signal or the command line: a timer, or a connection that stays
   * open, keeps it. Then the library logs that, and exits with `Deno.exitCode`, or 0. Nothing of the kind
   * where the program has called `stop()`, or where the generation was rolled back; while another
   * generation runs in the process, it has as long from the end of that one on; `false` is never.
   * @default {10_000}
   */
  exitTimeout?: number | false;
  /**
   * Signals that stop the service, gracefully; the second one of a kind ends the process at once. Before
   * `ready()` there is nothing to answer, and the process exits. @default {["SIGTERM", "SIGINT"]}
   */
  stopOn?: Deno.Signal[];
  /** Signals that restart it. @default {none} */
  restartOn?: Deno.Signal[];
  /** What `restart()` starts. @default {the command, arguments and directory of this process} */
  command?: Command;
  /**
   * A control socket of a plain `serve()`, here or in the Go library: where no generation runs yet,
   * its listeners are what the first one inherits. It has sent all when its stream ends, or pauses for
   * half a second; when they are served it is told "ready", and hung up on. `allow` is asked about it.
   */
  predecessor?: string;
  /** Permissions of the control socket. @default {0o600} */
  mode?: number;
  /**
   * Asked about the process at the other end of each connection: one that comes to the control socket,
   * the generation that runs there, and the server at `predecessor`. What it refuses is given nothing,
   * and nothing is taken from it. @default {those of the same user, and of root}
   */
  allow?: PeerCheck;
  /** Where to log each phase, with its duration. @default {the console: warnings and errors alone} */
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
  /** Its try to take over, while there is one. Resolves when that is over. */
  handover?: Promise<void>;
  /** Whether it has said that it accepts: from then on it has clients, and is not ended. */
  isReady: boolean;
  /** Why its latest try has failed. */
  failure?: Error;
  /** What it says that it fails of. */
  lastWords?: string;
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
  readonly #draining: Draining;
  readonly #control: UnixListener;
  readonly #inheritance: Inheritance;
  readonly #predecessor: Predecessor | undefined;
  readonly #foreign: UnixConn | undefined;
  readonly #resources: Resources;
  readonly #reserve: Reserve;
  readonly #kept = new Map<string, Fd | (() => Uint8Array)>();
  readonly #webSockets = new WebSockets();
  readonly #moves = new Set<Promise<boolean>>();
  readonly #signals = new Map<Deno.Signal, () => void>();
  /** Where it was started, which the program may change. */
  readonly #cwd = workingDirectory();
  #state: Status["state"] = "starting";
  /** Set while `ready()` is on its way. */
  #committing = false;
  /** Set while this generation accepts on the control socket; aborting it stops that. */
  #answering: AbortController | undefined;
  #probation: AbortController | undefined;
  /** Aborted when the generation before cannot come back any more. */
  readonly #unproven = new AbortController();
  /** Ends a handover that can still be taken back. */
  #handover: AbortController | undefined;
  /** The one that is ready, to which the clients of this one go. */
  #successor: { channel: Channel; pid: number } | undefined;
  #attempt: Attempt | undefined;
  /** The tokens of restarts that have failed: their processes are not to take over later. */
  readonly #failedTokens = new Set<string>();
  /** While there are clients who are to leave. */
  #reporting: ReturnType<typeof setInterval> | undefined;
  #stopping = false;
  /** Whether there was a server, the first of which may be told from outside where to listen. */
  #hasServed = false;
  /** Whether a signal has asked for a restart at a time when none could begin: one more makes up for all of them. */
  #isToRestart = false;
  /** Whether somebody outside of the program has asked for its end. */
  #isAskedToEnd = false;
  /** Aborted when idle clients are not to be waited for any more. */
  readonly #hurry = new AbortController();

  /** Use {@linkcode start}. */
  constructor(path: string, options: StartOptions, origin: Origin) {
    this.path = path;
    this.generation = origin.generation;
    this.finished = this.#finished.promise;
    // It is logged; that nobody waits for it must not end the process.
    this.finished.catch(() => {});
    this.#options = options;
    this.#logger = guarded(options.logger);
    this.#draining = new Draining((error) => {
      this.#logger.error?.("A listener of `draining` has failed; leaving goes on", error);
    });
    this.#control = origin.control;
    this.#inheritance = origin.inheritance;
    this.#foreign = origin.foreign;
    this.#predecessor = origin.predecessor;
    this.#resources = new Resources(
      origin.inheritance,
      () => origin.predecessor !== undefined && origin.predecessor.gone,
    );
    // May fail, for a name that is none: before anything else.
    this.#listenToSignals();
    this.#reserve = new Reserve();
    running.add(this);
    if (this.#predecessor) {
      // What this process starts from here on is not to end when the generation before has ended; its own stderr,
      // the end of which is part of the message if it fails, goes on being read there.
      this.#takeStream("stdout");
      this.#tellOfFailure(this.#predecessor);
      void this.#follow(this.#predecessor);
    } else {
      // What started this one may have ended by now.
      void settleOutput(this.#logger);
      // Whoever comes to the first generation before it is ready is told so.
      void this.#answer();
    }
  }

  /**
   * Aborted when this generation has to leave for good: what does not end by itself, event streams and
   * loops, is to end then. A listener that throws or rejects is logged; one of a signal that is made of this
   * one, with `AbortSignal.any`, must not reject: that would be an unhandled rejection.
   */
  get draining(): AbortSignal {
    return this.#draining.signal;
  }

  /**
   * Serves HTTP, on the listener of the generation before or on a new one, from `ready()` on: a real
   * `Deno.HttpServer`, with the options of `Deno.serve`. The first server of each generation listens where
   * DENO_SERVE_ADDRESS says, if that is set, as that of `Deno.serve` does since Deno 2.3.
   *
   * @throws {Deno.errors.AddrInUse} When somebody else listens there.
   * @throws {TypeError} When DENO_SERVE_ADDRESS is no address of TCP or unix.
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
    const address = this.#hasServed ? undefined : serveAddress();
    this.#hasServed = true;
    if (!address) return this.#serveAt(place, rest, onListen, handler);
    const given = "path" in address.place
      ? { ...address.place, mode }
      : { ...address.place, reusePort };
    if (!address.isDuplicate) return this.#serveAt(given, rest, onListen, handler);
    const { signal, onError, automaticCompression } = rest;
    const beside = { signal, onError, automaticCompression };
    const first = this.#serveAt(given, beside, undefined, handler);
    try {
      return bothServers(first, this.#serveAt(place, rest, onListen, handler));
    } catch (error) {
      void first.shutdown();
      throw error;
    }
  }

  #serveAt(
    place: Place,
    options: ServeHttpOptions,
    onListen: ServeHttpOptions["onListen"],
    handler: HttpHandler,
  ): Deno.HttpServer {
    return this.#resources.listener(place, (fd) => {
      const server = serveHttp(fd, options, handler);
      return {
        object: server,
        serving: servingOf(server),
        announce: () => onListen?.(server.addr),
        close: () => void server.shutdown(),
      };
    });
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
   * is shared, its lock is kept. Where another file is at the path by now, that is opened.
   */
  open(path: string, options: Deno.OpenOptions = {}): Deno.FsFile {
    return this.#resources.file(path, options);
  }

  /**
   * Keeps something for the next generation, under a name: a descriptor, which stays the caller's, or
   * bytes (2 GiB at most), or a function that is asked for them when the next generation comes.
   */
  keep(name: string, value: Keepable): void {
    const kept = toKeep(value);
    const before = this.#kept.get(name);
    this.#kept.set(name, kept);
    if (before instanceof Fd) before[Symbol.dispose]();
  }

  /** What the generation before kept under that name, once: bytes, or a descriptor that is the caller's. */
  take(name: string): Fd | Uint8Array | undefined {
    return this.#inheritance.take("state", name)?.state ?? this.#inheritance.take("kept", name)?.fd;
  }

  /**
   * `Deno.upgradeWebSocket`, for sockets that are to be closed when this generation leaves: with code
   * 1012, "service restart", and not all at once. What was sent before is sent to the end. What the
   * client sends after the Close frame, before it has seen it, is not delivered: the answer could not be sent.
   */
  upgradeWebSocket(
    request: Request,
    options?: Deno.UpgradeWebSocketOptions,
  ): Deno.WebSocketUpgrade {
    return this.#webSockets.upgrade(request, options);
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
    if (!this.#successor || this.#state !== "leaving") return false;
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
      await this.#send(channel, { type: "moved", name }, { descriptors: [{ fd, meta }] });
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
   * Resolves when that has. What was inherited and not asked for is closed at the end of the probation.
   * One that was stopped meanwhile resolves when it has left.
   *
   * @throws {HandoverError} When the one before has not waited for it, and goes on.
   */
  async ready(): Promise<void> {
    // Stopped before it was ready, it has nothing to be ready for.
    if (this.#hasLeft) return await this.finished;
    if (this.#state !== "starting" || this.#committing) {
      const why = this.#committing ? "about to be" : this.#state;
      throw new TypeError(`Cannot be ready: this generation is ${why}`);
    }
    this.#committing = true;
    const began = performance.now();
    const predecessor = this.#predecessor;
    if (predecessor) await this.#commit(predecessor, began);
    else this.#accept();
    this.#committing = false;
    // It may have been stopped meanwhile.
    if (this.#hasLeft) return await this.finished;
    // Before the first answer: there is no other handover before it has proved itself.
    if (predecessor && !predecessor.gone) this.#probation = new AbortController();
    void this.#answer();
    await this.#tellForeign();
    this.#log("ready", began, predecessor ? { predecessor: predecessor.pid } : {});
    if (this.#probation) {
      void this.#prove(predecessor!, this.#probation.signal);
      return;
    }
    this.#closeUnclaimed();
    this.#restartIfAsked();
  }

  #accept(): void {
    this.#takeStream("stderr");
    this.#state = "serving";
    this.#resources.open();
  }

  #closeUnclaimed(): void {
    try {
      const unclaimed = this.#inheritance.clear();
      if (unclaimed.length === 0) return;
      this.#logger.info?.(`Closed what was inherited and not asked for: ${unclaimed.join(", ")}`);
    } catch (error) {
      this.#logger.error?.("Cannot close what was inherited and not asked for", error);
    }
  }

  /** A plain server that sent the first listeners learns by a word, and the end, that they are served. */
  async #tellForeign(): Promise<void> {
    const foreign = this.#foreign;
    try {
      await foreign?.write(new TextEncoder().encode("ready"));
    } catch (error) {
      this.#logger.debug?.(
        "The server that sent the first listeners closed before it was told that they are served",
        error,
      );
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
      await this.#rolledBack(error);
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
      this.#unproven.abort();
    }
    // The generation before does not come back to them any more.
    if (this.#state === "serving") this.#closeUnclaimed();
    this.#restartIfAsked();
  }

  /** Heeds what the generation before has to say, to its end. */
  async #follow(predecessor: Predecessor): Promise<void> {
    const { pid } = predecessor;
    try {
      const takenBack = await predecessor.follow(() => {
        this.#restartOn(`a signal to process ${pid}, the generation before`);
      });
      if (takenBack) {
        if (this.#state === "serving") await this.#rolledBack(takenBack);
        return;
      }
      this.#logger.info?.(`Process ${pid}, the generation before, has left`);
      // Whoever comes to the control socket has nobody else to ask.
      if (this.#state === "starting") void this.#answer();
    } catch (error) {
      // When this one leaves, it hangs up itself.
      if (this.#hasLeft) return;
      this.#logger.error?.(`Cannot follow process ${pid}, the generation before`, error);
    } finally {
      if (predecessor.gone && !this.#hasLeft) {
        this.#takeStream("stderr");
        void settleOutput(this.#logger);
      }
    }
  }

  /**
   * Tells the generation before what this process fails of, as long as that one may come back: its own output is
   * read there only if that one has started it, and has it no more from `ready()` on.
   */
  #tellOfFailure(predecessor: Predecessor): void {
    const { signal } = this.#unproven;
    const tell = (message: string) => predecessor.mention({ type: "failed", message });
    const onError = (event: Event, error: unknown) => {
      if (!event.defaultPrevented) tell(inWords(error));
    };
    const { addEventListener } = globalThis;
    addEventListener("error", (event) => onError(event, event.error ?? event.message), { signal });
    addEventListener("unhandledrejection", (event) => onError(event, event.reason), { signal });
    addEventListener("unload", () => tell(`it exits with code ${Deno.exitCode}`), { signal });
  }

  /** Leaves the service to the generation before, which has it back. */
  async #rolledBack(reason: unknown): Promise<void> {
    if (!this.#hasLeft) {
      this.#logger.error?.("This generation was rolled back", reason);
      void this.#leave({ reason });
    }
    // It has clients, whom it answers before anybody ends the process for that error.
    await this.finished.catch(() => {});
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
      const isBusy = this.#attempt || this.#state === "handing over";
      const why = isBusy ? "another handover is under way" : `this generation is ${this.#state}`;
      this.#logger.error?.(`Cannot restart: ${why}`);
      throw new HandoverError(`Cannot restart: ${why}`, "ERR_HANDOVER_BUSY");
    }
    const began = performance.now();
    let attempt: Attempt | undefined;
    try {
      const successor = new Successor(
        command ?? this.#options.command ?? { ...ownCommand(), cwd: this.#cwd },
        this.#logger,
      );
      attempt = this.#attempt = {
        successor,
        isReady: false,
        outcome: Promise.withResolvers<{ pid: number; generation: number }>(),
      };
      const outcome = await this.#outcomeOf(attempt);
      this.#log("restarted", began, { successor: outcome.pid });
      return outcome;
    } catch (error) {
      if (attempt) this.#giveUp(attempt, error);
      const then = this.#hasLeft || this.#successor ? "" : "; this generation goes on";
      this.#logger.error?.(`The restart failed${then}`, error);
      throw error;
    } finally {
      attempt?.successor.release();
      this.#attempt = undefined;
      this.#restartIfAsked();
    }
  }

  /** Waits until the process of a restart has taken over, has ended, or was not ready in time. */
  async #outcomeOf(attempt: Attempt): Promise<{ pid: number; generation: number }> {
    const { readyTimeout = 60_000 } = this.#options;
    const { successor, outcome } = attempt;
    successor.ended.then(async ({ how, lastWords }) => {
      // That it has ended may be known before its handover has failed: until then this one is busy.
      await attempt.handover?.catch(() => {});
      // Its output has not been read since it was ready.
      const words = attempt.isReady && attempt.lastWords || lastWords || attempt.lastWords || "";
      outcome.reject(new HandoverError(`${named(successor)} ${how}${saying(words)}`));
    }, (error) => outcome.reject(error));
    const over = new AbortController();
    pause(readyTimeout, over.signal).then(async () => {
      if (attempt.isReady) return;
      const why = attempt.failure ? `; when it tried: ${attempt.failure.message}` : "";
      const what = `${named(successor)} was not ready after ${readyTimeout} ms${why}`;
      const words = saying(successor.lastWords);
      const error = new HandoverError(what + words, "ERR_HANDOVER_TIMEOUT");
      successor.kill();
      // When the restart has failed, the next one may begin.
      if (attempt.handover) this.#handover?.abort(error);
      await attempt.handover?.catch(() => {});
      outcome.reject(error);
    }, () => {});
    try {
      return await outcome.promise;
    } finally {
      over.abort();
    }
  }

  /**
   * Ends the processes of a restart that has failed, unless one of them has clients: none is to take over
   * later.
   */
  #giveUp({ successor, isReady, outcome }: Attempt, reason: unknown): void {
    this.#failedTokens.add(successor.token);
    if (!isReady) successor.kill();
    outcome.reject(reason);
  }

  /**
   * Stops the service: accepts no more, answers what it has, and removes the control socket. A next
   * generation that is not ready is not to come. One that is goes on, and this one leaves to it; of one
   * that is leaving already, idle clients are not waited for any more.
   */
  async stop(): Promise<void> {
    if (this.#hasLeft) this.#hurry.abort();
    else if (!this.#stopping) {
      this.#stopping = true;
      const predecessor = this.#predecessor;
      if (predecessor && !predecessor.gone && this.#state === "serving") {
        // The generation before is not to come back.
        await predecessor.say({ type: "healthy" }).catch(() => {});
        await predecessor.say({ type: "stop" }).catch(() => {});
      }
      this.#probation?.abort();
      this.#handover?.abort(new HandoverError("The generation that ran was stopped"));
      void this.#leave();
    }
    // Whether it was rolled back is of no interest to whoever wants it stopped.
    await this.finished.catch(() => {});
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
    if (this.#answering) return;
    const { signal } = this.#answering = new AbortController();
    let failure: string | undefined;
    let delay = 0;
    while (!signal.aborted) {
      try {
        const conn = await this.#control.accept({ signal });
        if (failure) this.#logger.info?.(`Accepting on ${formatPath(this.path)} again`);
        failure = undefined;
        delay = 0;
        void this.#converse(conn);
      } catch (error) {
        if (signal.aborted) return;
        // A service that has none left is to be asked, replaced and stopped all the same.
        if (isOutOfDescriptors(error) && this.#reserve.spend()) continue;
        // What lasts is said once.
        const { message } = error as Error;
        if (message !== failure) {
          this.#logger.error?.(`Cannot accept on ${formatPath(this.path)}; trying again`, error);
        }
        failure = message;
        delay = Math.min(2 * delay || shortestDelay, longestDelay);
        await pause(delay, signal).catch(() => {});
      }
    }
  }

  /** Serves one client of the control socket; never rejects. */
  async #converse(conn: UnixConn): Promise<void> {
    const { allow = sameUserOrRoot, answerTimeout = 10_000 } = this.#options;
    const channel = new Channel(conn);
    try {
      checkPeer(conn, allow, `At ${formatPath(this.path)}`);
      const asked = await channel.receive({ timeout: answerTimeout });
      if (asked) await this.#serveControl(channel, asked);
    } catch (error) {
      if (error instanceof PeerNotAllowedError) {
        const refused: Frame = { type: "refused", reason: error.message, code: "peer" };
        await this.#send(channel, refused).catch(() => {});
      }
      this.#logger.error?.(`A conversation at ${formatPath(this.path)} failed`, error);
    } finally {
      this.#hangUp(channel);
      if (!this.#hasLeft) this.#reserve.refill();
    }
  }

  /** Closes a connection; never throws, although the program may have closed its descriptor. */
  #hangUp(channel: Channel): void {
    try {
      channel[Symbol.dispose]();
    } catch (error) {
      this.#logger.debug?.("Cannot close a connection of the control socket", error);
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
      this.#isAskedToEnd = true;
      const stopped = this.stop();
      const { generation } = this;
      await channel.send({ type: "done", pid: Deno.pid, generation, namespace: pidNamespace() });
      await stopped;
    } else throw unexpected(asked);
  }

  /** Hands everything over to the process at the other end of `channel`, or goes on. */
  async #handOver(channel: Channel, hello: Frame & { type: "hello" }): Promise<void> {
    const refused = this.#refusal(hello);
    if (refused) {
      const pid = processOf(hello, channel.conn);
      this.#logger.info?.(`Refused process ${pid}: ${refused.reason}`);
      await channel.send(refused);
      return;
    }
    this.#state = "handing over";
    const attempt = this.#attempt && isFrom(hello, channel.conn, this.#attempt)
      ? this.#attempt
      : undefined;
    const handover = this.#goThrough(channel, processOf(hello, channel.conn), attempt);
    if (attempt) attempt.handover = handover;
    try {
      await handover;
    } catch (error) {
      attempt?.outcome.reject(error);
      throw error;
    } finally {
      if (attempt) attempt.handover = undefined;
      this.#restartIfAsked();
    }
  }

  /** The handover itself, once it is not refused. */
  async #goThrough(
    channel: Channel,
    successor: number,
    attempt: Attempt | undefined,
  ): Promise<void> {
    const began = performance.now();
    const details = { successor };
    this.#resources.watch();
    try {
      this.#log("asked", began, details);
      await this.#persuade(channel, attempt, began, details);
    } catch (error) {
      // When the next generation was ready, one that is stopped leaves to it, whatever becomes of it.
      if (this.#successor?.channel === channel && this.#hasLeft) return;
      this.#log("failed", began, details);
      await this.#goOn(channel, attempt, error);
      return;
    }
    this.#log("handed over", began, details);
    await this.#leave();
  }

  /** Offers everything, and lets the other process take over when it is ready, until it is healthy. */
  async #persuade(
    channel: Channel,
    attempt: Attempt | undefined,
    began: number,
    details: { successor: number },
  ): Promise<void> {
    const { readyTimeout = 60_000, answerTimeout = 10_000, probation: own = 5000 } = this.#options;
    const handover = this.#handover = new AbortController();
    const note = (lastWords: string) => {
      if (attempt) attempt.lastWords = lastWords;
    };
    let probation: number;
    try {
      await this.#offer(channel, attempt !== undefined, handover.signal);
      this.#log("offered", began, details);
      const late = `Process ${details.successor}, the next generation, was not ready after ` +
        `${readyTimeout} ms: the \`readyTimeout\` of the generation that runs`;
      ({ probation } = await expect(channel, "ready", readyTimeout, late, note, handover.signal));
    } finally {
      this.#handover = undefined;
    }
    const limit = Math.max(own, longestProbation);
    if (probation > limit) {
      throw new HandoverError(
        `The next generation asks for a probation of ${probation} ms: more than ${limit} ms are for a ` +
          "generation whose predecessor has as long a one itself",
      );
    }
    if (attempt) attempt.isReady = true;
    if (this.#attempt && this.#attempt !== attempt) {
      // Its process would take over from that one in turn, and undo what was deployed.
      const what = `Another process, ${details.successor}, has taken over`;
      this.#giveUp(this.#attempt, new HandoverError(what));
    }
    this.#log("succeeded", began, details);
    this.#successor = { channel, pid: details.successor };
    this.#withdraw();
    this.#reporting = setInterval(() => this.#report(), reportInterval);
    // It may have left already, in good health: what comes next tells.
    await channel.tell({ type: "draining" });
    this.#log("withdrawn", began, details);
    const limits = `its probation of ${probation} ms and \`answerTimeout\``;
    const late =
      `Process ${details.successor}, the next generation, did not say that it is healthy in ` +
      limits;
    await expect(channel, "healthy", probation + answerTimeout, late, note);
  }

  #refusal(
    { version, token }: { version: number; token?: string },
  ): Frame & { type: "refused" | "rollback" } | undefined {
    if (version !== protocolVersion) {
      const reason =
        `it speaks version ${version} of the handover, and the generation that runs version ${protocolVersion}`;
      return { type: "refused", code: "version", reason };
    }
    if (token !== undefined && this.#failedTokens.has(token)) {
      // An answer on which start() does not try again.
      return { type: "rollback", reason: "the restart that has started this process has failed" };
    }
    if (this.#state === "serving" && !this.#probation) return undefined;
    if (this.#hasLeft) {
      return { type: "refused", code: "leaving", reason: "the generation that runs is leaving" };
    }
    return { type: "refused", code: "busy", reason: "another handover is under way" };
  }

  async #offer(channel: Channel, withOutput: boolean, signal: AbortSignal): Promise<void> {
    const state: Uint8Array[] = [];
    const descriptors: Passed[] = [];
    const items: OfferedItem[] = [];
    const pass = (item: OfferedItem, fd: Fd | number) => {
      items.push(item);
      descriptors.push({ fd });
    };
    pass({ kind: "control", key: "" }, this.#control.fd);
    if (withOutput) {
      pass({ kind: "stdout", key: "" }, 1);
      pass({ kind: "stderr", key: "" }, 2);
    }
    for (const { item, fd } of this.#resources.offered()) pass(item, fd);
    for (const [name, value] of this.#kept) {
      if (value instanceof Fd) {
        pass({ kind: "kept", key: name }, value);
        continue;
      }
      const bytes = stateOf(name, value);
      state.push(bytes);
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
    await this.#send(channel, offer, { state, descriptors, signal });
  }

  /** Stops accepting, in a way that can be undone. */
  #withdraw(): void {
    this.#answering?.abort();
    this.#answering = undefined;
    this.#resources.shut();
  }

  /** Accepts again, or still: the successor has failed, or this one was stopped before it could. */
  async #goOn(channel: Channel, attempt: Attempt | undefined, reason: unknown): Promise<void> {
    const error = reason instanceof HandoverError ? reason : new HandoverError(
      `The handover failed: ${(reason as Error).message}`,
      undefined,
      { cause: reason },
    );
    const wasReady = this.#successor?.channel === channel;
    if (this.#state === "handing over") {
      clearInterval(this.#reporting);
      this.#reporting = undefined;
      this.#successor = undefined;
      this.#state = "serving";
      this.#resources.open();
      if (wasReady) void this.#answer();
      this.#logger.error?.("The handover failed; this generation goes on", error);
    }
    // If it lives after all, it is to leave.
    await this.#send(channel, { type: "rollback", reason: error.message }).catch(() => {});
    if (!attempt) return;
    attempt.failure = error;
    const { successor, isReady, outcome } = attempt;
    // Before, it may try again; or it ends, and says of what.
    if (!isReady) return;
    // It has been told to leave, and answers its clients: how it has ended is known if it takes no longer.
    using late = expiring(lastWordsTime, () => error);
    await unlessAborted(successor.ended, late.signal).catch(() => {});
    if (late.signal.aborted) outcome.reject(error);
  }

  /** Sends something that the other process may not read. */
  async #send(channel: Channel, frame: Frame, options: SendFrameOptions = {}): Promise<void> {
    const { answerTimeout = 10_000 } = this.#options;
    using late = expiring(answerTimeout, () => {
      const what = `The other generation has read nothing for ${answerTimeout} ms`;
      return new HandoverError(what, "ERR_HANDOVER_TIMEOUT");
    });
    const signal = either(late.signal, options.signal);
    await channel.send(frame, { ...options, signal });
  }

  // The end.

  /** Leaves: waits for the clients, and lets go of everything; never rejects. */
  async #leave({ reason }: { reason?: unknown } = {}): Promise<void> {
    if (this.#hasLeft) return;
    this.#state = "leaving";
    const began = performance.now();
    const successor = this.#successor;
    // Where nobody takes over there is nobody to go to: only who is busy is told to leave.
    const { deadline = 60_000, forceLimit = 30_000 } = this.#options;
    const isSucceeded = successor !== undefined || reason !== undefined;
    const { signal: hurry } = this.#hurry;
    let unbound: Promise<void> | undefined;
    // In this order. One that fails does not keep those behind it from being taken.
    const steps: Record<string, () => void | Promise<void>> = {
      "stop accepting": () => this.#withdraw(),
      "tell the program": () => {
        this.#draining.abort(reason ?? new Error(successor ? "replaced" : "stopped"));
      },
      "listen to the next generation": () => {
        if (successor) void this.#heed(successor.channel);
      },
      "pass on a restart that was asked for": () => this.#restartIfAsked(),
      "close the WebSockets": () => {
        this.#webSockets.leave({
          ...isSucceeded
            ? { code: 1012, reason: "service restart", spread: Math.min(deadline / 2, 30_000) }
            : { code: 1001, reason: "going away", spread: 0 },
          forceLimit,
          hurry,
        });
      },
      "settle the restart": () => this.#settleAttempt(),
      "close what was inherited and not asked for": () => {
        this.#inheritance[Symbol.dispose]();
        this.#foreign?.[Symbol.dispose]();
      },
      "release the sockets": () => this.#resources.release(),
      "leave the control path": () => {
        // To lock it takes a descriptor, in this very turn.
        this.#reserve[Symbol.dispose]();
        unbound = this.#unbind();
        // Whether it fails is asked when the clients have left.
        unbound.catch(() => {});
      },
      "drain to the end": () => {
        this.#reporting ??= setInterval(() => this.#report(), reportInterval);
        const httpDeadline = isSucceeded ? deadline : Math.min(deadline, farewellTime);
        return this.#resources.leave({
          deadline,
          httpDeadline,
          forceLimit,
          hurry,
          isClosing: () => this.#webSockets.closing,
        });
      },
      "move connections": async () => {
        clearInterval(this.#reporting);
        while (this.#moves.size > 0) await Promise.allSettled(this.#moves);
      },
      "remove the control path": () => unbound,
      // What was moved is on its way before.
      "tell the next generation": async () => {
        const frame: Frame = { type: "progress", connections: 0 };
        if (successor) await this.#send(successor.channel, frame).catch(() => {});
      },
      "close what was kept": () => {
        for (const value of this.#kept.values()) if (value instanceof Fd) value[Symbol.dispose]();
      },
      "leave the signals to Deno": () => this.#forgetSignals(),
      "keep the output of what this process has started": () => settleOutput(this.#logger),
      "hang up on the other generations": () => {
        this.#unproven.abort();
        this.#predecessor?.[Symbol.dispose]();
        successor?.channel[Symbol.dispose]();
      },
    };
    for (const [what, step] of Object.entries(steps)) {
      try {
        const taken = step();
        if (taken) await taken;
      } catch (error) {
        this.#logger.error?.(`Cannot ${what}; leaving goes on`, error);
      }
    }
    this.#state = "stopped";
    running.delete(this);
    this.#log("left", began, {});
    if (reason === undefined) this.#finished.resolve();
    else this.#finished.reject(reason);
    // By the word of the kernel: a number that the other one tells is that of its own PID namespace.
    const next = successor?.channel.conn.peer.pid;
    const isReplaced = next !== undefined && next !== Deno.pid && !this.#stopping;
    if (this.#isAskedToEnd || isReplaced) this.#exitInTime();
  }

  /** Ends the process some time from now, if that has not ended by itself. */
  #exitInTime(): void {
    const { exitTimeout = 10_000 } = this.#options;
    if (exitTimeout === false || exitTimeout === Infinity) return;
    const left = performance.now();
    const look = async () => {
      if (running.size > 0) {
        // Others run beside it, or have begun meanwhile: the process has as long again when they have left.
        await Promise.allSettled(Array.from(running, ({ finished }) => finished));
        return arm();
      }
      const passed = Math.round(performance.now() - left);
      this.#logger.error?.(
        `Generation ${this.generation} left ${passed} ms ago, and its process ${Deno.pid} has not ended: ` +
          "a timer, an open connection or the like keeps it. The process exits now; close what keeps it " +
          "when `finished` resolves, or set `exitTimeout`",
      );
      this.#exit();
    };
    // The process is to end before, if it can.
    const arm = () => Deno.unrefTimer(setTimeout(look, Math.min(exitTimeout, longestPause)));
    arm();
  }

  /** Ends the process; a listener of `unload` that throws would change the exit code. */
  #exit(code?: number): void {
    const report = (error: unknown) => {
      this.#logger.error?.("A listener of `unload` has failed; the process ends", error);
    };
    whileReporting(report, () => Deno.exit(code));
  }

  /** Whoever waits for a restart is told what comes of it. */
  async #settleAttempt(): Promise<void> {
    const attempt = this.#attempt;
    if (!attempt) return;
    const { pid } = this.#successor ?? {};
    // A successor that is not of this restart has ended it when it was ready.
    if (pid !== undefined && attempt.isReady) {
      attempt.outcome.resolve({ pid, generation: this.generation + 1 });
      return;
    }
    this.#giveUp(attempt, new HandoverError("This generation was stopped meanwhile"));
    // A process that has hardly begun has the sockets of this one, and would seem to listen on them.
    if (!attempt.isReady) await attempt.successor.ended.catch(() => {});
  }

  /** Leaves the control path to the next generation, or removes it when nobody listens there. */
  async #unbind(): Promise<void> {
    const { answerTimeout = 10_000 } = this.#options;
    using late = expiring(
      answerTimeout,
      () => new Error(`Cannot lock the control path within ${answerTimeout} ms`),
    );
    const leave = () => this.#control.leave();
    try {
      // Another first generation may be about to listen there.
      await locked(this.path, leave, late.signal);
    } catch (error) {
      this.#logger.debug?.(
        `Removing ${formatPath(this.path)} without its lock, unless another process listens there`,
        error,
      );
      leave();
    }
  }

  /** Heeds what the next generation has to say when it is healthy. */
  async #heed(channel: Channel): Promise<void> {
    try {
      for (let frame; (frame = await channel.receive());) {
        if (frame.type === "stop") this.#hurry.abort();
      }
    } catch (error) {
      if (this.#state !== "stopped") this.#logger.debug?.("Cannot hear the next generation", error);
    }
  }

  /** Says how far leaving has come. */
  #report(): void {
    const { left } = this.#resources;
    this.#logger.info?.(`Leaving: ${left} connections are left`);
    const { channel } = this.#successor ?? {};
    void channel?.send({ type: "progress", connections: left }).catch(() => {});
  }

  /** Writes where the generation before did, if it has started this one and passed its output on. */
  #takeStream(kind: "stdout" | "stderr"): void {
    using fd = this.#inheritance.take(kind, "")?.fd;
    if (fd) leadStream(kind === "stdout" ? 1 : 2, fd);
  }

  #listenToSignals(): void {
    const { stopOn = ["SIGTERM", "SIGINT"], restartOn = [] } = this.#options;
    const add = (signal: Deno.Signal, listener: () => void) => {
      Deno.addSignalListener(signal, listener);
      this.#signals.set(signal, listener);
    };
    try {
      for (const signal of stopOn) add(signal, () => void this.#stopOn(signal));
      for (const signal of restartOn) add(signal, () => this.#restartOn(signal));
    } catch (error) {
      this.#forgetSignals();
      throw error;
    }
  }

  #forgetSignals(): void {
    for (const [signal, listener] of this.#signals) Deno.removeSignalListener(signal, listener);
    this.#signals.clear();
  }

  async #stopOn(signal: Deno.Signal): Promise<void> {
    // A second one does what it does without this.
    Deno.removeSignalListener(signal, this.#signals.get(signal)!);
    this.#signals.delete(signal);
    this.#logger.info?.(`Stopping on ${signal}`);
    this.#isAskedToEnd = true;
    const isReady = this.#state !== "starting";
    await this.stop().catch(() => {});
    // The program is still on its way to ready(), and would fail at whatever it asks for next.
    if (!isReady) this.#exit(0);
  }

  /**
   * Restarts, now or as soon as nothing is in the way: during a restart the signal may stand for files that the
   * process of that restart has read before they were changed.
   */
  #restartOn(signal: string): void {
    if (this.#hasLeft && !this.#successor) {
      this.#logger.warn?.(
        `Not restarting on ${signal}: this generation is being stopped, and no other one follows; ` +
          "start the service again",
      );
      return;
    }
    this.#isToRestart = true;
    this.#logger.info?.(`Restarting on ${signal}, once this generation can`);
    this.#restartIfAsked();
  }

  /** Makes up for the signals that came while no restart could begin, here or in the generation that follows. */
  #restartIfAsked(): void {
    if (!this.#isToRestart) return;
    if (this.#state === "leaving" && this.#successor) {
      this.#isToRestart = false;
      const { channel } = this.#successor;
      this.#send(channel, { type: "restart" }).catch((error) => {
        const what = "Cannot pass on to the next generation that it is to restart; ask it for that";
        this.#logger.error?.(what, error);
      });
    } else if (this.#state === "serving" && !this.#attempt && !this.#probation) {
      this.#isToRestart = false;
      // Why it fails is logged there.
      void this.restart().catch(() => {});
    }
  }

  #log(phase: Phase, began: number, details: Record<string, unknown>): void {
    logPhase(this.#logger, phase, began, { generation: this.generation, ...details });
  }
}

/**
 * Milliseconds in which busy clients of one that is stopped are answered, and told to leave. (After 100 ms
 * of that, none of 1.4 million requests met the end of its connection.)
 */
const farewellTime = 100;

/** Milliseconds for which a failed restart waits for the end of its process, and the error that it ends with. */
const lastWordsTime = 1000;

/** The generations of this process that have not left. */
const running = new Set<Generation>();

/** Whether this process has a generation at that path which is not ready: no other one can take over. */
export function isStarting(path: string): boolean {
  return [...running].some((app) => app.path === path && app.status().state === "starting");
}

/** Milliseconds before accepting again after it failed: twice as many each time. */
const shortestDelay = 5;
const longestDelay = 1000;

/** Milliseconds between two lines about what is left. */
const reportInterval = 1000;

/**
 * The longest probation that any next generation may ask for, in milliseconds: for as long this one does
 * not accept, whatever becomes of the other one.
 */
const longestProbation = 300_000;

/** What is kept of something, so that whoever keeps it may close it. */
function toKeep(value: Keepable): Fd | (() => Uint8Array) {
  if (typeof value === "function") return value;
  if (value instanceof Uint8Array) return () => value;
  if (value instanceof Fd) return value.dup();
  return typeof value === "number" ? new Fd(dup(value)) : fileDescriptor(value);
}

/** The bytes of what is kept. */
function stateOf(name: string, value: () => Uint8Array): Uint8Array {
  try {
    const bytes = value();
    if (bytes instanceof Uint8Array) return bytes;
    throw new TypeError("it is no Uint8Array");
  } catch (cause) {
    const what = `${quoted(name)} cannot be handed over: ${(cause as Error).message}`;
    throw new HandoverError(what, undefined, { cause });
  }
}

/**
 * Whether it is the process of an attempt that asks, or one that it has started. The number that it says
 * is no proof: in another PID namespace another process has the same.
 */
function isFrom(
  { token }: { token?: string },
  { peer }: UnixConn,
  { successor }: Attempt,
): boolean {
  return token === successor.token || successor.pid !== undefined && peer.pid === successor.pid;
}

/** The number of the process that asks: what the kernel does not see from here (unix(7)), it says itself. */
function processOf({ pid }: { pid: number }, { peer }: UnixConn): number {
  return peer.pid || pid;
}

function named({ pid }: Successor): string {
  return pid === undefined ? "The next generation" : `The next generation, process ${pid},`;
}

/** The last words of a process, as the end of a message. */
function saying(lastWords: string): string {
  return lastWords ? `; the last it said was: ${indented(lastWords)}` : "";
}

/**
 * The frame that has to come next.
 *
 * @param late What to say when it does not come in time.
 * @param note Called with what the process says that it fails of. Its end follows, if nothing in it prevents that.
 */
async function expect<T extends Frame["type"]>(
  channel: Channel,
  type: T,
  timeout: number,
  late: string,
  note: (lastWords: string) => void,
  signal?: AbortSignal,
): Promise<Frame & { type: T }> {
  const end = performance.now() + timeout;
  for (let lastWords = "";;) {
    const left = Math.max(0, end - performance.now());
    const frame = await channel.receive({ timeout: left, signal }).catch((cause) => {
      if (cause.code !== "ERR_HANDOVER_TIMEOUT" || cause === signal?.reason) throw cause;
      throw new HandoverError(late + saying(lastWords), cause.code, { cause });
    });
    if (frame?.type === type) return frame as Frame & { type: T };
    if (!frame) {
      const what = `The next generation ended before it was ${type}`;
      throw new HandoverError(what + saying(lastWords));
    }
    if (frame.type !== "failed") throw unexpected(frame);
    note(lastWords = frame.message);
  }
}

/** How many characters of an error another generation is told. */
const mostWords = 2000;

/** What was thrown, as another generation is told of it. */
function inWords(error: unknown): string {
  try {
    return String(error instanceof Error && error.stack || error).slice(0, mostWords);
  } catch {
    return "an error without words";
  }
}
