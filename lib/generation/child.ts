/**
 * The next generation as a process that this one starts: with the same command, or another one.
 *
 * @module
 */

import { dup, Fd, isWritable, replace } from "../../ffi/fd.ts";
import {
  isProgram,
  openReadEnd,
  openToWrite,
  outOfRemoved,
  pathStatus,
  statusOf,
} from "../../ffi/file.ts";
import { isBroken } from "../../ffi/poll.ts";
import {
  commandLine,
  currentVariable,
  environment,
  fromBinary,
  hasEnded,
  identify,
  kill,
  killAllWith,
  openDescriptors,
  ownParent,
  type ProcessId,
  reap,
  toBinary,
  variable,
} from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { unreadBytes } from "../../ffi/socket.ts";
import { expiring, pause, unlessAborted } from "../time.ts";
import { type CompleteCommand, findProgram } from "./command.ts";
import { HandoverError } from "../errors.ts";
import type { Logger } from "../logger.ts";

/** How many characters of stderr are kept for the error. */
const kept = 2000;

/** The environment variable by which a process knows who has started it, and says so. */
const tokenVariable = "GRACEFUL_TOKEN";

/** What the generation that started this process is to know it by; undefined when none did. */
export function ownToken(): string | undefined {
  return variable(tokenVariable);
}

/** Milliseconds for which the output of a process that has ended is still read. */
const lastWordsTime = 500;

/**
 * Starts "$@" through a second shell, waits for it, and ends as it ended. Deno kills what it has started
 * when it dies of an uncaught error, before 2.7 also when it just ends: that is this shell. It ends at the
 * latest when "$@" calls `start()`: systemd does not wait for a main process that is not its own child.
 * What a shell itself says of a process that was killed ("Killed") is not the program's: dash 0.5 says it where
 * the redirections of the command lead, for a subshell to those of the shell itself.
 */
const starter = `exec 9>&2 2>/dev/null; (exec /bin/sh -s -- "$@" 2>&9 9>&-); exit`;

/**
 * The second shell, which becomes the program: it has the process number from its first line on, and reads from a
 * pipe what to do, for other users see the arguments of a process (proc(5), "cmdline"). Not by "&": of what a shell
 * starts so, SIGINT and SIGQUIT are ignored for good (POSIX, "Asynchronous Lists").
 */
const launcher = 'echo "$$"\n';

/** The end of what the second shell reads. */
const launch = 'exec "$@" </dev/null\n';

/** Ends the shell that started this process, if `restart()` did: the process is an orphan from then on. */
export function endStarter(): void {
  if (ownToken() === undefined) return;
  const parent = ownParent();
  if (parent === undefined || commandLine(parent.pid)?.[2] !== starter) return;
  kill(parent);
}

/** Milliseconds between two looks at whether a process has ended. */
const lookInterval = 20;

/** How a process ended, and the last that it said. */
export interface Ended {
  /** "ended with code 1"; "has ended" where its parent alone knows more. */
  how: string;
  /** The end of its stderr. */
  lastWords: string;
}

/**
 * A process in the making, which is not this one's child. Its output is passed on to this one's, until it
 * writes there itself.
 */
export class Successor {
  /** What it says that it was started by this process with, even if it is not this very process. */
  readonly token: string = crypto.randomUUID();
  /** Resolves when it has ended, unless it was released before; rejects when it could not be started. */
  readonly ended: Promise<Ended>;
  readonly #shell: Deno.ChildProcess;
  readonly #logger: Logger;
  /** The variables that it is to get. */
  readonly #wanted: Variables;
  /** Whether it is to get no others. */
  readonly #isAlone: boolean;
  #process: ProcessId | undefined;
  #isKilled = false;
  #isReleased = false;
  #lastWords = "";

