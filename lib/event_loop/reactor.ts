/**
 * Waits until descriptors are ready: one epoll(7) a thread. While a wait is pending, epoll_wait(2) blocks a thread of
 * Deno's pool; or a {@linkcode Waker} has Deno's own epoll report ours, which does without the second thread.
 *
 * @module
 */

import {
  createEpoll,
  createEventfd,
  endsWait,
  EpollEvents,
  eventsOf,
  forget,
  resetEventfd,
  rewatchOnce,
  setKeepAlive,
  signalEventfd,
  watchOnce,
  watchReadable,
} from "../../ffi/epoll.ts";
import { closeAll } from "../../ffi/fd.ts";
import { isReady, type Readiness, yieldElsewhere } from "../../ffi/poll.ts";
import { unlessAborted } from "../time.ts";

/** Options of {@linkcode ready}. */
export interface ReadyOptions {
  /** Whether this wait keeps the process running; called again by {@linkcode refreshKeepAlive}. */
  keepsAlive?: () => boolean;
  /** The owner of the descriptor, for {@linkcode abandon}. */
  owner?: object;
  /** Ends the wait; it rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** One pending wait. */
interface Waiter {
  readonly owner: object | undefined;
  readonly readiness: Readiness;
  readonly keepsAlive: () => boolean;
  readonly wake: () => void;
  readonly fail: (reason: unknown) => void;
}

const always = () => true;

/** Waits until `raw` is ready, has failed or was hung up on. Level-triggered: a descriptor that is ready now is ready. */
export function ready(
  raw: number,
  readiness: Readiness,
  { keepsAlive = always, owner, signal }: ReadyOptions = {},
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (!signal) {
      reactor.add(raw, { owner, readiness, keepsAlive, wake: resolve, fail: reject });
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
      reactor.remove(raw, waiter);
      waiter.fail(signal.reason);
    };
    reactor.add(raw, waiter);
    signal.addEventListener("abort", abort);
  });
}

/** Ends the waits of `owner` for `raw`, which it is about to close: they reject with the error that `reason` makes. */
export function abandon(raw: number, owner: object, reason: () => Error): void {
  reactor.abandon(raw, owner, reason);
}

/** Reports on this thread that an epoll has events. */
export interface Waker extends Disposable {
  /** Resolves to true when there were, or may have been, events since the last call; to false if it never will. */
  woken(): Promise<boolean>;
  /** Sets whether waiting for it keeps the process running. */
  keepAlive(alive: boolean): void;
}

/** Makes a waker for an epoll, if the runtime allows it. */
export type MakeWaker = (epoll: number) => Promise<Waker | undefined>;

/**
 * Has a waker report the events of this thread until it is disposed of: a wait takes half the time. For a program that
 * waits often: to make a waker takes as long as many waits.
 */
export function useWaker(make: MakeWaker): Disposable {
  return reactor.useWaker(make);
}

/** Calls every wait's `keepsAlive` again. */
export function refreshKeepAlive(): void {
  reactor.refresh();
}

/** When the event loop of this thread was last known to have had its turn. */
let lastTurn = 0;

/** Milliseconds for which work that always finds more work may hold up the event loop. */
const longestTurn = 5;

/**
 * Lets timers, signals and other connections have their turn, if they had none for a while: bytes that are there without
 * a wait arrive in the same turn, so that a busy peer would keep all others waiting.
 */
export async function yieldToEventLoop(signal?: AbortSignal): Promise<void> {
  if (performance.now() - lastTurn < longestTurn) return;
  // Not by a timer: that takes a millisecond at least.
  await unlessAborted(yieldElsewhere(), signal);
  lastTurn = performance.now();
}

/**
 * How many wake-ups in a row may find no event: another process that accepts on the same listener may have been faster,
 * but a runtime that always wakes would keep the processor busy.
 */
const mostFalseWakeUps = 1000;

/** A way to wait for the events of the epoll. */
interface Way {
  /** Waits until there may be events, and takes them; gives their number. */
  wait(): Promise<number>;
  /** Sets whether the pending wait keeps the process running. */
  keepAlive(alive: boolean): void;
}

/** Waits on a thread of Deno's pool. */
class ByThread implements Way {
  readonly #epoll: number;
  readonly #events: EpollEvents;
  #pending: Promise<number> | undefined;
  /** How many calls have found events. */
  reports = 0;

