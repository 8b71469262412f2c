/**
 * How an HTTP server leaves without losing a request.
 *
 * `server.shutdown()` closes idle keep-alive connections while a request may be on its way on them,
 * drops what was accepted and not read, and answers uploads with 500. Here it is the clients who leave:
 * told so by `Connection: close` in HTTP/1, by GOAWAY in HTTP/2, which is what `shutdown()` does well.
 *
 * @module
 */

import { type Address, formatAddress } from "../ffi/sockaddr.ts";
import {
  cookieIfSocket,
  ifSocket,
  localAddress,
  peerAddress,
  shutdownBoth,
  shutdownRead,
  unreadBytes,
  unsentBytes,
} from "../ffi/socket.ts";
import { longestPause, pause, unlessAborted } from "../ffi/time.ts";
import { slots } from "./capture.ts";
import { remembered } from "./descriptor.ts";
import { desert } from "./gate.ts";
import { type Serving, servingOf } from "./http.ts";
import { checkDuration } from "./response.ts";

/** Options of {@linkcode drain}. */
export interface DrainOptions {
  /**
   * How long clients may take to leave for a successor, in milliseconds. Those that are idle longer than that are hung
   * up on: a request that one of them sends at that very moment is lost. @default {60_000}
   */
  deadline?: number;
  /**
   * How long answers that are under way at the deadline may still take, in milliseconds; then their
   * connections are cut: an event stream has no other end. What a handler goes on with after that is
   * not waited for. @default {30_000}
   */
  forceLimit?: number;
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
  if (!serving) throw new TypeError("Cannot drain a server that serveHttp() did not make");
  options.signal?.throwIfAborted();
  checkDrainOptions(options);
  if (!serving.leaving && remembered(server) !== undefined) desert(serving.slot);
  serving.watching = serving.leaving = true;
  const [clients] = await clientsOf([serving.address], census());
  options.signal?.throwIfAborted();
  return await finish(serving, clients, options);
}

/** @throws {RangeError} When one of the durations is none. */
export function checkDrainOptions({ deadline = 0, forceLimit = 0 }: DrainOptions): void {
  checkDuration("deadline", deadline);
  checkDuration("forceLimit", forceLimit);
}

/** The numbers of all sockets of this thread: who is connected is among them. */
export function census(): number[] {
  return slots().map(({ tfd }) => tfd);
}

/** How many sockets are looked at in one turn of the event loop. */
const sliceSize = 100;

/**
 * Finds, among `numbers`, the clients that came in at each of `addresses`; a slice at a time, for
 * requests are to be answered meanwhile.
 */
export async function clientsOf(
  addresses: (Address | undefined)[],
  numbers: number[],
): Promise<Clients[]> {
  const all = addresses.map(() => new Clients());
  for (const [i, raw] of numbers.entries()) {
    if (i % sliceSize === sliceSize - 1) await pause(0);
    const local = localAddressOfConnection(raw);
    if (!local) continue;
    for (const [at, address] of addresses.entries()) {
      if (isThere(local, address)) all[at].add(raw);
    }
  }
  return all;
}

/**
 * The connections of a server that has stopped accepting: no more will come, and what another one
 * accepts is not among them.
 */
export class Clients {
  readonly #cookies = new Map<number, bigint>();

  /** Counts a connection in. */
  add(raw: number): void {
    const cookie = cookieIfSocket(raw);
    if (cookie !== undefined) this.#cookies.set(raw, cookie);
  }

