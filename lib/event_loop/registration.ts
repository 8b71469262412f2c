/**
 * How a native Deno object comes to stand on a descriptor of ours.
 *
 * A Deno socket object is a handle on a descriptor number that its runtime (tokio, through mio) has
 * registered in an epoll, with an opaque token. So: make a dummy object of the right kind, catch the
 * registration it makes, put the descriptor in the dummy's place, and register that again with the
 * very same events and token.
 *
 * mio holds two descriptors of a thread's epoll: it waits on one and registers through the other, a
 * duplicate. For the instant in which the dummy is made, the second is swapped for an epoll of ours.
 *
 * @module
 */

import { closeAll, closeRaw, dup, replace, setNonblocking } from "../../ffi/fd.ts";
import { createEpoll, unwatch, watch } from "../../ffi/epoll.ts";
import {
  describeDescriptor,
  openDescriptors,
  type Registration,
  Registrations,
  registrations,
} from "../../ffi/proc.ts";
import { type Address, formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import { ifSocket } from "../../ffi/socket_options.ts";
import { listenUnix, localAddress } from "../../ffi/socket.ts";
import { UnsupportedRuntimeError } from "../errors.ts";
import { runtime } from "../runtime.ts";

export type { Registration };

/** The epoll that catches registrations, and the number by which the runtime of this thread registers. */
interface Loop {
  trap: number;
  runtime: number;
  /** The descriptors that the runtime watches; kept open, so that they can be read when no descriptor is free. */
  watched: Registrations;
}

let loop: Loop | undefined;

/**
 * Makes a dummy and catches its registration; `place` or `keep` has to follow in the same turn of the event loop.
 *
 * @throws {UnsupportedRuntimeError} When this runtime does not work as described above.
 */
export function capture<T>(
  make: () => T,
  discard: (dummy: T) => void,
): { dummy: T; registration: Registration } {
  const { trap, runtime } = loop ??= findLoop();
  let dummy: T;
  try {
    dummy = through(trap, runtime, make);
  } catch (error) {
    handBack(loop);
    throw error;
  }
  const caught = registrations(trap);
  if (caught.length === 1) return { dummy, registration: caught[0] };
  handBack(loop);
  discard(dummy);
  throw unsupported(`${caught.length} registrations where one was expected`);
}

/** Gives caught registrations back to the runtime. */
function handBack({ trap, runtime }: Loop): void {
  for (const registration of registrations(trap)) {
    unwatch(trap, registration.tfd);
    watch(runtime, registration);
  }
}

/**
 * Replaces the dummy's descriptor by a duplicate of `raw`, and registers that; `raw` stays open, with the caller.
 *
 * The dummy's registration is removed first: a duplicate of its descriptor, or a forked child, would keep it
 * otherwise, with a token that may be freed by then.
 */
export function place(registration: Registration, raw: number): void {
  const { trap, runtime } = loop!;
  setNonblocking(raw, true);
  unwatch(trap, registration.tfd);
  replace(raw, registration.tfd);
  watch(runtime, registration);
}

/** Registers the dummy itself; `exchange` may replace its descriptor later. */
export function keep(registration: Registration): void {
  const { trap, runtime } = loop!;
  unwatch(trap, registration.tfd);
  watch(runtime, registration);
}

/** Replaces the descriptor of a registered object by a duplicate of `raw`; `raw` stays open, with the caller. */
export function exchange(registration: Registration, raw: number): void {
  const { runtime } = loop!;
  setNonblocking(raw, true);
  unwatch(runtime, registration.tfd);
  replace(raw, registration.tfd);
  watch(runtime, registration);
}

/**
 * Registers `raw` in place of an object, and replaces the object's descriptor by a duplicate of `other`: the runtime
 * reads `other` when `raw` is ready. Both stay the caller's.
 */
export function divert(registration: Registration, other: number, raw: number): void {
  const { runtime } = loop!;
  unwatch(runtime, registration.tfd);
  replace(other, registration.tfd);
  watch(runtime, { ...registration, tfd: raw });
}

/** Undoes `divert`: the object is registered again. */
export function revert(registration: Registration, raw: number): void {
  const { runtime } = loop!;
  unwatch(runtime, raw);
  watch(runtime, registration);
}

/** The registrations in the epoll of this thread's runtime. */
export function denoRegistrations(): Registration[] {
  loop ??= findLoop();
  return loop.watched.read();
}

/** Finds the epoll of the runtime ahead of the first adoption, while the process waits anyway. */
export function prepare(): void {
  try {
    loop ??= findLoop();
  } catch {
    // The adoption tries again, and throws.
  }
}

/**
 * Starts a connection attempt and catches its registration; `arrange` decides in the same turn of the event loop
 * which descriptor is registered. Resolves when the runtime takes the connection for established.
 */
export async function captureConn<T extends Deno.Conn>(
  connect: () => Promise<T>,
  arrange: (registration: Registration) => void,
): Promise<{ conn: T; registration: Registration }> {
  let connecting: Promise<T> | undefined;
  let registration: Registration;
  try {
    ({ registration } = capture(() => connecting = connect(), () => {}));
  } catch (error) {
    // The error of an attempt that failed at once, or is not permitted: it has registered nothing.
    (await connecting)?.close();
    throw error;
  }
  arrange(registration);
  return { conn: await connecting!, registration };
}

/** Makes a unix connection without a peer, and its registration: it needs neither a port nor a network interface. */
export async function unixStandIn(): Promise<{ conn: Deno.UnixConn; registration: Registration }> {
  const path = privateName();
  const listening = listenUnix(path, "Cannot make a connection to stand in");
  try {
    return await captureConn(() => Deno.connect({ transport: "unix", path }), keep);
  } catch (error) {
    throw explained(error, abstractFlag);
  } finally {
    // The connection is never accepted: its other end is closed with the listener.
    closeRaw(listening);
  }
}

/** A name in the abstract namespace that no other socket has. */
export function privateName(): string {
  return `\0graceful-${crypto.randomUUID()}`;
}

/**
 * Whether native objects on abstract unix sockets are permitted, without a prompt: Deno requires the whole network
 * for that, and before 2.8.3 every path too (in effect -A).
 */
export function mayBeAbstract(): boolean {
  const names = needsAll() ? ["read", "write", "net"] as const : ["net"] as const;
  return names.every((name) => Deno.permissions.querySync({ name }).state === "granted");
}

function needsAll(): boolean {
  return /^2\.([0-7]|8\.[0-2])\b/.test(Deno.version.deno);
}

/**
 * Calls `make` for each of `places` until it succeeds; throws the first error if it never does.
 *
 * @param flag The permission flag of the first place.
 */
export function atFirst<P, T>(places: Iterable<P>, make: (place: P) => T, flag = newPortFlag): T {
  let first: { error: unknown } | undefined;
  for (const place of places) {
    try {
      return make(place);
    } catch (error) {
      // The error of the first place is thrown: the documentation names that place.
      first ??= { error };
    }
  }
  throw explained(first!.error, flag);
}

/** Errors that concern the address: all others, such as that of a certificate, are explained by Deno. */
const addressErrors = ["EADDRINUSE", "EADDRNOTAVAIL", "ENETUNREACH", "EAFNOSUPPORT"];

/** The flag for a listener or datagram socket that stands in for another one. */
const newPortFlag = "--allow-net=127.0.0.1:0";

/** The flag for a TCP connection that stands in for another one: its port is not known before. */
export const anyPortFlag = "--allow-net=127.0.0.1";

/** The flag for a unix socket that stands in for another one, as far as there is one. */
export const abstractFlag = needsAll() ? "-A" : "--allow-net";

/**
 * Gives the error with the attempt and the remedy: Deno's own message has neither, or names an address that the
 * program did not ask for.
 *
 * @param flag The flag that permits the attempt.
 */
export function explained(error: unknown, flag = newPortFlag): unknown {
  if (error instanceof Deno.errors.NotCapable) {
    const what =
      "Cannot adopt a descriptor: this process may not make the socket that stands in for it " +
      `for an instant; run it with ${flag}` +
      (flag.includes("=") ? ", beside the addresses of the service itself" : "");
    return Object.assign(new Deno.errors.NotCapable(what), { cause: error });
  }
  if (error instanceof Error && addressErrors.includes((error as { code?: string }).code ?? "")) {
    error.message = "Cannot adopt a descriptor: no socket can be made to stand in for it for an " +
      `instant, at 127.0.0.1 or at another address that is permitted (${error.message}). ` +
      "Free a port of 127.0.0.1, or permit other addresses with --allow-net";
  }
  return error;
}

/** Runs `make` while number `runtime` refers to the epoll `trap`. */
function through<T>(trap: number, runtime: number, make: () => T): T {
  const kept = dup(runtime);
  try {
    replace(trap, runtime);
    return make();
  } finally {
    replace(kept, runtime);
    closeRaw(kept);
  }
}

/**
 * Finds the number by which this thread's runtime registers. Other threads have epolls too: those of this thread list
 * a listener that is made here; and if a second listener lands in the trap, that is the number by which the runtime
 * registers.
 */
function findLoop(): Loop {
  const { listener, raw } = placedTrial();
  let trap = -1;
  try {
    trap = createEpoll();
    let watching = 0;
    for (const runtime of epollsOf(raw)) {
      watching++;
      const { listener: second } = through(trap, runtime, makeTrial);
      let caught: boolean;
      try {
        caught = registrations(trap).length === 1;
      } finally {
        second.close();
      }
      if (caught) return { trap, runtime, watched: new Registrations(runtime) };
    }
    throw unsupported(`${watching} epolls watch a new listener, none through a trap`);
  } catch (error) {
    closeAll([trap]);
    throw error;
  } finally {
    listener.close();
  }
}

/** The epolls that watch `raw`: of the first two, the later one first, because the duplicate is the one to find. */
function* epollsOf(raw: number): Generator<number> {
  let first: number | undefined;
  let count = 0;
  for (const epoll of epolls()) {
    if (!registrations(epoll).some(({ tfd }) => tfd === raw)) continue;
    if (++count === 1) {
      first = epoll;
      continue;
    }
    yield epoll;
    if (count === 2) yield first!;
  }
  if (count === 1) yield first!;
}

/** The epolls of this process, those with low numbers first: they were made when the process began. */
function* epolls(): Generator<number> {
  const isEpoll = (raw: number) => describeDescriptor(raw) === "anon_inode:[eventpoll]";
  for (let raw = 0; raw < early; raw++) if (isEpoll(raw)) yield raw;
  yield* openDescriptors().filter((raw) => raw >= early && isEpoll(raw));
}

/** The descriptors that a process opens when it begins are below this number. */
const early = 32;

/** A listener for a trial, and its address as text. */
interface Trial {
  listener: Deno.Listener;
  address: string;
}

/**
 * Makes a listener of a kind that this process may make: a sandbox may refuse IPv4 or unix sockets, every port may be
 * in use, and permissions may cover only one kind.
 */
function makeTrial(): Trial {
  const ways = [unixTrial, tcpTrial];
  return atFirst(mayBeAbstract() ? ways : ways.reverse(), (make) => make());
}

function unixTrial(): Trial {
  const path = privateName();
  return { listener: runtime.listen({ transport: "unix", path }), address: formatPath(path) };
}

function tcpTrial(): Trial {
  const listener = runtime.listen({ hostname: "127.0.0.1", port: 0 });
  return { listener, address: formatAddress(listener.addr as Address) };
}

/** Makes a listener for a trial. */
export function trialListener(): Deno.Listener {
  return makeTrial().listener;
}

/** A listener, and its number: usually the lowest free one (POSIX, "File Descriptor Allocation"). */
function placedTrial(): { listener: Deno.Listener; raw: number } {
  const lowest = dup(0);
  closeRaw(lowest);
  const { listener, address } = makeTrial();
  const isIt = (raw: number) =>
    ifSocket(raw, ({ listening }) => listening && formatAddress(localAddress(raw)) === address) ??
      false;
  // Another thread may have taken that number.
  const raw = isIt(lowest) ? lowest : openDescriptors().find(isIt);
  if (raw !== undefined) return { listener, raw };
  listener.close();
  throw unsupported("a new listener has no descriptor");
}

function unsupported(found: string): UnsupportedRuntimeError {
  return new UnsupportedRuntimeError(
    `Cannot adopt descriptors on Deno ${Deno.version.deno}: its event loop is not as expected ` +
      `(${found}). node:net and node:http take a descriptor with listen({ fd }), at lower speed`,
  );
}
