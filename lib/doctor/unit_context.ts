/**
 * The context of the rules about a systemd unit.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import type { Finding } from "./finding.ts";
import { commandLines, type UnitProperties } from "./unit.ts";

/** The state of the service, beside the settings of its unit. */
export interface UnitContext {
  /** The generation that answers at the control socket. */
  generation?: { pid: number; predecessor?: number };
  /** The absolute path of the control socket. */
  path?: string;
  /** The command line that restarts the service, up to the path of its control socket. */
  restart?: string;
  /** The command line of the process that answers. */
  start?: string;
  /** Whether the process that answers is one of the unit's. */
  isInUnit?: boolean;
  /** Whether the process that answers listens to SIGHUP; undefined where that cannot be read. */
  listensToHangup?: boolean;
  /** The paths of its unix listeners. */
  unixPaths?: string[];
  /** Whether MainPID is a child of the manager; undefined where that cannot be read. */
  isMainChild?: boolean;
  /** The process that the PID file names: undefined for no file, and for text that is no number. */
  recorded?: { pid: number; isInUnit: boolean };
}

/** Looks at one setting; undefined where there is nothing to say about it. */
export type Rule = (unit: UnitProperties, context: UnitContext) => Finding | undefined;

/** Whether each generation has a unit of its own: an instance of a template, which is started and not reloaded. */
export function isPerGeneration(unit: UnitProperties): boolean {
  return unit.Id?.includes("@") === true && commandLines(unit.ExecReload).length === 0;
}

/** The socket units that pass descriptors to the service: those of its Sockets=, too. */
export function socketUnits({ TriggeredBy: units = "" }: UnitProperties): string[] {
  return units.split(" ").filter((name) => name.endsWith(".socket"));
}

/** The path of the control socket, or a path by the name of the unit. */
export function pathFor({ Id: id = "app" }: UnitProperties, { path }: UnitContext): string {
  const name = id.replace(/(@.*)?\.service$/, "");
  return path ?? `/run/${name}/${name}.sock`;
}
