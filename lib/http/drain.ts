/**
 * How an HTTP server leaves without losing a request.
 *
 * `server.shutdown()` closes idle keep-alive connections while a request may be on its way on them,
 * drops what was accepted and not read, and answers uploads with 500. Here it is the clients who leave:
 * told so by `Connection: close` in HTTP/1, by GOAWAY in HTTP/2, which is what `shutdown()` does well.
 *
 * @module
 */

import { hasPeerClosed } from "../../ffi/poll.ts";
import { type Address, formatAddress } from "../../ffi/sockaddr.ts";
import {
  cookieIfSocket,
  ifSocket,
  localAddress,
  shutdownBoth,
  shutdownRead,
  traffic,
  unreadBytes,
  unsentBytes,
} from "../../ffi/socket.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { checkDuration, longestPause, pause, unlessAborted } from "../time.ts";
import { denoRegistrations } from "../event_loop/registration.ts";
import { remembered } from "../native/descriptor.ts";
import { park } from "../native/accept_switch.ts";
import { servingOf } from "./serve.ts";
import { type Busy, clientAt, type Connection, type Serving } from "./serving.ts";

/** Options of {@linkcode drain}. */
export interface DrainOptions {
  /**
   * How long clients may take to leave for a successor, in milliseconds. Those that are idle longer than that are hung
   * up on: a request that one of them sends at that very moment is lost. @default {60_000}
   */
  drainTimeout?: number;
  /**
   * How long answers that are under way at the deadline may still take, in milliseconds; then their
   * connections are cut: an event stream has no other end. What a handler goes on with after that is
   * not waited for. @default {30_000}
   */
  forceCloseAfter?: number;
  /** Ends the wait, with the server still answering and not accepting, or shutting down. */
  signal?: AbortSignal;
}

/**
 * Ends a server of {@linkcode serveHttp} without losing a request, once another process accepts on
 * the same listener: stops accepting, answers with `Connection: close` so that the clients leave, waits
 * until they have, and shuts the server down. Resolves to the number of connections that were still
 * open at the deadline.
 *
 * `server.shutdown()` alone closes idle connections while a request may be on its way on them.
 *
 * ```ts
 * import { drain, serveHttp } from "@graceful/deno";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const server = serveHttp(listener, () => new Response("hello"));
 * console.log(await drain(server), "connections had to be closed");
 * ```
 *
 * @throws {TypeError} When the server is not one of serveHttp's.
 */
export async function drain(server: Deno.HttpServer, options: DrainOptions = {}): Promise<number> {
  const serving = servingOf(server);
  if (!serving) {
    throw noDescriptors() ??
      new TypeError("Cannot drain a server that serveHttp() did not make");
  }
  options.signal?.throwIfAborted();
  checkDrainOptions(options);
  if (!serving.leaving && remembered(server) !== undefined) park(serving.registration);
  serving.leave();
  const [clients] = await clientsOf([{ address: serving.address, serving }], threadSockets());
  options.signal?.throwIfAborted();
  return await finish(serving, clients, options);
}

/** @throws {RangeError} When one of the durations is none. */
export function checkDrainOptions({ drainTimeout = 0, forceCloseAfter = 0 }: DrainOptions): void {
  checkDuration("drainTimeout", drainTimeout);
  checkDuration("forceCloseAfter", forceCloseAfter);
}

/** The numbers of all sockets of this thread: who is connected is among them. */
export function threadSockets(): number[] {
  return denoRegistrations().map(({ tfd }) => tfd);
}

/** How many sockets are looked at in one turn of the event loop. */
const sliceSize = 100;

/** A listener whose connections are looked for, and the HTTP server on it, if there is one. */
export interface Accepting {
  address?: Address;
  /** Where its socket was bound before it was put on another one. */
  formerAddresses?: Address[];
  serving?: Serving;
}

/**
 * Finds, among `numbers`, the clients that came in at each listener; a slice at a time, for requests are
 * to be answered meanwhile.
 */
export async function clientsOf(listeners: Accepting[], numbers: number[]): Promise<Clients[]> {
  const all = listeners.map(({ serving }) => new Clients(serving !== undefined));
  for (const [i, raw] of numbers.entries()) {
    if (i % sliceSize === sliceSize - 1) await pause(0);
    const local = localAddressOfConnection(raw);
    if (!local) continue;
    for (const [at, listener] of listeners.entries()) {
      if (cameInAt(local, listener)) all[at].add(raw);
    }
  }
  return all;
}

