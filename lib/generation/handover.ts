/**
 * The old process's half of a handover: it sends the offer, stops accepting when its successor accepts, and stands by
 * until that has lived through its probation. `takeover.ts` has the half of the new process.
 *
 * @module
 */

import { indented, listed, quoted } from "../../ffi/quote.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { HandoverError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { expiring, unlessAborted } from "../time.ts";
import type { UnixConn } from "../unix/conn.ts";
import type { UnixListener } from "../unix/listener.ts";
import type { Channel } from "./channel.ts";
import { unexpected } from "./frame.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { SharedFate } from "./main_process.ts";
import { sendOffer } from "./offer.ts";
import type { Settings } from "./options.ts";
import type { Phase } from "./phase_log.ts";
import { type Frame, protocolVersion } from "./protocol.ts";
import type { Resources } from "./resources.ts";
import { type Attempt, lastWordsOf, type Restarts } from "./restart.ts";
import type { ServiceManager } from "./service_manager.ts";
import type { KeptValue } from "./state.ts";

/** What a handover needs of its generation. */
export interface HandoverHost {
  readonly path: string;
  readonly number: number;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
  readonly control: UnixListener | undefined;
  readonly resources: Resources;
  readonly kept: ReadonlyMap<string, KeptValue>;
  readonly restarts: Restarts;
  readonly manager: ServiceManager;
  /** The handover that is under way, or was the last one. */
  handover: Handover | undefined;
  /** Answers at the control socket. */
  answer(): void;
  /** Stops accepting, at the control socket and at all others, in a way that can be undone. */
  withdraw(): void;
  /** Reports the number of connections that are left, again and again until `stopReporting()`. */
  startReporting(): void;
  stopReporting(): void;
  /** Has the control path and the unix paths lead here again. */
  restorePaths(): void;
  /** Drains and ends. */
  depart(): Promise<void>;
  /** What ends with this process, although it was replaced. */
  sharedFate(): SharedFate | undefined;
  log(phase: Phase, began: number, details: { successor: number }): void;
}

/** A request for the offer. */
export type Hello = Frame & { type: "hello" };

/** Hands everything over to the process that has sent `hello`, or refuses; a handover that fails is rolled back. */
export async function handOver(host: HandoverHost, channel: Channel, hello: Hello): Promise<void> {
  const pid = pidOf(hello, channel.conn);
  const refused = refusal(host, hello, channel.conn);
  if (refused) {
    // Two services at one control path are a mistake of the set-up; a busy generation is not.
    const level = refused.type === "refused" && refused.code === "service" ? "warn" : "info";
    host.logger[level]?.(
      `Refused process ${pid} at ${formatPath(host.path)}: ${refused.reason}`,
    );
    await channel.send(refused);
    return;
  }
  host.restorePaths();
  host.lifecycle.enter("offering");
  const attempt = host.restarts.attemptOf(hello, channel.conn);
  const handover = new Handover(host, channel, pid, attempt);
  host.handover = handover;
  const over = handover.run();
  if (attempt) attempt.handover = over;
  try {
    await over;
  } catch (error) {
    attempt?.outcome.reject(error);
    throw error;
  } finally {
    if (attempt) attempt.handover = undefined;
    host.restarts.proceed();
  }
}

/** The process number of the successor: where the kernel gives none, of another PID namespace (unix(7)), its own word. */
function pidOf({ pid }: { pid: number }, { peer }: UnixConn): number {
  return peer.pid || pid;
}

/** The answer to a process that gets no offer; undefined for one that gets it. */
function refusal(
  host: HandoverHost,
  { version, token, service }: Hello,
  { peer }: UnixConn,
): Frame & { type: "refused" | "rollback" } | undefined {
  const { lifecycle, restarts, settings: { service: own } } = host;
  if (version !== protocolVersion) {
    const reason =
      `it speaks version ${version} of the handover, and the generation that runs version ${protocolVersion}: ` +
      "stop that one first, and start this one then";
    return { type: "refused", code: "version", reason };
  }
  // A release may introduce a name, and a rollback of it drops the name again.
  if (own !== undefined && service !== undefined && service !== own) {
    const reason =
      `it is of the service ${quoted(service)}, and the generation that runs there of ` +
      `${quoted(own)}: give each service a control path of its own`;
    return { type: "refused", code: "service", reason };
  }
  if (token !== undefined && restarts.hasFailed(token)) {
    // A rollback, on which start() does not try again.
    return { type: "rollback", reason: "the restart that has started this process has failed" };
  }
  // A process with a number in this PID namespace ends with process 1 of it (pid_namespaces(7)).
  const isInside = peer.pid > 0 && peer.pid !== Deno.pid;
  const shared = isInside ? host.sharedFate() : undefined;
  if (shared?.of === "container") {
    return { type: "rollback", reason: `process ${Deno.pid}, which runs, ${shared.why}` };
  }
  if (lifecycle.state === "serving") return undefined;
  if (lifecycle.hasLeft) {
    return { type: "refused", code: "draining", reason: "the generation that runs is draining" };
  }
  return { type: "refused", code: "busy", reason: whyBusy(host) };
}

