/**
 * `test()`: a test that fails if it leaves descriptors of the process open.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { pause } from "../../lib/time.ts";

import { connDescriptor } from "./conn_descriptor.ts";
import { fdConn, listen } from "../../mod.ts";

/** The body of a test. */
export type TestFunction = (t: Deno.TestContext) => void | Promise<void>;

/** `Deno.test`, which fails if a descriptor is open after the test that was not open before it. */
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
    // The C library stays open after the first call, and the call that waits for readiness ends on another
    // thread, a moment after the last wait.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: (t) => guarded(() => limited(() => fn(t))),
  });
}

/** Fails a test after 300 s: a wrong descriptor often shows as an endless wait. */
async function limited(fn: () => void | Promise<void>): Promise<void> {
  const ended = new AbortController();
  const tooLong = pause(300_000, ended.signal).then(() => {
    throw new Error("The test has not ended after 300 s");
  });
  try {
    await Promise.race([fn(), tooLong]);
  } finally {
    ended.abort();
    // It rejects with the reason of the abort.
    await tooLong.catch(() => {});
  }
}

/** Runs `fn`; throws if it leaves descriptors open. */
export async function guarded(fn: () => void | Promise<void>): Promise<void> {
  const before = counted();
  await fn();
  // Deno closes some of its descriptors a moment later, on other threads.
  let leaked = newSince(before);
  for (let tries = 0; leaked.length > 0 && tries < 100; tries++) {
    await pause(20);
    leaked = newSince(before);
  }
  assertEquals(leaked, [], "descriptors were left open");
}

/** Has the library open the descriptors that it keeps for the thread, before the first count. */
async function warmUp(): Promise<void> {
  using listener = listen(`\0guard-${crypto.randomUUID()}`);
  const aborted = new AbortController();
  const accepting = listener.accept({ signal: aborted.signal });
  aborted.abort();
  // It rejects with the reason of the abort.
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
    // Deno opens its caches, which are SQLite files, at any time.
    if (name !== undefined && !/_cache_v\d+(-wal|-shm)?$/.test(name)) found.set(raw, name);
  }
  return found;
}

function newSince(before: Counted): string[] {
  return [...counted()].filter(([raw, name]) => before.get(raw) !== name).map(([raw, name]) =>
    `${raw} -> ${name}`
  );
}
