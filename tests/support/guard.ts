/**
 * Every test runs between two counts of the process's descriptors.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { pause } from "../../lib/time.ts";

import { connDescriptor } from "./leave.ts";
import { fdConn, listen } from "../../mod.ts";

/** What a test gets. */
export type TestFunction = (t: Deno.TestContext) => void | Promise<void>;

/** `Deno.test`, failing if descriptors are open afterwards that were not before. */
export function test(name: string, fn: TestFunction): void;
export function test(name: string, options: { ignore?: boolean }, fn: TestFunction): void;
export function test(
  name: string,
  optionsOrFn: { ignore?: boolean } | TestFunction,
  maybeFn?: TestFunction,
): void {
  const [options, fn] = typeof optionsOrFn === "function"
    ? [{}, optionsOrFn]
    : [optionsOrFn, maybeFn!];
  Deno.test({
    name,
    ...options,
    // The library is opened once and stays; and the call that waits for readiness ends a moment after
    // the last wait, on another thread.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: (t) => guarded(() => limited(() => fn(t))),
  });
}

/** What is wrong with descriptors often shows as a wait for ever. */
async function limited(fn: () => void | Promise<void>): Promise<void> {
  const ended = new AbortController();
  const tooLong = pause(300_000, ended.signal).then(() => {
    throw new Error("The test is still waiting for something");
  });
  try {
    await Promise.race([fn(), tooLong]);
  } finally {
    ended.abort();
    await tooLong.catch(() => {});
  }
}

/** Runs `fn`, and throws if it leaves descriptors open. */
export async function guarded(fn: () => void | Promise<void>): Promise<void> {
  const before = counted();
  await fn();
  // Deno closes some of its own a moment later, on other threads.
  let leaked = newSince(before);
  for (let tries = 0; leaked.length > 0 && tries < 100; tries++) {
    await pause(20);
    leaked = newSince(before);
  }
  assertEquals(leaked, [], "descriptors were left open");
}

/** What the library opens once for the thread, and keeps, is open before the first count. */
async function warmUp(): Promise<void> {
  using listener = listen(`\0guard-${crypto.randomUUID()}`);
  const aborted = new AbortController();
  const accepting = listener.accept({ signal: aborted.signal });
  aborted.abort();
  await accepting.catch(() => {});
  const native = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = native.addr;
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using fd = connDescriptor(conn);
  (await fdConn(fd)).close();
  conn.close();
  native.close();
}

await warmUp();

type Counted = Map<number, string>;

function counted(): Counted {
  const found = new Map<number, string>();
  for (const raw of openDescriptors()) {
    const name = describeDescriptor(raw);
    // Deno's caches are SQLite files that it opens when it likes.
    if (name !== undefined && !/_cache_v\d+(-wal|-shm)?$/.test(name)) found.set(raw, name);
  }
  return found;
}

function newSince(before: Counted): string[] {
  return [...counted()].filter(([raw, name]) => before.get(raw) !== name).map(([raw, name]) =>
    `${raw} -> ${name}`
  );
}
