/**
 * Whether the end of this process ends everything around it, and with that the next generation.
 *
 * @module
 */

import { readText } from "../../ffi/file.ts";
import {
  commandLine,
  environment,
  oldestChild,
  type ProcessStat,
  processStat,
} from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { isWatched } from "./watch.ts";

/** What ends with this process. */
export interface SharedFate {
  /** All processes of its PID namespace, or those of its unit of systemd; or it does not end itself. */
  of: "container" | "unit" | "watcher";
  /** Why, and what to do instead: what is to be said of the process. */
  why: string;
}

/**
 * Tells what ends with this process; undefined where nothing is known to.
 *
 * @param isStarted Whether `restart()` has started this process: then it is none that others were started for.
 */
export function sharedFate(isStarted: boolean): SharedFate | undefined {
  if (Deno.pid === 1) {
    return container(
      "is process 1 of its container (PID namespace): when it ends, the kernel ends all others there",
    );
  }
  if (isWatched()) {
    return {
      of: "watcher",
      why:
        "runs under `deno run --watch`, whose process stays when its generation has left, and runs the program " +
        "again at the next change: save a file in place of a restart",
    };
  }
  if (isStarted) return undefined;
  const chain = waiting();
  const top = chain.at(-1)!;
  if (top.parent === 1 && endsWith(top)) {
    return container(
      `is what process 1 of its container, ${
        quoted(namesOf(1)[0])
      }, seems to wait for: when it ends, that one does, and ` +
        "with it the kernel ends all others there",
    );
  }
  return isOfUnit(chain) ? unit(chain.length > 1) : undefined;
}

function container(why: string): SharedFate {
  return {
    of: "container",
    why:
      `${why}. Start the next release in a container of its own, or run the service under an init process ` +
      `that stays when the service is replaced. ${otherwise}`,
  };
}

const otherwise = "The option `restartAsMain: true` has it done all the same";

/** @param waits Whether it is the parent of this process that systemd has started. */
function unit(waits: boolean): SharedFate {
  const is = waits
    ? "is what the main process of a systemd unit seems to wait for: when it ends, that one does, and systemd ends all " +
      "others of the unit"
    : "is the main process of a systemd unit: when it ends, systemd ends all others of the unit";
  return {
    of: "unit",
    why: `${is}. Give every generation a unit of its own: with a template \`app@.service\`, ` +
      `\`systemctl start app@b\` takes over from app@a. ${otherwise}`,
  };
}

/** A process, and its parent. */
interface Started {
  pid: number;
  parent: number;
  session: number;
}

/** This process, and those above it that end when the one before in this list has: of `sh -c`, of npm. */
function waiting(): Started[] {
  const chain: Started[] = [];
  for (let pid: number | "self" = "self";;) {
    const stat: ProcessStat | undefined = processStat(pid);
    const { parent = 0, session = 0 } = stat ?? {};
    chain.push({ pid: pid === "self" ? Deno.pid : pid, parent, session });
    if (parent <= 1 || !waits(parent)) return chain;
    pid = parent;
  }
}

/**
 * Whether process 1 ends when its child has. Any process whose parent has ended becomes a child of it, too: those
 * that are made for that start one process, the first; of others it is asked whether that is of the same session.
 */
function endsWith({ pid, session }: Started): boolean {
  if (namesOf(1).some((name) => inits.includes(name))) return oldestChild(1) === pid;
  return waits(1) && processStat(1)?.session === session;
}

/** Programs to be process 1 of a container, which start one process and end when that has. */
const inits = ["tini", "tini-static", "docker-init", "podman-init", "dumb-init", "catatonit"];

/** Whether a process waits for its child, and ends with it; false for programs that are not known here. */
function waits(pid: number): boolean {
  const [, ...args] = commandLine(pid) ?? [];
  const names = namesOf(pid);
  const is = (known: string[]) => names.some((name) => known.includes(name));
  // Without a script, or `-c` and a command, a shell reads what to do: in a terminal, one command after the other.
  if (is(["sh", "dash", "bash", "ash", "ksh", "zsh"])) {
    return args.some((arg) => !arg.startsWith("-"));
  }
  if (is(["npm", "npx", "yarn", "pnpm", "su", "sudo", "runuser", "timeout"])) return true;
  if (is(["deno"])) return args[0] === "task";
  return is(["node"]) && /(^|\/)(npm|npx|yarn|pnpm|deno)(-cli)?(\.[cm]?js)?$/.test(args[0] ?? "");
}

/** What a process calls itself, and what its program is called: a script, or the shell that reads it. */
function namesOf(pid: number): string[] {
  const name = processStat(pid)?.name ?? "";
  const [title = ""] = commandLine(pid) ?? [];
  // "npm run start" is one name, "-bash" a shell of a login.
  return [name, title].map((each) => each.split(" ")[0].replace(/^.*\/|^-/g, ""));
}

/**
 * A plain unit of systemd: when its main process ends, the others are killed. One whose main process may tell of
 * another (NOTIFY_SOCKET) is none. INVOCATION_ID alone says little: all that a unit starts inherits it, in a
 * terminal of a desktop for example. SYSTEMD_EXEC_PID, of version 248, is the main process (systemd.exec(5)).
 */
function isOfUnit(chain: Started[]): boolean {
  const variables = environment();
  if (!variables?.has("INVOCATION_ID") || variables.has("NOTIFY_SOCKET")) return false;
  const main = variables.get("SYSTEMD_EXEC_PID");
  if (main !== undefined) return chain.some(({ pid }) => pid === Number(main));
  const { parent } = chain.at(-1)!;
  return processStat(parent)?.name === "systemd" && isInService();
}

/** Whether it is of a service, not of a scope, as sessions and programs of a desktop are (cgroups(7)). */
function isInService(): boolean {
  const groups = readText("/proc/self/cgroup")?.split("\n") ?? [];
  return groups.some((group) => group.endsWith(".service") && !/\/user@\d+\.service$/.test(group));
}
