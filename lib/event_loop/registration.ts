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
import { ifSocket, listenUnix, localAddress } from "../../ffi/socket.ts";
import { UnsupportedRuntimeError } from "../errors.ts";

export type { Registration };

/** The epoll that catches, and the one of this thread's runtime: the number it registers through. */
interface Loop {
  trap: number;
  runtime: number;
  /** The descriptors that the runtime watches; kept open, so that they can be read when no descriptor is free. */
  watched: Registrations;
}

let loop: Loop | undefined;

/**
 * Makes a dummy and catches its place; `place` or `keep` has to follow in the same turn.
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

/** What was caught and is not wanted is the runtime's. */
function handBack({ trap, runtime }: Loop): void {
  for (const registration of registrations(trap)) {
    unwatch(trap, registration.tfd);
    watch(runtime, registration);
  }
}

/**
 * Puts what `raw` is open on in the place of the dummy. `raw` stays open, with the caller.
 *
 * The dummy's registration goes first: left in, a duplicate or a child of a fork would keep it, with
 * a token that may be freed by then.
 */
export function place(registration: Registration, raw: number): void {
  const { trap, runtime } = loop!;
  setNonblocking(raw, true);
  unwatch(trap, registration.tfd);
  replace(raw, registration.tfd);
  watch(runtime, registration);
}

/** Lets the dummy keep its place for now; `exchange` takes it later. */
export function keep(registration: Registration): void {
  const { trap, runtime } = loop!;
  unwatch(trap, registration.tfd);
  watch(runtime, registration);
}

/** Puts what `raw` is open on in a place that is in use; `raw` stays open, with the caller. */
export function exchange(registration: Registration, raw: number): void {
  const { runtime } = loop!;
  setNonblocking(raw, true);
  unwatch(runtime, registration.tfd);
  replace(raw, registration.tfd);
  watch(runtime, registration);
}

/**
 * Has the runtime hear of `raw` where it listens for what is in a place that is in use, and puts what
 * `other` is open on there: that is what it reads then. `other` and `raw` stay the caller's.
 */
export function divert(registration: Registration, other: number, raw: number): void {
  const { runtime } = loop!;
  unwatch(runtime, registration.tfd);
  replace(other, registration.tfd);
  watch(runtime, { ...registration, tfd: raw });
}

/** Ends what `divert` began: the runtime hears of the place again. */
export function revert(registration: Registration, raw: number): void {
  const { runtime } = loop!;
  unwatch(runtime, raw);
  watch(runtime, registration);
}

/** The places that this thread's runtime watches. */
export function denoRegistrations(): Registration[] {
  loop ??= findLoop();
  return loop.watched.read();
}

/** Does ahead what the first object costs beside itself, while there is nothing else to do. */
export function prepare(): void {
  try {
    loop ??= findLoop();
  } catch {
    // The call that needs it tries again, and throws.
  }
}

/**
 * Starts a connection attempt and catches its place; `arrange` decides in the same turn what stands
 * there. Resolves when the runtime takes the connection for established.
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
    // An attempt that failed at once, or is not permitted, says why here, and registers nothing.
    (await connecting)?.close();
    throw error;
  }
  arrange(registration);
  return { conn: await connecting!, registration };
}

/** A unix connection to nobody, and its place: it needs neither a port nor a network interface. */
export async function unixStandIn(): Promise<{ conn: Deno.UnixConn; registration: Registration }> {
  const path = privateName();
  const listening = listenUnix(path, "Cannot make a connection to stand in");
  try {
    return await captureConn(() => Deno.connect({ transport: "unix", path }), keep);
  } catch (error) {
    throw explained(error, abstractFlag);
  } finally {
    // Nothing accepts the connection: its far end goes with the listener.
    closeRaw(listening);
  }
}

/** A name in the abstract namespace that no other socket has. */
export function privateName(): string {
  return `\0graceful-${crypto.randomUUID()}`;
}

