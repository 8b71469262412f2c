/**
 * O_NONBLOCK belongs to the open socket, not to the descriptor, and so to every process that has one
 * for it (open(2)). A donor may clear it while a native object here relies on it: Go does whenever it
 * asks a listener for its file. A blocking socket freezes the whole event loop at the first call that
 * finds nothing to do. So while a donor lives, the flag is looked after; and since the loop may freeze
 * between two looks, no call waits for long on a socket that came from somebody who makes it blocking.
 *
 * @module
 */

import { type Fd, isNonblocking, rawOf, setNonblocking } from "../../ffi/fd.ts";
import { isRunning } from "../../ffi/proc.ts";
import { ifSocket, limitBlocking, socketCookie } from "../../ffi/socket.ts";

/** Milliseconds between two looks: a call to the kernel for each socket. */
const interval = 100;

/** A socket here that another process has, too. */
interface Shared {
  raw: number;
  cookie: bigint;
  senderPid: number;
  /** Whether it came blocking: its donor does not mind, and may make it so again. */
  blocking: boolean;
}

let shared: Shared[] = [];
let timer: ReturnType<typeof setInterval> | undefined;

/** Looks after number `raw`, where the socket of `fd` is about to go, for as long as both live. */
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
    // Asked first: what a process did before it ended is seen to once more.
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
