/**
 * The argument of `doctor`: a control socket, or a systemd unit, whose control socket is found.
 *
 * @module
 */

import { listeningSockets } from "../../ffi/diag.ts";
import { pathStatus, readLink } from "../../ffi/file.ts";
import { controlGroup, processes, type ServiceOf, serviceOf, socketsOf } from "./processes.ts";
import { commandLines, type UnitProperties } from "./unit.ts";

/** A control socket by its absolute path, or a unit. */
export type Target = { path: string } | { service: ServiceOf };

/**
 * Tells a path from the name of a unit: a name without "/" at which there is no file is that of a unit, unless it ends
 * with ".sock".
 */
export function targetOf(argument: string): Target {
  const isPath = argument.includes("/") || argument.endsWith(".sock") ||
    !argument.endsWith(".service") && pathStatus(argument) !== undefined;
  if (isPath) return { path: absolute(argument) };
  const unit = argument.endsWith(".service") ? argument : `${argument}.service`;
  return { service: { unit, isOfUser: false } };
}

/** The service that this process belongs to. */
export function ownTarget(): Target | undefined {
  const service = serviceOf("self");
  return service && { service };
}

function absolute(path: string): string {
  if (path.startsWith("/")) return path;
  return `${readLink("/proc/self/cwd") ?? ""}/${path.replace(/^(\.\/)+/, "")}`;
}

/**
 * The paths that may be the control socket of a unit, the most probable first: the argument of `restart` in ExecReload=,
 * and the unix listeners of its processes.
 */
export function controlPaths(unit: UnitProperties): string[] {
  const paths = commandLines(unit.ExecReload).map((line) => / restart (\/\S+)/.exec(line)?.[1]);
  const group = unit.ControlGroup;
  const members = group ? processes().filter((pid) => controlGroup(pid) === group) : [];
  const inodes = new Set(members.flatMap((pid) => [...socketsOf(pid) ?? []]));
  for (const { inode, address } of inodes.size > 0 ? listeningSockets() ?? [] : []) {
    if (!inodes.has(inode) || !address || !("path" in address)) continue;
    const { path } = address;
    if (!path?.startsWith("/")) continue;
    // The library binds a socket beside its path, and moves it there; its placeholders have no file.
    paths.push(...[path.replace(/\.[0-9a-f]{8}$/, ""), path].filter((each) => pathStatus(each)));
  }
  return [...new Set(paths.filter((path) => path !== undefined))];
}
