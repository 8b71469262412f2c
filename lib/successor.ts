/**
 * The next generation as a process that this one starts: with the same command, or another one.
 *
 * @module
 */

import { pathStatus, readLink, readText } from "../ffi/file.ts";
import { pause } from "../ffi/time.ts";

/** A program and its arguments. */
export interface Command {
  /** The program: a path, or a name to look for. */
  program: string;
  /** Its arguments. */
  args: string[];
  /** The directory that it starts in. @default {that of this process} */
  cwd?: string;
}

/** How a process ended, and the last that it said. */
export interface Ended {
  /** "ended with code 1", "was ended by SIGKILL". */
  how: string;
  /** The end of its stderr. */
  lastWords: string;
}

/** How many characters of stderr are kept for the error. */
const kept = 2000;

/** The environment variable by which a process knows who has started it, and says so. */
const tokenVariable = "GRACEFUL_TOKEN";

/** What the generation that started this process is to know it by; undefined when none did. */
export function ownToken(): string | undefined {
  return variable(tokenVariable);
}

/** A variable of the environment that this process was started with (proc(5), "environ"). */
function variable(name: string): string | undefined {
  const all = readText("/proc/self/environ")?.split("\0") ?? [];
  return all.find((each) => each.startsWith(`${name}=`))?.slice(name.length + 1);
}

/**
 * The directory of this process, by the name that it was entered by: where a symbolic link leads to the
 * current release, the next generation is of the next release. Undefined when it is removed.
 */
export function workingDirectory(): string | undefined {
  const here = pathStatus("/proc/self/cwd");
  const named = variable("PWD");
  const there = named ? pathStatus(named) : undefined;
  if (here && there && here.dev === there.dev && here.ino === there.ino) return named;
  const path = readLink("/proc/self/cwd");
  return path?.endsWith(" (deleted)") ? undefined : path;
}

/** Milliseconds for which the output of a process that has ended is still read. */
const lastWordsTime = 500;

/** The command that this process was started with (proc(5), "cmdline"). */
export function ownCommand(): Command {
  // Where it was replaced by a newer one meanwhile, that one is meant.
  const program = readLink("/proc/self/exe")?.replace(/ \(deleted\)$/, "");
  const attempt = "Cannot read the command that this process was started with";
  const args = readText("/proc/self/cmdline", attempt)?.split("\0").slice(1, -1);
  if (program === undefined || args === undefined) {
    throw new Deno.errors.NotSupported("/proc is not mounted: name the command to restart with");
  }
  return { program, args };
}

/**
 * A process in the making. Its output is passed on to this one's, until it writes there itself.
 */
export class Successor {
  /** Its number. */
  readonly pid: number;
  /** What it says that it was started by this process with, even if it is not this very process. */
  readonly token: string = crypto.randomUUID();
  /** Resolves when it has ended. */
  readonly ended: Promise<Ended>;
  readonly #process: Deno.ChildProcess;
  #lastWords = "";

  /** Starts it. */
  constructor({ program, args, cwd }: Command) {
    this.#process = new Deno.Command(program, {
      args,
      cwd,
      env: { [tokenVariable]: this.token, ...(cwd !== undefined && { PWD: cwd }) },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.pid = this.#process.pid;
    const output = Promise.all([
      pass(this.#process.stdout, Deno.stdout),
      pass(this.#process.stderr, Deno.stderr, (words) => {
        this.#lastWords = (this.#lastWords + words).slice(-kept);
      }),
    ]);
    this.ended = this.#process.status.then(async ({ code, signal }) => {
      // What it has started may hold its output open.
      await Promise.race([output, pause(lastWordsTime)]);
      const how = signal ? `was ended by ${signal}` : `ended with code ${code}`;
      return { how, lastWords: this.#lastWords.trim() };
    });
  }

  /** Lets it go on alone: it does not keep this process running. */
  release(): void {
    this.#process.unref();
    if (endsWhatItStarted()) globalThis.addEventListener("unload", exitAfterwards);
  }

  /** Ends it. */
  kill(signal: Deno.Signal): void {
    try {
      this.#process.kill(signal);
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

/** Up to 2.6 Deno kills what it has started when it ends by itself, though not when it is told to end. */
function endsWhatItStarted(): boolean {
  return /^2\.[0-6]\./.test(Deno.version.deno);
}

/** Ends the process when everybody has heard that it ends; with the exit code that is set. */
function exitAfterwards(): void {
  queueMicrotask(() => Deno.exit());
}

async function pass(
  from: ReadableStream<Uint8Array>,
  to: typeof Deno.stdout,
  note: (words: string) => void = () => {},
): Promise<void> {
  const decoder = new TextDecoder();
  let writing = true;
  for await (const chunk of from) {
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
