/**
 * Waiting until a descriptor is ready: one epoll(7) for the thread, and one call that waits on it, on a
 * thread of Deno's pool, only while somebody waits; or an alarm, which does without the other thread.
 *
 * @module
 */

import { c, errnos, structs } from "./abi.ts";
import { check, errno, uninterrupted } from "./errno.ts";
import { closeAll, owned } from "./fd.ts";
import { libc } from "./libc.ts";
import type { Registration } from "./proc.ts";
import { unlessAborted } from "../lib/time.ts";

const { epoll_event, pollfd } = structs;

/** An epoll instance, which whoever made it closes. */
export function createEpoll(): number {
  return owned(check(libc().epoll_create1(c.EPOLL_CLOEXEC), "Cannot make an epoll"));
}

/** An eventfd, which is writable until a counter of 64 bits is full. */
export function createEventfd(): number {
  const flags = c.EFD_CLOEXEC | c.EFD_NONBLOCK;
  return owned(check(libc().eventfd(0, flags), "Cannot make an eventfd"));
}

/** Adds a descriptor to `epoll`. */
export function watch(epoll: number, { tfd, events, data }: Registration): void {
  control(epoll, c.EPOLL_CTL_ADD, tfd, events, data);
}

/** Takes a descriptor out of `epoll`. */
export function unwatch(epoll: number, raw: number): void {
  control(epoll, c.EPOLL_CTL_DEL, raw, 0, 0n);
}

function control(epoll: number, op: number, raw: number, events: number, data: bigint): void {
  const event = epoll_event.pack({ events, data });
  check(
    libc().epoll_ctl(epoll, op, raw, event),
    () => `Cannot change what epoll ${epoll} says of descriptor ${raw}`,
  );
}

/** What to wait for: bytes or connections to read, or room to write. */
export type Readiness = "readable" | "writable";

/** Options of a wait. */
export interface WaitOptions {
  /** Asked whenever it may have changed: whether this wait keeps the process running. */
  keepsAlive?: () => boolean;
  /** Who waits, for `abandon`. */
  owner?: object;
  /** Ends the wait; it rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Somebody who waits. */
interface Waiter {
  readonly owner: object | undefined;
  readonly readiness: Readiness;
  readonly keepsAlive: () => boolean;
  readonly wake: () => void;
  readonly fail: (reason: unknown) => void;
}

/** How many events one epoll_wait brings. */
const batch = 64;

const always = () => true;

/** Waits until `raw` is ready, has failed or was hung up on. Level-triggered: ready now is ready. */
export function ready(
  raw: number,
  readiness: Readiness,
  { keepsAlive = always, owner, signal }: WaitOptions = {},
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (!signal) {
      waits.add(raw, { owner, readiness, keepsAlive, wake: resolve, fail: reject });
      return;
    }
    signal.throwIfAborted();
    const waiter: Waiter = {
      owner,
      readiness,
      keepsAlive,
      wake() {
        signal.removeEventListener("abort", abort);
        resolve();
      },
      fail(reason) {
        signal.removeEventListener("abort", abort);
        reject(reason);
      },
    };
    const abort = () => {
      waits.remove(raw, waiter);
      waiter.fail(signal.reason);
    };
    waits.add(raw, waiter);
    signal.addEventListener("abort", abort);
  });
}

/** Ends the waits of `owner` for `raw`, which it is about to close: they reject with what `reason` gives. */
export function abandon(raw: number, owner: object, reason: () => Error): void {
  waits.abandon(raw, owner, reason);
}

/** Whether `raw` is ready, has failed or was hung up on (poll(2)). */
export function isReady(raw: number, readiness: Readiness): boolean {
  return poll(raw, pollEvents[readiness], 0);
}

/** Whether `raw` has failed or was hung up on: of a pipe to write to, that no process reads it. */
export function isBroken(raw: number): boolean {
  return poll(raw, 0, 0);
}

/**
 * Whether `raw` is ready before a tenth of a millisecond is over, in which nothing else on this thread gets
 * its turn: for what takes less than it takes to wait for it elsewhere. It does not sleep, because to be
 * woken by another processor takes some ten microseconds; but who waits for this processor gets it.
 */
export function isReadySoon(raw: number, readiness: Readiness): boolean {
  const end = performance.now() + soon;
  do {
    if (poll(raw, pollEvents[readiness], 0)) return true;
    libc().sched_yield();
  } while (performance.now() < end);
  return false;
}

