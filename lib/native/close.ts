/**
 * Closes native objects that the library shares with the program.
 *
 * @module
 */

import { type FileIdentity, isSameFile, link, pathStatus, rename } from "../../ffi/file.ts";
import { ownFile } from "../unix/socket_file.ts";

/** Closes a native object, unless the program has closed it already. */
export function closeNative(object: { close(): void } | undefined): void {
  try {
    object?.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** The file that a native listener with descriptor `raw` is bound to; undefined if it has none, or the path another one. */
export function fileOfNative({ addr }: Deno.Listener, raw: number): FileIdentity | undefined {
  const isNamed = addr.transport === "unix" && addr.path && !addr.path.startsWith("\0");
  return isNamed ? ownFile(addr.path, raw) : undefined;
}

/**
 * Closes a native listener. Deno removes its unix path then, whichever socket that leads to: a file that is not `first`,
 * or that `keep` says to keep, is linked aside meanwhile, and renamed back.
 */
export function closeNativeListener(
  listener: Deno.Listener,
  first: FileIdentity | undefined,
  keep: boolean,
): void {
  const { path, transport } = listener.addr as Deno.UnixAddr;
  const now = transport === "unix" && path ? pathStatus(path) : undefined;
  const aside = now && (keep || !first || !isSameFile(now, first))
    ? `${path}.${crypto.randomUUID().slice(0, 8)}`
    : undefined;
  if (aside) link(path!, aside);
  try {
    closeNative(listener);
  } finally {
    if (aside) rename(aside, path!);
  }
}
