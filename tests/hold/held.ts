/**
 * `cli.ts hold` in a process of its own, as process 1 of a PID namespace or not.
 *
 * @module
 */

import { readText } from "../../ffi/file.ts";
import { processStat } from "../../ffi/proc.ts";
import { Generations } from "../support/generations.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";

const unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/** The reason why hold cannot be process 1 here; undefined if it can. */
export const noContainer: string | undefined = await succeeds([...unshare, "true"])
  ? undefined
  : "unshare(1) and root are missing";

/** The words of `deno run -A`, for a program of the folder `tests/programs`. */
export function deno(name: string, ...args: (string | number)[]): string[] {
  const path = new URL(`../programs/${name}`, import.meta.url).pathname;
  return [Deno.execPath(), "run", "-A", "--no-check", path, ...args.map(String)];
}

/** A running hold; its lines of stderr are read as those of stdout. */
export class Held extends Generations {
  readonly #isContainer: boolean;

  /** @param args The arguments behind `hold`. */
  constructor(
    args: string[],
    { container = false, env, through = [] }: {
      container?: boolean;
      env?: Record<string, string>;
      through?: string[];
    } = {},
  ) {
    const merged = ["sh", "-c", 'exec "$@" 2>&1', "sh"];
    super("../../lib/cli.ts", ["hold", ...args], {
      env,
      through: [...merged, ...container ? unshare : [], ...through],
    });
    this.#isContainer = container;
  }

  /** The process of hold, as it is seen from here. */
  get holdPid(): number {
    if (!this.#isContainer) return this.pid;
    return Number(readText(`/proc/${this.pid}/task/${this.pid}/children`)?.trim());
  }

  /** Waits until hold has started a process; gives its number in the namespace of hold. */
  async started(): Promise<number> {
    return Number((await this.until(/^hold: started process \d+/)).match(/\d+/)![0]);
  }

  /** Waits until a generation has said that it serves; gives its number there. */
  async serving(): Promise<number> {
    const line = await this.until(/^hold: Generation \d+, process \d+, serves/);
    return Number(line.match(/process (\d+)/)![1]);
  }

  /** The children of hold: their numbers here and there, and whether they are zombies. */
  children(): { pid: number; inner: number; isZombie: boolean }[] {
    const threads = Array.from(Deno.readDirSync(`/proc/${this.holdPid}/task`), ({ name }) => name);
    const pids = threads.flatMap((thread) =>
      (readText(`/proc/${this.holdPid}/task/${thread}/children`) ?? "").match(/\d+/g) ?? []
    );
    return pids.map(Number).map((pid) => {
      const numbers = /^NSpid:.*?(\d+)$/m.exec(readText(`/proc/${pid}/status`) ?? "")?.[1];
      return { pid, inner: Number(numbers), isZombie: processStat(pid)?.state === "Z" };
    });
  }

  /** Kills a child of hold, by its number there. */
  kill(inner: number, signal: Deno.Signal = "SIGKILL"): void {
    const child = this.children().find((child) => child.inner === inner);
    if (!child) throw new Error(`Process ${inner} is no child of hold`);
    Deno.kill(child.pid, signal);
  }

  /** Sends a signal to hold. */
  signal(signal: Deno.Signal): void {
    Deno.kill(this.holdPid, signal);
  }

  /** Waits until no child of hold is a zombie. */
  async withoutZombies(): Promise<void> {
    await until(() => this.children().every(({ isZombie }) => !isZombie));
  }

  /** What hold uses. */
  usage(): { descriptors: number; kilobytes: number } {
    const status = readText(`/proc/${this.holdPid}/status`) ?? "";
    return {
      descriptors: Array.from(Deno.readDirSync(`/proc/${this.holdPid}/fd`)).length,
      kilobytes: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]),
    };
  }
}
