/**
 * The descriptors that a service manager passes to the process that it starts (sd_listen_fds(3)): listeners of a socket
 * unit, and what was put into its store.
 *
 * @module
 */

import { closeOnExec, Fd, isKeptOnExec } from "../../ffi/fd.ts";
import { listed } from "../../ffi/quote.ts";
import { currentVariable, removeVariable } from "../../ffi/proc.ts";
import { limitBlocking, socketKind } from "../../ffi/socket_options.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { guarded, type Logger } from "../logger.ts";
import { isStoreName } from "./store_name.ts";

/** A descriptor that the service manager has passed. */
export interface ListenFd {
  /** The descriptor, which is the caller's. */
  fd: Fd;
  /**
   * Its name (systemd.socket(5), FileDescriptorName=): by default that of the socket unit, such as "app.socket"; several
   * descriptors may have one name.
   */
  name: string;
}

/** Options of {@linkcode listenFds}. */
export interface ListenFdsOptions {
  /** Gets a warning where descriptors are announced that are not there. @default {the console} */
  logger?: Logger;
}

/** The variables that announce the descriptors; `start()` does not pass them on to the next generation. */
export const listenVariables = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/** The number of the first descriptor (sd-daemon.h, SD_LISTEN_FDS_START). */
const first = 3;

/**
 * The sender of a manager's descriptors, for the guard of O_NONBLOCK: systemd clears it whenever it starts another unit
 * with the same socket. A process that cannot be seen counts as running.
 */
const manager = 0;

/**
 * Takes the descriptors that the service manager has passed (LISTEN_FDS, sd_listen_fds(3)), once: it removes the
 * variables, and processes that this one starts inherit neither. Gives none where none were passed.
 *
 * `start()` does so itself: `app.serve({ port: 8000 })` is then served on the socket of the unit. This is for programs
 * without generations, and for descriptors that are no listeners. Tell them apart by name or address: systemd gives
 * several units' sockets in an order of its own.
 *
 * ```ts
 * import { fdListener, listenFds } from "@graceful/deno";
 *
 * for (const { fd, name } of listenFds()) {
 *   if (name === "app.socket") fdListener(fd); // a native Deno.Listener
 *   else fd.close();
 * }
 * ```
 */
export function listenFds({ logger }: ListenFdsOptions = {}): ListenFd[] {
  if (noDescriptors()) return [];
  const [count, pid, names] = listenVariables.map(currentVariable);
  if (count === undefined) return [];
  for (const name of listenVariables) removeVariable(name);
  const numbers = announced(count);
  const warn = (why: string) => {
    guarded(logger).warn?.(
      `Not taking all descriptors that LISTEN_FDS=${count}, LISTEN_PID=${pid} announce: ${why}`,
    );
    return [];
  };
  if (!numbers) return warn("that is no number of descriptors");
  // Everything that Deno opens itself has FD_CLOEXEC.
  const passed = numbers.filter(isKeptOnExec);
  const isWhole = passed.length === numbers.length;
  // LISTEN_PID may be that of a shell that has started this process, and has passed them on. Node and npx pass on the
  // variables, and not the descriptors: others have the same numbers.
  if (pid !== String(Deno.pid) && !isWhole) {
    return warn(
      `this is process ${Deno.pid}, and they are not open here. Have the service manager start Deno itself: ` +
        "not npx, and no program that closes descriptors",
    );
  }
  if (!isWhole) {
    const missing = numbers.filter((raw) => !passed.includes(raw)).map(String);
    warn(`${listed(missing)} were not passed to this process; it takes the others`);
  }
  const given = names?.split(":") ?? [];
  return passed.map((raw) => {
    closeOnExec(raw);
    const name = given[raw - first] ?? "unknown";
    return { fd: take(raw, isStoreName(name)), name };
  });
}

/** The numbers of so many descriptors; undefined where the text is no count. */
function announced(count: string): number[] | undefined {
  if (!/^\d{1,6}$/.test(count)) return undefined;
  return Array.from({ length: Number(count) }, (_, i) => first + i);
}

/** Owns the number. A socket of a unit may become blocking at any time: no call on it may block for long then. */
function take(raw: number, isStored: boolean): Fd {
  const isSocket = socketKind(raw) !== undefined;
  if (isStored || !isSocket) return new Fd(raw);
  limitBlocking(raw, 1);
  return new Fd(raw, manager);
}
