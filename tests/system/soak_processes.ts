/**
 * The processes of a soak: those of the service, and those of the clients.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { connect } from "../../mod.ts";
import { killAll, processesWith, readLines } from "./processes.ts";
import type { Batch } from "./soak_client.ts";
import type { SoakLine, SoakServiceOptions } from "./soak_service.ts";

/** Milliseconds after which waiting for a line, a reply or an end fails. */
const patience = 90_000;

/** All processes of the service. */
export class Service implements AsyncDisposable {
  readonly lines: SoakLine[] = [];
  readonly errors: string[] = [];
  readonly #directory: string;
  readonly #control: boolean;
  readonly #output: Promise<unknown>[] = [];
  readonly #waiting = new Set<() => void>();

  constructor(directory: string, control: boolean) {
    this.#directory = directory;
    this.#control = control;
  }

  /** Starts a process; gives its pid. */
  start(probation?: number): number {
    const options: SoakServiceOptions = {
      directory: this.#directory,
      control: this.#control,
      probation,
    };
    const process = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        new URL("./soak_service.ts", import.meta.url).pathname,
        JSON.stringify(options),
      ],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#output.push(
      process.status,
      readLines(process.stdout, (line) => this.#printed(line)),
      readLines(process.stderr, (line) => this.errors.push(line)),
    );
    return process.pid;
  }

  #printed(text: string): void {
    const line: SoakLine = JSON.parse(text);
    if (line.phase === "error") this.errors.push(`${line.pid}: ${line.message}`);
    this.lines.push(line);
    for (const look of [...this.#waiting]) look();
  }

  /** Waits for the first line that `fits`, which may have been printed already. */
  async line(what: string, fits: (line: SoakLine) => boolean): Promise<SoakLine> {
    const { promise, resolve, reject } = Promise.withResolvers<SoakLine>();
    const look = () => {
      const found = this.lines.find(fits);
      if (found) resolve(found);
    };
    const timer = setTimeout(() => {
      const last = [
        ...this.lines.slice(-20).map((line) => JSON.stringify(line)),
        ...this.errors,
      ];
      reject(new Error(`Timed out waiting until ${what}; the last output:\n${last.join("\n")}`));
    }, patience);
    this.#waiting.add(look);
    try {
      look();
      return await promise;
    } finally {
      this.#waiting.delete(look);
      clearTimeout(timer);
    }
  }

  /** Asks the running generation to start the next one, and waits until that is done. */
  async restart(): Promise<void> {
    using channel = new Channel(await connect(`${this.#directory}/app.sock`));
    await channel.send({ type: "restart" });
    const answer = await channel.receive({ timeout: patience });
    if (answer?.type !== "done") throw new Error(`Not restarted: ${JSON.stringify(answer)}`);
  }

  /** Waits until every process has ended by itself; gives those that have not. */
  async ended(): Promise<number[]> {
    const end = performance.now() + patience;
    for (;;) {
      const left = this.#processes();
      if (left.length === 0 || performance.now() > end) return left;
      await pause(20);
    }
  }

  /** The processes of the service that have not ended, also those that a generation has started. */
  #processes(): number[] {
    const text = `"directory":"${this.#directory}"`;
    return processesWith((argument) => argument.includes(text));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await killAll(() => this.#processes());
    await Promise.all(this.#output);
  }
}

/** A process of clients: it prints a batch of results now and then. */
export class Clients implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #reading: Promise<unknown>;
  #stderr = "";
  #ended = false;

  constructor(command: string, args: string[], add: (batch: Batch) => void) {
    this.#process = new Deno.Command(command, {
      args,
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#reading = Promise.all([
      this.#process.status.then(() => this.#ended = true),
      readLines(this.#process.stdout, (line) => add(JSON.parse(line))),
      readLines(this.#process.stderr, (line) => this.#stderr += `${line}\n`),
    ]);
  }

  /** Makes no more requests, and waits for the answers of those under way. */
  async stop(): Promise<void> {
    await this.#closeStdin();
    await this.#reading;
    const { code } = await this.#process.status;
    if (code !== 0) throw new Error(`Clients ended with code ${code}: ${this.#stderr}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) this.#process.kill("SIGKILL");
    await this.#closeStdin();
    await this.#reading;
  }

  async #closeStdin(): Promise<void> {
    // It fails when it is closed already, or the process has ended.
    await this.#process.stdin.close().catch(() => {});
  }
}
