/**
 * Other installations, whose systemd is another version.
 *
 * @module
 */

import { errorOf } from "../support/deno_versions.ts";
import { UsageError } from "../support/command_line.ts";

/** The releases of Debian that debootstrap installs. */
const releases = ["trixie"];

/** The root of an installation: a path, or a release, which is installed into ~/.cache once. */
export async function installTree(name: string): Promise<string> {
  if (name.startsWith("/")) return name;
  if (!releases.includes(name)) {
    throw new UsageError(`--root takes a path, or one of ${releases.join(", ")}, not "${name}"`);
  }
  const base = Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME")}/.cache`;
  const tree = `${base}/graceful-systemd/${name}`;
  if (await errorOf("test", "-e", `${tree}/lib/systemd/systemd`) === undefined) return tree;
  console.error(`Installing Debian ${name} at ${tree}: about 400 MB, once`);
  const partial = `${tree}.partial`;
  const packages = "systemd,systemd-sysv,python3,procps,iproute2";
  const failed = await installDebootstrap() ??
    await errorOf("mkdir", "-p", partial) ??
    await errorOf("debootstrap", "--variant=minbase", `--include=${packages}`, name, partial) ??
    await errorOf("mv", "--no-target-directory", partial, tree);
  if (failed !== undefined) throw new Error(`Cannot install Debian ${name}: ${failed}`);
  return tree;
}

async function installDebootstrap(): Promise<string | undefined> {
  if (await errorOf("debootstrap", "--version") === undefined) return undefined;
  return await errorOf("apt-get", "install", "-y", "-qq", "debootstrap");
}
