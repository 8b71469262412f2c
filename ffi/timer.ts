/**
 * timerfd_create(2): a descriptor that is readable when a time is up.
 *
 * @module
 */

import { c, structs } from "./abi.ts";
import { check } from "./errno.ts";
import { closeRaw, owned } from "./fd.ts";
import { libc } from "./libc.ts";

const { itimerspec } = structs;

/** Makes a descriptor that is readable `milliseconds` from now on; the caller closes it. */
export function createTimer(milliseconds: number): number {
  const attempt = "Cannot make a timer";
  const flags = c.TFD_CLOEXEC | c.TFD_NONBLOCK;
  const raw = owned(check(libc().timerfd_create(c.CLOCK_MONOTONIC, flags), attempt));
  // A time of 0 would stop the timer.
  const whole = Math.max(1, Math.ceil(milliseconds));
  const it_value = {
    tv_sec: BigInt(Math.floor(whole / 1000)),
    tv_nsec: BigInt(whole % 1000) * 1_000_000n,
  };
  try {
    check(libc().timerfd_settime(raw, 0, itimerspec.pack({ it_value }), null), attempt);
  } catch (error) {
    closeRaw(raw);
    throw error;
  }
  return raw;
}
