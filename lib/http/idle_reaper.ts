/**
 * Hangs up on idle HTTP connections: decides which connections are idle, and for how long they have to be.
 *
 * @module
 */

import { shutdownRead, traffic, unreadBytes, unsentBytes } from "../../ffi/socket_options.ts";
import { pause } from "../time.ts";
import { type Connection, type Connections, pollIntervalFor } from "./connections.ts";
import type { Busy, DrainedServer } from "./drained_server.ts";

/** Milliseconds without traffic after which a connection is idle. */
const idleTime = 100;

/** The same where a TLS handshake, or the head of the first request, may be on its way. */
const idleTimeBeforeRequest = 1000;

/** How many connections are hung up on in a millisecond: their clients will connect elsewhere. */
const hangUpRate = 4;

/**
 * Shuts down the receiving half of idle connections (shutdown(2), SHUT_RD): Deno still answers the bytes that
 * have arrived by then, reads EOF, and closes the connection.
 */
export class IdleReaper {
  readonly #tracker: DrainedServer;
  /** The cookies of the connections that were hung up on. */
  readonly #hungUp = new Set<bigint>();
  #lastReap = performance.now();

  constructor(tracker: DrainedServer) {
    this.#tracker = tracker;
  }

  /**
   * Hangs up on a few of the connections that are idle, as many as {@linkcode hangUpRate} allows. Returns
   * whether any connection is not closed yet that was hung up on, or will be once it is idle.
   */
  reap(open: Connection[], busy: Busy, isPastDeadline: boolean): boolean {
    const now = performance.now();
    let budget = Math.ceil(hangUpRate * (now - this.#lastReap)) || 1;
    this.#lastReap = now;
    let isReaping = false;
    for (const connection of open) {
      if (this.#hungUp.has(connection.cookie)) {
        isReaping = true;
        continue;
      }
      const time = busy.has(connection) ? undefined : this.#idleTimeOf(connection, isPastDeadline);
      if (time === undefined) continue;
      isReaping = true;
      if (budget === 0 || !isIdle(connection.raw, time)) continue;
      budget--;
      this.#hungUp.add(connection.cookie);
      shutdownRead(connection.raw);
    }
    return isReaping;
  }

  /**
   * Hangs up on idle connections whose clients were told to close them. Examines no other connections: most
   * clients close theirs, so these are few.
   */
  reapToldToClose(connections: Connections): void {
    const tracker = this.#tracker;
    const told: Connection[] = [];
    for (const client of tracker.toldToClose) {
      const connection = connections.connectionOf(client);
      if (connection) told.push(connection);
      else tracker.forgetToldToClose(client);
    }
    if (told.length > 0) this.reap(told, tracker.busyConnections(told), false);
  }

  /** How long a connection has to be idle before it is hung up on; undefined if it never is. */
  #idleTimeOf(connection: Connection, isPastDeadline: boolean): number | undefined {
    const protocol = this.#tracker.protocolOf(connection);
    if (protocol === "HTTP/1" && this.#tracker.wasToldToClose(connection)) return idleTime;
    if (!isPastDeadline || protocol === "HTTP/2" || protocol === "WebSocket") return undefined;
    if (protocol !== undefined) return idleTime;
    // Without TLS, requests from before the tracking are not known: the connection is left to
    // server.shutdown(), for it may speak HTTP/2 or be a WebSocket. With TLS no request has come yet.
    if (!this.#tracker.isTls) return undefined;
    return traffic(connection.raw)?.received === 0n ? idleTime : idleTimeBeforeRequest;
  }
}

/**
 * Hangs up on idle connections whose clients were told to close them, while the server may still have to
 * serve on: until `isOver`, or until the close is withdrawn and no such client is left.
 */
export async function reapToldToClose(
  tracker: DrainedServer,
  connections: Connections,
  isOver: () => boolean,
): Promise<void> {
  const reaper = new IdleReaper(tracker);
  while (!isOver()) {
    reaper.reapToldToClose(connections);
    if (!tracker.isAnnouncingClose && tracker.toldToClose.size === 0) return;
    await pause(pollIntervalFor(tracker.toldToClose.size));
  }
}

/** Whether a TCP connection has no data queued in either direction, and had no traffic for some time. */
function isIdle(raw: number, milliseconds: number): boolean {
  if (unreadBytes(raw) > 0 || unsentBytes(raw) > 0) return false;
  const seen = traffic(raw);
  return seen !== undefined && seen.quietFor >= milliseconds;
}