  /** The descriptors of those that are still there. */
  left(): number[] {
    for (const raw of this.#cookies.keys()) if (!this.has(raw)) this.#cookies.delete(raw);
    return [...this.#cookies.keys()];
  }

  /** Whether the connection with this descriptor is still there. */
  has(raw: number): boolean {
    const cookie = this.#cookies.get(raw);
    return cookie !== undefined && cookieIfSocket(raw) === cookie;
  }

  /** Waits until they have left, but for the excepted; resolves to how many have not in time. */
  async leave(
    { milliseconds, except = () => false, hurry, signal }: {
      milliseconds: number;
      except?: (raw: number) => boolean;
      hurry?: AbortSignal;
      signal?: AbortSignal;
    },
  ): Promise<number> {
    const end = performance.now() + milliseconds;
    for (;;) {
      const left = this.left().filter((raw) => !except(raw)).length;
      const now = performance.now();
      if (left === 0 || now >= end || hurry?.aborted) return left;
      // A look asks for every connection. While they are many, it is not the last one that is waited for.
      const interval = Math.min(Math.max(pollInterval, left / 4), 250);
      await pause(Math.min(interval, end - now), signal);
    }
  }

  /** Ends what is left, both ways. */
  cut(): void {
    for (const raw of this.left()) shutdownBoth(raw);
  }
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
 */
export async function finish(
  serving: Serving,
  clients: Clients,
  options: FinishOptions = {},
): Promise<number> {
  const { deadline = 60_000, forceLimit = 30_000, hurry, isClosing, signal } = options;
  const { known, server } = serving;
  const left = await clients.leave({
    milliseconds: deadline,
    // They leave when the server is shut down, and not before.
    except: (raw) => known.protocolOf(raw) === "HTTP/2",
    hurry,
    signal,
  });
  const now = performance.now();
  if (left > 0) await hangUpOnIdle(serving, clients, signal);
  // An upload that goes on would be answered with 500; and an HTTP/2 stream would be dropped whose
  // client answers GOAWAY with one of its own, as Node does (the crate h2, issue 885, up to Deno 2.9).
  while (isAnswering(serving, clients) && performance.now() < now + forceLimit / 2) {
    await pause(5, signal);
  }
  // Those of this server, if it had any, were among the clients.
  while (left > 0 && isClosing?.() && performance.now() < now + forceLimit) await pause(5, signal);
  const shutdown = server.shutdown();
  await endsBy(shutdown, now + forceLimit, signal);
  clients.cut();
  // A handler that has lost its client, and goes on, is none of anybody's business.
  await endsBy(shutdown, performance.now() + cutTime, signal);
  server.unref();
  return left;
}

/** Milliseconds between two looks at who is still connected, at least. */
const pollInterval = 20;

/** Milliseconds in which nothing happens on a connection that counts as idle. */
const quietTime = 100;

/** Milliseconds that a server may take for the end of connections that were cut. */
const cutTime = 1000;

/**
 * Ends the receiving half of the connections on which nothing happens: what has arrived by then is
 * still answered, and then Deno reads EOF and closes. A few at a time, for their clients will connect
 * elsewhere.
 */
async function hangUpOnIdle(
  serving: Serving,
  clients: Clients,
  signal: AbortSignal | undefined,
): Promise<void> {
  const quiet = clients.left().filter((raw) => isQuiet(raw, serving));
  if (quiet.length === 0) return;
  await pause(quietTime, signal);
  let count = 0;
  for (const raw of quiet) {
    if (clients.has(raw) && isQuiet(raw, serving)) shutdownRead(raw);
    if (++count % 4 === 0) await pause(1, signal);
  }
}

/**
 * Whether a connection is known to be between two requests of HTTP/1, with nothing on its way. Of one on
 * which none was answered since the server watches, it is not: an answer may be streamed on it.
 */
function isQuiet(raw: number, { active, known }: Serving): boolean {
  if (known.protocolOf(raw) !== "HTTP/1") return false;
  if (unreadBytes(raw) > 0 || unsentBytes(raw) > 0) return false;
  const port = portOf(raw);
  return !active.values().some((client) => portOfClient(client) === port);
}

/** Whether there is an answer under way, and somebody to have it. */
function isAnswering({ active }: Serving, clients: Clients): boolean {
  if (active.size === 0) return false;
  const ports = new Set(clients.left().map(portOf));
  return active.values().some((client) => ports.has(portOfClient(client)));
}

/** The port at the other end of a connection; undefined where there is none. */
function portOf(raw: number): number | undefined {
  const peer = peerAddress(raw);
  return peer && "port" in peer ? peer.port : undefined;
}

/** The port that a request came from. */
function portOfClient(client: Deno.Addr): number | undefined {
  return "port" in client ? client.port : undefined;
}

/** Waits for `promise`, at most until `end`. */
async function endsBy(promise: Promise<void>, end: number, signal?: AbortSignal): Promise<void> {
  const over = new AbortController();
  try {
    const left = Math.min(Math.max(0, end - performance.now()), longestPause);
    const late = pause(left, over.signal).catch(() => {});
    await unlessAborted(Promise.race([promise, late]), signal);
  } finally {
    over.abort();
  }
}

/** How many connections that came in at each of `addresses` this thread holds. */
export function countConnections(addresses: (Address | undefined)[]): number[] {
  const counts = addresses.map(() => 0);
  for (const raw of census()) {
    const local = localAddressOfConnection(raw);
    if (!local) continue;
    for (const [at, address] of addresses.entries()) if (isThere(local, address)) counts[at]++;
  }
  return counts;
}

function localAddressOfConnection(raw: number): Address | undefined {
  return ifSocket(raw, ({ listening, type }) => {
    return listening || type !== "stream" ? undefined : localAddress(raw);
  });
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
