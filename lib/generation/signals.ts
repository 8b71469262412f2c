/**
 * The signals of a service: SIGTERM and SIGINT stop it, and those of `restartOn`, such as SIGHUP, restart it.
 *
 * @module
 */

import type { Logger } from "../logger.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { Settings } from "./options.ts";
import { exit } from "./own_process.ts";
import { runtime } from "../runtime.ts";

/** What signals need of their generation. */
export interface SignalsHost {
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
  /** Stops the service for somebody outside of the program: its process is to end. */
  stopForClient(): Promise<void>;
  /** Restarts as soon as that is possible. */
  requestRestart(cause: string): void;
}

/** The signal listeners of one generation. */
export class Signals {
  readonly #host: SignalsHost;
  readonly #listeners = new Map<Deno.Signal, () => void>();

  /**
   * Listens to the signals of `stopOn` and `restartOn`.
   *
   * @throws {TypeError} When the system has no such signal, or Deno does not listen to it.
   */
  constructor(host: SignalsHost) {
    this.#host = host;
    const { stopOn, restartOn = [] } = host.settings;
    try {
      for (const signal of stopOn ?? ["SIGTERM", "SIGINT"] as const) {
        try {
          this.#listen(signal, () => void this.#stop(signal));
        } catch (error) {
          // Deno on Windows listens to SIGTERM from some version on only: a default signal may be missing.
          if (stopOn || !(error instanceof TypeError)) throw error;
        }
      }
      for (const signal of restartOn) {
        this.#listen(signal, () => this.#host.requestRestart(signal));
      }
    } catch (error) {
      this.release();
      throw error;
    }
  }

  #listen(signal: Deno.Signal, listener: () => void): void {
    runtime.addSignalListener(signal, listener);
    this.#listeners.set(signal, listener);
  }

  /** Stops listening: each signal has its default action again. */
  release(): void {
    for (const [signal, listener] of this.#listeners) {
      runtime.removeSignalListener(signal, listener);
    }
    this.#listeners.clear();
  }

  async #stop(signal: Deno.Signal): Promise<void> {
    const { lifecycle, logger } = this.#host;
    // The second signal of a kind has its default action: it ends the process.
    runtime.removeSignalListener(signal, this.#listeners.get(signal)!);
    this.#listeners.delete(signal);
    logger.info?.(`Stopping on ${signal}`);
    const isReady = lifecycle.state !== "starting";
    // It is logged by the step that fails.
    await this.#host.stopForClient().catch(() => {});
    // The program is still on its way to ready(), and would fail at its next call of this generation.
    if (!isReady) exit(logger, 0);
  }
}
