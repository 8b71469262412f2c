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

import type { Fd } from "../../ffi/fd.ts";
import { pidNamespace } from "../../ffi/proc.ts";
import { indented, listed, quoted } from "../../ffi/quote.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { networkNamespace, ownNetworkNamespace } from "../../ffi/socket.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { expiring, longestPause, pause, unlessAborted } from "../time.ts";
import type { TlsOptions } from "../native/adopt.ts";
import { Channel, type Passed } from "./channel.ts";
import { checkPeer, type PeerCheck, sameUserOrRoot, type UnixConn } from "../unix/conn.ts";
import { type Command, OwnCommand } from "./command.ts";
import { type ConnLike, findConn, type FoundConn } from "../native/descriptor.ts";
import type { DrainOptions } from "../http/drain.ts";
import { Draining, whileReporting } from "./draining.ts";
import { HandoverError, PeerNotAllowedError } from "../errors.ts";
import {
  type Frame,
  type GenerationStatus,
  maxNameLength,
  offeredFile,
  type OfferedItem,
  offerFrames,
  protocolVersion,
  reportFrame,
  unexpected,
} from "./protocol.ts";
import { type ServeHttpOptions, serveHttpOptions } from "../http/serve.ts";
import type { Inheritance, InheritedItem } from "./inheritance.ts";
import { checkKeepable, type Keepable, KeptValue, whyNotKeepable } from "./state.ts";
import type { UnixListener } from "../unix/listener.ts";
import { logPhase, type Phase } from "./phase_log.ts";
import type { Arrival, Predecessor } from "./predecessor.ts";
import { isOutOfDescriptors, Reserve } from "./reserve.ts";
import {
  type DatagramListenAddress,
  type ListenAddress,
  type NamedListenAddress,
  splitListenAddress,
  type TcpListenAddress,
} from "../listen_address.ts";
import type { ResourceOptions, Resources } from "./resources.ts";
import { DescriptorResources } from "./descriptor_resources.ts";
import { locked } from "./path_lock.ts";
import { guarded, type Logger } from "../logger.ts";
import { type SharedFate, sharedFate } from "./main_process.ts";
import { bothServers, serveAddress } from "../http/serve_address.ts";
import type { HttpHandler } from "../http/serving.ts";
import { Child } from "./child.ts";
import { ownToken } from "./environment.ts";
import { redirectStream, releaseOutputPipes } from "./output.ts";
import { WebSockets } from "../http/websockets.ts";

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
  /**
   * How long the other generation may take for an answer, or without a byte while it reads or sends: a state
   * that takes longer, and flows, is neither. And how long another process may have the lock of the control
   * path, a file beside it that is there while it is bound or removed. @default {10_000}
   */
  peerTimeout?: number;
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
   * `ready()` there is nothing to answer, and the process exits.
   * @default {["SIGTERM", "SIGINT"], as far as the system has them}
   */
  stopOn?: Deno.Signal[];
  /** Signals that restart it. @default {none} */
  restartOn?: Deno.Signal[];
  /** What `restart()` starts, as far as it is not what this process was started with. */
  command?: Command;
  /**
   * Whether a process whose end ends everything around it may be replaced, which would be an outage: process 1 of a
   * container, or the one that process 1 waits for, and the main process of a systemd unit that is not told of
   * another one. Set it where that process stays when its generation has left. @default {false}
   */
  restartAsMain?: boolean;
  /**
   * A control socket of a plain `serve()`, here or in the Go library: where no generation runs yet,
   * its listeners are what the first one inherits. It has sent all when its stream ends, or pauses for
   * half a second; when they are served it is told "ready", and hung up on. `allow` is asked about it.
   */
  inheritFrom?: string;
  /**
   * The name of the service: a generation of another name is refused, with the code
   * "ERR_HANDOVER_SERVICE". A generation without a name follows any, and is followed by any, so that a
   * release may introduce one. @default {none}
   */
  service?: string;
  /** Permissions of the control socket. @default {0o600} */
  mode?: number;
  /**
   * Asked about the process at the other end of each connection: one that comes to the control socket,
   * the generation that runs there, and the server at `inheritFrom`. What it refuses is given nothing,
   * and nothing is taken from it. @default {those of the same user, and of root}
   */
  allow?: PeerCheck;
  /** Where to log each phase, with its duration. @default {the console: warnings and errors alone} */
  logger?: Logger;
  /** Ends the wait for the generation that runs. */
  signal?: AbortSignal;
}

/** Options of {@linkcode Generation.serve}: those of `Deno.serve`, and of {@linkcode ListenAddress}. */
export interface ServeOptions extends ServeHttpOptions, NamedListenAddress {
  /** The transport. @default {"unix" with a path, "tcp" without} */
  transport?: "tcp" | "unix";
  /** The address or name to bind to. @default {"0.0.0.0"} */
  hostname?: string;
  /** The port; with 0 the first generation gets a free one. @default {8000} */
  port?: number;
  /** Whether other sockets may listen there too. @default {false} */
  reusePort?: boolean;
  /** A unix path to listen on, in place of hostname and port; without TLS. */
  path?: string;
  /** Permissions of that path. @default {0o600} */
  mode?: number;
  /** How many connections may wait to be accepted; see {@linkcode TcpListenAddress} and {@linkcode UnixListenAddress}. */
  backlog?: number;
  /** The same, under Deno's name. */
  tcpBacklog?: number;
}

