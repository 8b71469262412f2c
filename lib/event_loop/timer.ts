/**
 * Timers that do not keep the process running. Where descriptors are passed, they are timerfds, which the reactor of this
 * thread watches anyway: the first `setTimeout()` of a process loads node's timers (Deno 2.9), for 5 ms, on the way to
 * the first answer.
 *
 * @module
 */

import { closeRaw } from "../../ffi/fd.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { createTimer } from "../../ffi/timer.ts";
import { longestPause } from "../time.ts";
import { abandon, ready } from "./reactor.ts";

/** A timer that has not ended. */
export interface Timer {
  /** Ends it without the call. */
  cancel(): void;
}

/** Calls a function once, `milliseconds` from now on; until then nothing keeps the process running. */
export function later(milliseconds: number, call: () => void): Timer {
  const timer = noDescriptors() ? undefined : timerfd(milliseconds, call);
  return timer ?? timeout(milliseconds, call);
}

/** Gives undefined when no descriptor is left. */
function timerfd(milliseconds: number, call: () => void): Timer | undefined {
  let raw: number;
  try {
    raw = createTimer(Math.min(milliseconds, longestPause));
  } catch {
    return undefined;
  }
  let isOver = false;
  let instead: Timer | undefined;
  const end = () => {
    isOver = true;
    closeRaw(raw);
  };
  const timer: Timer = {
    cancel() {
      instead?.cancel();
      if (isOver) return;
      abandon(raw, timer, () => new Error("The timer was canceled"));
      end();
    },
  };
  ready(raw, "readable", { owner: timer, keepsAlive: () => false }).then(() => {
    // It may have been canceled in the same turn of the event loop.
    if (isOver) return;
    end();
    call();
  }, () => {
    if (isOver) return;
    // The kernel lets the epoll watch no further descriptor.
    end();
    instead = timeout(milliseconds, call);
  });
  return timer;
}

function timeout(milliseconds: number, call: () => void): Timer {
  const id = setTimeout(call, Math.min(milliseconds, longestPause));
  Deno.unrefTimer(id);
  return { cancel: () => clearTimeout(id) };
}
