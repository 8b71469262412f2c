/**
 * Waiting until a descriptor is ready: one epoll(7) for the thread, and one call that waits on it,
 * on a thread of Deno's pool, only while somebody waits.
 *
 * @module
 */

import { c, structs } from "./abi.ts";
import { check, uninterrupted } from "./errno.ts";
import { closeAll } from "./fd.ts";
import { libc } from "./libc.ts";
import type { Registration } from "./proc.ts";

const { epoll_event } = structs;

/** An epoll instance, which whoever made it closes. */
export function createEpoll(): number {
  return check(libc().epoll_create1(c.EPOLL_CLOEXEC), "Cannot make an epoll");
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
  /** Ends the wait; it rejects with the signal's reason. */
  signal?: AbortSignal;
}

interface Waiter {
  raw: number;
  readiness: Readiness;
  keepsAlive: () => boolean;
  wake: () => void;
}

/** How many events one epoll_wait brings. */
const batch = 64;

/** Waits until `raw` is ready, has failed or was hung up on. Level-triggered: ready now is ready. */
export function ready(
  raw: number,
  readiness: Readiness,
  { keepsAlive = () => true, signal }: WaitOptions = {},
): Promise<void> {
  signal?.throwIfAborted();
  return new Promise<void>((resolve, reject) => {
    const waiter: Waiter = { raw, readiness, keepsAlive, wake };
    function wake(): void {
      signal?.removeEventListener("abort", abort);
      resolve();
    }
    function abort(): void {
      signal?.removeEventListener("abort", abort);
      waits.remove(waiter);
      reject(signal?.reason);
    }
    waits.add(waiter);
    signal?.addEventListener("abort", abort);
  });
}

/** Looks again at every wait's `keepsAlive`. */
export function refreshKeepAlive(): void {
  waits.refresh();
}

/** The longest time that a timer waits for: a longer one would be over at once. */
export const longestPause = 2 ** 31 - 1;

/** Waits for time to pass, at most {@linkcode longestPause}; rejects with the signal's reason when it is aborted. */
export async function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, Math.min(milliseconds, longestPause));
  try {
    await unlessAborted(promise, signal);
  } finally {
    clearTimeout(timer);
  }
}

