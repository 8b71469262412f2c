/**
 * `unit_service.ts` under `service_manager.py`.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { readText } from "../../ffi/file.ts";
import { programPath } from "./child.ts";
import { cli } from "./cli.ts";
import type { Directory } from "./directory.ts";
import { Generations } from "./generations.ts";

/** What the manager was told. */
export interface Told {
  /** The process that has sent it. */
  pid: number;
  text: string;
  /** The sockets that came along. */
  sockets: { inode: number; address: unknown }[];
  /** The PID file when it arrived; null without one. */
  pidfile: string | null;
  /** The names in the store after it. */
  store: string[];
}

/** Options of {@linkcode ManagedService}. */
export interface ManagedOptions {
  /** The path of the PID file in the directory; null for a unit without one. @default "app.pid" */
  pidfile?: string | null;
  /** The program. @default "unit_service.ts" */
  program?: string;
  /** Further arguments of the manager. */
  manager?: string[];
}

/** A manager with a service, which it has started. */
export class ManagedService extends Generations {
  readonly control: string;
  readonly pidfile: string | undefined;
  /** All that the manager was told, as far as its lines were read. */
  readonly told: Told[] = [];

  constructor(directory: Directory, args: string[], options: ManagedOptions = {}) {
    const { pidfile = "app.pid", program = "unit_service.ts", manager = [] } = options;
    const control = directory.join("control.sock");
    const path = pidfile === null ? undefined : directory.join(pidfile);
    const command = [Deno.execPath(), "run", "-A", programPath(program), control];
    super("./service_manager.py", [
      directory.join("notify"),
      ...path === undefined ? [] : ["--pidfile", path],
      ...manager,
      "--",
      ...command,
      ...args,
    ], { command: "python3" });
    this.control = control;
    this.pidfile = path;
  }

  override async line(): Promise<string> {
    const line = await super.line();
    if (line.startsWith("notify: ")) this.told.push(JSON.parse(line.slice(8)));
    return line;
  }

  /** Reads lines until the manager is told something that matches. */
  async toldOf(wanted: RegExp | ((told: Told) => boolean)): Promise<Told> {
    for (;;) {
      await this.until(/^notify: /);
      const last = this.told.at(-1)!;
      if (typeof wanted === "function" ? wanted(last) : wanted.test(last.text)) return last;
    }
  }

  /** The same, if it has not been read already. */
  async heard(wanted: RegExp): Promise<Told> {
    return this.told.find(({ text }) => wanted.test(text)) ?? await this.toldOf(wanted);
  }

  /** Waits for a generation that is ready; returns its PID. */
  async serving(generation = 1): Promise<number> {
    const line = await this.until(new RegExp(`^serving: ${generation} `));
    return Number(line.split(" ")[2]);
  }

  /** Calls a command of the command line, which must succeed. */
  async command(name: string): Promise<void> {
    const { code, stderr } = await cli(name, this.control);
    assertEquals([code, stderr], [0, ""], name);
  }

  /** The number in the PID file. */
  get main(): number {
    return Number(readText(this.pidfile!));
  }

  /** The messages of a process that begin with a word. */
  of(pid: number, beginning: string): Told[] {
    return this.told.filter((each) => each.pid === pid && each.text.startsWith(beginning));
  }
}
