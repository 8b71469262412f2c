/**
 * Examines a service: its control socket, its listeners, its process, and the settings of its systemd unit.
 *
 * @module
 */

import { type ListeningSocket, listeningSockets } from "../../ffi/diag.ts";
import { readLink, readText } from "../../ffi/file.ts";
import { effectiveUser } from "../../ffi/peer.ts";
import { hasEnded, identify, processStat } from "../../ffi/proc.ts";
import { escaped } from "../../ffi/quote.ts";
import { type ControlSocketFacts, examineControlSocket } from "./control_socket.ts";
import { type Finding, note } from "./finding.ts";
import { type ListenerFacts, listenerFindings, queueFinding } from "./listeners.ts";
import { accessFindings, besideFindings } from "./path_access.ts";
import { examineProcess, type ProcessFacts } from "./generation_process.ts";
import {
  commandOf,
  controlGroup,
  listensTo,
  ownCommand,
  type ServiceOf,
  serviceOf,
  sighup,
} from "./processes.ts";
import { controlPaths, type Target } from "./target.ts";
import { showUnit, UnitError } from "./systemctl.ts";
import type { UnitProperties } from "./unit.ts";
import type { UnitContext } from "./unit_context.ts";
import { unitFindings } from "./unit_rules.ts";

/** The result of an examination. */
export interface Diagnosis {
  findings: Finding[];
  /** What the findings are about, as far as it was found. */
  socket?: ControlSocketFacts;
  listeners: ListenerFacts[];
  process?: ProcessFacts;
  /** The properties of the unit, as systemctl(1) shows them. */
  unit?: UnitProperties;
}

/**
 * Examines a service.
 *
 * @param timeout How many milliseconds to wait for the service, and for systemctl(1).
 * @throws {UnitError} When the target is a unit, and systemd cannot be asked for it, or has none of that name.
 */
export async function diagnose(target: Target, timeout: number): Promise<Diagnosis> {
  const listeners = listeningSockets();
  if ("path" in target) {
    const diagnosis = await examinePath(target.path, listeners, timeout);
    const service = ofProcess(diagnosis.socket?.pid);
    if (service) await addUnit(diagnosis, service, timeout);
    else if (diagnosis.socket?.pid !== undefined) {
      const text =
        `Process ${diagnosis.socket.pid} belongs to no systemd service: what starts it again ` +
        "after a crash is not examined";
      diagnosis.findings.push(note("unit", text));
    }
    return diagnosis;
  }
  const unit = await findUnit(target.service, timeout);
  const diagnosis = await firstGeneration(controlPaths(unit), listeners, timeout) ??
    { findings: [noSocket(unit)], listeners: [] };
  judge(diagnosis, unit);
  return diagnosis;
}

/** Asks for a unit: for a user without the rights of root, that may be one of the user's own manager. */
async function findUnit(service: ServiceOf, timeout: number): Promise<UnitProperties> {
  const unit = await showUnit(service, timeout);
  if (unit.LoadState !== "not-found") return unit;
  if (!service.isOfUser && effectiveUser() !== 0) {
    return await findUnit({ ...service, isOfUser: true }, timeout);
  }
  throw new UnitError(`There is no unit ${escaped(service.unit)}: see \`systemctl list-units\``);
}

function ofProcess(pid: number | undefined): ServiceOf | undefined {
  return pid === undefined ? undefined : serviceOf(pid);
}

function noSocket({ ActiveState: state }: UnitProperties): Finding {
  const text =
    "The control socket is not found: neither in ExecReload= nor among the listeners of " +
    `the unit's processes${state === "active" ? "" : ", for the unit does not run"}`;
  const advice = "Run doctor with its path: that with which the service calls start()";
  return note("socket", text, advice);
}

/** Examines the first of the paths at which a generation answers; if there is none, the first path. */
async function firstGeneration(
  paths: string[],
  listeners: ListeningSocket[] | undefined,
  timeout: number,
): Promise<Diagnosis | undefined> {
  let first: Diagnosis | undefined;
  for (const path of paths) {
    const diagnosis = await examinePath(path, listeners, timeout);
    if (diagnosis.socket?.generation) return diagnosis;
    first ??= diagnosis;
  }
  return first;
}