/** Why another handover cannot begin. */
function whyBusy({ lifecycle, handover }: HandoverHost): string {
  const here = `the generation there, process ${Deno.pid},`;
  if (lifecycle.state === "starting") return `${here} has not called ready() yet`;
  if (lifecycle.isOnProbation) return `${here} has not lived through its probation yet`;
  return `another handover is under way, to process ${handover?.pid}`;
}

/** One handover to one process, which is not refused. */
export class Handover {
  /** The connection to the successor. */
  readonly channel: Channel;
  /** The process number of the successor. */
  readonly pid: number;
  readonly #host: HandoverHost;
  readonly #attempt: Attempt | undefined;
  /** Takes the offer back, as long as the successor is not ready. */
  #offering: AbortController | undefined;
  #isReady = false;

  constructor(
    host: HandoverHost,
    channel: Channel,
    pid: number,
    attempt: Attempt | undefined,
  ) {
    this.#host = host;
    this.channel = channel;
    this.pid = pid;
    this.#attempt = attempt;
  }

  /** Whether the successor accepts: the clients of this generation go there. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /** Takes the offer back for a reason, unless the successor is ready. */
  takeBack(reason: Error): void {
    this.#offering?.abort(reason);
  }

  /** What a successor that is not ready has done, and what it has not. */
  get progress(): string {
    const addresses = this.#host.resources.addresses();
    const where = addresses.length > 0 ? `, of ${listed(addresses)}` : "";
    const what = this.#host.settings.isPreloaded
      ? "has not made the listeners that make it ready"
      : "has not called ready()";
    return `it has the offer${where}, and ${what}`;
  }

  /** Offers, withdraws and drains; or rolls back, and serves on. */
  async run(): Promise<void> {
    const { lifecycle, resources } = this.#host;
    const began = performance.now();
    resources.watch();
    try {
      this.#log("hello", began);
      const probation = await this.#awaitReady(began);
      this.#standBy(began);
      await this.#awaitHealthy(probation, began);
    } catch (error) {
      // A generation that is being stopped leaves to a successor that was ready, even if that fails later.
      if (this.#isReady && lifecycle.hasLeft) return;
      this.#log("rollback", began);
      await this.#rollBack(error);
      return;
    }
    this.#log("healthy", began);
    await this.#host.depart();
  }

  /** Sends the offer, and waits for `ready`; gives the probation that the successor asks for. */
  async #awaitReady(began: number): Promise<number> {
    const { number: generation, resources, kept, settings } = this.#host;
    const { readyTimeout } = settings;
    const { signal } = this.#offering = new AbortController();
    const control = this.#host.control!;
    const withOutput = this.#attempt !== undefined;
    const { invocation } = this.#host.manager;
    const offered = { generation, control, resources, kept, invocation, withOutput };
    let probation: number;
    try {
      await sendOffer(this.channel, offered, signal).catch((cause) => {
        if (!(cause instanceof Deno.errors.BrokenPipe)) throw cause;
        const what =
          `Process ${this.pid}, the next generation, ended before it had read all of the offer`;
        throw new HandoverError(what, undefined, { cause });
      });
      this.#log("offer", began);
      const late = `Process ${this.pid}, the next generation, was not ready after ` +
        `${readyTimeout} ms, the \`readyTimeout\` of the generation that runs: ${this.progress}`;
      ({ probation } = await this.#expect("ready", readyTimeout, late, signal));
    } finally {
      this.#offering = undefined;
    }
    const limit = Math.max(settings.probation, longestProbation);
    if (probation > limit) {
      throw new HandoverError(
        `The next generation asks for a probation of ${probation} ms: more than ${limit} ms are for a ` +
          "generation whose predecessor has as long a one itself",
      );
    }
    return probation;
  }

  /** Stops accepting, for the successor accepts. */
  #standBy(began: number): void {
    const { lifecycle, restarts } = this.#host;
    if (this.#attempt) this.#attempt.isReady = true;
    // The process of a restart that is under way would take over from this successor, and undo what was deployed.
    restarts.yieldTo(this.pid, this.#attempt);
    this.#log("ready", began);
    this.#isReady = true;
    // A generation that was stopped in this very turn drains already.
    if (!lifecycle.hasLeft) lifecycle.enter("standby");
    this.#host.withdraw();
    this.#host.manager.handedTo(this.pid);
    this.#host.startReporting();
  }

  /** Tells the successor that this generation has withdrawn, and waits for `healthy`. */
  async #awaitHealthy(probation: number, began: number): Promise<void> {
    const { settings, logger, path } = this.#host;
    const { peerTimeout } = settings;
    // The successor may have ended in good health by then: its frames tell.
    await this.channel.tell({ type: "withdrawn" });
    this.#log("withdrawn", began);
    const limits = `its probation of ${probation} ms and \`peerTimeout\``;
    const late =
      `Process ${this.pid}, the next generation, did not say that it is healthy in ${limits}`;
    const { dropped } = await this.#expect("healthy", probation + peerTimeout, late);
    if (!dropped) return;
    logger.warn?.(
      `Process ${this.pid}, the next generation, has asked for none of the listeners of this one, ` +
        `and closes them: ${listed(dropped.map(indented))}. ${
          adviceForTwoServices(path, settings)
        }`,
    );
  }

  /** Accepts again, or still, and tells the successor to end. */
  async #rollBack(reason: unknown): Promise<void> {
    const { lifecycle, logger, resources } = this.#host;
    const error = reason instanceof HandoverError ? reason : new HandoverError(
      `The handover failed: ${(reason as Error).message}`,
      undefined,
      { cause: reason },
    );
    const wasReady = this.#isReady;
    if (lifecycle.isHandingOver) {
      this.#host.stopReporting();
      this.#isReady = false;
      lifecycle.enter("serving");
      this.#host.manager.takenBack();
      resources.open();
      if (wasReady) this.#host.answer();
      // The error of a restart of this process is logged by that.
      const level = this.#attempt ? "debug" : "error";
      logger[level]?.("The handover failed; this generation goes on", error);
      // The successor may have bound the paths, and removes them when it ends.
      this.#host.restorePaths();
    }
    // It may have ended, or not read any more.
    await this.channel.send({ type: "rollback", reason: error.message }).catch(() => {});
    await this.#reportTo(this.#attempt, error);
  }

