/**
 * Other processes, as proc(5) shows them: their sockets, limits and control groups; undefined where this user
 * may not read them.
 *
 * @module
 */

import { linksIn, readDirectory, readLink, readText } from "../../ffi/file.ts";
import { argumentsOfDeno, commandLine, processStat } from "../../ffi/proc.ts";
import { escaped, quoted } from "../../ffi/quote.ts";

/** The numbers of all processes. */
export function processes(): number[] {
  const names = readDirectory("/proc", "Cannot list the processes");
  return names.map(Number).filter((pid) => Number.isInteger(pid));
}

/** The most descriptors of a process that are looked at. */
const mostDescriptors = 1_000_000;

/** The targets of the open descriptors of a process, such as "socket:[8123]". */
export function descriptorsOf(pid: number): string[] | undefined {
  const directory = `/proc/${pid}/fd`;
  const names = linksIn(directory, mostDescriptors);
  return names?.map((name) => readLink(`${directory}/${name}`)).filter((target) =>
    target !== undefined
  );
}

/** The inodes of the sockets of a process. */
export function socketsOf(pid: number): Set<number> | undefined {
  const targets = descriptorsOf(pid);
  if (!targets) return undefined;
  const inodes = targets.map((target) => /^socket:\[(\d+)\]$/.exec(target)?.[1]);
  return new Set(inodes.filter((inode) => inode !== undefined).map(Number));
}

/** The processes that have one of these sockets open. */
export function holders(inodes: ReadonlySet<number>): number[] {
  return processes().filter((pid) => {
    const sockets = socketsOf(pid);
    return sockets !== undefined && !sockets.isDisjointFrom(inodes);
  });
}

/** A systemd service that a process belongs to. */
export interface ServiceOf {
  /** Such as "app.service". */
  unit: string;
  /** Whether the manager of a user has started it. */
  isOfUser: boolean;
}

/** The service of a process; undefined for other processes: desktop sessions and terminals are scopes. */
export function serviceOf(pid: number | "self"): ServiceOf | undefined {
  return serviceIn(readText(`/proc/${pid}/cgroup`) ?? "");
}

/** The service that a /proc/PID/cgroup names (cgroups(7)): that of version 2, or the hierarchy of systemd. */
export function serviceIn(text: string): ServiceOf | undefined {
  const paths = Array.from(text.matchAll(/^\d+:(?:name=systemd)?:(.*)$/gm), ([, path]) => path);
  for (const path of paths) {
    const names = path.split("/");
    const manager = names.findIndex((name) => /^user@\d+\.service$/.test(name));
    // Of a service that delegates its group, the last name is not the unit's.
    const unit = names.slice(manager + 1).findLast((name) => name.endsWith(".service"));
    // systemd puts "_" before a name that the kernel might use itself.
    if (unit) return { unit: unit.replace(/^_/, ""), isOfUser: manager >= 0 };
  }
  return undefined;
}

/** The control group of a process; all processes of a unit have the same. */
export function controlGroup(pid: number): string | undefined {
  const groups = readText(`/proc/${pid}/cgroup`) ?? "";
  return /^0::(.*)$/m.exec(groups)?.[1] ?? /:name=systemd:(.*)$/m.exec(groups)?.[1];
}

/** A process for a message: `process 4711 ("deno run -A main.ts")`. */
export function describeProcess(pid: number): string {
  const line = commandLine(pid)?.join(" ") || processStat(pid)?.name;
  if (!line) return `process ${pid}`;
  return `process ${pid} (${quoted(line.length > 60 ? `${line.slice(0, 60)}...` : line)})`;
}

/** A user or group for a message: "user 1000 (app)"; names that are not in a file are left out. */
export function describeOwner(kind: "user" | "group", id: number): string {
  const file = readText(kind === "user" ? "/etc/passwd" : "/etc/group") ?? "";
  const name = new RegExp(`^([^:\n]+):[^:\n]*:${id}:`, "m").exec(file)?.[1];
  return `${kind} ${id}${name ? ` (${escaped(name)})` : ""}`;
}

/** The command line of a process for a unit: the path of its program, and its arguments. */
export function commandOf(pid: number): string | undefined {
  const [, ...args] = commandLine(pid) ?? [];
  const program = readLink(`/proc/${pid}/exe`);
  return program === undefined ? undefined : [program, ...args].map(unitWord).join(" ");
}

/** That of this command line, without its arguments. */
export function ownCommand(): string {
  const [program, here] = ["exe", "cwd"].map((name) => readLink(`/proc/self/${name}`) ?? "");
  const args = argumentsOfDeno();
  // The last one is the program; a compiled one has none.
  const script = args.pop();
  if (script !== undefined) args.push(/^(\/|[a-z]+:)/.test(script) ? script : `${here}/${script}`);
  return [program, ...args].map(unitWord).join(" ");
}

/** Quotes a word of a command line, if need be (systemd.service(5), "Command lines"). */
function unitWord(word: string): string {
  const plain = word.replaceAll("%", "%%").replaceAll("$", "$$$$");
  return /^[^\s"'\\;]+$/.test(plain) ? plain : quoted(plain);
}

/** The number of SIGHUP (signal(7)). */
export const sighup = 1;

/** Whether a process has a handler for a signal (proc(5), "SigCgt"); undefined where that cannot be read. */
export function listensTo(pid: number, signal: number): boolean | undefined {
  const [, mask] = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readText(`/proc/${pid}/status`) ?? "") ?? [];
  return mask === undefined ? undefined : (BigInt(`0x${mask}`) >> BigInt(signal - 1) & 1n) === 1n;
}