/** How to wait for clients. */
interface ClientsLeaveOptions {
  milliseconds: number;
  /** Those that are not waited for. */
  except?: (connection: Connection) => boolean;
  /** Called at each look. */
  look?: () => void;
  hurry?: AbortSignal;
  signal?: AbortSignal;
}

/**
 * The connections of a server that has stopped accepting: no more will come, and what another one
 * accepts is not among them.
 */
export class Clients {
  readonly #connections = new Map<number, Connection>();
  readonly #byClient = new Map<string, Connection>();
  readonly #isHttp: boolean;

  /** @param isHttp Whether a client that has closed its half of a connection has left. */
  constructor(isHttp = false) {
    this.#isHttp = isHttp;
  }

  /** Counts a connection in. */
  add(raw: number): void {
    const cookie = cookieIfSocket(raw);
    if (cookie === undefined) return;
    const connection = { raw, cookie, client: clientAt(raw) };
    this.#connections.set(raw, connection);
    if (connection.client !== undefined) this.#byClient.set(connection.client, connection);
  }

  /** The connection of one client, if it is still open here. */
  connectionOf(client: string): Connection | undefined {
    const connection = this.#byClient.get(client);
    return connection && cookieIfSocket(connection.raw) === connection.cookie
      ? connection
      : undefined;
  }

  /** Those that are still open here. */
  #open(): Connection[] {
    for (const { raw, cookie } of this.#connections.values()) {
      if (cookieIfSocket(raw) !== cookie) this.#connections.delete(raw);
    }
    return [...this.#connections.values()];
  }

  /** Those that have not left. */
  left(): Connection[] {
    const open = this.#open();
    return this.#isHttp ? open.filter(({ raw }) => !hasLeft(raw)) : open;
  }

  /** Waits until they have left, but for the excepted; resolves to how many have not in time. */
  async leave(
    { milliseconds, except = () => false, look, hurry, signal }: ClientsLeaveOptions,
  ): Promise<number> {
    const end = performance.now() + milliseconds;
    for (;;) {
      const there = this.left();
      look?.();
      const left = there.filter((connection) => !except(connection)).length;
      const now = performance.now();
      if (left === 0 || now >= end || hurry?.aborted) return left;
      await pause(Math.min(intervalFor(left), end - now), signal);
    }
  }