/** The findings about a control socket, and about the generation that answers there. */
async function examinePath(
  path: string,
  all: ListeningSocket[] | undefined,
  timeout: number,
): Promise<Diagnosis> {
  const { facts: socket, findings } = await examineControlSocket(path, all ?? [], timeout);
  const diagnosis: Diagnosis = { findings, socket, listeners: [] };
  if (socket.file && socket.kind !== "file") findings.push(...accessFindings(path, socket.file));
  if (socket.inode !== undefined) {
    const queue = all?.find(({ inode }) => inode === socket.inode);
    if (queue) findings.push(queueFinding("control socket", queue));
  }
  findings.push(...besideFindings(path));
  const { pid, generation } = socket;
  const isGeneration = generation || socket.kind === "silent" || socket.kind === "refusing";
  if (!isGeneration) return diagnosis;
  // The sockets of another network namespace are not listed here.
  const listeners = isOfNetwork(pid) ? all : undefined;
  if (!listeners) {
    const text =
      "The accept queues cannot be read: the service has another network namespace, or a " +
      "sandbox refuses AF_NETLINK";
    findings.push(note("listener", text, "Run doctor as root, beside the service"));
  }
  if (generation) {
    const examined = listenerFindings(generation.sockets, pid, listeners);
    diagnosis.listeners = examined.facts;
    findings.push(...examined.findings);
  }
  if (pid === undefined) return diagnosis;
  const process = examineProcess(pid, generation, listeners);
  diagnosis.process = process.facts;
  findings.push(...process.findings);
  return diagnosis;
}

function isOfNetwork(pid: number | undefined): boolean {
  const its = pid === undefined ? undefined : readLink(`/proc/${pid}/ns/net`);
  return its === undefined || its === readLink("/proc/self/ns/net");
}

/** Adds the findings about the unit of the process that answers. */
async function addUnit(
  diagnosis: Diagnosis,
  service: ServiceOf,
  timeout: number,
): Promise<void> {
  try {
    judge(diagnosis, await showUnit(service, timeout));
  } catch (error) {
    if (!(error instanceof UnitError)) throw error;
    const advice = "Run doctor beside systemd, as root or as the user of the unit";
    diagnosis.findings.push(note("unit", error.message, advice));
  }
}

/** Adds the findings about a unit. */
function judge(diagnosis: Diagnosis, unit: UnitProperties): void {
  diagnosis.unit = unit;
  const { socket } = diagnosis;
  const context: UnitContext = {
    ...socket && { path: socket.path },
    restart: `${ownCommand()} restart`,
    recorded: recordedProcess(unit),
    isMainChild: isMainChild(unit),
  };
  if (socket?.generation && socket.pid !== undefined) {
    const predecessor = socket.generation.predecessor?.pid;
    context.generation = { pid: socket.pid, predecessor };
    context.start = commandOf(socket.pid);
    context.isInUnit = isIn(unit, socket.pid);
    context.listensToHangup = listensTo(socket.pid, sighup);
    context.unixPaths = socket.generation.sockets.map(({ address }) =>
      address.replace(/^"|"$/g, "")
    )
      .filter((address) => address.startsWith("/"));
  }
  diagnosis.findings.push(...unitFindings(unit, context));
}

function isIn({ ControlGroup: group }: UnitProperties, pid: number): boolean | undefined {
  const its = controlGroup(pid);
  if (its === undefined) return undefined;
  return group !== undefined && group !== "" && (its === group || its.startsWith(`${group}/`));
}

/** The process that the PID file names; a path that is not absolute starts at /run (systemd.service(5)). */
function recordedProcess(unit: UnitProperties): UnitContext["recorded"] {
  if (!unit.PIDFile) return undefined;
  const text = readText(unit.PIDFile.replace(/^(?!\/)/, "/run/"))?.trim();
  if (text === undefined || !/^\d+$/.test(text)) return undefined;
  const pid = Number(text);
  return { pid, isInUnit: !hasEnded(identify(pid)) && isIn(unit, pid) !== false };
}

/** Whether the main process is a child of its manager, which is process 1 or a systemd of a user. */
function isMainChild({ MainPID: main }: UnitProperties): boolean | undefined {
  const parent = processStat(Number(main ?? 0))?.parent;
  if (!parent) return undefined;
  return parent === 1 || processStat(parent)?.name === "systemd";
}
