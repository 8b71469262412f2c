/**
 * epoll(7) and eventfd(2): one call a function. Buffers are reused, so that a wait allocates nothing here.
 *
 * @module
 */

import { c, errnos, structs } from "./abi.ts";
import { check, errno, uninterrupted } from "./errno.ts";
import { owned } from "./fd.ts";
import { libc } from "./libc.ts";
import type { Readiness } from "./poll.ts";
import type { Registration } from "./proc.ts";

export { setKeepAlive } from "./libc.ts";

const { epoll_event } = structs;
const [eventsAt, dataAt] = [epoll_event.offset("events"), epoll_event.offset("data")];

/** Makes an epoll instance, which the caller closes. */
export function createEpoll(): number {
  return owned(check(libc().epoll_create1(c.EPOLL_CLOEXEC), "Cannot make an epoll"));
}

/** Makes an eventfd, which is writable until its counter of 64 bits is full. */
export function createEventfd(): number {
  const flags = c.EFD_CLOEXEC | c.EFD_NONBLOCK;
  return owned(check(libc().eventfd(0, flags), "Cannot make an eventfd"));
}

/** Adds 1 to the counter of an eventfd: an epoll that watches it reports it. */
export function signalEventfd(eventfd: number): void {
  uninterrupted(() => libc().write(eventfd, one, 8n));
}

/** Sets the counter of an eventfd to 0. */
export function resetEventfd(eventfd: number): void {
  uninterrupted(() => libc().read(eventfd, new Uint8Array(8), 8n));
}

const one = new Uint8Array(BigUint64Array.of(1n).buffer);

/** Adds a registration to `epoll`. */
export function watch(epoll: number, { tfd, events, data }: Registration): void {
  control(epoll, c.EPOLL_CTL_ADD, tfd, events, data);
}

/** Watches a descriptor for reading until it is unwatched; its data is its number. */
export function watchReadable(epoll: number, raw: number): void {
  control(epoll, c.EPOLL_CTL_ADD, raw, c.EPOLLIN, BigInt(raw));
}

/** Removes a descriptor from `epoll`. */
export function unwatch(epoll: number, raw: number): void {
  control(epoll, c.EPOLL_CTL_DEL, raw, 0, 0n);
}

function control(epoll: number, op: number, raw: number, events: number, data: bigint): void {
  const event = epoll_event.pack({ events, data });
  check(
    libc().epoll_ctl(epoll, op, raw, event),
    () => `Cannot change the registration of descriptor ${raw} in epoll ${epoll}`,
  );
}

/** The events to watch for: of several waits, the bits of each are combined with `|`. */
export const eventsOf: Readonly<Record<Readiness, number>> = {
  readable: c.EPOLLIN | c.EPOLLRDHUP,
  writable: c.EPOLLOUT,
};

/** Whether reported events end a wait: an error or a hang-up ends every one. */
export function endsWait(events: number, readiness: Readiness): boolean {
  return (events & (c.EPOLLERR | c.EPOLLHUP | eventsOf[readiness])) !== 0;
}

/**
 * Watches a descriptor for one report (EPOLLONESHOT), whether `epoll` knows the number or not: a number that was closed
 * while a duplicate lived, and is in use again, was never removed.
 */
export function watchOnce(epoll: number, raw: number, events: number): void {
  let result = controlOnce(epoll, c.EPOLL_CTL_ADD, raw, events);
  if (result < 0 && errno() === errnos.EEXIST) {
    result = controlOnce(epoll, c.EPOLL_CTL_MOD, raw, events);
  }
  check(result, () => `Cannot wait for descriptor ${raw}`);
}

/** Watches a descriptor that `epoll` knows for one more report; gives false if `epoll` does not know it. */
export function rewatchOnce(epoll: number, raw: number, events: number): boolean {
  return controlOnce(epoll, c.EPOLL_CTL_MOD, raw, events) >= 0;
}

/** Removes a descriptor from `epoll`, if that knows it. */
export function forget(epoll: number, raw: number): void {
  controlOnce(epoll, c.EPOLL_CTL_DEL, raw, 0);
}

// Filled and used within one turn of the event loop.
const change = new Uint8Array(epoll_event.size);
const changeView = new DataView(change.buffer);

function controlOnce(epoll: number, op: number, raw: number, events: number): number {
  changeView.setUint32(eventsAt, events | c.EPOLLONESHOT, true);
  changeView.setBigUint64(dataAt, BigInt(raw), true);
  return libc().epoll_ctl(epoll, op, raw, change);
}

/** The events that one call of epoll_wait(2) has reported. */
export class EpollEvents {
  /** The number of events that one call reports at most. */
  static readonly capacity = 64;
  readonly #bytes = new Uint8Array(epoll_event.size * EpollEvents.capacity);
  readonly #view = new DataView(this.#bytes.buffer);
  /** Where the call of another thread writes its events. */
  #elsewhere = 0n;

  /** Takes the events that there are; gives their number. */
  take(epoll: number): number {
    return libc().epoll_wait_now(epoll, this.#bytes, EpollEvents.capacity, 0);
  }

  /** Waits for events on a thread of Deno's pool; {@linkcode EpollEvents.takeFound} takes them. */
  wait(epoll: number): Promise<number> {
    const { malloc, epoll_wait } = libc();
    // Memory of C that is never freed, once a thread: a worker may be terminated while the call waits, and V8 would
    // free its own memory then.
    this.#elsewhere ||= BigInt(malloc(BigInt(this.#bytes.length)));
    // The errno of another thread cannot be read: epoll_wait fails here with EINTR alone.
    return epoll_wait(epoll, this.#elsewhere, EpollEvents.capacity, -1);
  }

  /** Takes the events that {@linkcode EpollEvents.wait} has found. */
  takeFound(count: number): void {
    libc().memcpy(this.#bytes, this.#elsewhere, BigInt(count * epoll_event.size));
  }

  /** The descriptor of an event. */
  descriptorAt(index: number): number {
    return this.#view.getUint32(index * epoll_event.size + dataAt, true);
  }

  /** The bits of an event. */
  eventsAt(index: number): number {
    return this.#view.getUint32(index * epoll_event.size + eventsAt, true);
  }
}
