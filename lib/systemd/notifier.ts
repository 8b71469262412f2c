/**
 * The messages of one generation to its service manager, in their order. The manager may not read for a while, as when it
 * reloads its units: what it has not got is sent again. A lost READY=1 would have the manager end a service that accepts.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import type { Logger } from "../logger.ts";
import { patience, sendState } from "./notify.ts";

/** Milliseconds between two attempts to send what the manager has not got. */
const retryInterval = 1000;

/** Sends messages; what cannot be sent is warned about once, and only the first attempt holds up this process. */
export class Notifier {
  readonly #logger: Logger;
  readonly #onHeard: () => void;
  /** The states that `tell` could not send, one of each kind. */
  #waiting: string[] = [];
  /** The kinds whose last message could not be sent. */
  readonly #failed = new Set<string>();
  #retrying: ReturnType<typeof setInterval> | undefined;

  /** @param onHeard Called when the manager reads again, and has all that it was to be told. */
  constructor(logger: Logger, onHeard: () => void) {
    this.#logger = logger;
    this.#onHeard = onHeard;
  }

  /** Whether it has states that the manager has not got. */
  get isWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** Sends a state now, or as soon as that is possible, unless a later one of its kind has replaced it by then. */
  tell(state: string): void {
    if (!this.isWaiting && this.send(state)) return;
    const kind = kindOf(state);
    this.#waiting = [...this.#waiting.filter((each) => kindOf(each) !== kind), state];
  }

  /** Sends a state that is of no use later, or with descriptors; gives false where it cannot be sent. */
  send(state: string, descriptors: Iterable<Fd | number> = []): boolean {
    const kind = kindOf(state);
    const isFirst = this.#failed.size === 0;
    try {
      sendState(state, descriptors, isFirst ? patience : 0);
    } catch (error) {
      this.#failed.add(kind);
      this.#retry();
      const what = `Cannot tell the service manager ${JSON.stringify(state)}`;
      this.#logger[isFirst ? "warn" : "debug"]?.(
        `${what}: ${(error as Error).message}; trying again`,
      );
      return false;
    }
    if (this.#failed.delete(kind) && this.#failed.size === 0) {
      this.#logger.info?.("The service manager reads again");
    }
    return true;
  }

  #retry(): void {
    if (this.#retrying !== undefined) return;
    this.#retrying = setInterval(() => {
      while (this.isWaiting && this.send(this.#waiting[0])) this.#waiting.shift();
      if (this.isWaiting) return;
      this.stop();
      this.#onHeard();
    }, retryInterval);
    Deno.unrefTimer(this.#retrying);
  }

  /** Gives up what has not been sent. */
  stop(): void {
    clearInterval(this.#retrying);
    this.#retrying = undefined;
    this.#waiting = [];
  }
}

/** What a state tells: the name of its first variable. */
function kindOf(state: string): string {
  return state.slice(0, state.indexOf("="));
}
