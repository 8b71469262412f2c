/**
 * Finds out whether the end of this process would also end the next generation: it is the main process of a container or
 * of a systemd unit, or runs under `deno run --watch`.
 *
 * @module
 */

import { readText } from "../../ffi/file.ts";
import {
  commandLine,
  oldestChild,
  type ProcessStat,
  processStat,
  variable,
} from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { notifyVariable } from "../systemd/notify.ts";
import { isWatched } from "./watch.ts";

/** The reason why this process must not be replaced. */
export interface SharedFate {
  /**
   * "container": all processes of its PID namespace end with it. "unit": all those of its systemd unit do. "watcher":
   * it does not end, and runs the program again.
   */
  of: "container" | "unit" | "watcher";
  /** The reason, and advice: the rest of a sentence about the process. */
  why: string;
}

/**
 * The reason why this process must not be replaced; undefined when none is known.
 *
 * @param isStarted Whether `restart()` has started this process: it is not a main process then.
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
        "runs under `deno run --watch`, whose process stays when its generation has stopped, and runs the program " +
        "again at the next change: save a file in place of a restart",
    };
  }
  if (isStarted) return undefined;
  const chain = waitingAncestors();
  const top = chain.at(-1)!;
  if (top.parent === 1 && isWaitedForByInit(top)) {
    return container(
      `is the process that process 1 of its container, ${
        quoted(namesOf(1)[0])
      }, seems to wait for: when it ends, process 1 does, and ` +
        "the kernel ends all others there",
    );
  }
  // Of a unit with NOTIFY_SOCKET the next generation becomes the main process: see `service_manager.ts`. INVOCATION_ID
  // alone is not enough: all processes of a unit inherit it, those in the terminal of a desktop for example.
  const isOfUnit = variable("INVOCATION_ID") !== undefined &&
    (variable(notifyVariable) ?? "") === "" && mainProcess() !== undefined;
  return isOfUnit ? unit(chain.length > 1) : undefined;
}

function container(why: string): SharedFate {
  return {
    of: "container",
    why:
      `${why}. Run the service under \`cli.ts hold PATH -- command\`, which stays when the service is replaced, or ` +
      `start the next release in a container of its own. ${override}`,
  };
}

const override = "The option `restartAsMain: true` allows it all the same";

/** @param isWaitedFor Whether systemd has started an ancestor of this process, which waits for it. */
function unit(isWaitedFor: boolean): SharedFate {
  const is = isWaitedFor
    ? "is the process that the main process of a systemd unit seems to wait for: when it ends, the main process does, " +
      "and systemd ends all others of the unit"
    : "is the main process of a systemd unit: when it ends, systemd ends all others of the unit";
  return {
    of: "unit",
    why:
      `${is}. Write Type=notify, NotifyAccess=all, PIDFile=/run/app/app.pid, RuntimeDirectory=app and ` +
      "ExecReload=… cli.ts restart /run/app/app.sock into its [Service]: `systemctl reload` then restarts it. Or give " +
      "every generation a unit of its own: with a template `app@.service`, `systemctl start app@b` takes over from " +
      `app@a. ${override}`,
  };
}

/**
 * The process that a service manager has started as the main one of a unit, if it is this process or an ancestor that waits
 * for it. All processes of a unit inherit its environment: a helper that a service starts does not speak for the unit.
 * SYSTEMD_EXEC_PID, from systemd 248 on, is the main process (systemd.exec(5)). It is not passed into a container: the
 * main process there is process 1, or the child that an init program waits for.
 */
export function mainProcess(): number | undefined {
  const chain = waitingAncestors();
  const main = variable("SYSTEMD_EXEC_PID");
  if (main !== undefined) return chain.find(({ pid }) => pid === Number(main))?.pid;
  const top = chain.at(-1)!;
  const { pid, parent } = top;
  if (pid === 1 || parent === 1 && isWaitedForByInit(top)) return pid;
  const isOfSystemd = processStat(parent)?.name === "systemd" &&
    isInService(readText("/proc/self/cgroup") ?? "");
  return isOfSystemd ? pid : undefined;
}

/** A process of the chain from this one to the outermost waiting ancestor. */
interface ChainedProcess {
  pid: number;
  parent: number;
  session: number;
}

/** This process, and its ancestors that end when their child does: `sh -c`, npm. */
function waitingAncestors(): ChainedProcess[] {
  const chain: ChainedProcess[] = [];
  for (let pid: number | "self" = "self";;) {
    const stat: ProcessStat | undefined = processStat(pid);
    const { parent = 0, session = 0 } = stat ?? {};
    chain.push({ pid: pid === "self" ? Deno.pid : pid, parent, session });
    if (parent <= 1 || !waitsForChild(parent)) return chain;
    pid = parent;
  }
}

/**
 * Whether process 1 ends when its child does. Orphans become children of process 1 as well: an init program has started
 * only the oldest child; of another program, the child it has started is of the same session.
 */
function isWaitedForByInit({ pid, session }: ChainedProcess): boolean {
  if (namesOf(1).some((name) => inits.includes(name))) return oldestChild(1) === pid;
  return waitsForChild(1) && processStat(1)?.session === session;
}

/** Init programs for containers: they start one process, and end when it does. */
const inits = ["tini", "tini-static", "docker-init", "podman-init", "dumb-init", "catatonit"];

/** Whether a process waits for its child and then ends; false for programs that are not in these lists. */
function waitsForChild(pid: number): boolean {
  const [, ...args] = commandLine(pid) ?? [];
  const names = namesOf(pid);
  const is = (known: string[]) => names.some((name) => known.includes(name));
  // A shell without a script or `-c` reads commands, in a terminal for example: it stays after a command.
  if (is(["sh", "dash", "bash", "ash", "ksh", "zsh"])) {
    return args.some((arg) => !arg.startsWith("-"));
  }
  if (is(["npm", "npx", "yarn", "pnpm", "su", "sudo", "runuser", "timeout"])) return true;
  if (is(["deno"])) return args[0] === "task";
  return is(["node"]) && /(^|\/)(npm|npx|yarn|pnpm|deno)(-cli)?(\.[cm]?js)?$/.test(args[0] ?? "");
}

/** The name of a process, and of its program: of a script, also that of the shell that reads it. */
function namesOf(pid: number): string[] {
  const name = processStat(pid)?.name ?? "";
  const [title = ""] = commandLine(pid) ?? [];
  // "npm run start" is one name, "-bash" a shell of a login.
  return [name, title].map((each) => each.split(" ")[0].replace(/^.*\/|^-/g, ""));
}

/** Whether the process of these cgroups belongs to a service, not to a scope: desktop sessions and programs are scopes (cgroups(7)). */
export function isInService(groups: string): boolean {
  return groups.split("\n").some((group) =>
    group.endsWith(".service") && !/\/user@\d+\.service$/.test(group)
  );
}
