/**
 * Tests once a thread that the runtime notices events of adopted objects.
 *
 * @module
 */

import { Fd } from "../../ffi/fd.ts";
import { connectUnix, listenUnix } from "../../ffi/socket.ts";
import { UnsupportedRuntimeError } from "../errors.ts";
import { capture, place, privateName, trialListener } from "../event_loop/registration.ts";
import { guarded } from "../logger.ts";
import { yieldElsewhere } from "../../ffi/poll.ts";
import { expiring, unlessAborted } from "../time.ts";

let proof: Promise<void> | undefined;

/**
 * Rejects if adopted objects do not notice events, tried once a thread with a connection of its own: on such a
 * runtime an adoption is an error, and not a hang.
 */
export function proven(): Promise<void> {
  return proof ??= prove().catch((error) => {
    if (error instanceof UnsupportedRuntimeError) throw error;
    // The test could not be made, for lack of descriptors for example: the next call tries again.
    proof = undefined;
  });
}

/**
 * The same for calls that do not wait: a failure is logged. The object may have been served on for a second by then,
 * and a process that serves is not ended for a failed test.
 */
export function proveInBackground(): void {
  if (proof) return;
  proven().catch((error) =>
    guarded(console).error!("Adopted listeners and servers of this process may hang", error)
  );
}

/** Tests with a unix socket: no packet filter applies, and no interface has to be up. */
async function prove(): Promise<void> {
  const attempt = "Cannot try an adopted listener";
  const name = privateName();
  using fd = new Fd(listenUnix(name, attempt));
  const { dummy, registration } = capture(trialListener, (listener) => listener.close());
  using listener = dummy;
  place(registration, fd.raw);
  const accepting = listener.accept();
  using _client = new Fd(connectUnix(name, attempt));
  // A TCP listener that accepts a unix connection fails: it has noticed the event, too.
  await woken(accepting.then((conn) => conn.close(), () => {}));
}

/** Waits for a promise, for a second and a hundred turns of the event loop at least. */
async function woken<T>(promise: Promise<T>): Promise<T> {
  let isOver = false;
  const over = () => isOver = true;
  promise.then(over, over);
  // The event comes in the first turns, as a rule, and no timer is needed.
  for (let turn = 0; turn < 20 && !isOver; turn++) await yieldElsewhere();
  if (isOver) return await promise;
  let turns = 100;
  using late = expiring(
    10,
    () =>
      new UnsupportedRuntimeError(
        `Cannot adopt descriptors on Deno ${Deno.version.deno}: its event loop does not wake them. ` +
          "node:net and node:http take a descriptor with listen({ fd }), at lower speed",
      ),
    () => --turns > 0 ? 10 : 0,
  );
  return await unlessAborted(promise, late.signal);
}
