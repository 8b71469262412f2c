/**
 * The steps of an adoption, which all kinds of sockets have in common: a dummy was made and its registration caught; then
 * its descriptor is replaced by the received one.
 *
 * @module
 */

import { closeRaw, type Fd, rawOf } from "../../ffi/fd.ts";
import { lookAfter } from "../event_loop/nonblocking_guard.ts";
import { place, type Registration } from "../event_loop/registration.ts";
import { remember } from "./registry.ts";

/** What differs between the kinds. */
export interface AdoptionSteps {
  /** Puts `raw` in the dummy's place. @default {`place`, for a registration that was caught} */
  put?: (registration: Registration, raw: number) => void;
  /** Corrects what the object has cached of its dummy: its addresses. */
  correct(raw: number): void;
  /** Closes the dummy when a step fails; the descriptor stays the caller's then. */
  discard(): void;
}

/** Makes the object of a dummy stand on `fd`, which belongs to the object from then on. */
export function completeAdoption(
  fd: Fd | number,
  object: object,
  registration: Registration,
  { put = place, correct, discard }: AdoptionSteps,
): void {
  try {
    const raw = rawOf(fd);
    // Before the first call of the runtime: a blocking socket would freeze the event loop.
    lookAfter(fd, registration.tfd);
    put(registration, raw);
    correct(raw);
  } catch (error) {
    discard();
    throw error;
  }
  remember(object, registration.tfd);
  release(fd);
}

/** Gives the descriptor up: it belongs to the new object. */
export function release(fd: Fd | number): void {
  closeRaw(typeof fd === "number" ? fd : fd.take());
}