/** In milliseconds. */
const soon = 0.1;

/** The same within a millisecond, most of which is slept. */
export function isReadyInTime(raw: number, readiness: Readiness): boolean {
  return isReadySoon(raw, readiness) || poll(raw, pollEvents[readiness], 1);
}

/**
 * Whether the peer of a stream socket has closed the connection, or the half that it writes: no more will
 * arrive than what is queued (poll(2), POLLRDHUP).
 */
export function hasPeerClosed(raw: number): boolean {
  return poll(raw, c.POLLRDHUP, 0);
}

/** What poll(2) is asked for. */
const pollEvents = { readable: c.POLLIN, writable: c.POLLOUT } as const;

function poll(raw: number, events: number, milliseconds: number): boolean {
  polledView.setInt32(fdAt, raw, true);
  polledView.setInt16(polledEventsAt, events, true);
  return libc().poll(polled, 1n, milliseconds) > 0;
}

/** Says on this thread that an epoll has something to report. */
export interface Waker extends Disposable {
  /** Resolves when there was, or may have been, something since the last time; to false if it never will. */
  woken(): Promise<boolean>;
  /** Whether waiting for it keeps the process running. */
  keepAlive(alive: boolean): void;
}

/** Makes an alarm for an epoll, if it can. */
export type MakeWaker = (epoll: number) => Promise<Waker | undefined>;

/**
 * Has an alarm tell this thread's waits, until it is disposed of: half of a wait's time is saved. For
 * who waits often, because making one takes as long as many waits.
 */
export function useWaker(make: MakeWaker): Disposable {
  return waits.useWaker(make);
}

/** Looks again at every wait's `keepsAlive`. */
export function refreshKeepAlive(): void {
  waits.refresh();
}

/** When the event loop of this thread was last known to have had its turn. */
let lastTurn = 0;

/** Milliseconds for which work that always finds more of itself may hold the event loop up. */
const longestTurn = 5;

/**
 * Lets timers, signals and other connections have their turn, when there was none for a while: what is
 * there without waiting comes in the same turn, and a busy peer would be the only one to be heard.
 */
export async function yieldToEventLoop(signal?: AbortSignal): Promise<void> {
  if (performance.now() - lastTurn < longestTurn) return;
  // A timer would take a millisecond at least.
  await unlessAborted(libc().sched_yield_elsewhere(), signal);
  lastTurn = performance.now();
}

// Filled and used within one turn.
const change = new Uint8Array(epoll_event.size);
const changeView = new DataView(change.buffer);
const [eventsAt, dataAt] = [epoll_event.offset("events"), epoll_event.offset("data")];
const events = new Uint8Array(epoll_event.size * batch);
const eventsView = new DataView(events.buffer);
const one = new Uint8Array(BigUint64Array.of(1n).buffer);
const polled = new Uint8Array(pollfd.size);
const polledView = new DataView(polled.buffer);
const [fdAt, polledEventsAt] = [pollfd.offset("fd"), pollfd.offset("events")];

/**
 * How often in a row an alarm may ring for nothing: another process that accepts on the same listener may
 * have been faster, but on a runtime in which it always rings it would keep the processor busy.
 */
const mostFalseWakeUps = 1000;

/** The waits of this thread. */
class Waits {
  #epoll = -1;
  #wakeUp = -1;
  /**
   * Who waits for each number that the epoll knows. It reports once (EPOLLONESHOT), and then not before
   * somebody waits again: who closes a number need not tell, though it is better to.
   */
  readonly #waiters = new Map<number, readonly Waiter[]>();
  /** How many there are of them. */
  #waiting = 0;
  #running = false;
  /** The call that waits on another thread, while there is one, and where it puts what it finds. */
  #pending: Promise<number> | undefined;
  #found = 0n;
  /** How many have asked for an alarm; it is there when it is made. */
  #wakerUsers = 0;
  #waker: Waker | undefined;
  /** Whether the alarm has been seen to ring for something. */
  #wakerWorks = false;
  #falseWakeUps = 0;
  /** Whether there may be more than the last look at the epoll had room for. */
  #more = false;
  /** How often the other thread has found something. */
  #reports = 0;

