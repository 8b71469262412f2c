/**
 * What proc(5) tells about this process's descriptors, read through libc: no read permission needed.
 *
 * @module
 */

import { errnos } from "./abi.ts";
import { errno } from "./errno.ts";
import { closeAll, isOpen } from "./fd.ts";
import { openText, readDirectory, readLink, readText, reread } from "./file.ts";
import { libc } from "./libc.ts";

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
 * Whether a process with this number runs, or ran and was not waited for (kill(2), signal 0). One of
 * another PID namespace counts as running: its number is not known here.
 */
export function isRunning(pid: number): boolean {
  return pid <= 0 || libc().kill(pid, 0) === 0 || errno() !== errnos.ESRCH;
}

/** What names the PID namespace of this process: only there its number means something (pid_namespaces(7)). */
export function pidNamespace(): string | undefined {
  return readLink("/proc/self/ns/pid");
}

/**
 * When the process `pid` of a PID namespace was started, in clock ticks since boot, which tells it from a
 * later one of that number (proc(5), "/proc/pid/stat", field 22). Null when it has ended, also while its
 * parent has not waited for it. Undefined when that cannot be seen: it is of another PID namespace, or
 * /proc is, or hides it.
 */
export function startOf(pid: number, namespace: string | undefined): string | null | undefined {
  const isHere = namespace !== undefined && namespace === pidNamespace();
  if (!isHere || readLink("/proc/self") !== String(Deno.pid)) return undefined;
  const text = readText(`/proc/${pid}/stat`);
  if (text === undefined) return isRunning(pid) ? undefined : null;
  // The name of the program, in parentheses, may hold anything.
  const [state, ...fields] = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return state === "Z" || state === "X" ? null : fields[18];
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
