/**
 * The path of a control socket: it leads to nothing, a file of another kind, the file of a process that has ended, a
 * listener of another program, or a generation.
 *
 * @module
 */

import { isFileAt, type ListeningSocket } from "../../ffi/diag.ts";
import { closeRaw } from "../../ffi/fd.ts";
import { type FileStatus, openName, pathStatus } from "../../ffi/file.ts";
import { processStat } from "../../ffi/proc.ts";
import { escaped } from "../../ffi/quote.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { isBound } from "../../ffi/socket.ts";
import { HandoverError } from "../errors.ts";
import { Channel } from "../generation/channel.ts";
import type { GenerationStatus } from "../generation/protocol.ts";
import { expiring } from "../time.ts";
import { connect } from "../unix/conn.ts";
import { type Finding, note, ok, problem } from "./finding.ts";
import { describeProcess, holders, socketsOf } from "./processes.ts";

/** The path, and the socket that it leads to. */
export interface ControlSocketFacts {
  /** The absolute path. */
  path: string;
  /**
   * - `nothing`: there is no such path.
   * - `file`: it is no socket.
   * - `stale`: no process listens there.
   * - `closed`: this user may not connect.
   * - `silent`: a process listens there, and does not answer.
   * - `foreign`: a process listens there, which is no generation.
   * - `refusing`: a generation refuses this process.
   * - `generation`: it has answered.
   */
  kind:
    | "nothing"
    | "file"
    | "stale"
    | "closed"
    | "silent"
    | "foreign"
    | "refusing"
    | "generation";
  /** The file there. */
  file?: Pick<FileStatus, "uid" | "gid" | "mode">;
  /** The number of the process that answers, or listens, as this process sees it. */
  pid?: number;
  /** The inode of its socket. */
  inode?: number;
  /** The answer of the generation. */
  generation?: GenerationStatus;
}

type Answer = { kind: ControlSocketFacts["kind"]; why: string; status?: GenerationStatus };

/**
 * Looks at the path, and asks the process that listens there for its status.
 *
 * @param path An absolute path.
 * @param listeners Those of {@linkcode listeningSockets}, as far as they could be listed.
 */
export async function examineControlSocket(
  path: string,
  listeners: ListeningSocket[],
  timeout: number,
): Promise<{ facts: ControlSocketFacts; findings: Finding[] }> {
  const at = formatPath(path);
  const there = pathStatus(path);
  const start = "Start the service, or look for another path in its start()";
  if (!there && isHidden(path)) {
    const text = `This user may not look at ${at}: a directory of the path refuses it`;
    const findings = [problem("socket", text, "Run doctor as root, or as the user of the service")];
    return { facts: { path, kind: "closed" }, findings };
  }
  if (!there) {
    const directory = path.slice(0, path.lastIndexOf("/")) || "/";
    const why = pathStatus(directory)
      ? "a running service whose path was removed puts it back within 10 s"
      : `there is no directory ${formatPath(directory)}`;
    const findings = [problem("socket", `Nothing is at ${at}: ${why}`, start)];
    return { facts: { path, kind: "nothing" }, findings };
  }
  const file = { uid: there.uid, gid: there.gid, mode: there.mode };
  if (there.kind !== "socket") {
    const kind = there.kind === "regular" ? "file" : there.kind;
    const text = `A ${kind} is at ${at}, and no socket: start() fails there`;
    const findings = [problem("socket", text, "Move it away, or give start() another path")];
    return { facts: { path, kind: "file", file }, findings };
  }
  if (!isBound(path)) {
    const text = `No process listens at ${at}: the file is left of a process that has ended`;
    const findings = [problem("socket", text, "Start the service: it replaces the file")];
    return { facts: { path, kind: "stale", file }, findings };
  }
  const { kind, why, status } = await ask(path, timeout);
  const inodes = listeners.filter((each) => each.file && isFileAt(each.file, path, there))
    .map(({ inode }) => inode);
  const pid = holderOf(new Set(inodes), status?.pid);
  const facts: ControlSocketFacts = { path, kind, file, pid, inode: inodes[0] };
  if (!status) return { facts, findings: [unanswered(kind, at, why, pid)] };
  const findings = [generationFinding(status)];
  if (pid === undefined) {
    const text =
      `Process ${status.pid} is not seen here: it has another PID namespace, or its user ` +
      "hides it";
    findings.push(note("process", text, "Run doctor as root, beside the service"));
  }
  return { facts: { ...facts, generation: status }, findings };
}

