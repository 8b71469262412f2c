/**
 * Keeps O_NONBLOCK set on received sockets while their senders live. The flag belongs to the socket, and so to every
 * process that has a descriptor of it (open(2)). A sender may clear it while a native object here relies on it: Go
 * does whenever a program asks a listener for its file. A blocking socket freezes the whole event loop at the first
 * call that would block. So the flag is checked again and again, and a timeout limits each call meanwhile, because
 * the loop may freeze between two checks.
 *
 * @module
 */

import { type Fd, isNonblocking, rawOf, setNonblocking } from "../../ffi/fd.ts";
import { isRunning } from "../../ffi/proc.ts";
import { ifSocket, limitBlocking, socketCookie } from "../../ffi/socket_options.ts";

/** Milliseconds between two checks: one system call for each socket. */
const interval = 100;

/** A socket that another process has as well. */
interface Shared {
  raw: number;
  cookie: bigint;
  senderPid: number;
  /** Whether it was received blocking: its sender does not mind, and may clear the flag again. */
  blocking: boolean;
}

let shared: Shared[] = [];
let timer: ReturnType<typeof setInterval> | undefined;

/** Guards number `raw`, to which the socket of `fd` is about to be moved, while the socket and its sender live. */
export function lookAfter(fd: Fd | number, raw: number): void {
  const senderPid = typeof fd === "number" ? undefined : fd.senderPid;
  if (senderPid === undefined || senderPid === Deno.pid) return;
  const socket = rawOf(fd);
  const blocking = !isNonblocking(socket);
  if (blocking) limitBlocking(socket, 1);
  shared.push({ raw, cookie: socketCookie(socket), senderPid, blocking });
  if (timer !== undefined) return;
  timer = setInterval(look, interval);
  Deno.unrefTimer(timer);
}

function look(): void {
  shared = shared.filter(({ raw, cookie, senderPid, blocking }) => {
    // Before the check: what the process did before it ended is undone once more.
    const running = isRunning(senderPid);
    return ifSocket(raw, () => {
      if (socketCookie(raw) !== cookie) return false;
      setNonblocking(raw, true);
      if (blocking && !running) limitBlocking(raw, 0);
      return running;
    });
  });
  if (shared.length > 0) return;
  clearInterval(timer);
  timer = undefined;
}
