/**
 * The new process's half of a handover: it asks its predecessor for the offer, accepts at `ready()`, and lives through
 * its probation. `handover.ts` has the half of the old process.
 *
 * @module
 */

import { formatPath } from "../../ffi/sockaddr.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { HandoverError, PeerNotAllowedError } from "../errors.ts";
import { prepare } from "../event_loop/registration.ts";
import { later } from "../event_loop/timer.ts";
import type { Logger } from "../logger.ts";
import { either, pause } from "../time.ts";
import type { UnixConn } from "../unix/conn.ts";
import { UnixListener } from "../unix/listener.ts";
import { Channel } from "./channel.ts";
import { ownToken } from "./environment.ts";
import { releaseOutputPipes } from "./output.ts";
import { unexpected } from "./frame.ts";
import type { Inheritance } from "./inheritance.ts";
import type { Lifecycle, State } from "./lifecycle.ts";
import { receiveOffer } from "./offer.ts";
import type { Settings } from "./options.ts";
import { logPhase, type Phase } from "./phase_log.ts";
import { Predecessor } from "./predecessor.ts";
import { fileOf, type Frame, protocolVersion } from "./protocol.ts";

/** What a new generation begins with. */
export interface Accepted {
  /** Its number. */
  generation: number;
  control: UnixListener;
  inheritance: Inheritance;
  predecessor: Predecessor;
}

/** The answer to a request for the offer: `busy` says why to ask again later. */
export type OfferOutcome = { accepted: Accepted } | { busy: string };

/** Asks the generation at the other end of `conn` for its offer, and receives it. */
export async function requestOffer(
  path: string,
  conn: UnixConn,
  settings: Settings,
  began: number,
): Promise<OfferOutcome> {
  const { logger, peerTimeout, service, signal } = settings;
  using received = new DisposableStack();
  const channel = received.use(new Channel(conn, peerTimeout));
  logPhase(logger, "connected", began);
  const token = ownToken();
  await channel.tell({ type: "hello", version: protocolVersion, pid: Deno.pid, token, service });
  logPhase(logger, "hello", began, { predecessor: conn.peer.pid });
  // While the predecessor collects the offer.
  prepare();
  using late = channel.stalling(
    peerTimeout,
    `The generation that runs at ${
      formatPath(path)
    }, process ${conn.peer.pid}, has sent nothing for ` +
      `${peerTimeout} ms, on which this one waits: it hangs, or was stopped (SIGSTOP); end that ` +
      "process, or start this one with a longer `peerTimeout`",
  );
  const waiting = { signal: either(late.signal, signal) };
  const answer = await channel.receive(waiting).catch((cause) => {
    if (cause.code !== "ERR_HANDOVER_PROTOCOL") throw cause;
    const what = `What listens at ${
      formatPath(path)
    } is no generation of a service: ${cause.message}; end it, or choose another path`;
    throw new HandoverError(what, cause.code, { cause });
  });
  const hungUp = {
    busy:
      "the process that listens there hung up: it has ended just now, or is no generation of a service",
  };
  if (!answer) return hungUp;
  if (answer.type === "refused" && (answer.code === "busy" || answer.code === "draining")) {
    return { busy: answer.reason };
  }
  const offer = checkOffer(path, answer);
  const inheritance = await receiveOffer(channel, offer, waiting);
  if (!inheritance) return hungUp;
  received.use(inheritance);
  const passed = inheritance.take("control", "");
  if (!passed) {
    throw new HandoverError("The offer is without a control socket", "ERR_HANDOVER_PROTOCOL");
  }
  const { file } = passed.item;
  const control = new UnixListener(received.use(passed.fd!), path, file && fileOf(file));
  if (settings.mode !== undefined && file) control.setMode(settings.mode);
  const generation = offer.generation + 1;
  logPhase(logger, "offer", began, { generation, predecessor: offer.pid });
  const predecessor = new Predecessor(channel, offer);
  received.move();
  return { accepted: { generation, control, inheritance, predecessor } };
}

