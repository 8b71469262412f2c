/**
 * Keeps the control path and the paths of the listeners leading to this generation: their files may be removed while
 * the service runs.
 *
 * @module
 */

import { formatPath } from "../../ffi/sockaddr.ts";
import { later, type Timer } from "../event_loop/timer.ts";
import type { Logger } from "../logger.ts";
import type { UnixListener } from "../unix/listener.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { Settings } from "./options.ts";
import { locked } from "./path_lock.ts";
import type { Resources } from "./resources.ts";
import type { ServiceManager } from "./service_manager.ts";

/** What the paths need of their generation. */
export interface PathsHost {
  readonly path: string;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
  readonly resources: Resources;
  readonly manager: ServiceManager;
}

/** The paths of one generation; where there is no control socket, none is looked at. */
export class Paths {
  readonly #control: UnixListener | undefined;
  readonly #host: PathsHost;
  #timer: Timer | undefined;
  /** The problems of the last look that were logged. */
  #logged = "";

  constructor(control: UnixListener | undefined, host: PathsHost) {
    this.#control = control;
    this.#host = host;
  }

  /** Restores the paths now, and looks at them again and again; during a handover they are left alone. */
  async restore(delay: number = firstDelay): Promise<void> {
    const control = this.#control;
    const { lifecycle, logger, resources } = this.#host;
    this.#timer?.cancel();
    if (lifecycle.hasLeft || !control) return;
    const problems = lifecycle.isServing ? resources.restorePaths() : [];
    // The program may have closed a listener, or a socket was bound anew.
    if (lifecycle.isServing) this.#host.manager.store();
    try {
      if (lifecycle.isServing && !control.isReachable) await this.#restoreControlPath(control);
    } catch (error) {
      problems.push((error as Error).message);
    }
    if (lifecycle.hasLeft) return;
    const text = problems.join("; ");
    // A path that a rolled back generation has bound is free within a moment: the first problems are not logged.
    if (text === "") this.#logged = "";
    else if (text !== this.#logged && delay >= patientDelay) {
      this.#logged = text;
      logger.error?.(
        `Cannot put back a path that was removed or that another process has taken; trying again: ${text}`,
      );
    }
    const next = text === "" ? interval : Math.min(delay, interval);
    this.#timer?.cancel();
    this.#timer = later(next, () => void this.restore(text === "" ? firstDelay : 2 * delay));
  }

  async #restoreControlPath(control: UnixListener): Promise<void> {
    const { lifecycle, logger, settings: { mode, peerTimeout: timeout } } = this.#host;
    const restore = () => {
      if (!lifecycle.isServing) return;
      // Clients that wait at the old socket are accepted in a moment, and would be lost with it.
      if (!control.isIdle) throw new Error("clients wait at the control socket");
      const restored = control.restorePath(mode);
      if (!restored) return;
      const path = formatPath(this.#host.path);
      if (restored.by === "link") {
        logger.info?.(`The control path ${path} led to another place: it was linked there`);
        return;
      }
      control.adoptSocket(restored.socket);
      logger.warn?.(
        `The control path ${path} was removed: it was bound anew; keep cleaners of temporary files away from it`,
      );
    };
    await locked(this.#host.path, restore, { timeout, logger });
  }

  /** Stops looking. */
  stop(): void {
    this.#timer?.cancel();
  }

  /** Leaves the control path to the next generation, or removes it when no process listens there. */
  async release(): Promise<void> {
    const remove = this.#control?.releaseLater();
    if (!remove) return;
    const { path, logger, settings: { peerTimeout: timeout } } = this.#host;
    try {
      // Another first generation may be about to listen there.
      await locked(path, remove, { timeout, logger });
    } catch (error) {
      logger.debug?.(
        `Removing ${formatPath(path)} without its lock, unless another process listens there`,
        error,
      );
      remove();
    }
  }
}

/**
 * Milliseconds between two looks: one system call for each path. A removed file costs ten seconds without a client at
 * most, and six wake-ups a minute cost next to nothing.
 */
export const interval = 10_000;

/** Milliseconds until the next look while a problem lasts, doubled each time; and the delay from which it is logged. */
const firstDelay = 100;
const patientDelay = 800;
