/**
 * The process that `restart()` starts: the next generation, with the command of this process or another one.
 *
 * @module
 */

import { isProgram, outOfRemoved, pathStatus } from "../../ffi/file.ts";
import {
  commandLine,
  environment,
  fromBinary,
  hasEnded,
  identify,
  kill,
  killAllWith,
  ownParent,
  type ProcessId,
  reap,
} from "../../ffi/proc.ts";
import { HandoverError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { expiring, pause, unlessAborted } from "../time.ts";
import { type CompleteCommand, findProgram } from "./command.ts";
import {
  checkVariables,
  defaultPath,
  emptiedLoaderVariables,
  environmentCommands,
  outputVariable,
  ownToken,
  tokenVariable,
  toText,
  type Variables,
  wantedEnvironment,
} from "./environment.ts";
import { forward, OutputCopies } from "./output.ts";

/** The number of characters of stderr that are kept for the error. */
const keptCharacters = 2000;

/** Milliseconds for which the output of an ended process is still read. */
const lastOutputTime = 500;

/** Milliseconds between two looks at whether a process has ended. */
const endInterval = 20;

/**
 * The outer shell starts "$@" through an inner shell, waits for it, and exits with its status. Deno kills its child
 * processes when it dies of an uncaught error, before 2.7 also when it just ends: it kills the outer shell, not the
 * program. The program ends the outer shell in `start()` at the latest: systemd does not wait for a main process that is
 * not its own child.
 *
 * The message of a shell about a killed process ("Killed") is not output of the program: dash 0.5 writes it where the
 * redirections of the command lead, for a subshell to those of the shell itself.
 */
const outerShell = `exec 9>&2 2>/dev/null; (exec /bin/sh -s -- "$@" 2>&9 9>&-); exit`;

/**
 * The inner shell prints its process id, reads the changes of its environment from a pipe, and becomes the program under
 * the same id. A pipe: other users can read the arguments of a process (proc(5), "cmdline"). Not started by "&": a shell
 * makes such a process ignore SIGINT and SIGQUIT for good (POSIX, "Asynchronous Lists").
 */
const printPid = 'echo "$$"\n';

/** The last command of the inner shell. */
const becomeProgram = 'exec "$@" </dev/null\n';

/** Ends the outer shell, if `restart()` has started this process: the process is an orphan from then on. */
export function endStarter(): void {
  if (ownToken() === undefined) return;
  const parent = ownParent();
  if (parent === undefined || commandLine(parent.pid)?.[2] !== outerShell) return;
  kill(parent);
}

/** The end of a process. */
export interface Ended {
  /** "ended with code 1"; "has ended" where only its parent knows more. */
  how: string;
  /** The end of its stderr. */
  lastWords: string;
}

/**
 * The process that `restart()` starts. It is a grandchild of this process, through a shell that it ends itself. Its
 * output is forwarded to that of this process until it writes there itself: see `output.ts`.
 */
export class Child {
  /** Sent in its `hello` by the process, or by another one that it has started: it belongs to this restart. */
  readonly token: string = crypto.randomUUID();
  /** Resolves when the process has ended, unless it was released before; rejects when it could not be started. */
  readonly ended: Promise<Ended>;
  readonly #shell: Deno.ChildProcess;
  readonly #logger: Logger;
  readonly #environment: Variables;
  /** Whether the process gets no other variables than these. */
  readonly #isEnvironmentComplete: boolean;
  #process: ProcessId | undefined;
  #isKilled = false;
  #isReleased = false;
  #lastWords = "";

  /**
   * Starts the command.
   *
   * @throws {TypeError} When /bin/sh does not pass on a variable of the command.
   * @throws {Deno.errors.NotFound} When its program, its directory or /bin/sh does not exist.
   * @throws {Deno.errors.PermissionDenied} When its program is not executable.
   * @throws {Deno.errors.NotCapable} When this process may not run /bin/sh.
   */
  constructor(command: CompleteCommand, logger: Logger) {
    this.#logger = logger;
    const { program, args, cwd, env } = command;
    const attempt = "Cannot read the environment that this process was started with";
    const started = environment("self", attempt);
    check(command, started);
    using output = new OutputCopies();
    const own = {
      [tokenVariable]: this.token,
      [outputVariable]: output.value,
      ...(command.isCwdNamed && env?.PWD === undefined && { PWD: cwd! }),
    };
    this.#shell = spawnShell(command, {
      args: ["-c", outerShell, "sh", program, ...args],
      cwd,
      env: { ...emptiedLoaderVariables(started), ...own },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    });
    this.#environment = wantedEnvironment(started ?? new Map(), { ...env, ...own });
    this.#isEnvironmentComplete = started !== undefined;
    this.ended = this.#run(command);
    // An unhandled rejection would end this process: the restart that waits for it may be over.
    this.ended.catch(() => {});
  }

  /** The end of its stderr so far. */
  get lastWords(): string {
    return this.#lastWords.trim();
  }

  /** Its process id; undefined before it is known. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  async #run(command: CompleteCommand): Promise<Ended> {
    const script = this.#shell.stdin.getWriter();
    const asked = write(script, printPid);
    const stdout = this.#shell.stdout.getReader();
    const errors = forward(this.#shell.stderr.getReader(), Deno.stderr, (text) => {
      this.#lastWords = (this.#lastWords + text).slice(-keptCharacters);
    });
    const { line, rest } = await firstLine(stdout);
    // The inner shell waits for its next command: no other process can have its id meanwhile.
    if (line !== undefined) this.#process = identify(Number(line));
    const isStarted = line !== undefined && !this.#isKilled;
    await asked;
    if (isStarted) await write(script, this.#environmentCommands(Number(line)) + becomeProgram);
    // A shell that has ended has closed the pipe: its status is looked at below.
    await script.close().catch(() => {});
    // At once: a process blocks when its pipe is full, and would not come to start().
    const output = Promise.all([errors, forward(stdout, Deno.stdout, () => {}, rest)]);
    // It is awaited below, after the end of the process.
    output.catch(() => {});
    const { code, signal } = await this.#shell.status;
    const how = signal === null ? `ended with code ${code}` : "has ended";
    // The process or release() has killed the outer shell: look at the process itself.
    while (isStarted && signal !== null && !hasEnded(this.#process!)) {
      await pause(endInterval);
      if (this.#isReleased) return await new Promise(() => {});
    }
    if (this.#process) reap(this.#process.pid);
    // Processes that it has started may hold its output open: stop reading, without an error.
    using late = expiring(lastOutputTime, () => new Error("That was all"));
    // An error of the output is not that of the process; and the wait may time out.
    await unlessAborted(output, late.signal).catch(() => {});
    const { lastWords } = this;
    if (!isStarted && !this.#isKilled) throw notStarted(command, code, lastWords);
    return { how, lastWords };
  }

  #environmentCommands(shell: number): string {
    const isComplete = this.#isEnvironmentComplete;
    return environmentCommands(shell, this.#environment, isComplete, this.#logger);
  }

  /** Detaches the process: it does not keep this one running any more, and `ended` does not resolve. */
  release(): void {
    this.#shell.unref();
    // A killed process ends at once: `ended` resolves.
    if (this.#isKilled) return;
    this.#isReleased = true;
    // The outer shell is still there if start() was called by another process, which this one has started.
    if (this.#process) endShell(this.#shell);
  }

  /**
   * Kills the process and all that it has started: the next generation may be a process that a shell, `npx` or
   * `deno task` has started.
   */
  kill(): void {
    this.#isKilled = true;
    // By its id as well: the environment of a process that may not be inspected cannot be read (proc(5), "environ").
    if (this.#process) kill(this.#process);
    killAllWith(`${tokenVariable}=${this.token}`);
  }
}

/** @throws {Error} When the command cannot be started. */
function check(command: CompleteCommand, started: Variables | undefined): void {
  const { program, cwd, env } = command;
  const attempt = cannotStart(command);
  checkVariables(env, attempt);
  if (cwd !== undefined && pathStatus(cwd)?.kind !== "directory") {
    throw new Deno.errors.NotFound(`${attempt}: there is no such directory`);
  }
  if (pathStatus("/bin/sh") === undefined) {
    throw new Deno.errors.NotFound(
      `${attempt}: it is started through /bin/sh, and there is none; ` +
        "start it by other means, and it takes over",
    );
  }
  const path = findProgram(program, env?.PATH ?? toText(started?.get("PATH") ?? defaultPath), cwd);
  if (path === undefined) throw new Deno.errors.NotFound(`${attempt}: there is no such program`);
  if (!isProgram(path)) {
    throw new Deno.errors.PermissionDenied(`${attempt}: it is no program that may run`);
  }
}

function cannotStart({ program, cwd }: CompleteCommand): string {
  const where = cwd === undefined ? "" : ` in ${JSON.stringify(cwd)}`;
  return `Cannot start ${JSON.stringify(program)}${where}`;
}

/** Starts /bin/sh for a command. */
function spawnShell(command: CompleteCommand, options: Deno.CommandOptions): Deno.ChildProcess {
  try {
    return outOfRemoved(command.cwd ?? "/", () => new Deno.Command("/bin/sh", options).spawn());
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotCapable)) throw cause;
    const { state } = Deno.permissions.querySync({ name: "run", command: "/bin/sh" });
    const reason = state === "granted"
      ? cause.message
      : "the service that is to start it runs without --allow-run=/bin/sh";
    throw Object.assign(new Deno.errors.NotCapable(`${cannotStart(command)}: ${reason}`), {
      cause,
    });
  }
}

function endShell(shell: Deno.ChildProcess): void {
  try {
    shell.kill("SIGKILL");
  } catch (error) {
    // It has ended by itself.
    if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** The error for an inner shell that has ended without a process id. */
function notStarted(command: CompleteCommand, code: number, output: string): Error {
  const attempt = cannotStart(command);
  return new HandoverError(
    `${attempt}: /bin/sh ended with code ${code}${output && `: ${output}`}`,
  );
}

/** Reads the first line, and the bytes that came with it; no line when the stream ends before. */
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
async function write(to: WritableStreamDefaultWriter<Uint8Array>, binary: string): Promise<void> {
  // A process that has ended does not read: its status tells why.
  await to.write(fromBinary(binary)).catch(() => {});
}