  constructor(epoll: number, events: EpollEvents) {
    this.#epoll = epoll;
    this.#events = events;
  }

  async wait(): Promise<number> {
    this.#pending = this.#events.wait(this.#epoll);
    reactor.refresh();
    try {
      const count = await this.#pending;
      lastTurn = performance.now();
      if (count > 0) {
        this.reports++;
        this.#events.takeFound(count);
      }
      return count;
    } finally {
      this.#pending = undefined;
    }
  }

  keepAlive(alive: boolean): void {
    if (this.#pending) setKeepAlive(this.#pending, alive);
  }
}

/** Waits for a waker. */
class ByWaker implements Way {
  readonly #epoll: number;
  readonly #events: EpollEvents;
  readonly #waker: Waker;
  #falseWakeUps = 0;
  /** Whether there may be more events than the last look had room for. */
  #hasMore = false;
  /** Whether the waker has been seen to report events: until then the thread goes on waiting. */
  isProven = false;
  /** Set when the waker never reports, or too often without events. */
  hasFailed = false;

  constructor(epoll: number, events: EpollEvents, waker: Waker) {
    this.#epoll = epoll;
    this.#events = events;
    this.#waker = waker;
  }

  /** Waits until the waker has reported events that were there. */
  async prove(byThread: ByThread, isInUse: () => boolean): Promise<void> {
    for (let { reports } = byThread; await this.#waker.woken(); { reports } = byThread) {
      if (!isInUse()) return;
      this.isProven = byThread.reports > reports || isReady(this.#epoll, "readable");
      if (this.isProven || this.#countFalseWakeUp()) return;
    }
  }

  async wait(): Promise<number> {
    reactor.refresh();
    if (this.#hasMore) {
      await yieldToEventLoop();
    } else {
      const isWoken = await this.#waker.woken();
      lastTurn = performance.now();
      if (!isWoken) this.hasFailed = true;
    }
    if (this.hasFailed || !reactor.uses(this)) return 0;
    const count = this.#events.take(this.#epoll);
    this.#hasMore = count === EpollEvents.capacity;
    if (count > 0) this.#falseWakeUps = 0;
    else this.#countFalseWakeUp();
    return count;
  }

  /** Counts a wake-up without events; gives whether it was one too many. */
  #countFalseWakeUp(): boolean {
    if (++this.#falseWakeUps > mostFalseWakeUps) this.hasFailed = true;
    return this.hasFailed;
  }

  keepAlive(alive: boolean): void {
    this.#waker.keepAlive(alive);
  }

  [Symbol.dispose](): void {
    this.#waker[Symbol.dispose]();
  }
}

/** The waits of this thread. */
class Reactor {
  #epoll = -1;
  /** Ends the pending wait when the last waiter has gone. */
  #interrupt = -1;
  readonly #events = new EpollEvents();
  /**
   * The waiters of each number that the epoll knows. It reports a number once (EPOLLONESHOT), and then not before the
   * next wait: a descriptor may be closed without `abandon`, although that is better.
   */
  readonly #waiters = new Map<number, readonly Waiter[]>();
  /** The number of all waiters. */
  #waiting = 0;
  #isRunning = false;
  #byThread: ByThread | undefined;
  #byWaker: ByWaker | undefined;
  /** How many calls of `useWaker` are in force. */
  #wakerUsers = 0;

  add(raw: number, waiter: Waiter): void {
    this.#open();
    const others = this.#waiters.get(raw) ?? none;
    if (others.length > 0) this.#change(raw, [...others, waiter]);
    else this.#begin(raw, waiter);
    if (this.#isRunning) this.refresh();
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

  /** Ends the pending wait, and with it the thread that it holds, when no waiter is left. */
  #removed(): void {
    if (this.#waiting > 0) this.refresh();
    else if (this.#isRunning) signalEventfd(this.#interrupt);
  }

  refresh(): void {
    if (!this.#isRunning) return;
    const alive = this.#keepsAlive();
    this.#byWaker?.keepAlive(alive);
    this.#byThread?.keepAlive(alive);
  }

  #keepsAlive(): boolean {
    for (const waiters of this.#waiters.values()) {
      for (const waiter of waiters) if (waiter.keepsAlive()) return true;
    }
    return false;
  }

  useWaker(make: MakeWaker): Disposable {
    // Without a waker, for whatever reason, the thread goes on waiting.
    if (this.#wakerUsers++ === 0) this.#makeWaker(make).catch(() => {});
    return {
      [Symbol.dispose]: () => {
        if (--this.#wakerUsers === 0) this.#dropWaker();
      },
    };
  }

  /** Whether it waits by this waker. */
  uses(way: ByWaker): boolean {
    return this.#byWaker === way;
  }

  async #makeWaker(make: MakeWaker): Promise<void> {
    this.#open();
    const waker = await make(this.#epoll);
    if (!waker) return;
    if (this.#wakerUsers === 0 || this.#byWaker) {
      waker[Symbol.dispose]();
      return;
    }
    const way = this.#byWaker = new ByWaker(this.#epoll, this.#events, waker);
    way.keepAlive(this.#isRunning && this.#keepsAlive());
    await way.prove(this.#byThread!, () => this.#byWaker === way);
    if (way.hasFailed && this.#byWaker === way) this.#dropWaker();
  }

  #dropWaker(): void {
    // Until the thread waits, the wake-up that ends now is all that keeps the process running.
    if (this.#isRunning) this.#byWaker?.keepAlive(true);
    this.#byWaker?.[Symbol.dispose]();
    this.#byWaker = undefined;
  }

  #open(): void {
    if (this.#epoll >= 0) return;
    const interrupt = createEventfd();
    let epoll = -1;
    try {
      epoll = createEpoll();
      watchReadable(epoll, interrupt);
    } catch (error) {
      closeAll([interrupt, epoll]);
      throw error;
    }
    this.#interrupt = interrupt;
    this.#epoll = epoll;
    this.#byThread = new ByThread(epoll, this.#events);
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    const events = this.#events;
    try {
      while (this.#waiting > 0) {
        const byWaker = this.#byWaker;
        const count = byWaker?.isProven ? await byWaker.wait() : await this.#byThread!.wait();
        if (byWaker?.hasFailed && this.#byWaker === byWaker) this.#dropWaker();
        for (let i = 0; i < count; i++) {
          const raw = events.descriptorAt(i);
          if (raw === this.#interrupt) resetEventfd(raw);
          else this.#wake(raw, events.eventsAt(i));
        }
      }
    } finally {
      this.#isRunning = false;
      this.#byWaker?.keepAlive(false);
    }
  }

  #wake(raw: number, events: number): void {
    const waiters = this.#waiters.get(raw) ?? none;
    const left = waiters.filter(({ readiness }) => !endsWait(events, readiness));
    if (left.length > 0) {
      this.#change(raw, left);
    } else {
      this.#waiters.set(raw, none);
      this.#waiting -= waiters.length;
    }
    for (const waiter of waiters) if (endsWait(events, waiter.readiness)) waiter.wake();
  }

  /** Begins the only wait for `raw`; the number may be another file than at the last wait. */
  #begin(raw: number, waiter: Waiter): void {
    const events = eventsOf[waiter.readiness];
    const isKnown = this.#waiters.has(raw) && rewatchOnce(this.#epoll, raw, events);
    if (!isKnown) {
      this.#waiters.delete(raw);
      watchOnce(this.#epoll, raw, events);
    }
    this.#waiters.set(raw, [waiter]);
    this.#waiting++;
  }

  /** Replaces the waiters for `raw`. */
  #change(raw: number, waiters: readonly Waiter[]): void {
    this.#waiting -= this.#waiters.get(raw)!.length;
    if (waiters.length === 0) {
      forget(this.#epoll, raw);
    } else {
      let events = 0;
      for (const { readiness } of waiters) events |= eventsOf[readiness];
      if (rewatchOnce(this.#epoll, raw, events)) {
        this.#waiters.set(raw, waiters);
        this.#waiting += waiters.length;
        return;
      }
    }
    this.#waiters.delete(raw);
    // A descriptor that was closed under a waiter is not watched any more: the waiter notices at its next call.
    for (const waiter of waiters) waiter.wake();
  }
}

const none: readonly Waiter[] = [];

const reactor = new Reactor();