/** @throws {HandoverError | PeerNotAllowedError} When the answer is a refusal for good, or no offer. */
function checkOffer(path: string, answer: Frame): Frame & { type: "offer" } {
  if (answer.type === "refused" && answer.code === "peer") {
    throw new PeerNotAllowedError(
      `Cannot take over: ${answer.reason}. Run it as the user of the generation that runs there, or have ` +
        "the `allow` of that one let it in",
    );
  }
  if (answer.type === "refused" || answer.type === "rollback") {
    const code = answer.type === "rollback"
      ? "ERR_HANDOVER_FAILED"
      : answer.code === "service"
      ? "ERR_HANDOVER_SERVICE"
      : "ERR_HANDOVER_VERSION";
    throw new HandoverError(`Cannot take over at ${formatPath(path)}: ${answer.reason}`, code);
  }
  if (answer.type !== "offer") throw unexpected(answer);
  if (answer.version !== protocolVersion) {
    const what = `it offers version ${answer.version} of the handover, not ${protocolVersion}`;
    throw new HandoverError(`Cannot take over: ${what}`, "ERR_HANDOVER_VERSION");
  }
  return answer;
}

/** What a takeover needs of its generation. */
export interface TakeoverHost {
  readonly number: number;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
  readonly inheritance: Inheritance;
  /** Begins to accept, in that state. */
  accept(state: State): void;
  /** Answers at the control socket. */
  answer(): void;
  /** Called when the probation is over and the predecessor cannot accept again. */
  provenHealthy(): void;
  /** Drains and ends, because the predecessor accepts again; resolves when it has ended. */
  rollBack(reason: unknown): Promise<void>;
  /** Restarts for a reason, as soon as that is possible. */
  requestRestart(cause: string): void;
  /** Has stderr of this process lead where that of the predecessor does. */
  takeStderr(): void;
  /** The addresses that were inherited and that this generation has not asked for, if it uses none of them. */
  droppedAddresses(): string[];
  log(phase: Phase, began: number, details: { predecessor: number }): void;
}

/** The takeover of one generation from its predecessor, from the offer to the predecessor's end. */
export class Takeover implements Disposable {
  readonly predecessor: Predecessor;
  /** Resolves when the predecessor has ended; rejects when it accepts again, or this generation ends before. */
  readonly alone: Promise<void>;
  readonly #host: TakeoverHost;
  readonly #alone = Promise.withResolvers<void>();
  /** Ends the probation early. */
  readonly #probation = new AbortController();
  /** Aborted when the predecessor cannot accept again. */
  readonly #proven = new AbortController();

  /** Takes the predecessor over, and reads its frames from here on. */
  constructor(predecessor: Predecessor, host: TakeoverHost) {
    this.predecessor = predecessor;
    this.#host = host;
    this.alone = this.#alone.promise;
    // A rejection that no program waits for must not end the process.
    this.alone.catch(() => {});
    this.#reportFailure();
    void this.#follow();
  }

  /**
   * Accepts, tells the predecessor, and waits until it has withdrawn.
   *
   * @throws {HandoverError} When the predecessor has taken the offer back; this generation is rolled back then.
   */
  async commit(began: number): Promise<void> {
    const { predecessor } = this;
    const { settings: { probation, peerTimeout }, logger } = this.#host;
    const details = { predecessor: predecessor.pid };
    const late = new AbortController();
    try {
      // Resolves when it has ended, and rejects when it has taken the offer back.
      if (predecessor.gone) await predecessor.withdrawn;
      this.#host.accept(predecessor.gone ? "serving" : "probation");
      this.#host.log("probation", began, details);
      if (!predecessor.gone) {
        // An error of the connection is the predecessor's end, which `follow` reads.
        await predecessor.send({ type: "ready", probation }).catch(() => {});
        this.#host.log("ready", began, details);
      }
      await Promise.race([
        predecessor.withdrawn,
        pause(peerTimeout, late.signal).then(() => {
          logger.error?.(
            `Process ${predecessor.pid}, the previous generation, has not stopped accepting for ` +
              `${peerTimeout} ms; this one serves beside it`,
          );
        }, () => {}),
      ]);
    } catch (error) {
      await this.#host.rollBack(error);
      throw error;
    } finally {
      late.abort();
    }
  }

