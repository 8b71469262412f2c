/**
 * A real systemd as PID 1 of new namespaces: its units, its journal, and commands that run inside.
 *
 * Inside, the files are those of the machine, or of another installation, and changes to them are dropped; the
 * processes, the network (lo alone), the cgroups and /tmp are systemd's own. Clients of a service have to run
 * inside as well. `systemd.sh` has the mounts.
 *
 * @module
 */

import { Directory } from "./directory.ts";
import { errorOf } from "./deno_versions.ts";
import { soon } from "./until.ts";

/** How a command ended. */
export interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

/** A process of a unit. */
export interface UnitProcess {
  /** Its number outside: that of Deno.kill(). */
  pid: number;
  /** Its number inside: that of systemd, and of its own Deno.pid. */
  inner: number;
}

/** The options of {@linkcode Systemd.boot}. */
export interface BootOptions {
  /** The root of another installation. @default {"/"} */
  tree?: string;
  /** Files and directories that are seen inside: their path there, and their path outside. */
  binds?: Record<string, string>;
  /** When everything ends, in seconds. @default {120} */
  limit?: number;
}

const script = new URL("systemd.sh", import.meta.url).pathname;

/** The environment of commands inside: nothing of the test's own. */
const environment = [
  "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  "HOME=/root",
  "LANG=C.UTF-8",
  "NO_COLOR=1",
  "SYSTEMD_PAGER=",
];

