/**
 * A program that knows nothing of the library, started with the preload module.
 *
 * @module
 */

import { cli } from "./cli.ts";
import type { Directory } from "./directory.ts";
import { Generations } from "./generations.ts";
import { askOnce } from "./http1_client.ts";
import { soon } from "./until.ts";

/** The path of the preload module. */
export const auto = new URL("../../lib/auto.ts", import.meta.url).pathname;

/** How a program is started. */
export interface PreloadedOptions {
  /** The arguments of Deno before the program. @default {run -A --preload auto.ts} */
  deno?: string[];
  env?: Record<string, string>;
  args?: string[];
  through?: string[];
  /** Another Deno. */
  program?: string[];
}

/** The first generation of a program, and those that follow it. */
export class Preloaded extends Generations {
  readonly control: string;
  /** The file of the program: a test may write the next release there. */
  readonly main: string;

  /** Writes the program's source to a file, and starts it; its control path is that of `control`. */
  constructor(
    directory: Directory,
    source: string,
    { deno = ["run", "-A", "--preload", auto], env, args, through, program }: PreloadedOptions = {},
  ) {
    const main = directory.join("main.ts");
    const control = directory.join("control.sock");
    Deno.writeTextFileSync(main, source);
    super(main, args, {
      deno,
      program,
      through,
      env: { GRACEFUL_CONTROL: control, GRACEFUL_PROBATION: "100", ...env },
    });
    this.control = control;
    this.main = main;
  }

  /** Restarts; gives what the command line prints and its code. */
  async restart(): Promise<{ code: number; stdout: string; stderr: string }> {
    return await cli("restart", this.control);
  }

  /** Restarts, and waits until the next generation alone serves; gives its process number. */
  async next(): Promise<number> {
    const { code, stdout, stderr } = await this.restart();
    if (code !== 0) throw new Error(`The restart failed: ${stderr}`);
    const pid = Number(/process (\d+)/.exec(stdout)?.[1]);
    await soon(async () => (await this.status()).predecessor === undefined);
    return pid;
  }

  /** The status of the generation that answers at the control path. */
  async status(): Promise<{
    generation: number;
    pid: number;
    state: string;
    sockets: { address: string }[];
    kept: string[];
    service?: string;
    predecessor?: { pid: number };
  }> {
    const { code, stdout, stderr } = await cli("status", "--json", this.control);
    if (code !== 0) throw new Error(stderr);
    return JSON.parse(stdout);
  }
}

/** The answer at a port of 127.0.0.1. */
export async function answerAt(port: number): Promise<string> {
  return (await askOnce({ transport: "tcp", hostname: "127.0.0.1", port })).body;
}

/** Waits until a port of 127.0.0.1 answers; gives the answer. */
export async function firstAnswerAt(port: number): Promise<string> {
  let answer = "";
  await soon(async () => {
    try {
      answer = await answerAt(port);
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionRefused) return false;
      throw error;
    }
  });
  return answer;
}