  /** Tells a restart of this process why the handover to its process has failed. */
  async #reportTo(attempt: Attempt | undefined, error: HandoverError): Promise<void> {
    if (!attempt) return;
    attempt.failure = error;
    const { successor, isReady, outcome } = attempt;
    // A process that was not ready may try again, or end, which settles the restart.
    if (!isReady) return;
    // It answers its clients, and ends: its own last words are the better error if they come in time.
    using late = expiring(lastWordsTime, () => error);
    // Whether it has ended or the time is over is seen by the signal.
    await unlessAborted(successor.ended, late.signal).catch(() => {});
    if (late.signal.aborted) outcome.reject(error);
  }

  /**
   * Receives the frame that has to come next.
   *
   * @param late The error when it does not come in time.
   */
  async #expect<T extends Frame["type"]>(
    type: T,
    timeout: number,
    late: string,
    signal?: AbortSignal,
  ): Promise<Frame & { type: T }> {
    const end = performance.now() + timeout;
    for (let lastWords = "";;) {
      const left = Math.max(0, end - performance.now());
      const frame = await this.channel.receive({ timeout: left, signal }).catch((cause) => {
        if (cause.code !== "ERR_HANDOVER_TIMEOUT" || cause === signal?.reason) throw cause;
        throw new HandoverError(late + lastWordsOf(lastWords), cause.code, { cause });
      });
      if (frame?.type === type) return frame as Frame & { type: T };
      if (!frame) {
        const what = `The next generation ended before it was ${type}`;
        throw new HandoverError(what + lastWordsOf(lastWords));
      }
      if (frame.type !== "failed") throw unexpected(frame);
      lastWords = frame.message;
      if (this.#attempt) this.#attempt.lastWords = lastWords;
    }
  }

  /** Reads the successor's frames while this generation drains, to the successor's end. */
  async follow(hurry: () => void): Promise<void> {
    const { lifecycle, logger } = this.#host;
    try {
      for (let frame; (frame = await this.channel.receive());) {
        if (frame.type === "stop") hurry();
      }
    } catch (error) {
      if (lifecycle.state !== "stopped") logger.debug?.("Cannot follow the next generation", error);
    }
  }

  #log(phase: Phase, began: number): void {
    this.#host.log(phase, began, { successor: this.pid });
  }
}

/** Milliseconds for which a failed restart waits for the end of its process, and the error that it ends with. */
const lastWordsTime = 1000;

/**
 * The longest probation that any successor may ask for, in milliseconds: for as long this generation does not accept,
 * even if the successor hangs.
 */
const longestProbation = 300_000;

/** What to do about two services that take over from each other at one control path. */
export function adviceForTwoServices(path: string, { isPreloaded }: Settings): string {
  const how = isPreloaded
    ? "set GRACEFUL_CONTROL, or GRACEFUL_SERVICE to a name"
    : 'and a name: start(path, { service: "name" })';
  return `Where another service has the same control path, ${
    formatPath(path)
  }, give each one of its own, ${how}`;
}