/** Whether the permissions of a directory hide the file at a path. */
function isHidden(path: string): boolean {
  try {
    closeRaw(openName(path, ""));
    return false;
  } catch (error) {
    return error instanceof Deno.errors.PermissionDenied;
  }
}

async function ask(path: string, timeout: number): Promise<Answer> {
  using late = expiring(timeout, () => new Error(`no answer in ${timeout} ms`));
  const { signal } = late;
  try {
    using channel = new Channel(await connect(path, { signal }));
    await channel.tell({ type: "status" });
    const answer = await channel.receive({ signal });
    if (answer?.type === "report") return { kind: "generation", why: "", status: answer.status };
    if (answer?.type === "refused") return { kind: "refusing", why: answer.reason };
    return { kind: "foreign", why: answer ? `it answers "${answer.type}"` : "it hangs up" };
  } catch (error) {
    const { message } = error as Error;
    if (error === signal.reason) return { kind: "silent", why: message };
    if (error instanceof HandoverError) return { kind: "foreign", why: message };
    if (error instanceof Deno.errors.PermissionDenied) return { kind: "closed", why: message };
    // It has ended since the look at it.
    if (error instanceof Deno.errors.ConnectionRefused) return { kind: "stale", why: message };
    return { kind: "foreign", why: message };
  }
}

/** The process that answers: that of the status, if it is this very process here, else the only one with the socket. */
function holderOf(inodes: ReadonlySet<number>, reported: number | undefined): number | undefined {
  if (reported !== undefined && processStat(reported)) {
    const sockets = socketsOf(reported);
    // Sockets of another user's process are hidden.
    if (!sockets || inodes.size === 0 || !sockets.isDisjointFrom(inodes)) return reported;
  }
  const found = holders(inodes).filter((pid) => pid !== 1);
  return found.length === 1 ? found[0] : undefined;
}

/** The finding about a listener without a status. */
function unanswered(
  kind: ControlSocketFacts["kind"],
  at: string,
  why: string,
  pid: number | undefined,
): Finding {
  const listener = pid === undefined ? "A process" : describeProcess(pid).replace(/^p/, "P");
  const reason = escaped(why);
  switch (kind) {
    case "closed":
      return problem(
        "socket",
        `This user may not connect to ${at}`,
        "Run doctor as its user, or root",
      );
    case "stale":
      return problem("socket", `${listener} has ended at ${at} just now`, "Look again");
    case "refusing": {
      const text = `${listener} listens at ${at}, and refuses this one: ${reason}`;
      return problem("socket", text, "Run doctor as the user of the service, or change `allow`");
    }
    case "silent": {
      const isStopped = pid !== undefined && /^[tT]$/.test(processStat(pid)?.state ?? "");
      const text = isStopped
        ? `${listener} listens at ${at}, and was stopped (SIGSTOP)`
        : `${listener} listens at ${at}, and does not answer: its event loop is blocked, or it has no ` +
          "descriptor left";
      const advice = isStopped ? `Run \`kill -CONT ${pid}\`` : "Read its log, then restart it";
      return problem("socket", text, advice);
    }
    default: {
      const text = `${listener} listens at ${at}, and is no generation: ${reason}`;
      return problem("socket", text, "End it, or give start() another path");
    }
  }
}

/** The finding about the generation that answers. */
function generationFinding(status: GenerationStatus): Finding {
  const { generation, pid, state, since, service, predecessor } = status;
  const named = service === undefined ? "" : ` of service "${escaped(service)}"`;
  const before = predecessor
    ? `; generation ${predecessor.generation}, process ${predecessor.pid}, drains, ` +
      `connections left: ${predecessor.connections}`
    : "";
  const text = `Generation ${generation}${named}, process ${pid}, is ${state} since ` +
    `${new Date(since).toISOString()}${before}`;
  switch (state) {
    case "serving":
      return ok("generation", text);
    case "starting":
      return note("generation", text, "Clients wait until the program calls ready()");
    case "draining":
    case "stopped":
      return note("generation", text, "Start the service: no generation accepts");
    default:
      return note("generation", `${text}: a handover is under way`);
  }
}
