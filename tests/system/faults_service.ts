/**
 * The service of `faults_program.ts` seen from outside: all its processes, also those that a generation
 * has started.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { Channel } from "../../lib/generation/channel.ts";
import type { Frame, GenerationStatus } from "../../lib/generation/protocol.ts";
import { connect } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import type { Fault, FaultsProgramOptions, Line } from "./faults_program.ts";
import { argumentsOf, killAll, processesWith, readLines, readProc } from "./processes.ts";
import { freePort } from "../support/free_port.ts";

/** Milliseconds after which waiting for a condition fails. */
const patience = 30_000;

/** The resources of a process of the service. */
export interface Figures {
  descriptors: number;
  threads: number;
  /** Bytes (proc(5), "VmRSS"). */
  memory: number;
  /** The files in the directory of its sockets. */
  files: string[];
}

/** Polls until `condition` gives a value; throws with `what` when that takes too long. */
export async function eventually<T>(
  what: string | (() => string),
  condition: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const end = performance.now() + patience;
  for (;;) {
    const found = await condition();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) {
      throw new Error(`Timed out waiting until ${typeof what === "string" ? what : what()}`);
    }
    await pause(20);
  }
}

/** A service in a directory of its own; ended, with all its processes, at the end of its block. */
export class Service implements AsyncDisposable {
  /** Outside the range of ephemeral ports: it stays free between two starts. */
  readonly port: number = freePort();
  readonly path: string;
  /** The lines that its processes have printed. */
  readonly lines: Line[] = [];
  /** All other output, for the report of a failure. */
  otherOutput = "";
  readonly #directory = new Directory();
  readonly #options: FaultsProgramOptions;
  readonly #deno: string[];
  readonly #output: Promise<unknown>[] = [];

  /** `deno`: the command that runs Deno, and its first arguments. */
  constructor(options: FaultsProgramOptions, deno: string[] = [Deno.execPath()]) {
    this.#options = options;
    this.#deno = deno;
    Deno.mkdirSync(this.#directory.join("run"));
    this.path = this.#directory.join("run/app.sock");
  }

  /** Starts a process; gives its pid. */
  start(): number {
    const [program, ...args] = this.#deno;
    const process = new Deno.Command(program, {
      args: [
        ...args,
        "run",
        "-A",
        "--no-check",
        // A small heap: filling it takes no time.
        "--v8-flags=--max-old-space-size=100",
        new URL("./faults_program.ts", import.meta.url).pathname,
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
      readLines(process.stdout, (line) => this.#printed(line)),
      readLines(process.stderr, (line) => this.otherOutput += `${line}\n`),
    );
    return process.pid;
  }

  #printed(line: string): void {
    try {
      this.lines.push(JSON.parse(line));
    } catch {
      this.otherOutput += `${line}\n`;
    }
  }

  /** Orders a fault: the next process that reaches its step causes it, once. */
  arm(fault: Fault): void {
    const path = this.#directory.join("fault");
    Deno.writeTextFileSync(`${path}.new`, JSON.stringify(fault));
    Deno.renameSync(`${path}.new`, path);
  }

  /** Waits for the first line that `fits`, which may have been printed already. */
  async line(what: string, fits: (line: Line) => boolean): Promise<Line> {
    return await eventually(what, () => this.lines.find(fits));
  }

  /** The files in the directory of its sockets. */
  files(): string[] {
    return Array.from(Deno.readDirSync(this.#directory.join("run")), ({ name }) => name).sort();
  }

  /** Its processes that have not ended. */
  processes(): number[] {
    return processesWith((argument) => argument === this.#directory.path);
  }

  /** Whether this process of the service has not ended. */
  isRunning(pid: number): boolean {
    return argumentsOf(pid).includes(this.#directory.path);
  }

  /** Whether a signal has stopped the process (proc(5), "stat": the state follows the name in parentheses). */
  isStopped(pid: number): boolean {
    return readProc(`${pid}/stat`)?.split(") ").at(-1)?.startsWith("T") ?? false;
  }

  /** The status of the generation that answers at the control socket; undefined when none answers. */
  async status(): Promise<GenerationStatus | undefined> {
    // Between two generations, and when none is left, there may be no answer.
    const answer = await this.#ask({ type: "status" }, 2000).catch(() => undefined);
    return answer?.type === "report" ? answer.status : undefined;
  }

  /** Asks the generation that answers to start the next one; gives its reply. */
  async restart(): Promise<Frame | undefined> {
    return await this.#ask({ type: "restart" }, patience);
  }

  async #ask(frame: Frame, timeout: number): Promise<Frame | undefined> {
    using channel = new Channel(await connect(this.path));
    await channel.send(frame);
    return await channel.receive({ timeout });
  }

  /** What a process uses now. */
  figures(pid: number): Figures {
    return {
      descriptors: [...Deno.readDirSync(`/proc/${pid}/fd`)].length,
      threads: [...Deno.readDirSync(`/proc/${pid}/task`)].length,
      memory: 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readProc(`${pid}/status`)!)![1]),
      files: this.files(),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await killAll(() => this.processes());
    await Promise.all(this.#output);
    this.#directory[Symbol.dispose]();
  }
}