  /** Waits for the end of the probation, and tells the predecessor, which drains from then on. */
  async prove(): Promise<void> {
    const { predecessor } = this;
    const { lifecycle, logger, settings } = this.#host;
    const began = performance.now();
    try {
      // Aborted by `endProbation()`.
      const { signal } = this.#probation;
      if (settings.isPreloaded) await detachedWait(settings.probation, signal);
      else await pause(settings.probation, signal).catch(() => {});
      const addresses = this.#host.droppedAddresses();
      const dropped = addresses.length > 0 ? addresses : undefined;
      await predecessor.send({ type: "healthy", dropped });
      this.#host.log("healthy", began, { predecessor: predecessor.pid });
    } catch (error) {
      logger.debug?.("The previous generation has ended already", error);
    } finally {
      if (lifecycle.isOnProbation) lifecycle.enter("serving");
      this.#proven.abort();
    }
    this.#host.provenHealthy();
  }

  /** Ends the probation now, and has the predecessor drain at once: the service is being stopped. */
  async concludeForStop(): Promise<void> {
    // A predecessor that has ended has nothing to be told.
    await this.predecessor.send({ type: "healthy" }).catch(() => {});
    await this.predecessor.send({ type: "stop" }).catch(() => {});
  }

  /** The same in this turn of the event loop, which may be the last one of this process. */
  concludeNow(): void {
    this.predecessor.sendNow({ type: "healthy" });
    this.predecessor.sendNow({ type: "stop" });
    this.endProbation();
  }

  /** Ends the probation early. */
  endProbation(): void {
    this.#probation.abort();
  }

  /** Reads the predecessor's frames, to its end. */
  async #follow(): Promise<void> {
    const { predecessor } = this;
    const { lifecycle, logger, number } = this.#host;
    const { pid } = predecessor;
    try {
      const takenBack = await predecessor.follow(() => {
        this.#host.requestRestart(`a signal to process ${pid}, the previous generation`);
      });
      if (takenBack) {
        this.#alone.reject(takenBack);
        if (lifecycle.isServing) await this.#host.rollBack(takenBack);
        else if (!lifecycle.hasLeft) {
          logger.warn?.(
            `This generation, ${number}, cannot take over any more, and its ready() is going to ` +
              `reject: ${takenBack.message}. Start it again`,
          );
        }
        return;
      }
      this.#alone.resolve();
      logger.info?.(`Process ${pid}, the previous generation, has ended`);
      // A client of the control socket is answered by this generation, though it is not ready.
      if (lifecycle.state === "starting") this.#host.answer();
    } catch (error) {
      // A generation that ends closes the connection itself.
      if (lifecycle.hasLeft) return;
      this.#alone.reject(error);
      logger.error?.(`Cannot follow process ${pid}, the previous generation`, error);
    } finally {
      if (predecessor.gone && !lifecycle.hasLeft) {
        this.#host.takeStderr();
        void releaseOutputPipes(logger);
      }
    }
  }

  /**
   * Reports an uncaught error and an early exit to the predecessor as long as that can accept again: it reads the
   * output of this process only where it has started it, and not after `ready()`.
   */
  #reportFailure(): void {
    const { signal } = this.#proven;
    const report = (message: string) => {
      this.predecessor.sendNow({ type: "failed", message });
    };
    const onError = (event: Event, error: unknown) => {
      if (!event.defaultPrevented) report(textOf(error));
    };
    const { addEventListener } = globalThis;
    addEventListener("error", (event) => onError(event, event.error ?? event.message), { signal });
    addEventListener("unhandledrejection", (event) => onError(event, event.reason), { signal });
    addEventListener("unload", () => report(`it exits with code ${Deno.exitCode}`), { signal });
  }

  /** Closes the connection to the predecessor. */
  [Symbol.dispose](): void {
    this.#alone.reject(
      new HandoverError("This generation has ended before the previous one"),
    );
    this.#proven.abort();
    this.predecessor[Symbol.dispose]();
  }
}

/** Waits for a time, or until the signal is aborted; a program that has ended meanwhile does not wait for it. */
async function detachedWait(milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = later(milliseconds, resolve);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  timer.cancel();
}

/** How many characters of an error the predecessor is sent. */
const maxErrorLength = 2000;

/** The text of a thrown value: its stack if it is an error. */
function textOf(error: unknown): string {
  try {
    return String(error instanceof Error && error.stack || error).slice(0, maxErrorLength);
  } catch {
    return "an error that has no text";
  }
}
