/**
 * The connections that were accepted on a listener: which sockets of this thread they are, and which of
 * them are still open.
 *
 * @module
 */

import { hasPeerClosed } from "../../ffi/poll.ts";
import { type Address, formatAddress } from "../../ffi/sockaddr.ts";
import { cookieIfSocket, ifSocket, shutdownBoth, unreadBytes } from "../../ffi/socket_options.ts";
import { localAddress, peerAddress } from "../../ffi/socket.ts";
import { denoRegistrations } from "../event_loop/registration.ts";
import { pause } from "../time.ts";

/** A listener, as far as its connections are recognized by it. */
export interface AcceptingListener {
  /** The address that its socket is bound to. */
  address?: Address;
  /** The addresses of the sockets that the listener was on before. */
  formerAddresses?: Address[];
  /** Tracks its requests, if the listener serves HTTP. */
  tracker?: object;
}

/** One accepted connection. */
export interface Connection {
  readonly raw: number;
  /** Tells this socket from a later one with the same number (SO_COOKIE). */
  readonly cookie: bigint;
  /** The {@linkcode clientKey} of its peer; undefined for a unix socket. */
  readonly client: string | undefined;
}

/** How {@linkcode Connections.waitUntilClosed} waits. */
interface WaitForCloseOptions {
  milliseconds: number;
  /** Whether not to wait for a connection. */
  except?: (connection: Connection) => boolean;
  /** Called at each poll. */
  onPoll?: () => void;
  /** Ends the wait as if the time were up. */
  hurry?: AbortSignal;
  /** Rejects the wait with its reason. */
  signal?: AbortSignal;
}

/**
 * The connections that a listener had when it stopped accepting: none is added later, and the connections
 * that another process accepts on the same socket are not among them.
 */
export class Connections {
  readonly #connections = new Map<number, Connection>();
  readonly #byClient = new Map<string, Connection>();
  readonly #isHttp: boolean;

  /** @param isHttp Whether a connection counts as closed when its client has closed the sending half. */
  constructor(isHttp = false) {
    this.#isHttp = isHttp;
  }

  /** Adds the socket `raw`; a descriptor that is no socket any more is ignored. */
  add(raw: number): void {
    const cookie = cookieIfSocket(raw);
    if (cookie === undefined) return;
    const connection = { raw, cookie, client: clientKey(peerAddress(raw)) };
    this.#connections.set(raw, connection);
    if (connection.client !== undefined) this.#byClient.set(connection.client, connection);
  }

  /** The connection of a client, or undefined if its socket is closed. */
  connectionOf(client: string): Connection | undefined {
    const connection = this.#byClient.get(client);
    return connection && isSocketOpen(connection) ? connection : undefined;
  }

  /** The connections that are not closed, neither here nor, with HTTP, by their clients. */
  open(): Connection[] {
    const open = this.#withOpenSockets();
    return this.#isHttp ? open.filter(({ raw }) => !hasClientClosed(raw)) : open;
  }

  #withOpenSockets(): Connection[] {
    for (const connection of this.#connections.values()) {
      if (!isSocketOpen(connection)) this.#connections.delete(connection.raw);
    }
    return [...this.#connections.values()];
  }

  /** Waits until all but the excepted connections are closed; resolves to how many are still open. */
  async waitUntilClosed(
    { milliseconds, except = () => false, onPoll, hurry, signal }: WaitForCloseOptions,
  ): Promise<number> {
    const end = performance.now() + milliseconds;
    for (;;) {
      const open = this.open();
      onPoll?.();
      const awaited = open.filter((connection) => !except(connection)).length;
      const now = performance.now();
      if (awaited === 0 || now >= end || hurry?.aborted) return awaited;
      await pause(Math.min(pollIntervalFor(awaited), end - now), signal);
    }
  }

