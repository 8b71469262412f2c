/**
 * Which processes may be at the other end of a unix connection.
 *
 * @module
 */

import { readText } from "../../ffi/file.ts";
import { type Credentials, effectiveUser } from "../../ffi/peer.ts";
import { PeerNotAllowedError } from "../errors.ts";

/** Decides by user, group or number whether the process at the other end of a connection is allowed. */
export type PeerCheck = (peer: Credentials) => boolean;

/** Allows root, and processes of the user of this one: these may read its memory and files anyway. */
export function sameUserOrRoot({ uid }: Credentials): boolean {
  return uid === 0 || uid === effectiveUser() && !isOverflow(uid);
}

/**
 * Whether a user number stands for every user that has none in this user namespace: it identifies no user then
 * (user_namespaces(7), "Unmapped user and group IDs").
 */
function isOverflow(uid: number): boolean {
  if (uid !== Number(readText("/proc/sys/kernel/overflowuid") ?? 65534)) return false;
  const lines = (readText("/proc/self/uid_map") ?? "").trim().split("\n");
  return !lines.some((line) => {
    const [first, , count] = line.trim().split(/ +/).map(Number);
    return uid >= first && uid < first + count;
  });
}

/** @throws {PeerNotAllowedError} When `allow` throws for the process at the other end, or does not return true. */
export function checkPeer(
  { peer }: { peer: Credentials },
  allow: PeerCheck,
  attempt: string,
): void {
  const process = `process ${peer.pid} of user ${peer.uid}`;
  let answer: unknown;
  try {
    answer = allow(peer);
  } catch (cause) {
    const what = `${attempt}: \`allow\` has failed for ${process}: ${cause}`;
    throw new PeerNotAllowedError(what, { cause });
  }
  if (answer === true) return;
  // A promise is no answer: its rejection must not end the process as an unhandled one.
  if (answer instanceof Promise) answer.catch(() => {});
  throw new PeerNotAllowedError(`${attempt}: \`allow\` refuses ${process}`);
}
