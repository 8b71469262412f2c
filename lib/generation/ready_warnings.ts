/**
 * Warns of a program that calls `ready()` too late or too early, and of inherited sockets that it does not ask for.
 *
 * @module
 */

import { listed } from "../../ffi/quote.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { later, type Timer } from "../event_loop/timer.ts";
import type { Logger } from "../logger.ts";
import { adviceForTwoServices } from "./handover.ts";
import type { Inheritance } from "./inheritance.ts";
import type { Settings } from "./options.ts";
import type { Predecessor } from "./predecessor.ts";

/** What the warnings need of their generation. */
export interface ReadyWarningsHost {
  readonly path: string;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly inheritance: Inheritance;
  readonly predecessor: Predecessor | undefined;
  /** The addresses of all sockets that it has. */
  addresses(): string[];
}

/** Watches when one program asks for its sockets, and when it calls `ready()`. */
export class ReadyWarnings {
  readonly #host: ReadyWarningsHost;
  /** Runs from the first socket on until `ready()`. */
  #reminder: Timer | undefined;
  /** When `ready()` was called. */
  #readyAt: number | undefined;
  #hasSocket = false;
  #hasInherited = false;
  #isEarlyLogged = false;

  constructor(host: ReadyWarningsHost) {
    this.#host = host;
  }

  /** Notes that `ready()` was called; gives the time, a `performance.now()`. */
  readyCalled(): number {
    this.#reminder?.cancel();
    return this.#readyAt = performance.now();
  }

  /** Ends the reminder: the generation drains. */
  stop(): void {
    this.#reminder?.cancel();
  }

  /** Notes that a listener or datagram socket was made; warns if `ready()` was called before. */
  socketMade(address: string, isInherited: boolean): void {
    const isFirst = !this.#hasSocket;
    this.#hasSocket = true;
    this.#hasInherited ||= isInherited;
    // The preload module calls ready().
    if (this.#host.settings.isPreloaded) return;
    if (this.#readyAt === undefined) this.#remind();
    // A further new address has no client yet: it may be listened on at any time.
    else if ((isInherited || isFirst) && !this.#isEarlyLogged) {
      this.#isEarlyLogged = true;
      const passed = Math.round(performance.now() - this.#readyAt);
      const why = isInherited
        ? "for as long, no generation has accepted there"
        : "at the next restart no generation accepts there for as long";
      this.#host.logger.warn?.(
        `The program asked for ${address} ${passed} ms after it had called ready(): ${why}. ` +
          "Call ready() after the last serve() or listen()",
      );
    }
  }

  /** Warns, some time from now, of a program that does not call `ready()`: its addresses are bound, and not accepted on. */
  #remind(): void {
    if (this.#reminder !== undefined) return;
    const { predecessor, logger, settings: { readyTimeout } } = this.#host;
    const began = performance.now();
    this.#reminder = later(Math.min(longestSilence, readyTimeout), () => {
      const passed = Math.round(performance.now() - began);
      const until = predecessor && !predecessor.gone
        ? `process ${predecessor.pid}, the previous generation, is the one that accepts`
        : "what connects there waits";
      logger.warn?.(
        `The program has not called ready() for ${passed} ms since it made its first listener: this ` +
          `generation accepts from then on at ${
            this.#host.addresses().join(", ")
          }, and until then ` +
          `${until}. Call ready() when the program can serve; where that takes longer, make its ` +
          "listeners later",
      );
    });
  }

  /** Warns at `ready()` if the program has asked for no socket: it may ask for the inherited ones too late. */
  warnOfUnserved(): void {
    const { predecessor, inheritance, logger, settings: { probation } } = this.#host;
    const addresses = inheritance.addresses();
    if (!predecessor || this.#hasSocket || addresses.length === 0) return;
    this.#isEarlyLogged = true;
    logger.warn?.(
      `The program has called ready(), and asked for no listener: nobody accepts at ${
        addresses.join(", ")
      }, where generation ${predecessor.generation}, process ${predecessor.pid}, did until now. What is ` +
        `not asked for is closed in ${probation} ms, at the end of the probation. Call ready() after serve() and listen()`,
    );
  }

  /** The inherited addresses, if the program has asked for none of them. */
  droppedAddresses(): string[] {
    return this.#hasInherited ? [] : this.#host.inheritance.addresses();
  }

  /** Closes the inherited descriptors that the program has not asked for, and warns of them. */
  closeUnclaimed(): void {
    const { inheritance, logger, path, predecessor, settings } = this.#host;
    const { inheritFrom, isPreloaded } = settings;
    try {
      const unclaimed = inheritance.clear();
      const words = (isFile: boolean) =>
        unclaimed.filter(({ kind }) => (kind === "file") === isFile).map(({ words }) => words);
      const [files, others] = [words(true), words(false)];
      // A log with another name each day is no mistake.
      if (files.length > 0) {
        logger.info?.(`Closed files that this generation has not opened: ${listed(files)}`);
      }
      if (others.length === 0) return;
      const from = predecessor
        ? `generation ${predecessor.generation}, process ${predecessor.pid},`
        : inheritFrom === undefined
        ? "the service manager"
        : `the server at ${formatPath(inheritFrom)}`;
      const hasSocket = unclaimed.some(({ kind }) => kind === "listener" || kind === "datagram");
      logger.warn?.(
        `Closed what ${from} had handed over and this generation has not asked for: ${
          listed(others)
        }. Where this release has dropped it on purpose, nothing is to be done; where it has not, ${
          isPreloaded
            ? "it came after the probation: set GRACEFUL_PROBATION or GRACEFUL_SETTLE to more milliseconds, or GRACEFUL_READY=explicit"
            : "call serve(), listen() or take() before ready()"
        }${hasSocket ? `. ${adviceForTwoServices(path, settings)}` : ""}`,
      );
    } catch (error) {
      logger.error?.("Cannot close what was inherited and not asked for", error);
    }
  }
}

/** Milliseconds from the first listener on after which a missing `ready()` is logged. */
const longestSilence = 10_000;