  /** Starts it. */
  constructor(command: CompleteCommand, logger: Logger) {
    this.#logger = logger;
    const { program, args, cwd } = command;
    const attempt = "Cannot read the environment that this process was started with";
    const started = environment("self", attempt);
    checkVariables(command);
    if (cwd !== undefined && pathStatus(cwd)?.kind !== "directory") {
      throw new Deno.errors.NotFound(`${cannotStart(command)}: there is no such directory`);
    }
    if (pathStatus("/bin/sh") === undefined) {
      throw new Deno.errors.NotFound(
        `${cannotStart(command)}: it is started through /bin/sh, and there is none; ` +
          "start it by other means, and it takes over",
      );
    }
    checkProgram(command, started);
    using output = new OutputCopies();
    const own = {
      [tokenVariable]: this.token,
      [outputVariable]: output.named,
      ...(command.isCwdNamed && command.env?.PWD === undefined && { PWD: cwd! }),
    };
    this.#shell = spawn(command, {
      args: ["-c", starter, "sh", program, ...args],
      cwd,
      env: { ...harmless(started), ...own },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    });
    this.#wanted = wantedEnvironment(started ?? new Map(), command, own);
    this.#isAlone = started !== undefined;
    this.ended = this.#run(command);
    this.ended.catch(() => {});
  }

  /** The last that it has said so far. */
  get lastWords(): string {
    return this.#lastWords.trim();
  }

  /** Its number, when it is there. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  async #run(command: CompleteCommand): Promise<Ended> {
    const script = this.#shell.stdin.getWriter();
    const asked = tell(script, launcher);
    const stdout = this.#shell.stdout.getReader();
    const errors = pass(this.#shell.stderr.getReader(), Deno.stderr, (words) => {
      this.#lastWords = (this.#lastWords + words).slice(-kept);
    });
    const { line, rest } = await firstLine(stdout);
    // While it waits for a line, no other process can get its number.
    if (line !== undefined) this.#process = identify(Number(line));
    const isWanted = line !== undefined && !this.#isKilled;
    await asked;
    if (isWanted) await tell(script, this.#corrections(Number(line)) + launch);
    await script.close().catch(() => {});
    // At once: a process that writes more than a pipe holds would wait for a reader, and not come to start().
    const output = Promise.all([errors, pass(stdout, Deno.stdout, () => {}, rest)]);
    output.catch(() => {});
    const { code, signal } = await this.#shell.status;
    const how = signal === null ? `ended with code ${code}` : "has ended";
    // The shell was ended, by the process itself or by release(): it is watched from here.
    while (isWanted && signal !== null && !hasEnded(this.#process!)) {
      await pause(lookInterval);
      if (this.#isReleased) return await new Promise(() => {});
    }
    if (this.#process) reap(this.#process.pid);
    // What it has started may hold its output open.
    using late = expiring(lastWordsTime, () => new Error("That was all"));
    await unlessAborted(output, late.signal).catch(() => {});
    const { lastWords } = this;
    if (!isWanted && !this.#isKilled) throw notStarted(command, code, lastWords);
    return { how, lastWords };
  }

  /**
   * The commands by which a shell that has inherited the environment of this process gets the wanted one. Only
   * differences are mentioned: all other variables pass as they are, also those that are no UTF-8.
   */
  #corrections(shell: number): string {
    if (!this.#isAlone) {
      this.#logger.warn?.(
        "The next generation gets the environment that this process has now, not the one that it was started " +
          "with: /proc/self/environ cannot be read. Where /proc is mounted, a program file with capabilities " +
          "of its own is the reason: give them by the service manager instead",
      );
    }
    const there = environment(shell) ?? new Map<string, string>();
    const changes: string[] = [];
    const lost: string[] = [];
    for (const [name, value] of this.#wanted) {
      if (there.get(name) === value) continue;
      if (isName(name)) changes.push(`command export ${name}=${inQuotes(value)}\n`);
      else lost.push(name);
    }
    for (const name of there.keys()) {
      if (this.#isAlone && !this.#wanted.has(name) && isName(name)) changes.push(`unset ${name}\n`);
    }
    if (lost.length > 0) {
      this.#logger.error?.(
        `The next generation does not get these environment variables: ${
          lost.map(toText).sort().map(quoted).join(", ")
        }; ` +
          'it is started through /bin/sh, which passes on names of letters, digits and "_" alone. Rename them, ' +
          "or start the next generation by other means",
      );
    }
    return changes.join("");
  }

  /** Lets it go on alone: it does not keep this process running. */
  release(): void {
    this.#shell.unref();
    // One that was killed ends at once, and is waited for.
    if (this.#isKilled) return;
    this.#isReleased = true;
    // Where it has not called start() itself, but through another process, its shell is still there.
    if (this.#process) endShell(this.#shell);
  }

  /**
   * Ends it, with all that it has started: what takes over may be a process that a shell, `npx` or `deno task`
   * has started, and would go on.
   */
  kill(): void {
    this.#isKilled = true;
    // One that may not be looked into has no known environment (proc(5), "environ").
    if (this.#process) kill(this.#process);
    killAllWith(`${tokenVariable}=${this.token}`);
  }
}

/** Starts /bin/sh for a command. */
function spawn(command: CompleteCommand, options: Deno.CommandOptions): Deno.ChildProcess {
  try {
    return outOfRemoved(command.cwd ?? "/", () => new Deno.Command("/bin/sh", options).spawn());
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotCapable)) throw cause;
    const isAllowed = Deno.permissions.querySync(toRunShell).state === "granted";
    const why = isAllowed
      ? cause.message
      : "the service that is to start it runs without --allow-run=/bin/sh";
    throw Object.assign(new Deno.errors.NotCapable(`${cannotStart(command)}: ${why}`), { cause });
  }
}

