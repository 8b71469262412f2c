/**
 * Services at unix paths that are removed, renamed or led elsewhere while they run.
 *
 * @module
 */

import { assert } from "@std/assert";
import type { Generation, StartOptions } from "../../mod.ts";
import type { Directory } from "./directory.ts";
import { Http1Client } from "./http1_client.ts";
import { begin, saying } from "./in_process.ts";
import { until } from "./until.ts";

/** Starts a generation that serves at a unix path, and waits until it is ready. */
export async function servingAt(
  control: string,
  address: { path: string; mode?: number },
  words: string,
  options: StartOptions = {},
): Promise<Generation> {
  const app = await begin(control, options);
  app.serve(address, saying(words));
  await app.ready();
  return app;
}

/** The body of the response at a unix path. */
export async function askedAt(path: string): Promise<string> {
  using client = await Http1Client.dial({ transport: "unix", path });
  return (await client.request("/", "Connection: close\r\n")).body;
}

/** The body of the response at a unix path, or the name of the error. */
export async function answerAt(path: string): Promise<string> {
  return await askedAt(path).catch((error) => (error as Error).name);
}

/** The permission bits of a file. */
export function modeOf(path: string): number {
  return Deno.statSync(path).mode! & 0o777;
}

/** Three release directories, and `current`, a symbolic link to the first; `change` points it to another. */
export function linkedReleases(directory: Directory) {
  const releases = [1, 2, 3].map((i) => directory.join(String(i)));
  for (const release of releases) Deno.mkdirSync(release);
  const current = directory.join("current");
  const change = (release: string) => {
    Deno.symlinkSync(release, `${current}.new`);
    Deno.renameSync(`${current}.new`, current);
  };
  change(releases[0]);
  return { releases, current, change };
}

/** Waits for a condition, for less than the 10 s after which a generation checks its paths by a timer. */
export async function soon(condition: () => Promise<boolean>): Promise<void> {
  const began = performance.now();
  await until(condition);
  assert(performance.now() - began < 6000, "the timer has checked the path");
}

/** Has a generation check its paths: every restart does, and this one fails. */
export async function restored(app: Generation): Promise<void> {
  await app.restart({ program: "true", args: [] }).catch(() => {});
}
