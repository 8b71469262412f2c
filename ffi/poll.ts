/**
 * poll(2): whether one descriptor is ready now, or within a time.
 *
 * @module
 */

import { c, structs } from "./abi.ts";
import { libc } from "./libc.ts";

/** What to wait for: bytes or connections to read, or room to write. */
export type Readiness = "readable" | "writable";

/** The events of poll(2). */
const pollEvents = { readable: c.POLLIN, writable: c.POLLOUT } as const;

/** Whether `raw` is ready, has failed or was hung up on, now or within some milliseconds. */
export function isReady(raw: number, readiness: Readiness, milliseconds = 0): boolean {
  return poll(raw, pollEvents[readiness], milliseconds);
}

/** Whether `raw` has failed or was hung up on: for the write end of a pipe, that no process reads it. */
export function isBroken(raw: number): boolean {
  return poll(raw, 0, 0);
}

/**
 * Whether the peer of a stream socket has closed the connection, or its sending half: nothing arrives but the bytes that
 * are queued (POLLRDHUP).
 */
export function hasPeerClosed(raw: number): boolean {
  return poll(raw, c.POLLRDHUP, 0);
}

/** Lets another thread run on this processor (sched_yield(2)). */
export function yieldProcessor(): void {
  libc().sched_yield();
}

/** The same on a thread of Deno's pool: resolves after the event loop had its turn. */
export function yieldElsewhere(): Promise<unknown> {
  return libc().sched_yield_elsewhere();
}

// Filled and used within one turn of the event loop.
const { pollfd } = structs;
const polled = new Uint8Array(pollfd.size);
const polledView = new DataView(polled.buffer);
const [fdAt, eventsAt] = [pollfd.offset("fd"), pollfd.offset("events")];

function poll(raw: number, events: number, milliseconds: number): boolean {
  polledView.setInt32(fdAt, raw, true);
  polledView.setInt16(eventsAt, events, true);
  return libc().poll(polled, 1n, milliseconds) > 0;
}