  /** Shuts down both halves of every open socket (shutdown(2), SHUT_RDWR). */
  forceClose(): void {
    for (const { raw } of this.#withOpenSockets()) shutdownBoth(raw);
  }
}

/** The shortest time between two polls of the open connections, in milliseconds. */
const minPollInterval = 20;

/** The longest time between two polls of the open connections, in milliseconds. */
const maxPollInterval = 250;

/**
 * Milliseconds to the next poll of `connections` connections: a poll makes several system calls for each, so
 * many connections are polled less often.
 */
export function pollIntervalFor(connections: number): number {
  return Math.min(Math.max(minPollInterval, connections / 4), maxPollInterval);
}

function isSocketOpen({ raw, cookie }: Connection): boolean {
  return cookieIfSocket(raw) === cookie;
}

/**
 * Whether an HTTP client has closed its sending half, and everything that it sent was read. From 2.8.3 on
 * Deno closes the socket only when the handler has returned, which may be never.
 */
function hasClientClosed(raw: number): boolean {
  return hasPeerClosed(raw) && unreadBytes(raw) === 0;
}

/** The descriptors of all sockets of this thread, listeners and connections. */
export function threadSockets(): number[] {
  return denoRegistrations().map(({ tfd }) => tfd);
}

/** How many sockets are examined in one turn of the event loop. */
const sliceSize = 100;

/**
 * Finds the connections of each listener among the descriptors `sockets`: a slice of them in each turn of the
 * event loop, so that requests are answered meanwhile.
 */
export async function findConnections(
  listeners: AcceptingListener[],
  sockets: number[],
): Promise<Connections[]> {
  const found = listeners.map(({ tracker }) => new Connections(tracker !== undefined));
  for (const [i, raw] of sockets.entries()) {
    if (i % sliceSize === sliceSize - 1) await pause(0);
    const local = localAddressOfConnection(raw);
    if (!local) continue;
    for (const [at, listener] of listeners.entries()) {
      if (wasAcceptedOn(listener, local)) found[at].add(raw);
    }
  }
  return found;
}

/** How many open connections this thread has of each listener. */
export function countConnections(listeners: AcceptingListener[]): number[] {
  const counts = listeners.map(() => 0);
  for (const raw of threadSockets()) {
    const local = localAddressOfConnection(raw);
    if (!local) continue;
    for (const [at, listener] of listeners.entries()) {
      if (!wasAcceptedOn(listener, local)) continue;
      if (!listener.tracker || !hasClientClosed(raw)) counts[at]++;
    }
  }
  return counts;
}

/** The {@linkcode clientKey} of every peer that this thread has a connection with. */
export function connectedClients(): Set<string | undefined> {
  return new Set(threadSockets().map((raw) => ifSocket(raw, () => clientKey(peerAddress(raw)))));
}

/** The IP address and port of a client as one text; undefined for a unix socket, which has neither. */
export function clientKey(address: Deno.Addr | Address | undefined): string | undefined {
  return address && "hostname" in address ? `${address.hostname} ${address.port}` : undefined;
}

function localAddressOfConnection(raw: number): Address | undefined {
  return ifSocket(raw, ({ listening, type }) => {
    return listening || type !== "stream" ? undefined : localAddress(raw);
  });
}

/** Whether a connection with the local address `local` was accepted on this listener. */
function wasAcceptedOn(
  { address, formerAddresses = [] }: AcceptingListener,
  local: Address,
): boolean {
  return isLocalTo(address, local) || formerAddresses.some((former) => isLocalTo(former, local));
}

/** Whether a listener that is bound to `bound` accepts connections with the local address `local`. */
function isLocalTo(bound: Address | undefined, local: Address): boolean {
  if (!bound) return false;
  if (!("port" in local)) return formatAddress(local) === formatAddress(bound);
  if (!("port" in bound) || local.port !== bound.port) return false;
  const { hostname } = bound;
  // A listener on [::] has the local addresses of its IPv4 connections as "::ffff:127.0.0.1".
  if (hostname === "0.0.0.0" || hostname === "::") {
    return hostname.includes(":") === local.hostname.includes(":");
  }
  return local.hostname === hostname;
}
