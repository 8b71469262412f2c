/**
 * Drains an HTTP server: shuts it down without losing a request.
 *
 * `server.shutdown()` alone closes idle keep-alive connections while a request may be on its way on them,
 * drops requests that were accepted and not read, and answers uploads with 500. A drain has the clients close
 * their connections instead: HTTP/1 clients do so after an answer with `Connection: close`, HTTP/2 clients
 * after GOAWAY, which `shutdown()` sends.
 *
 * @module
 */

import { checkDuration, longestPause, pause, unlessAborted } from "../time.ts";
import {
  type Connection,
  type Connections,
  findConnections,
  pollIntervalFor,
  threadSockets,
} from "./connections.ts";
import { IdleReaper } from "./idle_reaper.ts";
import type { Busy, DrainedServer } from "./drained_server.ts";

/** Options of `drain()`. */
export interface DrainOptions {
  /**
   * How long clients have to close their connections, in milliseconds. Connections that are idle for longer
   * are hung up on: a request that a client sends at that very moment is lost. @default {60_000}
   */
  drainTimeout?: number;
  /**
   * How long answers under way may take after `drainTimeout`, in milliseconds; then their connections are
   * closed by force: an event stream has no other end. A handler that goes on after that is not waited for.
   * @default {30_000}
   */
  forceCloseAfter?: number;
  /** Ends the wait. The server does not accept then, and either still answers or is shutting down. */
  signal?: AbortSignal;
}

/** A server that {@linkcode drainServer} drains. */
export interface Drainable {
  tracker: DrainedServer;
  /** Stops accepting. */
  stopAccepting(): void;
}

/**
 * Stops accepting, answers with `Connection: close`, waits until the clients have closed their connections, and shuts the
 * server down. Resolves to the number of connections that were still open after `drainTimeout`.
 */
export async function drainServer(
  { tracker, stopAccepting }: Drainable,
  options: DrainOptions,
): Promise<number> {
  options.signal?.throwIfAborted();
  checkDrainOptions(options);
  if (!tracker.isAnnouncingClose) stopAccepting();
  tracker.announceClose();
  const listener = { address: tracker.address, tracker };
  const [connections] = await findConnections([listener], threadSockets());
  options.signal?.throwIfAborted();
  return await drainConnections(tracker, connections, options);
}

/** @throws {RangeError} When an option is negative or not a number. */
export function checkDrainOptions({ drainTimeout = 0, forceCloseAfter = 0 }: DrainOptions): void {
  checkDuration("drainTimeout", drainTimeout);
  checkDuration("forceCloseAfter", forceCloseAfter);
}

/** Options of {@linkcode drainConnections}. */
export interface DrainConnectionsOptions extends DrainOptions {
  /** Ends `drainTimeout` now, when it is aborted. */
  hurry?: AbortSignal;
  /** Whether WebSockets are being closed: the server is not shut down before. */
  isClosingWebSockets?: () => boolean;
}

/**
 * Drains a server that has stopped accepting, and announces the close. Resolves to the number of connections
 * that were still open after `drainTimeout`.
 */
export async function drainConnections(
  tracker: DrainedServer,
  connections: Connections,
  options: DrainConnectionsOptions = {},
): Promise<number> {
  const drain = new HttpDrain(tracker, connections, options);
  const stillOpen = await drain.waitForHttp1();
  await drain.shutDownWhenCalm();
  await drain.forceClose();
  return stillOpen;
}

/** Milliseconds before the force close in which HTTP/2 clients get GOAWAY at the latest. */
const goAwayTime = 1000;

/** Milliseconds that a server may take to shut down after its connections were closed by force. */
export const forceCloseGrace = 1000;

/** The three steps of one drain, to be taken in this order. */
class HttpDrain {
  readonly #tracker: DrainedServer;
  readonly #connections: Connections;
  readonly #options: DrainConnectionsOptions;
  readonly #forceCloseAfter: number;
  readonly #reaper: IdleReaper;
  /** When `drainTimeout` is over. */
  #deadline: number;
  /** How many connections step 1 left open. */
  #stillOpen = 0;
  /** The requests that were in flight at the deadline. */
  #inFlightAtDeadline: Set<object> | undefined;
  /** When the last connection was closed. */
  #emptySince: number | undefined;
  #shutdown: Promise<void> | undefined;
  #isShutDown = false;

  constructor(tracker: DrainedServer, connections: Connections, options: DrainConnectionsOptions) {
    const { drainTimeout = 60_000, forceCloseAfter = 30_000 } = options;
    this.#tracker = tracker;
    this.#connections = connections;
    this.#options = options;
    this.#forceCloseAfter = forceCloseAfter;
    this.#reaper = new IdleReaper(tracker);
    this.#deadline = performance.now() + drainTimeout;
  }

