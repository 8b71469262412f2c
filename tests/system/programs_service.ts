/**
 * An unchanged program that runs, and how it is restarted.
 *
 * @module
 */

import { hasEnded, identify } from "../../ffi/proc.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { eventually } from "./faults_service.ts";
import { sendSignal } from "./processes.ts";
import { fileOf, type Program } from "./programs_list.ts";

/** A way of restarting. */
export type Way = "SIGHUP" | "cli.ts restart" | "stop and start";

const root = new URL("../../", import.meta.url);
const auto = new URL("lib/auto.ts", root).pathname;
const command = new URL("lib/cli.ts", root).pathname;
const data = new URL("../data/", import.meta.url).pathname;

/** Milliseconds of the probation: the default of 5 s would only make the run longer. */
const probation = 300;

/** Milliseconds of the drain timeout of WebSockets: their Close frames are spread over half of it. */
const webSocketDrain = 1000;

/** Options of {@linkcode ProgramService}. */
export interface ServiceOptions {
  /** Whether the program runs without the library: a restart is a stop and a start. */
  isPlain?: boolean;
  /** The command that runs Deno. */
  deno?: string[];
  /** The preload module. @default "lib/auto.ts" */
  preload?: string;
  /** Other environment variables. */
  env?: Record<string, string>;
}

/** A program; the end of its block kills all its processes. */
export class ProgramService implements AsyncDisposable {
  /** Outside the range of ephemeral ports: it stays free between two starts. */
  readonly port: number = freePort();
  readonly program: Program;
  /** What the processes that have ended have printed; of stderr, not the lines that the program `prints`. */
  readonly stdout: string[] = [];
  stderr = "";
  readonly #directory = new Directory();
  readonly #options: ServiceOptions;
  #running: Generations | undefined;
  /** Resolves when every process has ended: all of them write to the output of the first. */
  #ending: Promise<void> = Promise.resolve();

  /** Starts it. */
  constructor(program: Program, options: ServiceOptions = {}) {
    this.program = program;
    this.#options = options;
    this.#start();
  }

  /** The path of the admin socket. */
  get admin(): string {
    return this.#directory.join("admin.sock");
  }

  /** The control path. */
  get control(): string {
    return this.#directory.join("control.sock");
  }

  #start(): void {
    const { isPlain = false, deno, env, preload = auto } = this.#options;
    const { by = "preload", clients } = this.program;
    const address = { PORT: String(this.port), ADMIN: this.admin };
    const { arguments: args, env: further = {} } = isPlain
      ? plainly(by, this.port)
      : preloaded(by, this.port, preload);
    const whole = {
      ...address,
      CERT: `${data}localhost.crt`,
      KEY: `${data}localhost.key`,
      ...further,
      ...isPlain ? {} : {
        GRACEFUL_CONTROL: this.control,
        GRACEFUL_PROBATION: String(probation),
        ...clients === "websocket" && { GRACEFUL_DRAIN_TIMEOUT: String(webSocketDrain) },
      },
      ...env,
    };
    const options = { program: deno, deno: args, env: whole };
    const running = new Generations(fileOf(this.program), [], options);
    this.#running = running;
    this.#ending = running.ended().then(async ({ stdout, stderr }) => {
      this.#running = undefined;
      this.stdout.push(...stdout);
      this.stderr += stderr.replaceAll(this.program.prints ?? /(?!)/g, "");
      await running[Symbol.asyncDispose]();
    });
  }

  /** @throws {Error} When every process has ended. */
  checkRunning(): void {
    if (!this.#running) throw new Error(`${this.program.file} has ended: ${this.stderr}`);
  }

  /** Restarts the process `pid`; resolves when it has ended. The next process may not answer yet. */
  async restart(pid: number, way: Way): Promise<void> {
    const old = identify(pid);
    if (way === "cli.ts restart") {
      const { code, stderr } = await cli("restart", this.control);
      if (code !== 0) throw new Error(`cli.ts restart exits with ${code}: ${stderr}`);
    } else {
      sendSignal(pid, way === "SIGHUP" ? "SIGHUP" : "SIGTERM");
    }
    if (way !== "stop and start") {
      await eventually(`process ${pid} has ended`, () => hasEnded(old));
      return;
    }
    await this.#ending;
    this.#start();
  }

  /** Stops the process `pid` by SIGTERM, and waits until every process has ended. */
  async stop(pid: number): Promise<void> {
    sendSignal(pid, "SIGTERM");
    await this.#ending;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running?.[Symbol.asyncDispose]();
    await this.#ending;
    this.#directory[Symbol.dispose]();
  }
}

interface Started {
  /** The arguments of Deno, without the program. */
  arguments: string[];
  env?: Record<string, string>;
}

/** How a program is started as its own documentation has it. */
function plainly(by: Program["by"], port: number): Started {
  if (by === "preload") return { arguments: ["run", "-A"] };
  return { arguments: ["serve", "-A", "--host", "127.0.0.1", "--port", String(port)] };
}

/** How it is started to be restartable. */
function preloaded(by: Program["by"], port: number, preload: string): Started {
  if (by === "cli.ts serve") {
    const address = ["--host", "127.0.0.1", "--port", String(port)];
    return { arguments: ["run", "-A", command, "serve", ...address] };
  }
  const args = ["run", "-A", "--preload", preload];
  if (by !== "DENO_AUTO_SERVE") return { arguments: args };
  return {
    arguments: args,
    env: { DENO_AUTO_SERVE: "1", DENO_SERVE_ADDRESS: `tcp:127.0.0.1:${port}` },
  };
}
