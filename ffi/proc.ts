/**
 * Descriptors, processes and environments, as proc(5) shows them; read through libc, without a read permission.
 *
 * @module
 */

import { c, errnos } from "./abi.ts";
import { errno } from "./errno.ts";
import { closeAll, isOpen } from "./fd.ts";
import { openText, readBytes, readDirectory, readLink, readText, reread } from "./file.ts";
import { cString, libc } from "./libc.ts";

/**
 * Checks that /proc is mounted: descriptors and processes can be found there alone.
 *
 * @throws {Deno.errors.NotFound} When it is not mounted.
 */
export function checkProc(attempt: string): void {
  if (readLink("/proc/self") !== undefined) return;
  const what = `${attempt}: /proc is not mounted, which descriptors are found through; mount it ` +
    "(mount -t proc proc /proc), in a chroot or container too";
  throw Object.assign(new Deno.errors.NotFound(what), { code: "ENOENT" });
}

/** The names in a directory of /proc. */
function names(directory: string, attempt: string): string[] {
  try {
    return readDirectory(directory, attempt);
  } catch (error) {
    checkProc(attempt);
    throw error;
  }
}

/** The numbers of every open descriptor, in order. */
export function openDescriptors(): number[] {
  const open = names("/proc/self/fd", "Cannot list this process's descriptors");
  // The descriptor of the directory itself is listed, and closed by now.
  return open.map(Number).filter(isOpen).sort((a, b) => a - b);
}

/** The soft limit of open descriptors of a process (proc(5), "limits"). */
export function descriptorLimit(pid: number | "self"): number | undefined {
  const limit = /^Max open files +(\d+)/m.exec(readText(`/proc/${pid}/limits`) ?? "")?.[1];
  return limit === undefined ? undefined : Number(limit);
}

/** What a descriptor is, as /proc names it: "socket:[8123]", "anon_inode:[eventpoll]", "/etc/hosts". */
export function describeDescriptor(raw: number): string | undefined {
  return readLink(`/proc/self/fd/${raw}`);
}

/**
 * The present value of an environment variable, also if it was set after the start of the process; Deno itself reads
 * it so, without a permission.
 */
export function currentVariable(name: string): string | undefined {
  const { getenv, memcpy, strlen } = libc();
  const at = BigInt(getenv(cString(name)));
  if (at === 0n) return undefined;
  const value = new Uint8Array(Number(strlen(at)));
  if (value.length > 0) memcpy(value, at, BigInt(value.length));
  return new TextDecoder().decode(value);
}

/** Sets an environment variable, for this process and those that it starts from here on. */
export function setVariable(name: string, value: string): void {
  libc().setenv(cString(name), cString(value), 1);
}

/** Removes an environment variable: neither this process nor those that it starts have it from here on. */
export function removeVariable(name: string): void {
  libc().unsetenv(cString(name));
}

/** The greatest pid_t, which is an int. */
const mostPid = 2 ** 31 - 1;

/**
 * Whether a process with this number runs, or is a zombie (kill(2), signal 0). A process of another PID namespace has
 * the number 0 here (socket(7), SO_PEERCRED), and counts as running. kill(2) is never called with 0 or less: these
 * are process groups.
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

/** Identifies the PID namespace of this process: its number is valid only there (pid_namespaces(7)). */
export function pidNamespace(): string | undefined {
  return readLink("/proc/self/ns/pid");
}

/**
 * Identifies the process that has the number `pid` in a PID namespace; undefined if processes of that namespace
 * cannot be seen: it is another one, or /proc belongs to another one.
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
    for (const name of names("/proc", "Cannot list the processes")) {
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
 * Reaps a process that has ended, if this one is its parent, as process 1 of a container or as a subreaper: it stays
 * a zombie otherwise (waitpid(2)). For any other process it has no effect.
 */
export function reap(pid: number): void {
  libc().waitpid(pid, new Uint8Array(4), c.WNOHANG);
}

/** The parent of this process; undefined if /proc does not show it, or it belongs to another PID namespace. */
export function ownParent(): ProcessId | undefined {
  const parent = processStat("self")?.parent;
  return parent ? identify(parent) : undefined;
}

/** The oldest process whose parent is `parent`. */
export function oldestChild(parent: number): number | undefined {
  let oldest: { pid: number; started: number } | undefined;
  for (const name of readDirectory("/proc", "Cannot list the processes")) {
    const pid = Number(name);
    const stat = Number.isInteger(pid) ? processStat(pid) : undefined;
    if (stat?.parent !== parent) continue;
    const started = Number(stat.started);
    if (!oldest || started < oldest.started || started === oldest.started && pid < oldest.pid) {
      oldest = { pid, started };
    }
  }
  return oldest?.pid;
}

/** The entries of /proc/PID/stat that are used. */
export interface ProcessStat {
  /** The name of its program, of at most 15 bytes ("comm"). */
  name: string;
  state: string;
  parent: number;
  session: number;
  started: string;
}