  /**
   * Step 1: waits until HTTP/1 clients have closed their connections, or the deadline is over. A client that
   * was told to close its connection, and does not, is hung up on when that is idle. Resolves to the number of
   * connections that are still open.
   */
  async waitForHttp1(): Promise<number> {
    this.#stillOpen = await this.#connections.waitUntilClosed({
      milliseconds: this.#deadline - performance.now(),
      except: (connection) => this.#closesAtShutdown(connection),
      onPoll: () => this.#reaper.reapToldToClose(this.#connections),
      hurry: this.#options.hurry,
      signal: this.#options.signal,
    });
    if (this.#stillOpen > 0) this.#deadline = performance.now();
    return this.#stillOpen;
  }

  /**
   * Step 2: calls `server.shutdown()` at a moment that loses nothing, and waits for it, until the time of the
   * force close. From the deadline on, idle connections are hung up on.
   */
  async shutDownWhenCalm(): Promise<void> {
    const { hurry, signal } = this.#options;
    while (!this.#isShutDown) {
      const now = performance.now();
      if (hurry?.aborted) this.#deadline = Math.min(this.#deadline, now);
      const isPastDeadline = now >= this.#deadline;
      if (isPastDeadline) this.#inFlightAtDeadline ??= this.#tracker.requestsInFlight();
      const open = this.#connections.open();
      this.#emptySince = open.length > 0 ? undefined : this.#emptySince ?? now;
      const forceCloseAt = this.#forceCloseAt();
      if (now >= forceCloseAt) return;
      const busy = this.#tracker.busyConnections(open);
      const isReaping = this.#reaper.reap(open, busy, isPastDeadline);
      if (this.#mayShutDown(now, busy, isReaping)) this.#startShutdown();
      const nextPoll = Math.min(now + pollIntervalFor(open.length), forceCloseAt);
      if (this.#shutdown) await settlesBy(this.#shutdown, nextPoll, signal);
      else await pause(nextPoll - now, signal);
    }
  }

  /** Step 3: closes the connections that are still open by force, and lets the process exit without the server. */
  async forceClose(): Promise<void> {
    this.#shutdown ??= this.#tracker.server.shutdown();
    this.#connections.forceClose();
    // Not longer: the server waits for handlers whose clients are gone.
    await settlesBy(this.#shutdown, performance.now() + forceCloseGrace, this.#options.signal);
    this.#tracker.server.unref();
  }

  /**
   * Whether `server.shutdown()` closes a connection without a loss: an HTTP/2 connection by GOAWAY; one of
   * either version after `Connection: close`, because its client sends no more if it speaks HTTP/1.
   */
  #closesAtShutdown(connection: Connection): boolean {
    const protocol = this.#tracker.protocolOf(connection);
    return protocol === "HTTP/2" ||
      protocol === "HTTP/1 or 2" && this.#tracker.wasToldToClose(connection);
  }

  /** `forceCloseAfter` begins at the deadline, or when the last connection was closed. */
  #forceCloseAt(): number {
    return Math.min(this.#deadline, this.#emptySince ?? this.#deadline) + this.#forceCloseAfter;
  }

  /**
   * Whether this is the moment for `server.shutdown()`. That call answers uploads of HTTP/1 with 500, and drops
   * the answers under way of an HTTP/2 client that replies to GOAWAY with a GOAWAY, as Node's does (the crate
   * h2, issue 885, up to Deno 2.9). So it is made when no request is in flight: before the deadline if HTTP/2
   * alone is left. If that moment does not come, `#isLate()` decides; during an upload it is not made at all.
   */
  #mayShutDown(now: number, busy: Busy, isReaping: boolean): boolean {
    if (this.#shutdown) return false;
    // The WebSockets of this server, if it has any, are among the connections that step 1 left open.
    if (this.#stillOpen > 0 && this.#options.isClosingWebSockets?.()) return false;
    const isCalm = !busy.isAny && !isReaping;
    return isCalm || !busy.hasUpload && this.#isLate(now);
  }

  /**
   * Whether it is too late to wait for a moment without requests: after half of `forceCloseAfter` if the
   * requests of the deadline are answered, because one new request may follow another without end; in any case
   * a second before the force close.
   */
  #isLate(now: number): boolean {
    const half = this.#forceCloseAfter / 2;
    return now >= this.#deadline + half &&
        !this.#tracker.isAnyInFlight(this.#inFlightAtDeadline!) ||
      now >= this.#forceCloseAt() - Math.min(goAwayTime, half);
  }

  #startShutdown(): void {
    const settled = () => {
      this.#isShutDown = true;
    };
    this.#shutdown = this.#tracker.server.shutdown();
    this.#shutdown.then(settled, settled);
  }
}

/** Waits until `promise` is settled, at most until `end`; rejects as `promise` does, or with the signal's reason. */
export async function settlesBy(
  promise: Promise<void>,
  end: number,
  signal?: AbortSignal,
): Promise<void> {
  const settled = new AbortController();
  try {
    const left = Math.min(Math.max(0, end - performance.now()), longestPause);
    // pause() rejects when `settled` is aborted: the race is decided by then.
    const timeout = pause(left, settled.signal).catch(() => {});
    await unlessAborted(Promise.race([promise, timeout]), signal);
  } finally {
    settled.abort();
  }
}
