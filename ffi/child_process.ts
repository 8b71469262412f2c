/**
 * Child processes with descriptors at numbers of their own, which Deno.Command cannot place; and the ends of all children
 * of this process, the orphans among them.
 *
 * @module
 */

import { c, errnos, structs } from "./abi.ts";
import { check, errno, systemError, uninterrupted } from "./errno.ts";
import { closeAll, dup } from "./fd.ts";
import { readDirectory } from "./file.ts";
import { cString, libc, StringArray } from "./libc.ts";
import { fromBinary, processStat } from "./proc.ts";

/** The number of the first descriptor that is passed: those below are the standard streams. */
const first = 3;

/** What a process is started with. */
export interface SpawnOptions {
  /** The arguments, the name of the program first. */
  args: readonly string[];
  /** The environment: names and values are bytes, one character each. */
  env: ReadonlyMap<string, string>;
  /** The descriptors that become numbers 3, 4, and so on; they stay the caller's. */
  descriptors: readonly number[];
}

/**
 * Starts a program in a process group of its own, with the standard streams of this process and the given descriptors;
 * gives its process id (posix_spawn(3)). SIGPIPE, which Deno ignores, has its default action there.
 *
 * @throws {Error} The error of posix_spawn(3), such as `Deno.errors.NotFound`.
 */
export function spawn(program: string, { args, env, descriptors }: SpawnOptions): number {
  const attempt = `Cannot start ${JSON.stringify(program)}`;
  const argv = new StringArray(args.map((arg) => new TextEncoder().encode(arg)));
  const envp = new StringArray(
    Array.from(env, ([name, value]) => fromBinary(`${name}=${value}`)),
  );
  const actions = new Uint8Array(structs.posix_spawn_file_actions.size);
  const attributes = new Uint8Array(structs.posix_spawnattr.size);
  const pid = new Int32Array(1);
  // Above all numbers that dup2(2) fills in the child: none of them is overwritten before it is duplicated.
  const sources: number[] = [];
  const lib = libc();
  lib.posix_spawn_file_actions_init(actions);
  lib.posix_spawnattr_init(attributes);
  try {
    descriptors.forEach((raw, i) => {
      sources.push(dup(raw, first + descriptors.length));
      lib.posix_spawn_file_actions_adddup2(actions, sources[i], first + i);
    });
    lib.posix_spawnattr_setsigdefault(attributes, signalSet(c.SIGPIPE));
    lib.posix_spawnattr_setflags(attributes, c.POSIX_SPAWN_SETSIGDEF | c.POSIX_SPAWN_SETPGROUP);
    const code = lib.posix_spawn(
      new Uint8Array(pid.buffer),
      cString(program),
      actions,
      attributes,
      argv.pointers,
      envp.pointers,
    );
    if (code !== 0) throw systemError(code, attempt);
    return pid[0];
  } finally {
    closeAll(sources);
    lib.posix_spawn_file_actions_destroy(actions);
    lib.posix_spawnattr_destroy(attributes);
  }
}

/** A `sigset_t` with one signal (sigsetops(3)). */
function signalSet(signal: number): Uint8Array<ArrayBuffer> {
  const set = new Uint8Array(structs.sigset.size);
  set[signal - 1 >> 3] = 1 << (signal - 1 & 7);
  return set;
}

/**
 * Makes this process the parent of the orphans among its descendants, as process 1 is of all (prctl(2),
 * PR_SET_CHILD_SUBREAPER).
 */
export function adoptOrphans(): void {
  check(
    libc().prctl(c.PR_SET_CHILD_SUBREAPER, 1n, 0n, 0n, 0n),
    "Cannot become the parent of orphans",
  );
}

// Filled and read within one turn of the event loop.
const info = new Uint8Array(structs.siginfo_child.size);
const status = new Int32Array(1);
const statusBytes = new Uint8Array(status.buffer);

/**
 * A child of this process that has ended and was not waited for, or was not before; undefined if all that there are run.
 * It stays a zombie until `reapChild` (waitid(2), WNOWAIT): a child that Deno has started is Deno's to wait for.
 */