  /** Ends what is left, both ways. */
  cut(): void {
    for (const { raw } of this.#open()) shutdownBoth(raw);
  }
}

/**
 * Whether a client of HTTP has closed its half of the connection, and all that it sent was read. From 2.8.3
 * on Deno closes the other half when the handler has returned, which may be never.
 */
function hasLeft(raw: number): boolean {
  return hasPeerClosed(raw) && unreadBytes(raw) === 0;
}

/** Milliseconds to the next look, which asks the kernel for each connection: longer where they are many. */
export function intervalFor(connections: number): number {
  return Math.min(Math.max(pollInterval, connections / 4), 250);
}

/** How to finish. */
export interface FinishOptions extends DrainOptions {
  /** Makes the deadline now, when it is aborted. */
  hurry?: AbortSignal;
  /** Whether WebSockets are being closed: the server is shut down after that. */
  isClosing?: () => boolean;
}

/**
 * Waits until the clients of a server that is leaving have left, hangs up on those that do not, and
 * shuts the server down. Resolves to how many were still there at the deadline.
 *
 * 1. Until the deadline HTTP/1 is waited for. A client that was told to leave and does not close its
 *    connection is hung up on when that is quiet.
 * 2. From the deadline on, idle connections are hung up on. `server.shutdown()` moves HTTP/2; it answers
 *    uploads of HTTP/1 with 500, and it drops the answers under way of an HTTP/2 client that replies to
 *    GOAWAY with a GOAWAY, as Node's does (the crate h2, issue 885, up to Deno 2.9): so it is called when
 *    nothing is being answered, before the deadline if HTTP/2 alone is left. Where that moment does not
 *    come, it is called after half of `forceCloseAfter` if the answers of the deadline are out, and else a
 *    second before the end.
 * 3. `forceCloseAfter` after the deadline, or after the last client has left, everything is cut.
 */
export async function finish(
  serving: Serving,
  clients: Clients,
  options: FinishOptions = {},
): Promise<number> {
  const { drainTimeout = 60_000, forceCloseAfter = 30_000, hurry, isClosing, signal } = options;
  let due = performance.now() + drainTimeout;
  const hangUp = new HangUp(serving);
  const left = await clients.leave({
    milliseconds: drainTimeout,
    except: (connection) => leavesAtShutdown(connection, serving),
    look: () => hangUp.lookAtTold(clients),
    hurry,
    signal,
  });
  if (left > 0) due = performance.now();

  const { server } = serving;
  let shutdown: Promise<void> | undefined;
  let isDown = false;
  /** Since when no client is left. */
  let alone: number | undefined;
  /** The requests that were being answered at the deadline. */
  let old: Set<Request> | undefined;
  while (!isDown) {
    const now = performance.now();
    if (hurry?.aborted) due = Math.min(due, now);
    if (now >= due) old ??= serving.answering();
    const there = clients.left();
    alone = there.length > 0 ? undefined : alone ?? now;
    const limit = Math.min(due, alone ?? due) + forceCloseAfter;
    if (now >= limit) break;
    const busy = serving.busy(there);
    const isLeaving = hangUp.look(there, busy, now >= due);
    // What has begun since the deadline may go on without end, one request after the other.
    const isLate = now >= due + forceCloseAfter / 2 && !serving.isAnsweringAny(old!) ||
      now >= limit - Math.min(goAwayTime, forceCloseAfter / 2);
    const isCalm = !busy.any && !isLeaving;
    // WebSockets of this server, if it had any, were among the clients.
    const mustWait = left > 0 && isClosing?.();
    if (!shutdown && !mustWait && (isCalm || isLate && !busy.uploading)) {
      shutdown = server.shutdown();
      shutdown.then(() => isDown = true, () => isDown = true);
    }
    const next = Math.min(now + intervalFor(there.length), limit);
    if (shutdown) await endsBy(shutdown, next, signal);
    else await pause(next - now, signal);
  }
  shutdown ??= server.shutdown();
  clients.cut();
  // A handler that goes on without its client is not waited for.
  await endsBy(shutdown, performance.now() + cutTime, signal);
  server.unref();
  return left;
}

/** Milliseconds between two looks at who is still connected, at least. */
const pollInterval = 20;

/** Milliseconds in which nothing happens on a connection that counts as idle. */
const quietTime = 100;

/** The same where a handshake of TLS, or the head of the first request, may be on its way. */
const quietTimeBeforeRequest = 1000;

/** Milliseconds before everything is cut in which clients of HTTP/2 are told to go elsewhere. */
const goAwayTime = 1000;

/** Milliseconds that a server may take for the end of connections that were cut. */
export const cutTime = 1000;

/** Connections to hang up on in a millisecond: their clients will connect elsewhere. */
const hangUpRate = 4;

/**
 * Whether `shutdown()` makes the client leave without a loss: a client of HTTP/2, which gets GOAWAY; or one
 * of either version that has had `Connection: close`, and sends no more if it is of HTTP/1.
 */
function leavesAtShutdown(connection: Connection, serving: Serving): boolean {
  const protocol = serving.protocolOf(connection);
  return protocol === "HTTP/2" || protocol === "HTTP/1 or 2" && serving.wasTold(connection);
}

/**
 * Ends the receiving half of connections on which nothing happens: what has arrived by then is still
 * answered, and then Deno reads EOF and closes.
 */
class HangUp {
  readonly #serving: Serving;
  /** Connections whose receiving half was ended. */
  readonly #ended = new Set<bigint>();
  #lastLook = performance.now();

  constructor(serving: Serving) {
    this.#serving = serving;
  }

