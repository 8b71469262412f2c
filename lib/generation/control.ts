/**
 * The control socket: its clients are the next generation, and the command line.
 *
 * @module
 */

import { pidNamespace } from "../../ffi/proc.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { PeerNotAllowedError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { longestPause, pause } from "../time.ts";
import { checkPeer } from "../unix/peer.ts";
import type { UnixConn } from "../unix/conn.ts";
import type { UnixListener } from "../unix/listener.ts";
import { Channel } from "./channel.ts";
import { reportFrame, unexpected } from "./frame.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { Settings } from "./options.ts";
import type { Frame, GenerationStatus } from "./protocol.ts";
import { isOutOfDescriptors, Reserve } from "./reserve.ts";

/** What the control socket needs of its generation. */
export interface ControlHost {
  readonly path: string;
  readonly number: number;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
  status(): GenerationStatus;
  restart(): Promise<{ pid: number; generation: number }>;
  /** Stops the service for a client of the control socket: its process is to end. */
  stopForClient(): Promise<void>;
  /** Hands everything over to the client, or refuses. */
  handOver(channel: Channel, hello: Frame & { type: "hello" }): Promise<void>;
}

/** Accepts on the control socket of one generation, and answers its clients. */
export class Control {
  /** The listener; absent where no descriptors are passed. */
  readonly listener: UnixListener | undefined;
  readonly #host: ControlHost;
  /** A descriptor for the next client, when the process has no other left. */
  readonly #reserve: Reserve | undefined;
  /** Set while this generation accepts here; aborting it stops that. */
  #answering: AbortController | undefined;

  constructor(listener: UnixListener | undefined, host: ControlHost) {
    this.listener = listener;
    if (host.settings.isPreloaded) listener?.unref();
    this.#host = host;
    this.#reserve = listener && new Reserve();
  }

  /**
   * Accepts until `withdraw()`. Without a listener no client can come: the pending wait keeps the process running all the
   * same, as long as the generation does.
   */
  async answer(): Promise<void> {
    if (this.#answering) return;
    const { logger, path } = this.#host;
    const { signal } = this.#answering = new AbortController();
    let failure: string | undefined;
    let delay = 0;
    while (!signal.aborted) {
      try {
        if (!this.listener) {
          await pause(longestPause, signal);
          continue;
        }
        const conn = await this.listener.accept({ signal });
        if (failure) logger.info?.(`Accepting on ${formatPath(path)} again`);
        failure = undefined;
        delay = 0;
        void this.#converse(conn);
      } catch (error) {
        if (signal.aborted) return;
        // Without a free descriptor the service is still to be asked, replaced and stopped.
        if (isOutOfDescriptors(error) && this.#reserve?.spend()) continue;
        // An error that lasts is logged once.
        const { message } = error as Error;
        if (message !== failure) {
          const what = isOutOfDescriptors(error)
            ? ": the process has no descriptor left; raise its limit (ulimit -n, LimitNOFILE= under systemd)"
            : "";
          logger.error?.(`Cannot accept on ${formatPath(path)}; trying again${what}`, error);
        }
        failure = message;
        delay = Math.min(2 * delay || shortestDelay, longestDelay);
        // Aborted by `withdraw()`: the loop ends.
        await pause(delay, signal).catch(() => {});
      }
    }
  }

  /** Stops accepting; `answer()` may be called again. */
  withdraw(): void {
    this.#answering?.abort();
    this.#answering = undefined;
  }

  /** Frees the reserved descriptor for a call in this very turn of the event loop. */
  spendReserve(): void {
    this.#reserve?.[Symbol.dispose]();
  }

  /** Answers one client; never rejects. */
  async #converse(conn: UnixConn): Promise<void> {
    const { settings: { allow, peerTimeout, isPreloaded }, lifecycle, logger, path } = this.#host;
    if (isPreloaded) conn.unref();
    const channel = new Channel(conn, peerTimeout);
    try {
      checkPeer(conn, allow, `At ${formatPath(path)}`);
      const asked = await channel.receive({ timeout: peerTimeout });
      if (asked) await this.#serve(channel, asked);
    } catch (error) {
      if (error instanceof PeerNotAllowedError) {
        const refused: Frame = { type: "refused", reason: error.message, code: "peer" };
        // The client may not wait for an answer.
        await channel.send(refused).catch(() => {});
      }
      // The command line may not wait for the answer: it was interrupted.
      const isClientGone = error instanceof Deno.errors.BrokenPipe;
      const what = `A conversation at ${formatPath(path)} failed`;
      logger[isClientGone ? "debug" : "error"]?.(what, error);
    } finally {
      this.#close(channel);
      if (!lifecycle.hasLeft) this.#reserve?.refill();
    }
  }

  /** Closes a connection; never throws, although the program may have closed its descriptor. */
  #close(channel: Channel): void {
    try {
      channel[Symbol.dispose]();
    } catch (error) {
      this.#host.logger.debug?.("Cannot close a connection of the control socket", error);
    }
  }

  async #serve(channel: Channel, asked: Frame): Promise<void> {
    const host = this.#host;
    if (asked.type === "hello") {
      await host.handOver(channel, asked);
    } else if (asked.type === "status") {
      await channel.send(reportFrame(host.status()));
    } else if (asked.type === "restart") {
      const answer: Frame = await host.restart().then(
        (outcome) => ({ type: "done", ...outcome }),
        (error) => ({ type: "failed", message: error.message }),
      );
      await channel.send(answer);
    } else if (asked.type === "stop") {
      const stopped = host.stopForClient();
      const generation = host.number;
      await channel.send({ type: "done", pid: Deno.pid, generation, namespace: pidNamespace() });
      await stopped;
    } else throw unexpected(asked);
  }
}

/** Milliseconds before accepting again after it failed: twice as many each time. */
const shortestDelay = 5;
const longestDelay = 1000;
