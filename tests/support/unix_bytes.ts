/**
 * Bytes through a unix socket, and a path without a listener.
 *
 * @module
 */

import { closeRaw } from "../../ffi/fd.ts";
import { listenUnix } from "../../ffi/socket.ts";
import type { UnixConn } from "../../mod.ts";

/** What a process that was killed leaves: the file, and nobody listening. */
export function leaveStale(path: string): void {
  closeRaw(listenUnix(path, "Cannot listen"));
}

export async function exchange(from: UnixConn, to: UnixConn, words: string): Promise<string> {
  const bytes = bytesOf(words);
  await from.write(bytes);
  return text(await to.readFull(new Uint8Array(bytes.length)));
}

export function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

export function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