const toRunShell = { name: "run", command: "/bin/sh" } as const;

function endShell(shell: Deno.ChildProcess): void {
  try {
    shell.kill("SIGKILL");
  } catch (error) {
    // It has ended by itself.
    if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** What a shell could not do that has said nothing. */
function notStarted(command: CompleteCommand, code: number, words: string): Error {
  const what = cannotStart(command);
  return new HandoverError(`${what}: /bin/sh ended with code ${code}${words && `: ${words}`}`);
}

/** @throws {Deno.errors.NotFound} When there is no such program. @throws {Deno.errors.PermissionDenied} When it may not run. */
function checkProgram(command: CompleteCommand, started: Variables | undefined): void {
  const { program, cwd, env } = command;
  const path = findProgram(program, env?.PATH ?? toText(started?.get("PATH") ?? usualPath), cwd);
  if (path === undefined) {
    throw new Deno.errors.NotFound(`${cannotStart(command)}: there is no such program`);
  }
  if (!isProgram(path)) {
    throw new Deno.errors.PermissionDenied(
      `${cannotStart(command)}: it is no program that may run`,
    );
  }
}

/** @throws {TypeError} When a variable is none that /bin/sh passes on. */
function checkVariables(command: CompleteCommand): void {
  for (const [name, value] of Object.entries(command.env ?? {})) {
    const why = !isName(name)
      ? 'the name of a variable is of letters, digits and "_"'
      : typeof value !== "string" || value.includes("\0")
      ? "the value of a variable is a string without NUL"
      : undefined;
    if (why) throw new TypeError(`${cannotStart(command)} with ${quoted(name)} in \`env\`: ${why}`);
  }
}

/** An environment, its bytes as characters. */
type Variables = ReadonlyMap<string, string>;

/** What the next generation is to get. */
function wantedEnvironment(
  started: Variables,
  { env = {} }: CompleteCommand,
  own: Record<string, string>,
): Variables {
  const wanted = new Map(started);
  for (const name of ofShells) wanted.delete(name);
  const encoder = new TextEncoder();
  for (const [name, value] of [...Object.entries(env), ...Object.entries(own)]) {
    wanted.set(name, toBinary(encoder.encode(value)));
  }
  return wanted;
}

/** The variables that a shell sets itself, for what it starts. */
const ofShells = ["_", "SHLVL"];

/** Where a shell looks for programs when no variable says so (confstr(3), _CS_PATH). */
const usualPath = "/bin:/usr/bin";

/** Whether a shell knows it as the name of a variable (POSIX, "Name"), and leaves it alone. */
function isName(name: string): boolean {
  return /^[A-Za-z_]\w*$/.test(name) && !ofShells.includes(name);
}

/**
 * The variables that Deno does not let a program be started with under `--allow-run=/bin/sh`, as empty ones: the
 * shell gives them back, and this process was started with them.
 */
function harmless(started: Variables | undefined): Record<string, string> {
  const names = [...started?.keys() ?? []].filter((name) => /^(LD|DYLD)_/i.test(name));
  return Object.fromEntries(names.map((name) => [name, ""]));
}

/** As a word of a shell. */
function inQuotes(value: string): string {
  return `'${value.replaceAll("'", "'\\''")}'`;
}

function toText(binary: string): string {
  return new TextDecoder().decode(fromBinary(binary));
}

function cannotStart({ program, cwd }: CompleteCommand): string {
  const where = cwd === undefined ? "" : ` in ${JSON.stringify(cwd)}`;
  return `Cannot start ${JSON.stringify(program)}${where}`;
}

/** The first line, and what has come behind it; no line when the stream ends before. */
async function firstLine(
  from: ReadableStreamDefaultReader<Uint8Array>,
): Promise<{ line?: string; rest: Uint8Array }> {
  let read = new Uint8Array(0);
  for (;;) {
    const { value } = await from.read();
    if (!value) return { rest: read };
    read = Uint8Array.of(...read, ...value);
    const end = read.indexOf(0x0a);
    if (end < 0) continue;
    return { line: new TextDecoder().decode(read.subarray(0, end)), rest: read.subarray(end + 1) };
  }
}

/** Writes bytes, a character each, to a process that may have ended. */
async function tell(to: WritableStreamDefaultWriter<Uint8Array>, words: string): Promise<void> {
  // Its status tells.
  await to.write(fromBinary(words)).catch(() => {});
}

/** The environment variable by which a process finds descriptors for the output of its generation before. */
const outputVariable = "GRACEFUL_OUTPUT";

/** The first number that no shell uses for a redirection of its own (POSIX, "Redirection"). */
const leastCopy = 10;

/** What stdout and stderr of this process are open on, for a process that it starts meanwhile. */
class OutputCopies implements Disposable {
  readonly #copies: Fd[] = [];
  /** "1:COPY:DEVICE:INODE" for each, with a space between them. */
  readonly named: string;

  constructor() {
    const named: string[] = [];
    for (const raw of [1, 2]) {
      const status = statusOf(raw);
      if (!status) continue;
      const copy = new Fd(dup(raw, leastCopy));
      this.#copies.push(copy);
      replace(raw, copy.raw, { keptOnExec: true });
      named.push([raw, copy.raw, status.dev, status.ino].join(":"));
    }
    this.named = named.join(" ");
  }

  [Symbol.dispose](): void {
    for (const copy of this.#copies) copy[Symbol.dispose]();
  }
}

/**
 * The copies that this process was started with; no program that it starts gets them. Where the numbers are
 * of something else, the variable was inherited from a process that had them.
 */
function ownCopies(): Map<number, Fd> {
  const copies = new Map<number, Fd>();
  for (const named of variable(outputVariable)?.split(" ") ?? []) {
    const [raw, copy, dev, ino] = named.split(":").map(Number);
    const status = Number.isInteger(copy) ? statusOf(copy) : undefined;
    if (status === undefined || Number(status.dev) !== dev || Number(status.ino) !== ino) continue;
    using inherited = new Fd(copy);
    copies.set(raw, inherited.dup());
  }
  return copies;
}

/** A stream that what `restart()` started writes to through the generation that started it. */
interface PassedStream {
  /** The inode of the pipe. */
  pipe: bigint;
  /** Other numbers of this process that lead there, when they were looked for. */
  duplicates?: number[];
  /** The other end of the pipe, which is read there. */
  readEnd: number;
  /** What that generation writes to itself, if it came along. */
  copy?: Fd;
}

/** The streams of this process, until it has streams of its own. */
let passedStreams: Map<number, PassedStream> | undefined;

/**
 * From here on the end of the generation that started this process does not make a line of the log an
 * error: up to 2.6 console.log() throws it, and the program ends with it.
 */
export function keepOutput(): void {
  if (passedStreams || ownToken() === undefined) return;
  passedStreams = new Map();
  const copies = ownCopies();
  for (const raw of [1, 2]) {
    const readEnd = openReadEnd(raw);
    const copy = copies.get(raw);
    const pipe = statusOf(raw)?.ino;
    if (readEnd !== undefined && pipe !== undefined) {
      passedStreams.set(raw, { pipe, readEnd, copy });
    } else copy?.[Symbol.dispose]();
  }
}

/**
 * Has stdout (1) or stderr (2) of this process lead where `target` does: for the program, for Deno, which has a
 * duplicate of each, for `Deno.stdout` and what a process inherits (ext/io, `STDOUT_HANDLE`), and for every worker,
 * which has two more.
 */
export function leadStream(raw: number, target: Fd): void {
  replace(target.raw, raw, { keptOnExec: true });
  const passed = passedStreams?.get(raw);
  if (!passed) return;
  findDuplicates(passedStreams!);
  for (const each of passed.duplicates!) {
    if (statusOf(each)?.ino === passed.pipe) replace(target.raw, each);
  }
}

/** Finds them once, for both streams: a worker that is made later, and writes to a pipe, is copied like a process. */
function findDuplicates(streams: Map<number, PassedStream>): void {
  const all = [...streams];
  if (all.every(([, { duplicates }]) => duplicates)) return;
  const writers = openDescriptors().filter((each) => each > 2 && isWritable(each));
  const isShared = all.length > 1 && all[0][1].pipe === all[1][1].pipe;
  for (const [raw, stream] of all) {
    const found = writers.filter((each) => statusOf(each)?.ino === stream.pipe);
    // Where a shell has led stderr to stdout they are one pipe; Deno duplicates stdout first.
    stream.duplicates = isShared ? found.filter((_, i) => i % 2 === raw - 1) : found;
  }
}

/**
 * Ends what `keepOutput` began, when the generation that started this process has left. A stream that no process
 * reads any more leads from here on to where that of the other generation led, or else nowhere. What other processes
 * write to the pipe, which have it from this one, or are between the two, is copied there until they have ended.
 */
export async function settleOutput(logger: Logger): Promise<void> {
  const copiers: Promise<unknown>[] = [];
  for (const [raw, { pipe, readEnd, copy }] of passedStreams ?? []) {
    using own = copy;
    using end = new Fd(readEnd);
    if (statusOf(raw)?.ino === pipe) {
      end.close();
      if (!isBroken(raw)) continue;
      const again = openReadEnd(raw);
      using target = own?.dup() ?? new Fd(openToWrite("/dev/null"));
      leadStream(raw, target);
      if (again === undefined) continue;
      using reopened = new Fd(again);
      if (isUsed(again)) copiers.push(copyOn(reopened, raw, logger));
    } else if (isUsed(readEnd)) {
      copiers.push(copyOn(end, raw, logger));
    }
  }
  passedStreams?.clear();
  await Promise.all(copiers);
}

/** Whether a pipe has a process that writes to it, or something to read (poll(2), POLLHUP; ioctl_tty(2), FIONREAD). */
function isUsed(readEnd: number): boolean {
  return !isBroken(readEnd) || unreadBytes(readEnd) > 0;
}

/**
 * Copies what comes on descriptor "$0" to stdout or stderr of this shell until the last writer has closed its end.
 * What starts it does not wait for that, and does not end it: the loop is an orphan. Signals to the terminal's
 * processes, or to all of a service (systemd.kill(5)), are for the writers, at whose end it ends. A disk that is
 * full for a while (ENOSPC) ends cat, and must not end the writers. Without cat or sleep the loop would have no end
 * and no pause.
 */
const copier = `
[ "/proc/self/fd/$0" -ef "/proc/self/fd/$1" ] && exit
command -v cat >/dev/null && command -v sleep >/dev/null || exit
trap "" HUP INT QUIT TERM
until cat <"/proc/self/fd/$0" >&$1 2>/dev/null; do sleep 1 || exit; done &`;

/** Starts a process that copies what comes from a pipe to a standard stream of this process. */
async function copyOn(readEnd: Fd, raw: number, logger: Logger): Promise<void> {
  const name = raw === 1 ? "stdout" : "stderr";
  const lost =
    `Processes that this one has started write to a pipe in place of its ${name}, which nobody reads ` +
    "now that the generation before has left: they end at their next write";
  try {
    const { state } = Deno.permissions.querySync({ name: "run", command: "/bin/sh" });
    if (state !== "granted") {
      logger.warn?.(
        `${lost}. Run the service with --allow-run=/bin/sh, or start them after ready()`,
      );
      return;
    }
    using inherited = new Fd(dup(readEnd.raw, leastCopy));
    replace(readEnd.raw, inherited.raw, { keptOnExec: true });
    // A service may have a PATH of its own, without the directories of the system.
    const path = [currentVariable("PATH"), usualPath].filter(Boolean).join(":");
    const shell = new Deno.Command("/bin/sh", {
      args: ["-c", copier, String(inherited.raw), String(raw)],
      cwd: "/",
      clearEnv: true,
      env: { PATH: path },
      stdin: "null",
      stdout: raw === 1 ? "inherit" : "null",
      stderr: raw === 2 ? "inherit" : "null",
    }).spawn();
    if (!(await shell.status).success) {
      logger.error?.(
        `${lost}. No cat and sleep are in ${quoted(path)}: add their directory to PATH`,
      );
    }
  } catch (error) {
    logger.error?.(`${lost}, because no process can be started that copies it`, error);
  }
}

async function pass(
  from: ReadableStreamDefaultReader<Uint8Array>,
  to: typeof Deno.stdout,
  note: (words: string) => void,
  first?: Uint8Array,
): Promise<void> {
  const decoder = new TextDecoder();
  let writing = true;
  for (let chunk = first; chunk || (chunk = (await from.read()).value); chunk = undefined) {
    note(decoder.decode(chunk, { stream: true }));
    try {
      for (let rest = chunk; writing && rest.length > 0;) {
        rest = rest.subarray(await to.write(rest));
      }
    } catch {
      // Nobody reads this process's output any more: that is nothing to end for.
      writing = false;
    }
  }
}
