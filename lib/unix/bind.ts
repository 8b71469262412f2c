/**
 * Binds unix sockets to paths: at a free path, in place of a dead socket's file, or over a file in one step.
 *
 * @module
 */

import { closeAll, Fd } from "../../ffi/fd.ts";
import { type FileIdentity, locate, openName, pathStatus, rename, unlink } from "../../ffi/file.ts";
import { formatPath, maxPathBytes, packUnix } from "../../ffi/sockaddr.ts";
import { bindUnixDatagram, isBound, listenUnix } from "../../ffi/socket.ts";
import { cannotReplace, checkReplaceable, isServed, moveWhereFree } from "./socket_file.ts";

/** A bound socket and its file; a name in the abstract namespace has no file. */
export interface BoundSocket {
  raw: number;
  file?: FileIdentity;
}

/**
 * Binds a listener: with `replace` over the file at the path, in one step, and otherwise at a free path.
 *
 * @throws {Deno.errors.AddrInUse} When the path is taken, and `replace` is false.
 */
export function bindListener(
  path: string,
  { mode, replace }: { mode?: number; replace: boolean },
): BoundSocket {
  const attempt = `Cannot listen on ${formatPath(path)}`;
  return replace && !path.startsWith("\0")
    ? listenOver(path, attempt, mode, rename)
    : listenAt(path, attempt, mode);
}

/**
 * Binds a listener at a path where no process listens: the file of a socket that has outlived its process is replaced,
 * and no other one.
 *
 * @throws {Deno.errors.AddrInUse} When a process listens there.
 */
export function bindListenerWhereFree(path: string, mode: number | undefined): BoundSocket {
  if (path.startsWith("\0")) return bindListener(path, { mode, replace: false });
  if (pathStatus(path) && isBound(path)) throw isServed(path);
  return listenOver(path, `Cannot listen on ${formatPath(path)}`, mode, moveWhereFree);
}

/**
 * Binds a unix datagram socket at `path`; the file of a socket that has ended is replaced. Not by binding beside it and
 * renaming: the name of bind(2) is the source address of its datagrams.
 *
 * @param mode Permissions of the socket's file.
 * @throws {Deno.errors.AddrInUse} When a socket is bound there, or the file is no socket.
 */
export function bindDatagrams(path: string, mode?: number): Fd {
  const attempt = `Cannot receive datagrams at ${formatPath(path)}`;
  const isStale = !path.startsWith("\0") && pathStatus(path)?.kind === "socket" && !isBound(path);
  if (isStale && !unlink(path)) throw cannotReplace(attempt);
  try {
    return new Fd(bindUnixDatagram(path, attempt, { mode }));
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    const inUse = new Deno.errors.AddrInUse(
      `${attempt}: another socket is bound there, or it is a file that is no socket; end its process or move ` +
        "it away, or receive at another path",
    );
    throw Object.assign(inUse, { code: "EADDRINUSE", cause: error });
  }
}

function listenAt(path: string, attempt: string, mode: number | undefined): BoundSocket {
  try {
    const raw = listenUnix(path, attempt, { mode });
    return { raw, file: path.startsWith("\0") ? undefined : locate(path) };
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    const holder = path.startsWith("\0") || isBound(path)
      ? "another instance is serving there"
      : "no process serves there any more: remove the file, or pass `replace: true`";
    const inUse = new Deno.errors.AddrInUse(`${attempt}: ${holder}`);
    throw Object.assign(inUse, { code: "EADDRINUSE", cause: error });
  }
}

/**
 * Binds beside `path`, and moves the file there by `move`. Where the name beside it is too long for a socket address, the
 * socket is bound by a path through the directory's descriptor.
 */
function listenOver(
  path: string,
  attempt: string,
  mode: number | undefined,
  move: (from: string, to: string) => void,
): BoundSocket {
  // Throws for a path to which no client could connect, before a file is made.
  packUnix(path, attempt);
  checkReplaceable(path, attempt);
  const id = crypto.randomUUID().slice(0, 8);
  const beside = `${path}.${id}`;
  if (new TextEncoder().encode(beside).length <= maxPathBytes) {
    return moved(listenUnix(beside, attempt, { mode }), beside, path, move);
  }
  const directory = path.slice(0, path.lastIndexOf("/") + 1);
  using opened = new Fd(openName(directory || ".", attempt));
  const raw = listenUnix(`/proc/self/fd/${opened.raw}/${id}`, attempt, { mode });
  return moved(raw, `${directory}${id}`, path, move);
}

function moved(
  raw: number,
  from: string,
  to: string,
  move: (from: string, to: string) => void,
): BoundSocket {
  try {
    const file = locate(from);
    move(from, to);
    const name = to.slice(to.lastIndexOf("/") + 1);
    return { raw, file: file && { ...file, path: `${directoryOf(file.path)}${name}` } };
  } catch (error) {
    closeAll([raw]);
    unlink(from);
    throw error;
  }
}

function directoryOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/") + 1);
}