  /**
   * Looks at the connections that are left; a few at a time are hung up on. Gives whether some of them are
   * about to be, or to be closed by Deno.
   */
  look(left: Connection[], busy: Busy, isDue: boolean): boolean {
    const now = performance.now();
    let budget = Math.ceil(hangUpRate * (now - this.#lastLook)) || 1;
    this.#lastLook = now;
    let isLeaving = false;
    for (const connection of left) {
      if (this.#ended.has(connection.cookie)) {
        isLeaving = true;
        continue;
      }
      const quiet = busy.has(connection) ? undefined : this.#quietTimeOf(connection, isDue);
      if (quiet === undefined) continue;
      isLeaving = true;
      if (budget === 0 || !isQuiet(connection.raw, quiet)) continue;
      budget--;
      this.#ended.add(connection.cookie);
      shutdownRead(connection.raw);
    }
    return isLeaving;
  }

  /** Looks at the clients alone that were told to leave; most of them do, and there are few others. */
  lookAtTold(clients: Clients): void {
    const serving = this.#serving;
    const told: Connection[] = [];
    for (const client of serving.told) {
      const connection = clients.connectionOf(client);
      if (connection) told.push(connection);
      else serving.forgetTold(client);
    }
    if (told.length > 0) this.look(told, serving.busy(told), false);
  }

  /** How long a connection is quiet before it is hung up on; undefined for those that are not. */
  #quietTimeOf(connection: Connection, isDue: boolean): number | undefined {
    const protocol = this.#serving.protocolOf(connection);
    if (protocol === "HTTP/1" && this.#serving.wasTold(connection)) return quietTime;
    if (!isDue || protocol === "HTTP/2" || protocol === "WebSocket") return undefined;
    if (protocol !== undefined) return quietTime;
    // With TLS every request is noted: none has come.
    if (!this.#serving.tls) return undefined;
    return traffic(connection.raw)?.received === 0n ? quietTime : quietTimeBeforeRequest;
  }
}

/**
 * Hangs up on the clients that are told to leave while the server may still have to serve on: until
 * `isOver`, or until it serves on and none of them is left.
 */
export async function hangUpOnTold(
  serving: Serving,
  clients: Clients,
  isOver: () => boolean,
): Promise<void> {
  const hangUp = new HangUp(serving);
  while (!isOver()) {
    hangUp.lookAtTold(clients);
    if (!serving.leaving && serving.told.size === 0) return;
    await pause(intervalFor(serving.told.size));
  }
}

/** Whether nothing is on its way on a TCP connection, and nothing was for so many milliseconds. */
function isQuiet(raw: number, milliseconds: number): boolean {
  if (unreadBytes(raw) > 0 || unsentBytes(raw) > 0) return false;
  const seen = traffic(raw);
  return seen !== undefined && seen.quietFor >= milliseconds;
}

/** Waits for `promise`, at most until `end`. */
export async function endsBy(
  promise: Promise<void>,
  end: number,
  signal?: AbortSignal,
): Promise<void> {
  const over = new AbortController();
  try {
    const left = Math.min(Math.max(0, end - performance.now()), longestPause);
    const late = pause(left, over.signal).catch(() => {});
    await unlessAborted(Promise.race([promise, late]), signal);
  } finally {
    over.abort();
  }
}

/** How many connections that came in at each listener this thread holds. */
export function countConnections(listeners: Accepting[]): number[] {
  const counts = listeners.map(() => 0);
  for (const raw of threadSockets()) {
    const local = localAddressOfConnection(raw);
    if (!local) continue;
    for (const [at, listener] of listeners.entries()) {
      if (cameInAt(local, listener) && !(listener.serving && hasLeft(raw))) counts[at]++;
    }
  }
  return counts;
}

function localAddressOfConnection(raw: number): Address | undefined {
  return ifSocket(raw, ({ listening, type }) => {
    return listening || type !== "stream" ? undefined : localAddress(raw);
  });
}

/** Whether a connection with this local address came in at that listener. */
function cameInAt(local: Address, { address, formerAddresses = [] }: Accepting): boolean {
  return isThere(local, address) || formerAddresses.some((former) => isThere(local, former));
}

/** Whether a connection with this local address came in at a listener with that one. */
function isThere(local: Address, address: Address | undefined): boolean {
  if (!address) return false;
  if (!("port" in local)) return formatAddress(local) === formatAddress(address);
  if (!("port" in address) || local.port !== address.port) return false;
  const { hostname } = address;
  // A listener of all IPv6 addresses takes those of IPv4 as "::ffff:127.0.0.1".
  if (hostname === "0.0.0.0" || hostname === "::") {
    return hostname.includes(":") === local.hostname.includes(":");
  }
  return local.hostname === hostname;
}