/** What `promise` comes to, or the signal's reason when it is aborted before. */
export async function unlessAborted<T>(promise: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return await promise;
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** When the event loop of this thread was last known to have had its turn. */
let lastTurn = 0;

/** Milliseconds for which work that always finds more of itself may hold the event loop up. */
const longestTurn = 5;

/**
 * Lets timers, signals and other connections have their turn, when there was none for a while: what is
 * there without waiting comes in the same turn, and a busy peer would be the only one to be heard.
 */
export async function breathe(signal?: AbortSignal): Promise<void> {
  if (performance.now() - lastTurn < longestTurn) return;
  await pause(0, signal);
  lastTurn = performance.now();
}

/**
 * A signal that is aborted with `reason` when the time is up, unless it is disposed of before.
 *
 * @param more Asked when the time is up: how many milliseconds longer it may take.
 */
export function expiring(
  milliseconds: number,
  reason: () => Error,
  more: () => number = () => 0,
): { signal: AbortSignal } & Disposable {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout>;
  const wait = (left: number) => {
    timer = setTimeout(() => {
      const longer = more();
      if (longer > 0) wait(longer);
      else controller.abort(reason());
    }, Math.min(left, longestPause));
  };
  wait(milliseconds);
  return { signal: controller.signal, [Symbol.dispose]: () => clearTimeout(timer) };
}

/** A signal that is aborted with the first of two. */
export function either(own: AbortSignal, given: AbortSignal | undefined): AbortSignal {
  return given ? AbortSignal.any([own, given]) : own;
}

// Filled and used within one turn.
const change = new Uint8Array(epoll_event.size);
const changeView = new DataView(change.buffer);
const [eventsAt, dataAt] = [epoll_event.offset("events"), epoll_event.offset("data")];

/** The waits of this thread. */
class Waits {
  #epoll = -1;
  #wakeUp = -1;
  #events = 0n;
  readonly #waiters = new Map<number, Waiter[]>();
  #pending: Promise<number> | undefined;

  add(waiter: Waiter): void {
    this.#open();
    const others = this.#waiters.get(waiter.raw) ?? [];
    this.#setInterest(waiter.raw, others, [...others, waiter]);
    if (this.#pending) this.refresh();
    else this.#run();
  }

  remove(waiter: Waiter): void {
    const before = this.#waiters.get(waiter.raw) ?? [];
    this.#setInterest(waiter.raw, before, before.filter((other) => other !== waiter));
    // The last one to leave ends the call that waits, and with it the thread it holds.
    if (this.#waiters.size === 0) {
      uninterrupted(libc().write, this.#wakeUp, new Uint8Array(BigUint64Array.of(1n).buffer), 8n);
    } else {
      this.refresh();
    }
  }

  refresh(): void {
    if (!this.#pending) return;
    const alive = [...this.#waiters.values()].flat().some(({ keepsAlive }) => keepsAlive());
    keepAlive(this.#pending, alive);
  }

  #open(): void {
    if (this.#epoll >= 0) return;
    const wakeUp = check(
      libc().eventfd(0, c.EFD_CLOEXEC | c.EFD_NONBLOCK),
      "Cannot make an eventfd",
    );
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
    const { malloc, memcpy, epoll_wait } = libc();
    const events = new Uint8Array(epoll_event.size * batch);
    // A worker may be ended while the call waits: what the kernel fills in then must still be there.
    // So it is not V8's memory, and never freed; the thread needs it once.
    this.#events ||= BigInt(malloc(BigInt(events.length)));
    try {
      while (this.#waiters.size > 0) {
        this.#pending = epoll_wait(this.#epoll, this.#events, batch, -1);
        this.refresh();
        // Another thread's errno cannot be read; what epoll_wait may fail with here is EINTR alone.
        const count = await this.#pending;
        lastTurn = performance.now();
        if (count > 0) memcpy(events, this.#events, BigInt(count * epoll_event.size));
        for (let i = 0; i < count; i++) {
          const at = i * epoll_event.size;
          const raw = Number(epoll_event.read(events, "data", at));
          if (raw === this.#wakeUp) this.#drainWakeUp();
          else this.#wake(raw, epoll_event.read(events, "events", at));
        }
      }
    } finally {
      this.#pending = undefined;
    }
  }

  #wake(raw: number, events: number): void {
    const broken = (events & (c.EPOLLERR | c.EPOLLHUP)) !== 0;
    const waiters = this.#waiters.get(raw) ?? [];
    const woken = waiters.filter(({ readiness }) => broken || (events & interest[readiness]) !== 0);
    this.#setInterest(raw, waiters, waiters.filter((waiter) => !woken.includes(waiter)));
    for (const { wake } of woken) wake();
  }

  #drainWakeUp(): void {
    uninterrupted(libc().read, this.#wakeUp, new Uint8Array(8), 8n);
  }

  /** A descriptor is watched only while somebody waits on it: its number may be reused any time. */
  #setInterest(raw: number, before: Waiter[], after: Waiter[]): void {
    const events = (waiters: Waiter[]) =>
      waiters.reduce((all, { readiness }) => all | interest[readiness], 0);
    const op = before.length === 0
      ? c.EPOLL_CTL_ADD
      : after.length === 0
      ? c.EPOLL_CTL_DEL
      : c.EPOLL_CTL_MOD;
    if (before.length > 0 || after.length > 0) {
      changeView.setUint32(eventsAt, events(after), true);
      changeView.setBigUint64(dataAt, BigInt(raw), true);
      const result = libc().epoll_ctl(this.#epoll, op, raw, change);
      // Closed under somebody who waited, it is watched no more: who waits finds out by trying.
      if (result < 0 && before.length > 0) {
        this.#waiters.delete(raw);
        for (const { wake } of after) wake();
        return;
      }
      check(result, () => `Cannot wait for descriptor ${raw}`);
    }
    if (after.length > 0) this.#waiters.set(raw, after);
    else this.#waiters.delete(raw);
  }
}

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
