/**
 * The units of examples/systemd under a real systemd, with a program that the test chooses.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { type Output, Systemd } from "../support/systemd.ts";
import { soon } from "../support/until.ts";
import { Clients, type Figures } from "./systemd_clients.ts";

const project = new URL("../../", import.meta.url);

/** The port of the example. */
export const port = 8000;

/** How long the previous generation stands by, in milliseconds: longer than the latest kill after `ready()`. */
export const probation = 1500;

/** A unit file of examples/systemd. */
export function exampleUnit(path: string): string {
  return Deno.readTextFileSync(new URL(`examples/systemd/${path}`, project));
}

/** The unit files of a scenario: their names, and their texts. */
export type Units = Record<string, string>;

/** A drop-in with these settings of `[Service]`. */
export function dropIn(...settings: string[]): string {
  return `[Service]\n${settings.join("\n")}\n`;
}

/** A program that takes the place of the example, /srv/app/main.ts. */
const programs = {
  /** The example, with a copy of the library beside it. */
  example: () =>
    Deno.readTextFileSync(new URL("examples/systemd/main.ts", project))
      .replace('"../../mod.ts"', '"./graceful/mod.ts"'),
  /** With `restartAsMain: true`. */
  asMain: () => programs.example().replace("probation:", "restartAsMain: true, $&"),
  /** A release that fails before it is ready. */
  throws: () => 'throw new Error("This release is broken");\n',
  /** Kills itself as soon as it is ready, as often as the file /srv/app/crashes has bytes. */
  crashes: () =>
    programs.example().replace(
      "await app.ready();\n",
      `$&
const crashes = Deno.readFileSync("/srv/app/crashes");
if (crashes.length > 0) {
  Deno.writeFileSync("/srv/app/crashes", crashes.subarray(1));
  Deno.writeTextFileSync("/srv/app/crash-times", Date.now() + " ", { append: true });
  Deno.kill(Deno.pid, "SIGKILL");
}
`,
    ),
};

/** A systemd, and the folder that is /srv/app there: main.ts and, as graceful/, the project. */
export class Bed implements AsyncDisposable {
  readonly systemd: Systemd;
  readonly #app: Directory;
  /** When the scenario began. */
  #began = 0;

  private constructor(systemd: Systemd, app: Directory) {
    this.systemd = systemd;
    this.#app = app;
  }

  /** Boots. @param tree The root of another installation. */
  static async boot({ tree, limit }: { tree?: string; limit?: number } = {}): Promise<Bed> {
    const app = new Directory();
    // A user of DynamicUser= has to read it.
    Deno.chmodSync(app.path, 0o755);
    const binds = {
      "/usr/bin/deno": Deno.execPath(),
      "/srv/app": app.path,
      "/srv/app/graceful": project.pathname.replace(/\/$/, ""),
    };
    const systemd = await Systemd.boot({ tree, binds, limit });
    return new Bed(systemd, app);
  }

  /**
   * Writes the units and the example, starts a unit, and loads it with clients once it is ready.
   *
   * @param slow How long the slow requests take, in milliseconds.
   */
  async begin(units: Units, unit: string, slow = 1500): Promise<Service> {
    this.#began = Date.now();
    this.program("example");
    await this.systemd.write(units);
    if ("app.socket" in units) await this.systemd.systemctl("start", "app.socket");
    await this.systemd.systemctl("start", unit);
    if (!Object.values(units).some((text) => text.includes("Type=notify"))) {
      // systemd does not know when it serves.
      const connect = ["bash", "-c", `: < /dev/tcp/127.0.0.1/${port}`];
      await soon(async () => (await this.systemd.run(...connect)).code === 0);
    }
    return new Service(this, unit, slow);
  }