export function endedChild(): number | undefined {
  return lookForEnded() === 0 ? structs.siginfo_child.read(info, "si_pid") || undefined : undefined;
}

/** Whether this process has a child, a running one or a zombie (waitid(2), ECHILD). */
export function hasChildren(): boolean {
  return lookForEnded() === 0 || errno() !== errnos.ECHILD;
}

function lookForEnded(): number {
  // Without an ended child, waitid(2) leaves `si_pid` as it is, or 0.
  info.fill(0);
  const options = c.WEXITED | c.WNOHANG | c.WNOWAIT;
  return uninterrupted(() => libc().waitid(c.P_ALL, 0, info, options));
}

/** The end of a process: by itself with a code, or by a signal. */
export interface Exit {
  /** The code with which it has ended; 128 and the number of the signal otherwise, as in a shell. */
  code: number;
  /** The signal that has ended it, such as "SIGKILL". */
  signal?: string;
}

/** Waits for one child that has ended (waitpid(2)); undefined if it runs, or is no child of this process. */
export function reapChild(pid: number): Exit | undefined {
  const reaped = uninterrupted(() => libc().waitpid(pid, statusBytes, c.WNOHANG));
  if (reaped !== pid) return undefined;
  // WIFSIGNALED and WEXITSTATUS of bits/waitstatus.h.
  const signal = status[0] & 0x7f;
  return signal === 0
    ? { code: status[0] >> 8 & 0xff }
    : { code: 128 + signal, signal: signalNames[signal] ?? `signal ${signal}` };
}

/** signal(7), the numbers of x86_64 and arm64. */
const signalNames: Record<number, string> = {
  1: "SIGHUP",
  2: "SIGINT",
  3: "SIGQUIT",
  4: "SIGILL",
  5: "SIGTRAP",
  6: "SIGABRT",
  7: "SIGBUS",
  8: "SIGFPE",
  9: "SIGKILL",
  10: "SIGUSR1",
  11: "SIGSEGV",
  12: "SIGUSR2",
  13: "SIGPIPE",
  14: "SIGALRM",
  15: "SIGTERM",
  18: "SIGCONT",
  24: "SIGXCPU",
  25: "SIGXFSZ",
  28: "SIGWINCH",
  31: "SIGSYS",
};

/**
 * Sends a signal to a process, as `Deno.kill` does, which needs a permission to run programs (kill(2)). A process that has
 * ended is no error.
 *
 * @throws {TypeError} For a signal that is not in the list.
 * @throws {Error} The error of kill(2), such as `Deno.errors.PermissionDenied`.
 */
export function signalProcess(pid: number, signal: string): void {
  const number = Object.keys(signalNames).find((each) => signalNames[Number(each)] === signal);
  if (number === undefined || !(pid > 0)) throw new TypeError(`No signal ${signal} to ${pid}`);
  if (libc().kill(pid, Number(number)) === 0) return;
  const code = errno();
  if (code !== errnos.ESRCH) throw systemError(code, `Cannot send ${signal} to process ${pid}`);
}

/**
 * The children of this process, as /proc shows them: also zombies, for a process whose first thread has ended looks like one,
 * and takes signals as long as the others run (pthread_exit(3)).
 */
export function ownChildren(): number[] {
  return readDirectory("/proc", "Cannot list the processes").map(Number).filter((pid) =>
    Number.isInteger(pid) && processStat(pid)?.parent === Deno.pid
  );
}

/** Whether a process runs that this one has started, directly or not, or has adopted. */
export function isDescendant(pid: number): boolean {
  let stat = pid > 0 ? processStat(pid) : undefined;
  if (stat?.state === "Z") return false;
  // Processes may end and start meanwhile: a bound, as their parents might form a circle then.
  for (let steps = 0; stat && steps < 1000; steps++) {
    if (stat.parent === Deno.pid) return true;
    if (stat.parent <= 1) return false;
    stat = processStat(stat.parent);
  }
  return false;
}