/**
 * Whether native objects may be on unix sockets in the abstract namespace, told without a prompt: Deno
 * wants the whole network for that, and before 2.8.3 every path too (even then it takes -A).
 */
export function mayBeAbstract(): boolean {
  const names = needsAll() ? ["read", "write", "net"] as const : ["net"] as const;
  return names.every((name) => Deno.permissions.querySync({ name }).state === "granted");
}

function needsAll(): boolean {
  return /^2\.([0-7]|8\.[0-2])\b/.test(Deno.version.deno);
}

/**
 * What `make` makes in the first of `places` where it can; where it can nowhere, the first error.
 *
 * @param flag What permits the first place.
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

/** Why no socket can be made at an address; what else Deno refuses, a certificate for one, it explains. */
const addressErrors = ["EADDRINUSE", "EADDRNOTAVAIL", "ENETUNREACH", "EAFNOSUPPORT"];

/** What permits a listener or datagram socket to stand in for another one. */
const newPortFlag = "--allow-net=127.0.0.1:0";

/** What permits a TCP connection to stand in for another one: to a port that is not known before. */
export const anyPortFlag = "--allow-net=127.0.0.1";

/** What permits a unix socket to stand in for another one, as far as there is a flag for it. */
export const abstractFlag = needsAll() ? "-A" : "--allow-net";

/**
 * The same error, with what was attempted and what to do: Deno's own says neither, or names an address that
 * is none of the program's.
 *
 * @param flag What permits what was attempted.
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
 * Finds the number through which this thread's runtime registers. Other threads have epolls too;
 * this thread's are those that a listener made here appears in, and the one that registers is the
 * one through which a second listener lands in the trap.
 */
function findLoop(): Loop {
  const trap = createEpoll();
  const { listener, raw } = placedTrial();
  try {
    let watching = 0;
    for (const runtime of epolls()) {
      if (!registrations(runtime).some(({ tfd }) => tfd === raw)) continue;
      watching++;
      const { listener: second } = through(trap, runtime, makeTrial);
      const caught = registrations(trap).length === 1;
      second.close();
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

/** Epolls of this process: those that were made as it began first, and mostly alone. */
function* epolls(): Generator<number> {
  const isEpoll = (raw: number) => describeDescriptor(raw) === "anon_inode:[eventpoll]";
  for (let raw = 0; raw < early; raw++) if (isEpoll(raw)) yield raw;
  yield* openDescriptors().filter((raw) => raw >= early && isEpoll(raw));
}

/** A number below which what a process opens as it begins is found. */
const early = 32;

/** A listener for trials, and its address as text. */
interface Trial {
  listener: Deno.Listener;
  address: string;
}

/**
 * A listener of the kind that this process can make: a sandbox may refuse sockets of either family,
 * every port may be in use, and permissions may be for one of the two.
 */
function makeTrial(): Trial {
  const ways = [unixTrial, tcpTrial];
  return atFirst(mayBeAbstract() ? ways : ways.reverse(), (make) => make());
}

function unixTrial(): Trial {
  const path = privateName();
  return { listener: Deno.listen({ transport: "unix", path }), address: formatPath(path) };
}

function tcpTrial(): Trial {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return { listener, address: formatAddress(listener.addr as Address) };
}

/** A listener for trials, without the rest of what is known of it. */
export function trialListener(): Deno.Listener {
  return makeTrial().listener;
}

/** A listener, and its number: the lowest that is free (POSIX, "File Descriptor Allocation"), as a rule. */
function placedTrial(): { listener: Deno.Listener; raw: number } {
  const lowest = dup(0);
  closeRaw(lowest);
  const { listener, address } = makeTrial();
  const isIt = (raw: number) =>
    ifSocket(raw, ({ listening }) => listening && formatAddress(localAddress(raw)) === address) ??
      false;
  // Another thread may have been quicker.
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
