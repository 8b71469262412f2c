/**
 * `stopDelay`: how long a generation goes on accepting after it was asked to stop.
 *
 * A load balancer learns of the end of a process after the process does, and sends it requests until then. Kubernetes
 * sends SIGTERM to a Pod, and removes it from the endpoints of its Service, at the same time (kubernetes.io, "Pod
 * Lifecycle", termination of Pods); a proxy with health checks notices at one of its next checks.
 *
 * @module
 */

import type { Logger } from "../logger.ts";
import { pause } from "../time.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { Settings } from "./options.ts";
import type { Resources } from "./resources.ts";
import type { Restarts } from "./restart.ts";
import type { ServiceManager } from "./service_manager.ts";
import type { Takeover } from "./takeover.ts";

/** What the delay needs of its generation. */
export interface StopDelayHost {
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
  readonly resources: Resources;
  readonly restarts: Restarts;
  readonly takeover: Takeover | undefined;
  readonly manager: ServiceManager;
}

/** The delay of one generation, which has one at most. */
export class StopDelay {
  readonly #host: StopDelayHost;
  #over: Promise<void> | undefined;
  /** Set while the delay runs. */
  #ending: AbortController | undefined;

  constructor(host: StopDelayHost) {
    this.#host = host;
  }

  /**
   * Begins the delay, if it has not begun: a second request, as of the command line after a signal, waits for the same
   * end, because the load balancer still needs that time. Gives undefined where there is no delay: the option is 0, or
   * this generation does not accept.
   */
  begin(): Promise<void> | undefined {
    const { lifecycle, settings } = this.#host;
    if (settings.stopDelay === 0 || !lifecycle.accepts) return undefined;
    return this.#over ??= this.#run();
  }

  /** Ends the delay: this generation does not accept any more. */
  end(): void {
    this.#ending?.abort();
  }

  async #run(): Promise<void> {
    const { logger, manager, resources, restarts, takeover, settings: { stopDelay } } = this.#host;
    const { signal } = this.#ending = new AbortController();
    logger.info?.(`Accepting for another ${stopDelay} ms, the \`stopDelay\``);
    manager.delaying();
    // A predecessor that stands by would accept again if the second signal ended this process.
    takeover?.endProbation();
    restarts.settle().catch((error) => {
      logger.error?.("Cannot end the process of the restart that is under way", error);
    });
    // A balancer of connections, such as kube-proxy, chooses a process when a client connects, and never again: a
    // keep-alive client would stay here to the end of the delay, and lose the request that it sends while its idle
    // connection is being closed: 5 of 48 clients with a latency of 40 ms and a request each 0.6 s did, and none that
    // was told to close. It connects again: here, or elsewhere as soon as the balancer has removed this process. A
    // proxy with a pool of connections, such as HAProxy, has none to this process in it when the delay ends.
    resources.announceClose();
    // Rejects when the delay is ended early.
    await pause(stopDelay, signal).catch(() => {});
  }
}