/** How a generation came to be. */
export interface Origin {
  generation: number;
  /** Absent on a system that passes no descriptors: no generation follows. */
  control?: UnixListener;
  inheritance: Inheritance;
  /** Where it is to have its sockets and files. @default {descriptors, inherited or new} */
  resources?: (options: ResourceOptions) => Resources;
  predecessor?: Predecessor;
  /** A connection to a plain server that handed over, which waits for a word, or for its end. */
  foreign?: UnixConn;
}

/** A restart that somebody waits for. */
interface Attempt {
  successor: Child;
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
  readonly #control: UnixListener | undefined;
  readonly #inheritance: Inheritance;
  readonly #predecessor: Predecessor | undefined;
  readonly #foreign: UnixConn | undefined;
  readonly #resources: Resources;
  readonly #reserve: Reserve | undefined;
  readonly #kept = new Map<string, KeptValue>();
  readonly #alone = Promise.withResolvers<void>();
  readonly #webSockets = new WebSockets();
  readonly #moves = new Set<Promise<boolean>>();
  #pathTimer: ReturnType<typeof setTimeout> | undefined;
  /** What was in the way when the paths were last looked at, as far as it was logged. */
  #pathProblems = "";
  readonly #signals = new Map<Deno.Signal, () => void>();
  readonly #command: OwnCommand | undefined;
  #state: GenerationStatus["state"] = "starting";
  /** Set while `ready()` is on its way. */
  #committing = false;
  /** Set while this generation accepts on the control socket; aborting it stops that. */
  #answering: AbortController | undefined;
  #probation: AbortController | undefined;
  /** Aborted when the generation before cannot come back any more. */
  readonly #unproven = new AbortController();
  /** Ends a handover that can still be taken back. */
  #handover: AbortController | undefined;
  /** The process that a handover is under way to, or was last. */
  #next: number | undefined;
  /** The one that is ready, to which the clients of this one go. */
  #successor: { channel: Channel; pid: number } | undefined;
  #attempt: Attempt | undefined;
  /** The tokens of restarts that have failed: their processes are not to take over later. */
  readonly #failedTokens = new Set<string>();
  /** While there are clients who are to leave. */
  #reporting: ReturnType<typeof setInterval> | undefined;
  #stopping = false;
  /** Runs from the first listener on until `ready()`. */
  #reminder: ReturnType<typeof setTimeout> | undefined;
  /** When `ready()` was called. */
  #readyAt: number | undefined;
  /** Whether it has had a listener or datagram socket, and one that was inherited. */
  #hasListened = false;
  #hasInherited = false;
  /** Whether it was logged that `ready()` was called too early. */
  #isEarlyLogged = false;
  /** Whether the generation before has taken the service back. */
  #isRolledBack = false;
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
    this.#command = origin.control && new OwnCommand(this.#logger);
    this.#command?.warn(options.command);
    this.#inheritance = origin.inheritance;
    this.#foreign = origin.foreign;
    this.#predecessor = origin.predecessor;
    const { control, inheritance, predecessor } = origin;
    const make = origin.resources ?? ((options) => new DescriptorResources(inheritance, options));
    this.#resources = make({
      logger: this.#logger,
      onSocket: (address, isInherited) => this.#noticeSocket(address, isInherited),
      isPredecessorGone: () => predecessor !== undefined && predecessor.gone,
      // A generation has made the control socket: its namespace is that of the generations.
      isForeignNetworkExpected: () =>
        predecessor !== undefined && networkNamespace(control!.fd.raw) === ownNetworkNamespace(),
      inUseAdvice: predecessor
        ? undefined
        : `nothing listened at the control path ${
          formatPath(path)
        }. If that was removed from under a generation of this service, it puts it back within ${
          pathInterval / 1000
        } s, or at a signal of its \`restartOn\`: start again then`,
    });
    // May fail, for a name that is none: before anything else.
    this.#listenToSignals();
    this.#reserve = control && new Reserve();
    this.#control?.followFile();
    running.add(this);
    // That nobody waits for it must not end the process.
    this.#alone.promise.catch(() => {});
    if (this.#predecessor) {
      // What this process starts from here on is not to end when the generation before has ended; its own stderr,
      // the end of which is part of the message if it fails, goes on being read there.
      this.#takeStream("stdout");
      this.#tellOfFailure(this.#predecessor);
      void this.#follow(this.#predecessor);
    } else {
      this.#alone.resolve();
      // What started this one may have ended by now.
      void releaseOutputPipes(this.#logger);
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
  /** Serves HTTP, with options and the handler among them. */
  serve(options: ServeOptions & { handler: HttpHandler }): Deno.HttpServer;
  serve(
    optionsOrHandler: ServeOptions & { handler?: HttpHandler } | HttpHandler,
    maybeHandler?: HttpHandler,
  ): Deno.HttpServer {
    const isAlone = typeof optionsOrHandler === "function";
    if (isAlone ? maybeHandler !== undefined : typeof optionsOrHandler !== "object") {
      throw new TypeError(
        "Cannot serve: serve() takes a handler, or an object of options and then the handler",
      );
    }
    const { handler: own, ...options } = isAlone
      ? {} as { handler?: HttpHandler }
      : optionsOrHandler;
    const handler = isAlone ? optionsOrHandler : maybeHandler ?? own;
    if (typeof handler !== "function") throw new TypeError("Cannot serve HTTP without a handler");
    const { place, rest } = splitListenAddress<ListenAddress, ServeHttpOptions>(
      "Cannot serve",
      options,
      { tcp: serveHttpOptions, unix: plainHttpOptions },
      8000,
    );
    // Where there is no control socket, Deno.serve itself listens there.
    const address = this.#hasServed || !this.#control ? undefined : serveAddress();
    this.#hasServed = true;
    if (!address) return this.#resources.http(place, rest, handler);
    const { backlog } = place;
    const told: ListenAddress = "path" in address.place
      ? { ...address.place, backlog, mode: "path" in place ? place.mode : undefined }
      : { ...address.place, backlog, reusePort: "path" in place ? undefined : place.reusePort };
    if (!address.isDuplicate) {
      return this.#resources.http({ ...told, name: place.name }, rest, handler);
    }
    const { signal, onError, automaticCompression } = rest;
    const first = this.#resources.http(told, { signal, onError, automaticCompression }, handler);
    try {
      return bothServers(first, this.#resources.http(place, rest, handler));
    } catch (error) {
      void first.shutdown();
      throw error;
    }
  }

  /** Listens for TCP or unix connections, from `ready()` on. */
  listen(options: ListenAddress): Deno.Listener {
    const { place } = splitListenAddress<ListenAddress>("Cannot listen", options, {
      tcp: [],
      unix: [],
    });
    return this.#resources.listener(place);
  }

  /** Listens for TLS connections, from `ready()` on; the certificate may be another one each time. */
  listenTls(options: TcpListenAddress & TlsOptions): Deno.TlsListener {
    const { place, rest } = splitListenAddress<TcpListenAddress, TlsOptions>(
      "Cannot listen for TLS",
      options,
      {
        tcp: ["cert", "key", "keyFormat", "alpnProtocols"],
      },
    );
    return this.#resources.listener(place, rest);
  }

  /** Receives UDP or unix datagrams, from `ready()` on; needs `--unstable-net`. */
  listenDatagram(options: DatagramListenAddress): Deno.DatagramConn {
    const { place } = splitListenAddress<DatagramListenAddress>(
      "Cannot receive datagrams",
      options,
      {
        udp: [],
        unixpacket: [],
      },
    );
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
   * Keeps something for the next generation, under a name: whatever `sendListener`, `sendConn`,
   * `sendPacketConn` and `sendFile` take, of which a duplicate is kept, so that it stays the caller's; or
   * bytes (2 GiB at most), or a function that is asked for them when the next generation comes.
   *
   * A connection goes to the next generation when this one leaves: from then on nothing is read or written
   * here, and closing it ends nothing there. A listener of Deno's own on a unix path removes that when it is
   * closed: {@linkcode Generation.listen} makes one that does not.
   *
   * @throws {NoDescriptorError} When a descriptor cannot be told for certain, or it is a TLS connection: its
   * keys live in this process.
   */
  keep(name: string, value: Keepable): void {
    checkKeepable(name, value);
    if (name.length > maxNameLength) {
      throw new RangeError(
        `Cannot keep something under a name of ${name.length} characters: it may have ${maxNameLength}`,
      );
    }
    const kept = KeptValue.of(name, value, (error) => {
      if (this.#kept.get(name) !== kept) return;
      this.#kept.delete(name);
      this.#logger.error?.(
        `Cannot keep ${quoted(name)}; the next generation does not get it`,
        error,
      );
    });
    this.#kept.get(name)?.[Symbol.dispose]();
    this.#kept.set(name, kept);
  }

  /**
   * What this generation has inherited, and has not asked for yet: that is closed at the end of the
   * probation. A service that does not know what there is, for example a proxy with a listener for each of its
   * customers, finds it here.
   */
  get inherited(): InheritedItem[] {
    return this.#inheritance.items();
  }

  /**
   * Resolves when no generation before this one is left: it has answered its clients and hung up, or was
   * ended; at once for the first one. Rejects when this generation leaves before, or is rolled back.
   */
  get alone(): Promise<void> {
    return this.#alone.promise;
  }

  /** What the generation before kept under that name, once: bytes, or a descriptor that is the caller's. */
  take(name: string): Fd | Uint8Array | undefined {
    return this.#inheritance.takeState(name) ?? this.#inheritance.take("kept", name)?.fd;
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
      await channel.send({ type: "moved", name }, { descriptors: [{ fd, meta }] });
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
   * Resolves when that has. To be called after `serve()` and `listen()`: what was inherited and not asked for
   * is closed at the end of the probation, with a warning. One that was stopped meanwhile resolves when it has left.
   *
   * @throws {HandoverError} When the one before has not waited for it, and goes on.
   */
  async ready(): Promise<void> {
    // Stopped before it was ready, it has nothing to be ready for.
    if (this.#hasLeft) return await this.finished;
    if (this.#state !== "starting" || this.#committing) {
      const why = this.#committing ? "about to be ready" : this.#state;
      throw new TypeError(
        `Cannot be ready: ready() was called before, and this generation is ${why}`,
      );
    }
    this.#committing = true;
    const began = this.#readyAt = performance.now();
    clearTimeout(this.#reminder);
    const predecessor = this.#predecessor;
    if (predecessor) await this.#commit(predecessor, began);
    else this.#accept();
    this.#committing = false;
    // It may have been stopped meanwhile.
    if (this.#hasLeft) return await this.finished;
    // Before the first answer: there is no other handover before it has proved itself.
    if (predecessor && !predecessor.gone) this.#probation = new AbortController();
    void this.#answer();
    void this.#restorePaths();
    this.#warnOfUnserved();
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

  /** Takes note of a listener or datagram socket that was made: a program may do so late, and be ready early. */
  #noticeSocket(address: string, isInherited: boolean): void {
    const isFirst = !this.#hasListened;
    this.#hasListened = true;
    this.#hasInherited ||= isInherited;
    if (this.#readyAt === undefined) this.#remindOfReady();
    // A further address, at which no client can wait yet, may be listened on at any time.
    else if ((isInherited || isFirst) && !this.#isEarlyLogged) {
      this.#isEarlyLogged = true;
      const passed = Math.round(performance.now() - this.#readyAt);
      const why = isInherited
        ? "for as long, no generation has accepted there"
        : "at the next restart no generation accepts there for as long";
      this.#logger.warn?.(
        `The program asked for ${address} ${passed} ms after it had called ready(): ${why}. ` +
          "Call ready() after the last serve() or listen()",
      );
    }
  }

  /** Warns of a program that does not call `ready()`: it has bound the address, and accepts no connection. */
  #remindOfReady(): void {
    if (this.#reminder !== undefined) return;
    const { readyTimeout = 60_000 } = this.#options;
    const began = performance.now();
    this.#reminder = setTimeout(() => {
      const passed = Math.round(performance.now() - began);
      const predecessor = this.#predecessor;
      const until = predecessor && !predecessor.gone
        ? `process ${predecessor.pid}, the generation before, is the one that accepts`
        : "what connects there waits";
      this.#logger.warn?.(
        `The program has not called ready() for ${passed} ms since it made its first listener: this ` +
          `generation accepts from then on at ${
            this.#resources.addresses().join(", ")
          }, and until then ` +
          `${until}. Call ready() when the program can serve; where that takes longer, make its ` +
          "listeners later",
      );
    }, Math.min(longestSilence, readyTimeout));
    Deno.unrefTimer(this.#reminder);
  }

  /** Where nothing of what was inherited is served at `ready()`, it may be that it is asked for too late. */
  #warnOfUnserved(): void {
    const predecessor = this.#predecessor;
    const addresses = this.#inheritance.addresses();
    // Without a probation it is closed at once, with a warning.
    if (!predecessor || !this.#probation || this.#hasListened || addresses.length === 0) return;
    this.#isEarlyLogged = true;
    const { probation = 5000 } = this.#options;
    this.#logger.warn?.(
      `The program has called ready(), and asked for no listener: nobody accepts at ${
        addresses.join(", ")
      }, where generation ${predecessor.generation}, process ${predecessor.pid}, did until now. What is ` +
        `not asked for is closed in ${probation} ms, at the end of the probation. Call ready() after serve() and listen()`,
    );
  }

  #closeUnclaimed(): void {
    try {
      const unclaimed = this.#inheritance.clear();
      const words = (isFile: boolean) =>
        unclaimed.filter(({ kind }) => (kind === "file") === isFile).map(({ words }) => words);
      const [files, others] = [words(true), words(false)];
      // A file of another name each day is no mistake.
      if (files.length > 0) {
        this.#logger.info?.(
          `Closed files that this generation has not opened: ${listed(files)}`,
        );
      }
      if (others.length === 0) return;
      const { inheritFrom } = this.#options;
      const from = this.#predecessor
        ? `generation ${this.#predecessor.generation}, process ${this.#predecessor.pid},`
        : `the server at ${formatPath(inheritFrom ?? "")}`;
      const hasSocket = unclaimed.some(({ kind }) => kind === "listener" || kind === "datagram");
      this.#logger.warn?.(
        `Closed what ${from} had handed over and this generation has not asked for: ${
          listed(others)
        }. Where this release has dropped it on purpose, nothing is to be done; where it has not, call ` +
          `serve(), listen() or take() before ready()${
            hasSocket ? `. ${this.#asAnotherService()}` : ""
          }`,
      );
    } catch (error) {
      this.#logger.error?.("Cannot close what was inherited and not asked for", error);
    }
  }

  /** What to do about two services that take over from each other. */
  #asAnotherService(): string {
    return `Where another service has the same control path, ${
      formatPath(this.path)
    }, give each one of ` +
      'its own, and a name: start(path, { service: "name" })';
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
    const { probation = 5000, peerTimeout = 10_000 } = this.#options;
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
        pause(peerTimeout, late.signal).then(() => {
          this.#logger.error?.(
            `Process ${predecessor.pid}, the generation before, has not stopped accepting for ` +
              `${peerTimeout} ms; this one serves beside it`,
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
      const addresses = this.#hasInherited ? [] : this.#inheritance.addresses();
      const dropped = addresses.length > 0 ? addresses : undefined;
      await predecessor.say({ type: "healthy", dropped });
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
        this.#alone.reject(takenBack);
        if (this.#state === "serving") await this.#rolledBack(takenBack);
        else if (!this.#hasLeft) {
          this.#logger.warn?.(
            `This generation, ${this.generation}, cannot take over any more, and its ready() is going to ` +
              `reject: ${takenBack.message}. Start it again`,
          );
        }
        return;
      }
      this.#alone.resolve();
      this.#logger.info?.(`Process ${pid}, the generation before, has left`);
      // Whoever comes to the control socket has nobody else to ask.
      if (this.#state === "starting") void this.#answer();
    } catch (error) {
      // When this one leaves, it hangs up itself.
      if (this.#hasLeft) return;
      this.#alone.reject(error);
      this.#logger.error?.(`Cannot follow process ${pid}, the generation before`, error);
    } finally {
      if (predecessor.gone && !this.#hasLeft) {
        this.#takeStream("stderr");
        void releaseOutputPipes(this.#logger);
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
      this.#isRolledBack = true;
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
      const why = isBusy
        ? "another handover is under way"
        : this.#state === "starting"
        ? "this generation has not called ready() yet"
        : `this generation is ${this.#state}`;
      this.#logger.error?.(`Cannot restart: ${why}`);
      throw new HandoverError(`Cannot restart: ${why}`, "ERR_HANDOVER_BUSY");
    }
    const shared = this.#sharedFate();
    if (shared) {
      const what = `Cannot restart: process ${Deno.pid}, this one, ${shared.why}`;
      this.#logger.error?.(what);
      throw new HandoverError(what, "ERR_HANDOVER_MAIN_PROCESS");
    }
    const began = performance.now();
    let attempt: Attempt | undefined;
    // Done when this returns, unless another process has the lock: the next generation comes by that path.
    void this.#restorePaths();
    try {
      const unsupported = noDescriptors();
      if (unsupported) throw unsupported;
      const successor = new Child(
        this.#command!.complete(command ?? this.#options.command),
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

  /** What would end with this process, though it was replaced. */
  #sharedFate(): SharedFate | undefined {
    if (this.#options.restartAsMain || !this.#control) return undefined;
    return sharedFate(ownToken() !== undefined);
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
      const why = attempt.failure
        ? `; when it tried: ${attempt.failure.message}`
        : attempt.handover
        ? `: ${this.#unready()}`
        : `: it has not called start() with ${formatPath(this.path)}`;
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
  status(): GenerationStatus {
    const predecessor = this.#predecessor;
    return {
      generation: this.generation,
      pid: Deno.pid,
      ...(this.#options.service !== undefined && { service: this.#options.service }),
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

  /**
   * Answers at the control socket until it is another one's turn. Without one nobody asks: the process runs
   * on all the same until this generation leaves.
   */
  async #answer(): Promise<void> {
    if (this.#answering) return;
    const { signal } = this.#answering = new AbortController();
    let failure: string | undefined;
    let delay = 0;
    while (!signal.aborted) {
      try {
        if (!this.#control) {
          await pause(longestPause, signal);
          continue;
        }
        const conn = await this.#control.accept({ signal });
        if (failure) this.#logger.info?.(`Accepting on ${formatPath(this.path)} again`);
        failure = undefined;
        delay = 0;
        void this.#converse(conn);
      } catch (error) {
        if (signal.aborted) return;
        // A service that has none left is to be asked, replaced and stopped all the same.
        if (isOutOfDescriptors(error) && this.#reserve?.spend()) continue;
        // What lasts is said once.
        const { message } = error as Error;
        if (message !== failure) {
          const what = isOutOfDescriptors(error)
            ? ": the process has no descriptor left; raise its limit (ulimit -n, LimitNOFILE= under systemd)"
            : "";
          this.#logger.error?.(
            `Cannot accept on ${formatPath(this.path)}; trying again${what}`,
            error,
          );
        }
        failure = message;
        delay = Math.min(2 * delay || shortestDelay, longestDelay);
        await pause(delay, signal).catch(() => {});
      }
    }
  }

  /** Serves one client of the control socket; never rejects. */
  async #converse(conn: UnixConn): Promise<void> {
    const { allow = sameUserOrRoot, peerTimeout = 10_000 } = this.#options;
    const channel = new Channel(conn, peerTimeout);
    try {
      checkPeer(conn, allow, `At ${formatPath(this.path)}`);
      const asked = await channel.receive({ timeout: peerTimeout });
      if (asked) await this.#serveControl(channel, asked);
    } catch (error) {
      if (error instanceof PeerNotAllowedError) {
        const refused: Frame = { type: "refused", reason: error.message, code: "peer" };
        await channel.send(refused).catch(() => {});
      }
      this.#logger.error?.(`A conversation at ${formatPath(this.path)} failed`, error);
    } finally {
      this.#hangUp(channel);
      if (!this.#hasLeft) this.#reserve?.refill();
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
      await channel.send(reportFrame(this.status()));
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
    const refused = this.#refusal(hello, channel.conn);
    if (refused) {
      const pid = processOf(hello, channel.conn);
      // That two services have one control path is to be changed; that one is busy is not.
      const level = refused.type === "refused" && refused.code === "service" ? "warn" : "info";
      this.#logger[level]?.(
        `Refused process ${pid} at ${formatPath(this.path)}: ${refused.reason}`,
      );
      await channel.send(refused);
      return;
    }
    void this.#restorePaths();
    this.#state = "handing over";
    const attempt = this.#attempt && isFrom(hello, channel.conn, this.#attempt)
      ? this.#attempt
      : undefined;
    this.#next = processOf(hello, channel.conn);
    const handover = this.#goThrough(channel, this.#next, attempt);
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
    const { readyTimeout = 60_000, peerTimeout = 10_000, probation: own = 5000 } = this.#options;
    const handover = this.#handover = new AbortController();
    const note = (lastWords: string) => {
      if (attempt) attempt.lastWords = lastWords;
    };
    let probation: number;
    try {
      await this.#offer(channel, attempt !== undefined, handover.signal).catch((cause) => {
        if (!(cause instanceof Deno.errors.BrokenPipe)) throw cause;
        const what =
          `Process ${details.successor}, the next generation, ended before it had read all of the offer`;
        throw new HandoverError(what, undefined, { cause });
      });
      this.#log("offered", began, details);
      const late = `Process ${details.successor}, the next generation, was not ready after ` +
        `${readyTimeout} ms, the \`readyTimeout\` of the generation that runs: ${this.#unready()}`;
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
    const limits = `its probation of ${probation} ms and \`peerTimeout\``;
    const late =
      `Process ${details.successor}, the next generation, did not say that it is healthy in ` +
      limits;
    const { dropped } = await expect(channel, "healthy", probation + peerTimeout, late, note);
    if (!dropped) return;
    this.#logger.warn?.(
      `Process ${details.successor}, the next generation, has asked for none of the listeners of this one, ` +
        `and closes them: ${listed(dropped.map(indented))}. ${this.#asAnotherService()}`,
    );
  }

  /** What the next generation has not done. */
  #unready(): string {
    const addresses = this.#resources.addresses();
    const where = addresses.length > 0 ? `, of ${listed(addresses)}` : "";
    return `it has the offer${where}, and has not called ready()`;
  }

  #refusal(
    { version, token, service }: { version: number; token?: string; service?: string },
    { peer }: UnixConn,
  ): Frame & { type: "refused" | "rollback" } | undefined {
    if (version !== protocolVersion) {
      const reason =
        `it speaks version ${version} of the handover, and the generation that runs version ${protocolVersion}`;
      return { type: "refused", code: "version", reason };
    }
    const { service: own } = this.#options;
    // A name may be introduced by a release, and dropped when that is rolled back.
    if (own !== undefined && service !== undefined && service !== own) {
      const reason =
        `it is of the service ${quoted(service)}, and the generation that runs there of ` +
        `${quoted(own)}: give each service a control path of its own`;
      return { type: "refused", code: "service", reason };
    }
    if (token !== undefined && this.#failedTokens.has(token)) {
      // An answer on which start() does not try again.
      return { type: "rollback", reason: "the restart that has started this process has failed" };
    }
    // What this process can see is of its own container (pid_namespaces(7)).
    const isInside = peer.pid > 0 && peer.pid !== Deno.pid;
    const shared = isInside ? this.#sharedFate() : undefined;
    if (shared?.of === "container") {
      return { type: "rollback", reason: `process ${Deno.pid}, which runs, ${shared.why}` };
    }
    if (this.#state === "serving" && !this.#probation) return undefined;
    if (this.#hasLeft) {
      return { type: "refused", code: "leaving", reason: "the generation that runs is leaving" };
    }
    return { type: "refused", code: "busy", reason: this.#busy() };
  }

  /** Why another handover cannot begin. */
  #busy(): string {
    const here = `the generation there, process ${Deno.pid},`;
    if (this.#state === "starting") return `${here} has not called ready() yet`;
    if (this.#probation) return `${here} has not lived through its probation yet`;
    return `another handover is under way, to process ${this.#next}`;
  }

  async #offer(channel: Channel, withOutput: boolean, signal: AbortSignal): Promise<void> {
    const state: Uint8Array[] = [];
    const descriptors: Passed[] = [];
    const items: OfferedItem[] = [];
    const pass = (item: OfferedItem, fd: Fd | number) => {
      items.push(item);
      descriptors.push({ fd });
    };
    const { file } = this.#control!;
    pass({ kind: "control", key: "", file: file && offeredFile(file) }, this.#control!.fd);
    if (withOutput) {
      pass({ kind: "stdout", key: "" }, 1);
      pass({ kind: "stderr", key: "" }, 2);
    }
    // Nothing waits once the others are looked at: what is kept is as of one moment.
    for (const { settled } of this.#kept.values()) if (settled) await settled;
    for (const { item, fd } of this.#resources.offered()) pass(item, fd);
    for (const [name, { fd, state: value }] of this.#kept) {
      if (fd) pass({ kind: "kept", key: name }, fd);
      if (!value) continue;
      const bytes = stateOf(name, value);
      state.push(bytes);
      items.push({ kind: "state", key: name, bytes: bytes.length });
    }
    const frames = offerFrames({ generation: this.generation, pid: Deno.pid }, items);
    const last = frames.pop()!;
    for (const frame of frames) await channel.send(frame, { signal });
    await channel.send(last, { state, descriptors, signal });
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
      // A restart that this process waits for logs why it failed itself.
      const level = attempt ? "debug" : "error";
      this.#logger[level]?.("The handover failed; this generation goes on", error);
      // The other one may have bound them, and remove them now.
      void this.#restorePaths();
    }
    // If it lives after all, it is to leave.
    await channel.send({ type: "rollback", reason: error.message }).catch(() => {});
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

  // The end.

  /** Leaves: waits for the clients, and lets go of everything; never rejects. */
  async #leave({ reason }: { reason?: unknown } = {}): Promise<void> {
    if (this.#hasLeft) return;
    this.#state = "leaving";
    clearTimeout(this.#reminder);
    const began = performance.now();
    const successor = this.#successor;
    // Where nobody takes over there is nobody to go to: only who is busy is told to leave.
    const { drainTimeout = 60_000, forceCloseAfter = 30_000 } = this.#options;
    const isSucceeded = successor !== undefined || reason !== undefined;
    const { signal: hurry } = this.#hurry;
    let unbound: Promise<void> | undefined;
    // In this order. One that fails does not keep those behind it from being taken.
    const steps: Record<string, () => void | Promise<void>> = {
      "stop accepting": () => this.#withdraw(),
      "leave what was kept to the next generation": () => {
        // Before the program closes it.
        if (successor) { for (const kept of this.#kept.values()) kept.detach(); }
      },
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
            ? { code: 1012, reason: "service restart", spread: Math.min(drainTimeout / 2, 30_000) }
            : { code: 1001, reason: "going away", spread: 0 },
          forceCloseAfter,
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
        clearTimeout(this.#pathTimer);
        // To lock it takes a descriptor, in this very turn.
        this.#reserve?.[Symbol.dispose]();
        unbound = this.#unbind();
        // Whether it fails is asked when the clients have left.
        unbound.catch(() => {});
      },
      "drain to the end": () => {
        this.#reporting ??= setInterval(() => this.#report(), reportInterval);
        const httpDrainTimeout = isSucceeded ? drainTimeout : Math.min(drainTimeout, farewellTime);
        return this.#resources.drain({
          drainTimeout,
          httpDrainTimeout,
          forceCloseAfter,
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
        if (successor) await successor.channel.send(frame).catch(() => {});
      },
      "close what was kept": () => {
        for (const kept of this.#kept.values()) kept[Symbol.dispose]();
      },
      "leave the signals to Deno": () => this.#forgetSignals(),
      "keep the output of what this process has started": () => releaseOutputPipes(this.#logger),
      "hang up on the other generations": () => {
        this.#alone.reject(new HandoverError("This generation has left before the one before it"));
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
    const remove = this.#control?.depart();
    if (!remove) return;
    const { peerTimeout: timeout = 10_000 } = this.#options;
    try {
      // Another first generation may be about to listen there.
      await locked(this.path, remove, { timeout, logger: this.#logger });
    } catch (error) {
      this.#logger.debug?.(
        `Removing ${formatPath(this.path)} without its lock, unless another process listens there`,
        error,
      );
      remove();
    }
  }

  /**
   * Sees to it that the control path and those of the listeners lead here, now and again and again: the files
   * may be removed while the service runs. While another generation may have them, nothing is done.
   */
  async #restorePaths(delay = firstPathDelay): Promise<void> {
    const control = this.#control;
    clearTimeout(this.#pathTimer);
    if (this.#hasLeft || !control) return;
    const problems = this.#state === "serving" ? this.#resources.restorePaths() : [];
    try {
      if (this.#state === "serving" && !control.isReachable) {
        await this.#restoreControlPath(control);
      }
    } catch (error) {
      problems.push((error as Error).message);
    }
    if (this.#hasLeft) return;
    const text = problems.join("; ");
    // What a rolled back generation has bound is gone in a moment.
    if (text === "") this.#pathProblems = "";
    else if (text !== this.#pathProblems && delay >= patientPathDelay) {
      this.#pathProblems = text;
      this.#logger.error?.(
        `Cannot put back a path that was removed or that another process has taken; trying again: ${text}`,
      );
    }
    const next = text === "" ? pathInterval : Math.min(delay, pathInterval);
    clearTimeout(this.#pathTimer);
    this.#pathTimer = setTimeout(() => {
      void this.#restorePaths(text === "" ? firstPathDelay : 2 * delay);
    }, next);
    Deno.unrefTimer(this.#pathTimer);
  }

  async #restoreControlPath(control: UnixListener): Promise<void> {
    const { peerTimeout: timeout = 10_000, mode } = this.#options;
    const restore = () => {
      if (this.#state !== "serving") return;
      // They are accepted in a moment, and would be lost with the old socket.
      if (!control.isIdle) throw new Error("clients wait at the control socket");
      const restored = control.restorePath(mode);
      if (!restored) return;
      const path = formatPath(this.path);
      if (restored.by === "link") {
        this.#logger.info?.(`The control path ${path} led to another place: it was linked there`);
        return;
      }
      control.become(restored.socket);
      this.#logger.warn?.(
        `The control path ${path} was removed: it was bound anew; keep cleaners of temporary files away from it`,
      );
    };
    await locked(this.path, restore, { timeout, logger: this.#logger });
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
    const { remainingClients: left } = this.#resources;
    this.#logger.info?.(`Leaving: ${left} connections are left`);
    const { channel } = this.#successor ?? {};
    void channel?.send({ type: "progress", connections: left }).catch(() => {});
  }

  /** Writes where the generation before did, if it has started this one and passed its output on. */
  #takeStream(kind: "stdout" | "stderr"): void {
    using fd = this.#inheritance.take(kind, "")?.fd;
    if (fd) redirectStream(kind === "stdout" ? 1 : 2, fd);
  }

  #listenToSignals(): void {
    const { stopOn, restartOn = [] } = this.#options;
    const add = (signal: Deno.Signal, listener: () => void) => {
      Deno.addSignalListener(signal, listener);
      this.#signals.set(signal, listener);
    };
    try {
      for (const signal of stopOn ?? ["SIGTERM", "SIGINT"] as const) {
        try {
          add(signal, () => void this.#stopOn(signal));
        } catch (error) {
          // Deno on Windows listens to SIGTERM from some version on: its default is to do without.
          if (stopOn || !(error instanceof TypeError)) throw error;
        }
      }
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
      const why = this.#isRolledBack
        ? this.#whyRolledBack()
        : "this generation is being stopped, and no other one follows; start the service again";
      this.#logger.warn?.(`Not restarting on ${signal}: ${why}`);
      return;
    }
    this.#isToRestart = true;
    this.#logger.info?.(`Restarting on ${signal}, once this generation can`);
    this.#restartIfAsked();
  }

  #whyRolledBack(): string {
    return `this generation was rolled back, and the one before it, process ${
      this.#predecessor!.pid
    }, goes on: send ` +
      "the signal to that one";
  }

  /** Makes up for the signals that came while no restart could begin, here or in the generation that follows. */
  #restartIfAsked(): void {
    if (!this.#isToRestart) return;
    if (this.#state === "leaving" && this.#successor) {
      this.#isToRestart = false;
      const { channel } = this.#successor;
      channel.send({ type: "restart" }).catch((error) => {
        const what = "Cannot pass on to the next generation that it is to restart; ask it for that";
        this.#logger.error?.(what, error);
      });
    } else if (this.#isRolledBack && this.#hasLeft) {
      this.#isToRestart = false;
      const why = this.#whyRolledBack();
      this.#logger.warn?.(`Not restarting, as a signal has asked for: ${why}`);
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

/** Those of a server that has no TLS: Deno drops the others where the server is on a unix path. */
const plainHttpOptions = serveHttpOptions.filter((name) =>
  !["cert", "key", "keyFormat"].includes(name)
);
/** Milliseconds from the first listener on after which it is logged that `ready()` was not called. */
const longestSilence = 10_000;
/** Whether a generation of this process that has not left is one of that path. */
export function runsHere(path: string): boolean {
  return [...running].some((app) => app.path === path);
}

/** Milliseconds before accepting again after it failed: twice as many each time. */
const shortestDelay = 5;
const longestDelay = 1000;

/**
 * Milliseconds between two looks at the paths: a call to the kernel for each. Ten seconds without a client is
 * what a removed file costs at most; and six wake-ups a minute are next to nothing.
 */
const pathInterval = 10_000;

/** The same, doubled each time, while something is in the way; and how long until that is logged. */
const firstPathDelay = 100;
const patientPathDelay = 800;

/** Milliseconds between two lines about what is left. */
const reportInterval = 1000;

/**
 * The longest probation that any next generation may ask for, in milliseconds: for as long this one does
 * not accept, whatever becomes of the other one.
 */
const longestProbation = 300_000;

/** The bytes of what is kept. */
function stateOf(name: string, value: () => Uint8Array): Uint8Array {
  try {
    const bytes = value();
    const what = whyNotKeepable(bytes);
    if (what !== undefined) throw new TypeError(what);
    if (bytes instanceof Uint8Array) return bytes;
    throw new TypeError("what its function gives is no Uint8Array");
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

function named({ pid }: Child): string {
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