  add(raw: number, waiter: Waiter): void {
    this.#open();
    const others = this.#waiters.get(raw) ?? nobody;
    if (others.length > 0) this.#change(raw, [...others, waiter]);
    else this.#begin(raw, waiter);
    if (this.#running) this.refresh();
    else if (this.#waiting > 0) this.#run();
  }

  remove(raw: number, waiter: Waiter): void {
    this.#change(raw, this.#waiters.get(raw)!.filter((other) => other !== waiter));
    this.#removed();
  }

  abandon(raw: number, owner: object, reason: () => Error): void {
    const waiters = this.#waiters.get(raw);
    if (!waiters) return;
    const left = waiters.filter((waiter) => waiter.owner !== owner);
    this.#change(raw, left);
    this.#removed();
    if (left.length === waiters.length) return;
    const error = reason();
    for (const waiter of waiters) if (waiter.owner === owner) waiter.fail(error);
  }

  /** The last one to leave ends the call that waits, and with it the thread it holds. */
  #removed(): void {
    if (this.#waiting > 0) this.refresh();
    else if (this.#running) uninterrupted(() => libc().write(this.#wakeUp, one, 8n));
  }

  refresh(): void {
    if (!this.#running) return;
    const alive = this.#keepAlive();
    this.#waker?.keepAlive(alive);
    if (this.#pending) keepAlive(this.#pending, alive);
  }

  #keepAlive(): boolean {
    for (const waiters of this.#waiters.values()) {
      for (const waiter of waiters) if (waiter.keepsAlive()) return true;
    }
    return false;
  }

  useWaker(make: MakeWaker): Disposable {
    // Without one, for whatever reason, the other thread goes on waiting.
    if (this.#wakerUsers++ === 0) this.#makeWaker(make).catch(() => {});
    return {
      [Symbol.dispose]: () => {
        if (--this.#wakerUsers === 0) this.#dropWaker();
      },
    };
  }

  async #makeWaker(make: MakeWaker): Promise<void> {
    this.#open();
    const waker = await make(this.#epoll);
    if (!waker) return;
    if (this.#wakerUsers === 0 || this.#waker) {
      waker[Symbol.dispose]();
      return;
    }
    this.#waker = waker;
    this.#wakerWorks = false;
    this.#falseWakeUps = 0;
    waker.keepAlive(this.#running && this.#keepAlive());
    // On a runtime in which it never rings, the other thread goes on waiting.
    for (let reports = this.#reports; await waker.woken(); reports = this.#reports) {
      if (this.#waker !== waker) return;
      this.#wakerWorks = this.#reports > reports || isReady(this.#epoll, "readable");
      if (this.#wakerWorks || this.#hasRungFalsely()) return;
    }
  }

  /** The alarm has rung for nothing; whether that was once too often, and it is dropped. */
  #hasRungFalsely(): boolean {
    if (++this.#falseWakeUps <= mostFalseWakeUps) return false;
    this.#dropWaker();
    return true;
  }

  #dropWaker(): void {
    // Until the other thread waits, what ends is all that keeps the process running.
    if (this.#running) this.#waker?.keepAlive(true);
    this.#waker?.[Symbol.dispose]();
    this.#waker = undefined;
    this.#wakerWorks = this.#more = false;
  }

  #open(): void {
    if (this.#epoll >= 0) return;
    const wakeUp = createEventfd();
    let epoll = -1;
    try {
      epoll = createEpoll();
      watch(epoll, { tfd: wakeUp, events: c.EPOLLIN, data: BigInt(wakeUp) });
    } catch (error) {
      closeAll([wakeUp, epoll]);
      throw error;
    }
    this.#wakeUp = wakeUp;
    this.#epoll = epoll;
  }

  async #run(): Promise<void> {
    this.#running = true;
    try {
      while (this.#waiting > 0) {
        const count = this.#wakerWorks ? await this.#onWaker() : await this.#onThread();
        for (let i = 0; i < count; i++) {
          const at = i * epoll_event.size;
          const raw = eventsView.getUint32(at + dataAt, true);
          if (raw === this.#wakeUp) this.#drainWakeUp();
          else this.#wake(raw, eventsView.getUint32(at + eventsAt, true));
        }
      }
    } finally {
      this.#running = false;
      this.#waker?.keepAlive(false);
    }
  }

  /** What there is now. */
  #look(): number {
    return libc().epoll_wait_now(this.#epoll, events, batch, 0);
  }

  async #onWaker(): Promise<number> {
    this.refresh();
    const waker = this.#waker;
    if (this.#more) {
      await yieldToEventLoop();
    } else {
      const rang = await waker!.woken();
      lastTurn = performance.now();
      if (!rang && this.#waker === waker) this.#dropWaker();
    }
    if (this.#waker !== waker) return 0;
    const count = this.#look();
    this.#more = count === batch;
    if (count > 0) this.#falseWakeUps = 0;
    else this.#hasRungFalsely();
    return count;
  }

  async #onThread(): Promise<number> {
    const { malloc, memcpy, epoll_wait } = libc();
    // A worker may be ended while the call waits: what the kernel fills in then must still be there.
    // So it is not V8's memory, and never freed; the thread needs it once.
    this.#found ||= BigInt(malloc(BigInt(events.length)));
    this.#pending = epoll_wait(this.#epoll, this.#found, batch, -1);
    this.refresh();
    try {
      // Another thread's errno cannot be read; what epoll_wait may fail with here is EINTR alone.
      const count = await this.#pending;
      lastTurn = performance.now();
      if (count > 0) {
        this.#reports++;
        memcpy(events, this.#found, BigInt(count * epoll_event.size));
      }
      return count;
    } finally {
      this.#pending = undefined;
    }
  }

  #wake(raw: number, events: number): void {
    const broken = (events & (c.EPOLLERR | c.EPOLLHUP)) !== 0;
    const waiters = this.#waiters.get(raw) ?? nobody;
    const isWoken = ({ readiness }: Waiter) => broken || (events & interest[readiness]) !== 0;
    const left = waiters.filter((waiter) => !isWoken(waiter));
    if (left.length > 0) {
      this.#change(raw, left);
    } else {
      this.#waiters.set(raw, nobody);
      this.#waiting -= waiters.length;
    }
    for (const waiter of waiters) if (isWoken(waiter)) waiter.wake();
  }

  #drainWakeUp(): void {
    uninterrupted(() => libc().read(this.#wakeUp, new Uint8Array(8), 8n));
  }

  /** Somebody waits for `raw`, for which nobody does; another file may be there than last time. */
  #begin(raw: number, waiter: Waiter): void {
    const events = interest[waiter.readiness] | c.EPOLLONESHOT;
    const known = this.#waiters.has(raw) && this.#control(c.EPOLL_CTL_MOD, raw, events) >= 0;
    if (!known) {
      this.#waiters.delete(raw);
      let result = this.#control(c.EPOLL_CTL_ADD, raw, events);
      // What once had this number and has it again, while a duplicate lived, was never taken out.
      if (result < 0 && errno() === errnos.EEXIST) {
        result = this.#control(c.EPOLL_CTL_MOD, raw, events);
      }
      check(result, () => `Cannot wait for descriptor ${raw}`);
    }
    this.#waiters.set(raw, [waiter]);
    this.#waiting++;
  }

  /** Others than before wait for `raw`, or nobody. */
  #change(raw: number, waiters: readonly Waiter[]): void {
    let events: number = c.EPOLLONESHOT;
    for (const { readiness } of waiters) events |= interest[readiness];
    const op = waiters.length === 0 ? c.EPOLL_CTL_DEL : c.EPOLL_CTL_MOD;
    this.#waiting -= this.#waiters.get(raw)!.length;
    if (this.#control(op, raw, events) >= 0 && waiters.length > 0) {
      this.#waiters.set(raw, waiters);
      this.#waiting += waiters.length;
      return;
    }
    this.#waiters.delete(raw);
    // Closed under somebody who waited, it is watched no more: who waits finds out by trying.
    for (const waiter of waiters) waiter.wake();
  }

  #control(op: number, raw: number, events: number): number {
    changeView.setUint32(eventsAt, events, true);
    changeView.setBigUint64(dataAt, BigInt(raw), true);
    return libc().epoll_ctl(this.#epoll, op, raw, change);
  }
}

const nobody: readonly Waiter[] = [];

const interest: Record<Readiness, number> = {
  readable: c.EPOLLIN | c.EPOLLRDHUP,
  writable: c.EPOLLOUT,
};

const waits = new Waits();

/**
 * A pending call keeps the process running. Deno has no public word for "this one does not", but its
 * core has one in every 2.x; where it is gone, the call just keeps the process running.
 */
function keepAlive(pending: Promise<number>, alive: boolean): void {
  // deno-lint-ignore no-explicit-any -- not in Deno's types
  const core = (Deno as any)[(Deno as any).internal]?.core;
  if (alive) core?.refOpPromise?.(pending);
  else core?.unrefOpPromise?.(pending);
}
