/**
 * What proc(5) tells about this process's descriptors, and about other processes, read through libc: no
 * read permission needed.
 *
 * @module
 */

import { c, errnos } from "./abi.ts";
import { errno } from "./errno.ts";
import { closeAll, isOpen } from "./fd.ts";
import { openText, readDirectory, readLink, readText, reread } from "./file.ts";
import { cString, libc } from "./libc.ts";

/** The numbers of every open descriptor, in order. */
export function openDescriptors(): number[] {
  const names = readDirectory("/proc/self/fd", "Cannot list this process's descriptors");
  // The one that the directory was read through is listed, and closed by now.
  return names.map(Number).filter(isOpen).sort((a, b) => a - b);
}

/** What a descriptor is, as /proc names it: "socket:[8123]", "anon_inode:[eventpoll]", "/etc/hosts". */
export function describeDescriptor(raw: number): string | undefined {
  return readLink(`/proc/self/fd/${raw}`);
}

/**
 * A variable of the environment as it is now, with what was set since the process was started; Deno itself reads it
 * so, without a permission.
 */
export function currentVariable(name: string): string | undefined {
  const { getenv, memcpy, strlen } = libc();
  const at = BigInt(getenv(cString(name)));
  if (at === 0n) return undefined;
  const value = new Uint8Array(Number(strlen(at)));
  if (value.length > 0) memcpy(value, at, BigInt(value.length));
  return new TextDecoder().decode(value);
}

/** The greatest pid_t, which is an int. */
const mostPid = 2 ** 31 - 1;

/**
 * Whether a process with this number runs, or ran and was not waited for (kill(2), signal 0). One of
 * another PID namespace counts as running: it is given as 0 here (socket(7), SO_PEERCRED). kill(2) is
 * never called with 0 or less, which stand for groups of processes.
 */
export function isRunning(pid: number): boolean {
  if (!Number.isInteger(pid) || pid > mostPid) return false;
  return pid <= 0 || libc().kill(pid, 0) === 0 || errno() !== errnos.ESRCH;
}

/** Identifies one process: a later process may get the same number, but not the same start time. */
export interface ProcessId {
  pid: number;
  /** When it was started, in ticks since the system was (proc(5), "stat", field 22). */
  started: string | undefined;
}

/** Identifies the process that has the number `pid` now. */
export function identify(pid: number): ProcessId {
  return { pid, started: processStat(pid)?.started };
}

/** What names the PID namespace of this process: only there its number means something (pid_namespaces(7)). */
export function pidNamespace(): string | undefined {
  return readLink("/proc/self/ns/pid");
}

/**
 * Identifies the process that has the number `pid` in a PID namespace; undefined where processes of that
 * one cannot be seen: it is another one, or /proc is another one's.
 */
export function identifyIn(namespace: string | undefined, pid: number): ProcessId | undefined {
  const isHere = namespace !== undefined && namespace === pidNamespace();
  return isHere && readLink("/proc/self") === String(Deno.pid) ? identify(pid) : undefined;
}

/** Whether that process has ended, even if it was not waited for. */
export function hasEnded({ pid, started }: ProcessId): boolean {
  const now = processStat(pid);
  // It may be hidden (proc(5), "hidepid"), or no descriptor be free to read of it.
  if (!now || started === undefined) return !isRunning(pid);
  return now.started !== started || now.state === "Z" || now.state === "X";
}

/** Sends SIGKILL to that process, unless it has ended. */
export function kill(process: ProcessId): void {
  if (!hasEnded(process)) libc().kill(process.pid, c.SIGKILL);
}

/**
 * Sends SIGKILL to every process that was started with `variable`, "NAME=value", in its environment (proc(5),
 * "environ"), and to those that they start meanwhile. Processes whose environment this one may not read are
 * left out.
 */
export function killAllWith(variable: string): void {
  const killed = new Set<number>();
  let before: number;
  do {
    before = killed.size;
    for (const name of readDirectory("/proc", "Cannot list the processes")) {
      const pid = Number(name);
      if (!Number.isInteger(pid) || killed.has(pid)) continue;
      const process = identify(pid);
      if (!readText(`/proc/${name}/environ`)?.split("\0").includes(variable)) continue;
      kill(process);
      killed.add(pid);
    }
  } while (killed.size > before);
}

/**
 * Waits for a process that has ended where this one became its parent, as process 1 of a container or as
 * a subreaper: it stays a zombie otherwise (waitpid(2)). Of another one there is nothing to wait for.
 */
export function reap(pid: number): void {
  libc().waitpid(pid, new Uint8Array(4), c.WNOHANG);
}

/** The parent of this process; undefined where /proc does not tell it, or it is of another PID namespace. */
export function ownParent(): ProcessId | undefined {
  const parent = processStat("self")?.parent;
  return parent ? identify(parent) : undefined;
}

interface ProcessStat {
  state: string;
  parent: number;
  started: string;
}

function processStat(pid: number | "self"): ProcessStat | undefined {
  // The name of the program, in parentheses, may have any characters.
  const fields = readText(`/proc/${pid}/stat`)?.split(") ").at(-1)?.split(" ");
  if (!fields || fields.length <= 19) return undefined;
  return { state: fields[0], parent: Number(fields[1]), started: fields[19] };
}

/** One line of an epoll's fdinfo: a descriptor it watches. */
export interface Registration {
  /** The number under which the descriptor was added. */
  tfd: number;
  events: number;
  /** The opaque 64 bits that its events carry. */
  data: bigint;
}

/** What the epoll `raw` watches (proc(5), "/proc/pid/fdinfo", epoll entries). */
export function registrations(raw: number): Registration[] {
  return registrationsIn(readText(`/proc/self/fdinfo/${raw}`) ?? "");
}

/** The same of one epoll, any number of times, for which no further descriptor is opened. */
export class Registrations implements Disposable {
  readonly #file: number;
  readonly #attempt: string;

  /** Opens what is kept open for that. */
  constructor(epoll: number) {
    this.#attempt = `Cannot read what epoll ${epoll} watches`;
    this.#file = openText(`/proc/self/fdinfo/${epoll}`, this.#attempt);
  }

  /** What it watches now. */
  read(): Registration[] {
    return registrationsIn(reread(this.#file, this.#attempt));
  }

  /** Closes what is kept open. */
  [Symbol.dispose](): void {
    closeAll([this.#file]);
  }
}

function registrationsIn(text: string): Registration[] {
  const line = /^tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)/gm;
  return Array.from(text.matchAll(line), ([, tfd, events, data]) => ({
    tfd: Number(tfd),
    events: parseInt(events, 16),
    data: BigInt(`0x${data}`),
  }));
}
