/**
 * The listeners of a generation: whether their paths lead to them, and how full their accept queues are.
 *
 * @module
 */

import { isFileAt, type ListeningSocket } from "../../ffi/diag.ts";
import { pathStatus, readLink } from "../../ffi/file.ts";
import { formatAddress } from "../../ffi/sockaddr.ts";
import type { SocketStatus } from "../generation/protocol.ts";
import { type Finding, note, ok, warning } from "./finding.ts";
import { socketsOf } from "./processes.ts";

/** A listener or datagram socket of the generation. */
export interface ListenerFacts {
  kind: SocketStatus["kind"];
  /** As `status` prints it: "127.0.0.1:8000", or a path in quotes. */
  address: string;
  connections: number;
  /** The number of connections that wait to be accepted, and beyond how many the queue is full. */
  queued?: number;
  backlog?: number;
}

/**
 * The findings about the sockets of a status.
 *
 * @param pid The process of the generation, if it is seen here.
 * @param listeners Those of {@linkcode listeningSockets}; undefined where they could not be listed.
 */
export function listenerFindings(
  sockets: SocketStatus[],
  pid: number | undefined,
  listeners: ListeningSocket[] | undefined,
): { facts: ListenerFacts[]; findings: Finding[] } {
  const facts: ListenerFacts[] = [];
  const findings: Finding[] = [];
  const own = pid === undefined ? undefined : socketsOf(pid);
  // Sockets of another user's process are hidden: those with the same address are taken for its own then.
  const candidates = listeners?.filter(({ inode }) => own?.has(inode) ?? true);
  for (const { kind, address, connections, elsewhere } of sockets) {
    const about = `${kind} ${address}`;
    const path = pathIn(address);
    const seen = path === undefined ? undefined : seenBy(pid, path);
    const file = seen === undefined ? undefined : pathStatus(seen);
    facts.push({ kind, address, connections });
    if (elsewhere) {
      findings.push(note(about, "It is in another network namespace, and not examined"));
      continue;
    }
    if (path !== undefined && !file) {
      const text = `Nothing is at ${address}: clients are refused`;
      const advice =
        "Wait 10 s: the generation puts the path back. Keep cleaners of files away from it";
      findings.push(warning(about, text, advice));
      continue;
    }
    const isIt = (listener: ListeningSocket) =>
      file
        ? listener.file !== undefined && isFileAt(listener.file, seen!, file) === true
        : formatAddress(listener.address) === address;
    const found = candidates?.filter(isIt) ?? [];
    if (kind === "listener" && file && own && candidates && found.length === 0) {
      const text = `${address} leads to another file than that of the generation's socket`;
      const advice =
        "End the process that has taken the path; the generation puts it back within 10 s";
      findings.push(warning(about, text, advice));
      continue;
    }
    if (found.length === 0) {
      const text = kind === "datagram" ? "Receives datagrams" : "Its accept queue is not seen here";
      findings.push(kind === "datagram" ? ok(about, text) : note(about, text));
      continue;
    }
    // With SO_REUSEPORT there are several.
    const fullest = found.reduce((a, b) => b.queued - b.backlog > a.queued - a.backlog ? b : a);
    const { queued, backlog } = fullest;
    Object.assign(facts.at(-1)!, { queued, backlog });
    findings.push(queueFinding(about, fullest, connections));
  }
  return { facts, findings };
}

/** The finding about an accept queue: it takes one more than the backlog (net/core/sock.h, `sk_acceptq_is_full`). */
export function queueFinding(
  about: string,
  { queued, backlog }: { queued: number; backlog: number },
  connections?: number,
): Finding {
  const open = connections === undefined ? "" : `, connections: ${connections}`;
  const text = `${queued} of ${backlog} wait in the accept queue${open}`;
  if (queued <= backlog) return ok(about, text);
  const advice =
    "Look for a blocked event loop, a stopped process or an exhausted limit of descriptors; " +
    "a larger queue takes net.core.somaxconn";
  return warning(about, `${text}: it is full, and further clients wait or fail`, advice);
}

/**
 * The path of an address of a status; undefined for TCP, UDP and abstract names, and for other text, which a process may
 * answer that is no generation.
 */
function pathIn(address: string): string | undefined {
  if (!address.startsWith('"')) return undefined;
  try {
    const path = JSON.parse(address) as string;
    return path.startsWith("@") ? undefined : path;
  } catch {
    return undefined;
  }
}

/** A path of another process as this one reaches it: with its working directory, and its root. */
function seenBy(pid: number | undefined, path: string): string {
  if (pid === undefined) return path;
  if (!path.startsWith("/")) return `/proc/${pid}/cwd/${path}`;
  const [its, own] = [pid, "self"].map((each) => readLink(`/proc/${each}/ns/mnt`));
  return its === undefined || its === own ? path : `/proc/${pid}/root${path}`;
}
