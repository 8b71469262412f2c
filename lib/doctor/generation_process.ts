/**
 * The process of a generation: its limits, the descriptors that were passed to it, and the processes around it.
 *
 * @module
 */

import type { ListeningSocket } from "../../ffi/diag.ts";
import { commandLine, descriptorLimit, environment, processStat } from "../../ffi/proc.ts";
import { type Finding, note, ok, warning } from "./finding.ts";
import { controlGroup, describeProcess, descriptorsOf, processes, socketsOf } from "./processes.ts";

/** The process, its limit, and the processes around it. */
export interface ProcessFacts {
  pid: number;
  /** Its parent. */
  parent?: number;
  /** The number of its open descriptors, and the limit. */
  descriptors?: number;
  limit?: number;
  /** Ended processes that their parent, this one, has not waited for. */
  zombies: number[];
  /** Further processes with the same listeners, or of the same program in the same unit. */
  others: number[];
}

/** The part of the limit of descriptors from which on a warning is given. */
const mostUsed = 0.8;

/** The number of the generation that answers, and that of its predecessor's process. */
export interface Answering {
  generation: number;
  predecessor?: { pid: number };
}

/**
 * The findings about the process `pid` of a generation.
 *
 * @param answering Undefined where it does not answer.
 */
export function examineProcess(
  pid: number,
  answering: Answering | undefined,
  listeners: ListeningSocket[] | undefined,
): { facts: ProcessFacts; findings: Finding[] } {
  const findings: Finding[] = [];
  const descriptors = descriptorsOf(pid)?.length;
  const limit = descriptorLimit(pid);
  if (descriptors !== undefined && limit !== undefined) {
    findings.push(descriptorFinding(descriptors, limit));
  } else {
    const text = `The descriptors of process ${pid} cannot be read`;
    findings.push(note("process", text, "Run doctor as root, or as the user of the service"));
  }
  const variables = environment(pid);
  const passed = variables && answering &&
    passedFinding(variables, pid, answering.generation);
  if (passed) findings.push(passed);
  const zombies = zombiesOf(pid);
  if (zombies.length > 0) {
    const text =
      `${zombies.length} ended processes are zombies: process ${pid} is their parent, and has ` +
      "not waited for them";
    const advice =
      "Wait for each Deno.Command of the program; as process 1 of a container, start it " +
      "by an init program (docker run --init)";
    findings.push(warning("process", text, advice));
  }
  const others = othersOf(pid, answering?.predecessor?.pid, listeners);
  for (const other of others) {
    const text =
      `${describeProcess(other).replace(/^p/, "P")} runs beside the generation: it has the ` +
      "same listeners, or is another generation of the unit";
    const advice = `If it has drained, end it by \`kill ${other}\``;
    findings.push(warning("process", text, advice));
  }
  const parent = processStat(pid)?.parent;
  const facts = { pid, parent, descriptors, limit, zombies, others };
  return { facts, findings };
}

/** The finding about the descriptors of a process. */
export function descriptorFinding(count: number, limit: number): Finding {
  const text = `${count} of ${limit} descriptors are open`;
  if (count < mostUsed * limit) return ok("process", text);
  const advice = `Write LimitNOFILE=${4 * limit} into [Service], or run \`ulimit -n\` before it`;
  return warning("process", `${text}: accept(2) fails beyond that`, advice);
}

/** The finding about LISTEN_PID; of a later generation it is that of the first, which has handed its sockets over. */
export function passedFinding(
  variables: ReadonlyMap<string, string>,
  pid: number,
  generation: number,
): Finding | undefined {
  const [meant, count] = [variables.get("LISTEN_PID"), variables.get("LISTEN_FDS")];
  if (meant === undefined || count === undefined || generation > 1) return undefined;
  const text = `LISTEN_FDS=${count} descriptors were passed to process ${meant}`;
  if (meant === String(pid)) return ok("process", text);
  const why =
    `${text}, and this is process ${pid}: a program in between, such as npx, may have closed them`;
  return warning("process", why, "Write ExecStart=/usr/bin/deno run ..., without npx or sh -c");
}

function zombiesOf(pid: number): number[] {
  return processes().filter((each) => {
    const stat = processStat(each);
    return stat?.state === "Z" && stat.parent === pid;
  });
}

/** Further processes with a listener of the generation, and those of its unit that run the same program. */
function othersOf(
  pid: number,
  predecessor: number | undefined,
  listeners: ListeningSocket[] | undefined,
): number[] {
  const listening = new Set(listeners?.map(({ inode }) => inode));
  const own = socketsOf(pid)?.intersection(listening) ?? new Set();
  const group = controlGroup(pid);
  const line = commandLine(pid)?.join("\0");
  // A process outside of a unit shares its group with everything in the session.
  const isOfUnit = group?.endsWith(".service") === true && line !== undefined;
  const parent = processStat(pid)?.parent;
  return processes().filter((each) => {
    // Process 1 is the manager of socket units; a parent such as `hold` is one as well.
    if (each === 1 || each === pid || each === parent || each === predecessor) return false;
    if (processStat(each)?.state === "Z") return false;
    const sockets = socketsOf(each);
    if (sockets && !sockets.isDisjointFrom(own)) return true;
    return isOfUnit && controlGroup(each) === group && commandLine(each)?.join("\0") === line;
  });
}
