/**
 * The service of `faulty.ts` as seen from outside: all its processes, whoever started them.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { Channel } from "../../lib/generation/channel.ts";
import type { Frame, GenerationStatus } from "../../lib/generation/protocol.ts";
import { connect } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import type { Fault, FaultyOptions, Line } from "./faulty.ts";
import { freePort } from "../support/free_port.ts";

/** Milliseconds after which what is waited for counts as never to come. */
const patience = 30_000;

/** What a process of the service has open, and takes. */
export interface Figures {
  descriptors: number;
  threads: number;
  /** Bytes (proc(5), "VmRSS"). */
  memory: number;
  /** What is in the directory of its paths. */
  files: string[];
}

/** Waits until `condition` gives something, and looks now and then. */
export async function eventually<T>(
  what: string | (() => string),
  condition: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const end = performance.now() + patience;
  for (;;) {
    const found = await condition();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) {
      throw new Error(`Never came to pass: ${typeof what === "string" ? what : what()}`);
    }
    await pause(20);
  }
}

/** A service in a directory of its own; ended, with all its processes, at the end of its block. */
export class Service implements AsyncDisposable {
  /** A port that the kernel gives to nobody by itself, so that it is free from one start to the next. */
  readonly port: number = freePort();
  readonly path: string;
  /** What its processes have printed. */
  readonly lines: Line[] = [];
  /** What else they have printed, which is for whoever looks into a failure. */
  complaints = "";
  readonly #directory = new Directory();
  readonly #options: FaultyOptions;
  readonly #deno: string[];
  readonly #output: Promise<unknown>[] = [];

  /** Runs on this Deno, or on the one that `deno` starts. */
  constructor(options: FaultyOptions, deno: string[] = [Deno.execPath()]) {
    this.#options = options;
    this.#deno = deno;
    Deno.mkdirSync(this.#directory.join("run"));
    this.path = this.#directory.join("run/app.sock");
  }

  /** Starts a process of it. */
  start(): number {
    const [program, ...args] = this.#deno;
    const process = new Deno.Command(program, {
      args: [
        ...args,
        "run",
        "-A",
        "--no-check",
        // So that it takes no time to fill it.
        "--v8-flags=--max-old-space-size=100",
        new URL("./faulty.ts", import.meta.url).pathname,
        this.#directory.path,
        String(this.port),
        JSON.stringify(this.#options),
      ],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#output.push(
      process.status,
      read(process.stdout, (line) => this.#printed(line)),
      read(process.stderr, (line) => this.complaints += `${line}\n`),
    );
    return process.pid;
  }

  #printed(line: string): void {
    try {
      this.lines.push(JSON.parse(line));
    } catch {
      this.complaints += `${line}\n`;
    }
  }

  /** The fault comes to pass, once, from here on. */
  arm(fault: Fault): void {
    const path = this.#directory.join("fault");
    Deno.writeTextFileSync(`${path}.new`, JSON.stringify(fault));
    Deno.renameSync(`${path}.new`, path);
  }

  /** The first line of that kind. */
  async line(what: string, fits: (line: Line) => boolean): Promise<Line> {
    return await eventually(what, () => this.lines.find(fits));
  }

  /** What is in the directory of its paths. */
  files(): string[] {
    return Array.from(Deno.readDirSync(this.#directory.join("run")), ({ name }) => name).sort();
  }

  /** Those of its processes that have not ended. */
  processes(): number[] {
    const found = Array.from(Deno.readDirSync("/proc"), ({ name }) => Number(name));
    return found.filter((pid) => pid > 0 && this.isRunning(pid));
  }

  /** Whether that process of it has not ended. */
  isRunning(pid: number): boolean {
    // One that has ended and was not waited for has no arguments any more.
    return readProc(`${pid}/cmdline`)?.split("\0").includes(this.#directory.path) ?? false;
  }

  /** Whether it is stopped by a signal (proc(5), "stat": what follows the name in parentheses). */
  isStopped(pid: number): boolean {
    return readProc(`${pid}/stat`)?.split(") ").at(-1)?.startsWith("T") ?? false;
  }

  /** What the generation that answers says of itself; undefined when none does. */
  async status(): Promise<GenerationStatus | undefined> {
    const answer = await this.#ask({ type: "status" }, 2000).catch(() => undefined);
    return answer?.type === "report" ? answer.status : undefined;
  }

  /** Has the generation that answers start the next one. */
  async restart(): Promise<Frame | undefined> {
    return await this.#ask({ type: "restart" }, patience);
  }

  async #ask(frame: Frame, timeout: number): Promise<Frame | undefined> {
    using channel = new Channel(await connect(this.path));
    await channel.send(frame);
    return await channel.receive({ timeout });
  }

  /** What a process of it has open and takes now. */
  figures(pid: number): Figures {
    return {
      descriptors: [...Deno.readDirSync(`/proc/${pid}/fd`)].length,
      threads: [...Deno.readDirSync(`/proc/${pid}/task`)].length,
      memory: 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readProc(`${pid}/status`)!)![1]),
      files: this.files(),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let left; (left = this.processes()).length > 0; await pause(20)) {
      for (const pid of left) signal(pid, "SIGKILL");
    }
    await Promise.all(this.#output);
    this.#directory[Symbol.dispose]();
  }
}

/** Sends a signal, if the process is still there. */
export function signal(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Undefined when the process has gone, which it may do while it is looked at. */
function readProc(name: string): string | undefined {
  try {
    return Deno.readTextFileSync(`/proc/${name}`);
  } catch (error) {
    // Deno has no class for ESRCH, and gives it no code.
    const { message } = error as Error;
    if (error instanceof Deno.errors.NotFound || message.includes("os error 3)")) return undefined;
    throw error;
  }
}

async function read(
  stream: ReadableStream<Uint8Array>,
  each: (line: string) => void,
): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    lines.forEach(each);
  }
  if (rest) each(rest);
}
