/**
 * Units whose processes do what a test tells them, without the library: `programs/systemd_actor.py`.
 *
 * @module
 */

import { Directory } from "../support/directory.ts";
import { Systemd } from "../support/systemd.ts";
import { soon } from "../support/until.ts";

/** The program that runs an actor, in every installation. */
export const python = "/usr/bin/python3";

/** A descriptor that systemd has passed to an actor. */
export interface Passed {
  name: string;
  blocking: boolean;
  cloexec: boolean;
  inode: number;
}

/** A process of a unit. */
export class Actor {
  constructor(readonly path: string, readonly name: string) {}

  /** Has the process run a command; waits until it listens. */
  async ask(command: string, ...args: unknown[]): Promise<unknown> {
    let conn: Deno.Conn | undefined;
    await soon(async () => {
      try {
        conn = await Deno.connect({ transport: "unix", path: `${this.path}/${this.name}` });
      } catch (error) {
        const { NotFound, ConnectionRefused } = Deno.errors;
        if (!(error instanceof NotFound || error instanceof ConnectionRefused)) throw error;
      }
      return conn !== undefined;
    });
    using connected = conn!;
    await connected.write(new TextEncoder().encode(`${JSON.stringify([command, ...args])}\n`));
    const answer = await new Response(connected.readable).text();
    // A process that ends by the command does not answer.
    return answer === "" ? undefined : JSON.parse(answer);
  }

  /** sd_notify(3), with the descriptors that it keeps under these names. */
  async notify(text: string, ...names: string[]): Promise<void> {
    await this.ask("notify", text, ...names);
  }

  /** Its number inside. */
  async pid(): Promise<number> {
    return await this.ask("pid") as number;
  }

  /** The descriptors that systemd has passed to it. */
  async passed(): Promise<Passed[]> {
    return await this.ask("passed") as Passed[];
  }

  /** When it got SIGTERM, in seconds; empty if it has not ended by that. */
  terms(): number[] {
    try {
      return JSON.parse(Deno.readTextFileSync(`${this.path}/${this.name}.terms`));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }
}

/** A rule of systemd. */
export interface Fact {
  rule: string;
  check: (stage: Stage) => Promise<void>;
}

/** A systemd whose units are actors. */
export class Stage implements AsyncDisposable {
  readonly #directory: Directory;

  private constructor(readonly systemd: Systemd, directory: Directory) {
    this.#directory = directory;
  }

  /** Boots. @param tree The root of another installation, with Python. */
  static async boot(
    { tree }: { tree?: string } = {},
  ): Promise<Stage> {
    const directory = new Directory();
    const program = new URL("../programs/systemd_actor.py", import.meta.url).pathname;
    Deno.copyFileSync(program, directory.join("actor.py"));
    const systemd = await Systemd.boot({ tree, binds: { [directory.path]: directory.path } });
    return new Stage(systemd, directory);
  }

  /** A directory with the same path inside and outside. */
  get path(): string {
    return this.#directory.path;
  }

  /** A process of that name, which a unit or another actor starts. */
  actor(name: string): Actor {
    return new Actor(this.path, name);
  }

  /** Writes NAME.service, Type=notify and NotifyAccess=all unless `settings` say otherwise; starts it, and has it say READY=1. */
  async start(
    name: string,
    settings: string[] = [],
    { sockets, unit = [] }: { sockets?: Record<string, string[]>; unit?: string[] } = {},
  ): Promise<Actor> {
    const service = [
      "[Unit]",
      ...unit,
      "[Service]",
      "Type=notify",
      "NotifyAccess=all",
      `ExecStart=${python} ${this.path}/actor.py ${this.path} ${name}`,
      ...settings,
    ];
    const files = { [`${name}.service`]: `${service.join("\n")}\n` };
    for (const [socket, lines] of Object.entries(sockets ?? {})) {
      files[socket] = `[Socket]\n${lines.join("\n")}\n`;
    }
    await this.systemd.write(files);
    for (const socket of Object.keys(sockets ?? {})) await this.systemd.systemctl("start", socket);
    await this.systemd.systemctl("start", "--no-block", `${name}.service`);
    const actor = this.actor(name);
    await actor.notify("READY=1");
    await this.is(name, "ActiveState", "active");
    return actor;
  }

  /** Waits until a property of NAME.service has a value. */
  async is(name: string, property: string, value: string): Promise<void> {
    await soon(async () => await this.property(name, property) === value);
  }

  /** A property of NAME.service. */
  async property(name: string, property: string): Promise<string> {
    return await this.systemd.property(`${name}.service`, property);
  }

  /** Waits until systemd has read all messages to NAME.service so far: they are read in their order. */
  async heard(name: string, actor: Actor): Promise<void> {
    const status = crypto.randomUUID();
    await actor.notify(`STATUS=${status}`);
    await this.is(name, "StatusText", status);
  }

  /** Kills the main process with SIGKILL; waits until another one runs and is ready. */
  async crash(name: string, actor: Actor): Promise<void> {
    const before = await actor.pid();
    this.systemd.kill(`${name}.service`, before, "SIGKILL");
    await soon(async () => {
      const main = Number(await this.property(name, "MainPID"));
      return main !== 0 && main !== before;
    });
    await actor.notify("READY=1");
    await this.is(name, "ActiveState", "active");
  }

  /** Runs `systemctl stop`; resolves to how many milliseconds it took. */
  async stop(name: string): Promise<number> {
    const began = performance.now();
    await this.systemd.systemctl("stop", `${name}.service`);
    return performance.now() - began;
  }

  /** Whether systemd has complained that the main process is not its child. */
  async isAlien(name: string): Promise<boolean> {
    return (await this.systemd.journal(`${name}.service`)).includes("which is not our child");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.systemd[Symbol.asyncDispose]();
    this.#directory[Symbol.dispose]();
  }
}
