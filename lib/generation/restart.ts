/**
 * `restart()`: starts the next generation as a process, and waits for the outcome.
 *
 * @module
 */

import { formatPath } from "../../ffi/sockaddr.ts";
import { indented } from "../../ffi/quote.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { HandoverError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { pause } from "../time.ts";
import type { UnixConn } from "../unix/conn.ts";
import { Child } from "./child.ts";
import type { Command, OwnCommand } from "./command.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { SharedFate } from "./main_process.ts";
import type { Settings } from "./options.ts";
import type { Phase } from "./phase_log.ts";

/** The outcome of a restart: the process and number of the generation that serves. */
export interface Restarted {
  /** Its process number. */
  pid: number;
  /** Its generation number. */
  generation: number;
}

/** One restart, from the start of its process to its outcome. */
export class Attempt {
  /** The process that it has started, or is about to. */
  readonly successor: Child;
  readonly outcome: PromiseWithResolvers<Restarted> = Promise.withResolvers<Restarted>();
  /** The handover to its process, while there is one; resolves when that is over. */
  handover: Promise<void> | undefined;
  /** Whether its process accepts: it has clients from then on, and is not ended. */
  isReady = false;
  /** The error of the latest handover to its process. */
  failure: Error | undefined;
  /** The last error that its process has reported over the connection. */
  lastWords = "";

  constructor(successor: Child) {
    this.successor = successor;
  }

  /** The process, as an error names it. */
  get #named(): string {
    const { pid } = this.successor;
    return pid === undefined ? "The next generation" : `The next generation, process ${pid},`;
  }

  /**
   * Waits until the process has taken over, has ended, or was not ready in time.
   *
   * @param path The control path, for errors.
   * @param handover What is known of the handover that is under way.
   */
  async wait(
    path: string,
    readyTimeout: number,
    handover: () => { progress: string; takeBack(error: Error): void } | undefined,
  ): Promise<Restarted> {
    const { successor, outcome } = this;
    successor.ended.then(async ({ how, lastWords }) => {
      // The end of the process may be noticed before its handover has failed: the generation is busy until then.
      await this.handover?.catch(() => {});
      // Its output was not read any more after it was ready.
      const words = this.isReady && this.lastWords || lastWords || this.lastWords || "";
      outcome.reject(new HandoverError(`${this.#named} ${how}${lastWordsOf(words)}`));
    }, (error) => outcome.reject(error));
    const over = new AbortController();
    pause(readyTimeout, over.signal).then(async () => {
      if (this.isReady) return;
      const why = this.failure
        ? `; when it tried: ${this.failure.message}`
        : this.handover
        ? `: ${handover()?.progress}`
        : `: it has not called start() with ${formatPath(path)}`;
      const what = `${this.#named} was not ready after ${readyTimeout} ms${why}`;
      const words = lastWordsOf(successor.lastWords);
      const error = new HandoverError(what + words, "ERR_HANDOVER_TIMEOUT");
      successor.kill();
      // The next restart may begin when this one has failed: the handover has to be over by then.
      if (this.handover) handover()?.takeBack(error);
      // The error of the handover is the one of the timeout.
      await this.handover?.catch(() => {});
      outcome.reject(error);
    }, () => {});
    try {
      return await outcome.promise;
    } finally {
      over.abort();
    }
  }
}

/** What restarts need of their generation. */
export interface RestartHost {
  readonly path: string;
  readonly number: number;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
  /** Absent where no descriptors are passed. */
  readonly command: OwnCommand | undefined;
  /** The handover that is under way, or was the last one. */
  readonly handover:
    | { readonly isReady: boolean; pid: number; progress: string; takeBack(error: Error): void }
    | undefined;
  /** Whether this generation was asked to stop. */
  readonly isStopping: boolean;
  /** Why this generation accepts no more, if its predecessor has taken the service back. */
  readonly rolledBack: string | undefined;
  /** What ends with this process, although it was replaced. */
  sharedFate(): SharedFate | undefined;
  /** Has the control path and the unix paths lead here again. */
  restorePaths(): void;
  /** Sends the successor a request for one more restart. */
  passOn(): Promise<void>;
  log(phase: Phase, began: number, details: { successor: number }): void;
}

/** The restarts of one generation: one at a time, and one more for all signals that come meanwhile. */
export class Restarts {
  readonly #host: RestartHost;
  #attempt: Attempt | undefined;
  /** Whether a signal has asked for a restart at a time when none could begin. */
  #isRequested = false;
  /** The tokens of restarts that have failed: their processes are refused. */
  readonly #failedTokens = new Set<string>();

  constructor(host: RestartHost) {
    this.#host = host;
  }

