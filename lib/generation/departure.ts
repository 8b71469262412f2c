/**
 * How a generation drains and ends, after it was replaced, stopped or rolled back.
 *
 * @module
 */

import { HandoverError } from "../errors.ts";
import type { WebSockets } from "../http/websockets.ts";
import type { Logger } from "../logger.ts";
import { expiring, unlessAborted } from "../time.ts";
import type { UnixConn } from "../unix/conn.ts";
import { releaseOutputPipes } from "./output.ts";
import type { Control } from "./control.ts";
import type { Draining } from "./draining.ts";
import type { Handover } from "./handover.ts";
import type { Inheritance } from "./inheritance.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { Settings } from "./options.ts";
import { exitInTime, running, servesElsewhere } from "./own_process.ts";
import type { Paths } from "./paths.ts";
import type { Phase } from "./phase_log.ts";
import type { Predecessor } from "./predecessor.ts";
import type { Frame, GenerationStatus } from "./protocol.ts";
import type { ReadyWarnings } from "./ready_warnings.ts";
import type { Resources } from "./resources.ts";
import type { Restarts } from "./restart.ts";
import type { ServiceManager } from "./service_manager.ts";
import type { Signals } from "./signals.ts";
import { StopDelay } from "./stop_delay.ts";
import type { KeptValue } from "./state.ts";
import type { Takeover } from "./takeover.ts";

/** What a departure needs of its generation. */
export interface DepartureHost {
  readonly settings: Settings;
  readonly logger: Logger;
  readonly path: string;
  readonly number: number;
  readonly lifecycle: Lifecycle;
  readonly answering: Control;
  readonly paths: Paths;
  readonly signals: Signals;
  readonly restarts: Restarts;
  readonly resources: Resources;
  readonly inheritance: Inheritance;
  readonly kept: ReadonlyMap<string, KeptValue>;
  readonly webSockets: WebSockets;
  readonly draining: Draining;
  readonly warnings: ReadyWarnings;
  readonly manager: ServiceManager;
  readonly predecessor: Predecessor | undefined;
  readonly takeover: Takeover | undefined;
  /** The handover that is under way, or was the last one. */
  readonly handover: Handover | undefined;
  /** The handover to the successor, if that accepts. */
  readonly successor: Handover | undefined;
  /** The connection to a plain server that was inherited from. */
  readonly foreign: UnixConn | undefined;
  /** Moves of connections that are under way. */
  readonly moves: ReadonlySet<Promise<boolean>>;
  /** Stops accepting everywhere. */
  withdraw(): void;
  status(): GenerationStatus;
  readonly finished: Promise<void>;
  log(phase: Phase, began: number): void;
}

/** The end of one generation. */
export class Departure {
  /** Resolves when the generation has ended; rejects when it was rolled back. */
  readonly finished: Promise<void>;
  readonly #host: DepartureHost;
  readonly #finished = Promise.withResolvers<void>();
  /** Aborted when idle clients are not to be waited for any more. */
  readonly #hurry = new AbortController();
  readonly #delay: StopDelay;
  #reporting: ReturnType<typeof setInterval> | undefined;
  #isStopping = false;
  /** Whether a signal or the command line has asked for the end of the process. */
  #isAskedToEnd = false;
  #isRolledBack = false;

  constructor(host: DepartureHost) {
    this.#host = host;
    this.#delay = new StopDelay(host);
    this.finished = this.#finished.promise;
    // The error is logged; a program that does not await it must not end by it.
    this.finished.catch(() => {});
  }

  /** {@linkcode Generation.stop} */
  async stop(): Promise<void> {
    const { lifecycle, takeover, predecessor, handover } = this.#host;
    if (lifecycle.hasLeft) this.#hurry.abort();
    else if (!this.#isStopping) {
      this.#isStopping = true;
      // The predecessor is not to accept again.
      if (predecessor && !predecessor.gone && lifecycle.isServing) {
        await takeover!.concludeForStop();
      }
      takeover?.endProbation();
      handover?.takeBack(new HandoverError("The generation that ran was stopped"));
      void this.depart();
    }
    // A rollback is no error of stop(): the generation has ended.
    await this.finished.catch(() => {});
  }