/** Reads them; undefined if there is no such process, or it is hidden. */
export function processStat(pid: number | "self"): ProcessStat | undefined {
  const text = readText(`/proc/${pid}/stat`);
  // The name of the program, in parentheses, may have any characters.
  const end = text?.lastIndexOf(") ") ?? -1;
  const fields = text?.slice(end + 2).split(" ");
  if (!text || !fields || end < 0 || fields.length <= 19) return undefined;
  return {
    name: text.slice(text.indexOf("(") + 1, end),
    state: fields[0],
    parent: Number(fields[1]),
    session: Number(fields[3]),
    started: fields[19],
  };
}

/** The arguments of a process, its own name first (proc(5), "cmdline"). */
export function commandLine(pid: number | "self", attempt?: string): string[] | undefined {
  if (pid === "self" && ownCommandLine) return ownCommandLine;
  const words = readText(`/proc/${pid}/cmdline`, attempt)?.split("\0").slice(0, -1);
  if (pid === "self") ownCommandLine = words;
  return words;
}

/**
 * The arguments of Deno itself, before those of the program: none of a compiled program, which may have more
 * arguments than its process, those that it was compiled with.
 */
export function argumentsOfDeno(): string[] {
  const all = commandLine("self")?.slice(1) ?? [];
  return all.slice(0, Math.max(0, all.length - Deno.args.length));
}

/**
 * The first word of Deno's arguments: "run", "serve" or another subcommand, or the program itself (`deno main.ts`). Only
 * the options that are skipped here may come before a subcommand (`deno --help`).
 */
export function denoSubcommand(): string | undefined {
  const args = argumentsOfDeno();
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "-L" || args[i] === "--log-level") i++;
    else if (!args[i].startsWith("-")) return args[i];
  }
  return undefined;
}

/**
 * The environment that a process was started with (proc(5), "environ"), without later changes: names and values are
 * bytes, one character each. Undefined if it may not be read.
 */
export function environment(
  pid: number | "self" = "self",
  attempt?: string,
): ReadonlyMap<string, string> | undefined {
  if (pid === "self" && ownEnvironment) return ownEnvironment;
  const bytes = readBytes(`/proc/${pid}/environ`, attempt);
  if (!bytes) return undefined;
  const variables = new Map<string, string>();
  for (const each of toBinary(bytes).split("\0")) {
    const end = each.indexOf("=");
    if (end > 0) variables.set(each.slice(0, end), each.slice(end + 1));
  }
  if (pid === "self") ownEnvironment = variables;
  return variables;
}

/** Read once: it does not change, and each start asks for it several times. */
let ownCommandLine: string[] | undefined;
let ownEnvironment: ReadonlyMap<string, string> | undefined;

/** A variable of the environment that this process was started with. */
export function variable(name: string): string | undefined {
  const value = environment()?.get(name);
  return value === undefined ? undefined : new TextDecoder().decode(fromBinary(value));
}

/** Converts bytes to characters, one each. */
export function toBinary(bytes: Uint8Array): string {
  // Of ASCII it is the same text, which takes a twentieth of the time.
  const decoded = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  if (decoded.length === bytes.length && !decoded.includes("\ufffd")) return decoded;
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return text;
}

/** Converts characters to bytes, one each. */
export function fromBinary(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/**
 * The process that called flock(2) on a file (proc(5), "locks"); it may have passed the descriptor on since. A
 * process of another PID namespace is not listed.
 */
export function lockHolder({ dev, ino }: { dev: bigint; ino: bigint }): number | undefined {
  // gnu_dev_major(3): how stat(2) packs both numbers, which /proc/locks shows as the kernel has them.
  const major = dev >> 8n & 0xfffn | dev >> 32n & ~0xfffn;
  const minor = dev & 0xffn | dev >> 12n & ~0xffn;
  const hex = (number: bigint) => number.toString(16).padStart(2, "0");
  const file = `${hex(major)}:${hex(minor)}:${ino}`;
  for (const line of readText("/proc/locks")?.split("\n") ?? []) {
    // A line of a process that waits has an arrow behind the number.
    const [, type, , , pid, where] = line.split(/ +/);
    if (type === "FLOCK" && where === file) return Number(pid);
  }
  return undefined;
}

/** The name of a process's program, in at most 15 characters (proc(5), "comm"). */
export function programOf(pid: number): string | undefined {
  return readText(`/proc/${pid}/comm`)?.trimEnd();
}

/** A descriptor that an epoll watches: one line of its fdinfo. */
export interface Registration {
  /** The number under which the descriptor was added. */
  tfd: number;
  events: number;
  /** The opaque 64 bits that its events carry. */
  data: bigint;
}

/** The descriptors that the epoll `raw` watches (proc(5), "/proc/pid/fdinfo", epoll entries). */
export function registrations(raw: number): Registration[] {
  return registrationsIn(readText(`/proc/self/fdinfo/${raw}`) ?? "");
}

/** Reads the same again and again, for one epoll, without opening a descriptor each time. */
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