  /** Changes the program, for the generations that start from now on. */
  program(name: keyof typeof programs, crashes = 0): void {
    Deno.writeFileSync(this.#app.join("crashes"), new Uint8Array(crashes));
    Deno.writeTextFileSync(this.#app.join("crash-times"), "");
    Deno.writeTextFileSync(this.#app.join("main.ts"), programs[name]());
  }

  /** The journal of a unit since the scenario began. */
  async journal(unit: string): Promise<string> {
    return await this.systemd.journal(unit, this.#began);
  }

  /** When the program "crashes" has killed itself, in milliseconds of Date.now(). */
  crashTimes(): number[] {
    const text = Deno.readTextFileSync(this.#app.join("crash-times"));
    return text.trim().split(" ").map(Number);
  }

  /** Ends all that a scenario has started, and removes its units. */
  async clean(): Promise<void> {
    const units = ["app.socket", "app.service", "app@a.service", "app@b.service"];
    await this.systemd.run("systemctl", "kill", "--signal=KILL", ...units);
    await this.systemd.run("systemctl", "stop", ...units);
    await this.systemd.removeUnits();
    await this.systemd.run("systemctl", "reset-failed");
    await this.systemd.run("rm", "-rf", "/run/app");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.systemd[Symbol.asyncDispose]();
    this.#app[Symbol.dispose]();
  }
}

/** What a scenario has found. */
export interface Result extends Figures {
  /** Processes of the unit that are left. */
  left: number;
  /** Whether MainPID is the process that is left, or 0 where none is. */
  isMain: boolean;
  /** NRestarts of the unit. */
  restarts: number;
}

/** A unit that runs, and its clients. */
export class Service implements AsyncDisposable {
  readonly clients: Clients;
  readonly #known: number[] = [];

  constructor(readonly bed: Bed, public unit: string, slow: number) {
    this.clients = new Clients(bed.systemd, port, slow);
  }

  /** Waits for the first answer of a process that has not answered yet: it has called `ready()`. */
  async nextAnswers(): Promise<number> {
    const inner = await this.clients.answeredByOther(...this.#known);
    this.#known.push(inner);
    return inner;
  }

  /** Runs `systemctl COMMAND` for the unit, to its end. */
  async control(command: string): Promise<Output> {
    return await this.bed.systemd.run("systemctl", command, this.unit);
  }

  /** Runs `systemctl COMMAND` for the unit; throws when it fails. */
  async succeed(command: string): Promise<void> {
    await this.bed.systemd.systemctl(command, this.unit);
  }

  /** MainPID of the unit, 0 for none. */
  async mainPid(): Promise<number> {
    return Number(await this.bed.systemd.property(this.unit, "MainPID"));
  }

  /** NRestarts of the unit. */
  async restarts(): Promise<number> {
    return Number(await this.bed.systemd.property(this.unit, "NRestarts"));
  }

  /** The processes of the unit, by their numbers inside. */
  processes(): number[] {
    return this.bed.systemd.processes(this.unit).map(({ inner }) => inner);
  }

  /** Waits until a process is the only one of the unit, and its main process. */
  async alone(inner: number): Promise<void> {
    await soon(async () => {
      const all = this.processes();
      return all.length === 1 && all[0] === inner && await this.mainPid() === inner;
    });
  }

  /** Waits until the unit is in a state, such as "inactive". */
  async becomes(state: string): Promise<void> {
    await soon(async () => await this.bed.systemd.property(this.unit, "ActiveState") === state);
  }

  /** Stops the clients, and looks at what is left of the unit. */
  async result(): Promise<Result> {
    const figures = await this.clients.stop();
    const all = this.processes();
    const main = await this.mainPid();
    return {
      ...figures,
      left: all.length,
      isMain: main === (all.length === 1 ? all[0] : 0),
      restarts: await this.restarts(),
    };
  }

  /** Reloads, and waits until the previous generation has left; the new one is alone, and the main process. */
  async reload(): Promise<number> {
    const reloading = this.control("reload");
    const next = await this.nextAnswers();
    const { code, stderr } = await reloading;
    assertEquals([code, stderr], [0, ""], "systemctl reload");
    await this.alone(next);
    return next;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.clients[Symbol.asyncDispose]();
  }
}