  /** Stops for a signal or the command line, after which the process is to end. */
  async stopForClient(): Promise<void> {
    this.#isAskedToEnd = true;
    const delay = this.#isStopping ? undefined : this.#delay.begin();
    if (delay) await delay;
    // Another stop of a generation that drains would have it hang up on idle clients.
    if (delay && this.#host.lifecycle.hasLeft) await this.finished.catch(() => {});
    else await this.stop();
  }

  /** Whether it was asked to stop, by the program, a signal or the command line. */
  get isStopping(): boolean {
    return this.#isStopping || this.#isAskedToEnd;
  }

  /** Ends the delay of a stop: this generation does not accept any more. */
  endStopDelay(): void {
    this.#delay.end();
  }

  /** Drains and ends, because the predecessor accepts again. */
  async rollBack(reason: unknown): Promise<void> {
    const { lifecycle, logger } = this.#host;
    if (!lifecycle.hasLeft) {
      this.#isRolledBack = true;
      logger.error?.("This generation was rolled back", reason);
      this.#host.manager.givenBack();
      void this.depart(reason);
    }
    // Its clients are answered before the program may end the process for that error.
    await this.finished.catch(() => {});
  }

  /** Why this generation accepts no more, if its predecessor has taken the service back. */
  get rolledBack(): string | undefined {
    if (!this.#isRolledBack) return undefined;
    const { pid } = this.#host.predecessor!;
    return `this generation was rolled back, and the previous one, process ${pid}, goes on: send ` +
      "the signal to that one";
  }

  /** Drains and ends; never rejects. A step that fails is logged, and the next one is taken. */
  async depart(reason?: unknown): Promise<void> {
    const host = this.#host;
    const { lifecycle, logger, predecessor, successor } = host;
    if (lifecycle.hasLeft) return;
    // The predecessor accepts, or accepts again.
    const isSpare = lifecycle.state === "starting" && predecessor !== undefined &&
      (!predecessor.gone || predecessor.hasTakenBack);
    lifecycle.enter("draining");
    host.warnings.stop();
    const isLast = !successor && reason === undefined && !isSpare;
    // The unit goes on with the other services of this process.
    if (isLast && !servesElsewhere(host.path)) host.manager.stopping();
    // The same signal stops them, and they may end before this one.
    else if (isLast && this.#isAskedToEnd) host.manager.extendStop();
    const began = performance.now();
    for (const [what, step] of Object.entries(this.#steps(successor, reason, isLast))) {
      try {
        const taken = step();
        if (taken) await taken;
      } catch (error) {
        logger.error?.(`Cannot ${what}; draining goes on`, error);
      }
    }
    lifecycle.enter("stopped");
    running.delete(host);
    host.manager.ended();
    host.log("stopped", began);
    if (reason === undefined) this.#finished.resolve();
    else this.#finished.reject(reason);
    // The kernel's word: the number that the successor has sent is that of its own PID namespace.
    const next = successor?.channel.conn.peer.pid;
    const isReplaced = next !== undefined && next !== Deno.pid && !this.#isStopping;
    if (this.#isAskedToEnd || isReplaced) {
      exitInTime(host.number, host.settings.exitTimeout, logger);
    }
  }

  /**
   * The steps of a departure, in their order: each of them relies on those before it.
   *
   * @param reason The error of a generation that is rolled back.
   * @param isLast Whether no other generation accepts.
   */
  #steps(
    successor: Handover | undefined,
    reason: unknown,
    isLast: boolean,
  ): Record<string, () => void | Promise<void>> {
    const host = this.#host;
    const { kept, paths, resources, webSockets, logger } = host;
    const { drainTimeout, forceCloseAfter } = host.settings;
    const { signal: hurry } = this.#hurry;
    // Without another generation that accepts, the clients have nowhere to go: only a busy one is told to leave.
    const isReplaced = successor !== undefined || reason !== undefined;
    let released: Promise<void> | undefined;
    return {
      "stop accepting": () => host.withdraw(),
      "leave kept descriptors to the next generation": () => {
        // Before `draining`, in whose listeners the program closes them.
        if (successor) { for (const each of kept.values()) each.detach(); }
      },
      "tell the program": () => {
        host.draining.abort(reason ?? new Error(successor ? "replaced" : "stopped"));
      },
      "follow the next generation": () => {
        if (successor) void successor.follow(() => this.#hurry.abort());
      },
      "pass on a restart that was asked for": () => host.restarts.proceed(),
      "close the WebSockets": () => {
        webSockets.closeAll({
          ...isReplaced
            ? { code: 1012, reason: "service restart", spread: Math.min(drainTimeout / 2, 30_000) }
            : { code: 1001, reason: "going away", spread: 0 },
          forceCloseAfter,
          hurry,
        });
      },
      "settle the restart": () => host.restarts.settle(),
      "close inherited descriptors that were not asked for": () => {
        host.inheritance[Symbol.dispose]();
        host.foreign?.[Symbol.dispose]();
      },
      "release the sockets": () => resources.release(isReplaced),
      "release the control path": () => {
        paths.stop();
        // The lock takes a descriptor, in this turn of the event loop.
        host.answering.spendReserve();
        released = paths.release();
        // Awaited below, when the clients have left.
        released.catch(() => {});
      },
      "drain the connections": () => {
        this.startReporting();
        return resources.drain({
          drainTimeout,
          httpDrainTimeout: isReplaced ? drainTimeout : Math.min(drainTimeout, farewellTime),
          forceCloseAfter,
          hurry,
          isClosing: () => webSockets.isClosing,
        });
      },
      "move connections": async () => {
        this.stopReporting();
        while (host.moves.size > 0) await Promise.allSettled(host.moves);
      },
      "remove the control path": () => released,
      "wait for the previous generation": () => {
        if (isLast || successor) return this.#awaitPredecessor();
      },
      "tell the next generation": async () => {
        // Behind the connections that were moved. The successor may have ended.
        const frame: Frame = { type: "progress", connections: 0 };
        await successor?.channel.send(frame).catch(() => {});
      },
      "close kept descriptors": () => {
        for (const each of kept.values()) each[Symbol.dispose]();
      },
      "stop listening to signals": () => host.signals.release(),
      "keep the output of processes that this one has started": () => releaseOutputPipes(logger),
      "close the connections to the other generations": () => {
        host.takeover?.[Symbol.dispose]();
        successor?.channel[Symbol.dispose]();
      },
    };
  }

  /**
   * Ends after the predecessor, in a unit: when the main process has ended, systemd sends SIGTERM once more to the processes
   * that are left, and a second one ends a process at once. So the last generation ends after all others.
   */
  async #awaitPredecessor(): Promise<void> {
    const { manager, predecessor, takeover, settings } = this.#host;
    if (!takeover || predecessor!.gone || manager.invocation === undefined) return;
    const { drainTimeout, forceCloseAfter } = settings;
    using late = expiring(drainTimeout + forceCloseAfter, () => new Error("That was all"));
    // It has limits of its own, and may hang nevertheless.
    await unlessAborted(takeover.alone, late.signal).catch(() => {});
  }

  /** Reports the number of connections that are left, again and again until `stopReporting()`. */
  startReporting(): void {
    this.#reporting ??= setInterval(() => this.#report(), reportInterval);
  }

  stopReporting(): void {
    clearInterval(this.#reporting);
    this.#reporting = undefined;
  }

  /** Logs the number of connections that are left, and sends it to the successor. */
  #report(): void {
    const { resources: { remainingClients: left }, logger, successor } = this.#host;
    logger.info?.(`Draining: ${left} connections are left`);
    // A successor that has ended needs no report.
    void successor?.channel.send({ type: "progress", connections: left }).catch(() => {});
  }
}

/** Milliseconds between two reports of the connections that are left. */
const reportInterval = 1000;

/**
 * Milliseconds in which busy clients of a generation that is stopped are answered, and told to leave. (After 100 ms
 * of that, none of 1.4 million requests met the end of its connection.)
 */
const farewellTime = 100;