  /** Starts the next generation, and waits for its outcome. */
  async restart(command?: Command): Promise<Restarted> {
    const { lifecycle, logger, path, settings } = this.#host;
    this.#check();
    const began = performance.now();
    let attempt: Attempt | undefined;
    // Done when this returns, unless another process has the lock: the next generation connects to that path.
    this.#host.restorePaths();
    try {
      const unsupported = noDescriptors();
      if (unsupported) throw unsupported;
      const successor = new Child(
        this.#host.command!.complete(command ?? settings.command),
        logger,
      );
      attempt = this.#attempt = new Attempt(successor);
      const outcome = await attempt.wait(path, settings.readyTimeout, () => this.#host.handover);
      this.#host.log("restarted", began, { successor: outcome.pid });
      return outcome;
    } catch (error) {
      if (attempt) this.#giveUp(attempt, error);
      const isOver = lifecycle.hasLeft || this.#host.handover?.isReady;
      logger.error?.(`The restart failed${isOver ? "" : "; this generation goes on"}`, error);
      throw error;
    } finally {
      attempt?.successor.release();
      this.#attempt = undefined;
      this.proceed();
    }
  }

  /** @throws {HandoverError} When no restart can begin now. */
  #check(): void {
    const { lifecycle, logger, isStopping } = this.#host;
    if (!lifecycle.isServing || this.#attempt || isStopping) {
      const why = lifecycle.accepts && isStopping
        ? "this generation is being stopped, and no other one follows; start the service again"
        : this.#attempt || lifecycle.isHandingOver
        ? "another handover is under way"
        : lifecycle.state === "starting"
        ? "this generation has not called ready() yet"
        : `this generation is ${lifecycle.state}`;
      logger.error?.(`Cannot restart: ${why}`);
      throw new HandoverError(`Cannot restart: ${why}`, "ERR_HANDOVER_BUSY");
    }
    const shared = this.#host.sharedFate();
    if (shared) {
      const what = `Cannot restart: process ${Deno.pid}, this one, ${shared.why}`;
      logger.error?.(what);
      throw new HandoverError(what, "ERR_HANDOVER_MAIN_PROCESS");
    }
  }

  /**
   * Restarts now, or as soon as that is possible: a signal during a restart may stand for files that were
   * changed after the process of that restart had read them.
   */
  request(cause: string): void {
    const { lifecycle, logger, handover, rolledBack, isStopping } = this.#host;
    if ((lifecycle.hasLeft || isStopping) && !handover?.isReady) {
      const why = rolledBack ??
        "this generation is being stopped, and no other one follows; start the service again";
      logger.warn?.(`Not restarting on ${cause}: ${why}`);
      return;
    }
    this.#isRequested = true;
    logger.info?.(`Restarting on ${cause}, once this generation can`);
    this.proceed();
  }

  /** Does the restart that was requested, here or by the successor, if that is possible now. */
  proceed(): void {
    if (!this.#isRequested) return;
    const { lifecycle, logger, handover, rolledBack, isStopping } = this.#host;
    if (lifecycle.state === "draining" && handover?.isReady) {
      this.#isRequested = false;
      this.#host.passOn().catch((error) => {
        const what = "Cannot pass on to the next generation that it is to restart; ask it for that";
        logger.error?.(what, error);
      });
    } else if (rolledBack !== undefined && lifecycle.hasLeft) {
      this.#isRequested = false;
      logger.warn?.(`Not restarting, as a signal has asked for: ${rolledBack}`);
    } else if (lifecycle.state === "serving" && !this.#attempt && !isStopping) {
      this.#isRequested = false;
      // The error is logged by restart().
      void this.restart().catch(() => {});
    }
  }

  /**
   * The attempt whose process sends `hello`, or has started the process that does. Only the kernel's word counts for
   * the process number: in another PID namespace another process may have the number that `hello` says.
   */
  attemptOf({ token }: { token?: string }, { peer }: UnixConn): Attempt | undefined {
    const attempt = this.#attempt;
    if (!attempt) return undefined;
    const { successor } = attempt;
    const isItsProcess = successor.pid !== undefined && peer.pid === successor.pid;
    return token === successor.token || isItsProcess ? attempt : undefined;
  }

  /** Whether the restart of that token has failed. */
  hasFailed(token: string): boolean {
    return this.#failedTokens.has(token);
  }

  /** Gives up the restart that is under way, because process `pid`, which is not of that restart, has taken over. */
  yieldTo(pid: number, own: Attempt | undefined): void {
    if (!this.#attempt || this.#attempt === own) return;
    this.#giveUp(this.#attempt, new HandoverError(`Another process, ${pid}, has taken over`));
  }

  /** Ends the processes of a restart that has failed, unless one of them accepts; none may take over later. */
  #giveUp({ successor, isReady, outcome }: Attempt, reason: unknown): void {
    this.#failedTokens.add(successor.token);
    if (!isReady) successor.kill();
    outcome.reject(reason);
  }

  /** Settles the restart that is under way when the generation drains. */
  async settle(): Promise<void> {
    const attempt = this.#attempt;
    if (!attempt) return;
    const { handover, number } = this.#host;
    // A successor of another origin has given the attempt up when it was ready.
    if (handover?.isReady && attempt.isReady) {
      attempt.outcome.resolve({ pid: handover.pid, generation: number + 1 });
      return;
    }
    this.#giveUp(attempt, new HandoverError("This generation was stopped meanwhile"));
    // Until it has ended it may hold duplicates of the sockets: clients would still connect to them.
    if (!attempt.isReady) await attempt.successor.ended.catch(() => {});
  }
}

/** The last output of a process, as the end of an error message. */
export function lastWordsOf(output: string): string {
  return output ? `; the last it said was: ${indented(output)}` : "";
}