/** A running systemd; the end of its block kills all processes inside, and drops its files. */
export class Systemd implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #directory: Directory;
  readonly #pid: number;
  readonly #cgroup: string;

  private constructor(
    process: Deno.ChildProcess,
    directory: Directory,
    [pid, cgroup]: string[],
  ) {
    this.#process = process;
    this.#directory = directory;
    this.#pid = Number(pid);
    this.#cgroup = cgroup;
  }

  /** Boots. @throws {Error} With the first line of the log of the boot, when systemd does not run. */
  static async boot(
    { tree = "/", binds = {}, limit = 120 }: BootOptions = {},
  ): Promise<Systemd> {
    const directory = new Directory();
    for (const name of ["units", "boot"]) Deno.mkdirSync(directory.join(name));
    const all = { "/run/units": directory.join("units"), ...binds };
    const pairs = Object.entries(all).map(([inside, outside]) => `${outside}:${inside}`);
    const process = new Deno.Command("bash", {
      args: [script, tree, directory.join("boot"), String(limit), ...pairs],
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const reader = process.stdout.getReader();
    const { value } = await reader.read();
    await reader.cancel();
    const line = new TextDecoder().decode(value).trim();
    if (line === "") {
      await process.stdin.close().catch(() => {}); // The script may have ended: EPIPE.
      await process.status;
      const log = Deno.readTextFileSync(`${directory.path}/boot/log`).split("\n")[0];
      directory[Symbol.dispose]();
      throw new Error(`systemd does not boot in namespaces: ${log || "no reason is in its log"}`);
    }
    const systemd = new Systemd(process, directory, line.split(" "));
    let state = "";
    try {
      await soon(async () => {
        state = (await systemd.run("systemctl", "is-system-running")).stdout.trim();
        return state === "running" || state === "degraded";
      });
    } catch (error) {
      await systemd[Symbol.asyncDispose]();
      throw new Error(`systemd boots in namespaces, but stays "${state}"`, { cause: error });
    }
    return systemd;
  }

  /** The arguments of a command line that runs `command` inside. */
  enter(...command: string[]): string[] {
    // --root: in a chroot, the root of the mount namespace is not that of systemd.
    const namespaces = ["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net"];
    // The root of systemd: that of its mount namespace is another one where this process is in a chroot.
    const nsenter = ["nsenter", "--target", String(this.#pid), ...namespaces, "--root"];
    return [...nsenter, "--", "env", "--chdir=/", "-i", ...environment, ...command];
  }

  /** Runs a command inside to its end. */
  async run(...command: string[]): Promise<Output> {
    const [program, ...args] = this.enter(...command);
    const options = { args, stdin: "null", stdout: "piped", stderr: "piped" } as const;
    const { code, stdout, stderr } = await new Deno.Command(program, options).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, stdout: decode(stdout), stderr: decode(stderr) };
  }

  /** Runs `systemctl`; throws when it fails. */
  async systemctl(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run("systemctl", ...args);
    if (code === 0) return stdout.trim();
    throw new Error(`systemctl ${args.join(" ")} ended with ${code}: ${stdout}${stderr}`);
  }

  /** A property of a unit, such as "MainPID" (org.freedesktop.systemd1(5)). */
  async property(unit: string, name: string): Promise<string> {
    return await this.systemctl("show", "--value", "--property", name, unit);
  }

  /** The journal of a unit, a line a message; from a time on, in milliseconds of Date.now(). */
  async journal(unit: string, since = 0): Promise<string> {
    const options = ["--quiet", "--output=cat", `--since=@${since / 1000}`, "--unit", unit];
    return (await this.run("journalctl", ...options)).stdout;
  }

  /** Writes unit files, such as `{ "app.service": "[Service]...", "app.service.d/a.conf": ... }`, and loads them. */
  async write(files: Record<string, string>): Promise<void> {
    for (const [name, text] of Object.entries(files)) {
      const path = this.#directory.join(`units/${name}`);
      Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
      Deno.writeTextFileSync(path, text);
    }
    await this.systemctl("daemon-reload");
  }

  /** Removes all unit files that were written. */
  async removeUnits(): Promise<void> {
    const units = this.#directory.join("units");
    for (const { name } of [...Deno.readDirSync(units)]) {
      Deno.removeSync(`${units}/${name}`, { recursive: true });
    }
    await this.systemctl("daemon-reload");
  }

  /** The processes of a unit, such as app.service or app@a.service, by its cgroup; zombies are not in there. */
  processes(unit: string): UnitProcess[] {
    const found: UnitProcess[] = [];
    for (const pid of read(`${this.#cgroupOf(unit)}/cgroup.procs`).split("\n").filter(Boolean)) {
      // proc_pid_status(5): the numbers in the namespaces from the outermost to the innermost.
      const [, inner] = /^NSpid:.*\t(\d+)$/m.exec(read(`/proc/${pid}/status`)) ?? [];
      if (inner) found.push({ pid: Number(pid), inner: Number(inner) });
    }
    return found;
  }

  /** Sends a signal to a process, by its number inside; does nothing when it has ended. */
  kill(unit: string, inner: number, signal: Deno.Signal): void {
    const found = this.processes(unit).find((process) => process.inner === inner);
    if (!found) return;
    try {
      Deno.kill(found.pid, signal);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stdin.close().catch(() => {}); // After the limit the script has ended: EPIPE.
    await this.#process.status;
    this.#directory[Symbol.dispose]();
  }

  #cgroupOf(unit: string): string {
    const [template] = /^[^@]*(?=@)/.exec(unit) ?? [];
    const slice = template === undefined ? "" : `system-${template}.slice/`;
    return `${this.#cgroup}/system.slice/${slice}${unit}`;
  }
}

/** A file of the kernel; "" when the process or the cgroup has gone, which may happen between two calls. */
function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    // ESRCH of /proc, and ENODEV of a cgroup, have no class in Deno.
    if (error instanceof Deno.errors.NotFound || /os error (3|19)\)/.test(String(error))) return "";
    throw error;
  }
}

/** The reason why no systemd can be booted here; undefined when it can. Installs systemd where it is missing. */
export async function systemdMissing(tree = "/"): Promise<string | undefined> {
  if (Deno.build.os !== "linux") return "this system is not Linux";
  if (Deno.uid() !== 0) return "only root can create namespaces and cgroups";
  if (!/ cgroup2 /.test(read("/proc/self/mounts"))) return "no cgroup 2 is mounted";
  for (const program of ["bash", "unshare", "nsenter", "timeout"]) {
    if (await errorOf(program, "--version") !== undefined) return `${program} is not installed`;
  }
  const binary = `${tree}/lib/systemd/systemd`;
  if (read(binary) === "" && tree === "/") {
    // Other test files may do the same at this time: wait for their lock.
    const lock = ["-o", "DPkg::Lock::Timeout=120"];
    const install = ["install", "-y", "-qq", "--no-install-recommends", "systemd"];
    const failed = await errorOf("apt-get", ...lock, ...install) === undefined
      ? undefined
      : await errorOf("apt-get", ...lock, "update") ??
        await errorOf("apt-get", ...lock, ...install);
    if (failed !== undefined) return `systemd is not installed, nor can be: ${failed}`;
  }
  if (read(binary) === "") return `there is no ${binary}`;
  try {
    await using _systemd = await Systemd.boot({ tree, limit: 20 });
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
