/**
 * The generation of a preloaded program: gives it its sockets, decides when it is ready, and ends its process.
 *
 * @module
 */

import { removeVariable } from "../../ffi/proc.ts";
import { type Generation, partsOf } from "../generation/generation.ts";
import type { AnyListenAddress } from "../generation/inheritance.ts";
import type { Settings } from "../generation/options.ts";
import { exit } from "../generation/own_process.ts";
import type { Parts } from "../generation/parts.ts";
import type { ListenAddress } from "../listen_address.ts";
import type { Logger } from "../logger.ts";
import type { NodeServer } from "../native/objects.ts";
import { longestPause } from "../time.ts";
import { AddressesInUse } from "./addresses_in_use.ts";
import { installNodeServers, type NodeServersHost } from "./node_servers.ts";
import type { PreloadOptions } from "./options.ts";
import { ProgramSignals } from "./program_signals.ts";
import { ReadyRule } from "./ready_rule.ts";
import { SocketPaths } from "./socket_paths.ts";
import { installWrappers } from "./wrappers.ts";

/** What a program may use that knows of it: `globalThis[Symbol.for("graceful")]`. */
export interface Preloaded {
  /** The generation of this process. */
  readonly generation: Generation;
  /** Accepts from here on, with GRACEFUL_READY=explicit; where it does already, without effect. */
  ready(): Promise<void>;
}

/** One preloaded program. */
export class PreloadedProgram implements Preloaded, NodeServersHost {
  readonly generation: Generation;
  readonly inUse: AddressesInUse;
  readonly #parts: Parts;
  /** Whether Deno serves the program's default export, at the address of a variable. */
  readonly #isAutoServe: boolean;
  readonly #settings: Settings;
  readonly #signals = new ProgramSignals();
  readonly #rule: ReadyRule;
  readonly #paths: SocketPaths;

  /** @param settings Those that were asked for: the generation itself listens to no signal, and does not exit. */
  constructor(
    generation: Generation,
    settings: Settings,
    { settle, isExplicit, isAutoServe }: PreloadOptions & { isAutoServe: boolean },
  ) {
    this.#isAutoServe = isAutoServe;
    this.generation = generation;
    this.#settings = settings;
    this.#parts = partsOf(generation);
    this.inUse = new AddressesInUse(generation);
    const host = { unclaimed: () => this.unclaimed(), ready: () => this.#accept() };
    this.#rule = new ReadyRule(host, settle, isExplicit);
    this.#paths = new SocketPaths({
      isInherited: (path) => this.isInheritedPath(path),
      isReplaced: () => this.#parts.isReplaced,
    });
  }

  /** {@linkcode NodeServersHost.logger} */
  get logger(): Logger {
    return this.#settings.logger;
  }

  /** Gives the program its functions, and listens to signals. */
  begin(): void {
    const { takeover, control, inheritance, manager } = this.#parts;
    this.#listen();
    installWrappers(this);
    installNodeServers(this);
    this.#paths.install();
    takeover?.alone.catch(() => {
      // It is logged: the predecessor goes on, and this process has no other purpose.
      if (this.#parts.lifecycle.state === "starting") exit(this.#settings.logger, 1);
    });
    this.generation.finished.then(() => this.#end(), () => this.#end(1));
    // A program that ends by itself leaves no path behind.
    addEventListener("unload", () => {
      if (this.#parts.lifecycle.isServing) control?.releaseLater()?.();
    });
    // A service manager is told when the program listens.
    const isFirst = !takeover && inheritance.items().length === 0;
    if (isFirst && manager.invocation === undefined) void this.#rule.ready();
  }

  #listen(): void {
    const { stopOn = [], restartOn = [], logger } = this.#settings;
    this.#signals.install();
    for (const signal of stopOn) {
      this.#signals.onceOtherwise(signal, () => {
        logger.info?.(`Stopping on ${signal}`);
        const isReady = this.#parts.lifecycle.state !== "starting";
        const stopped = this.#parts.stopForClient().catch(() => {});
        // Before it is ready it has no client.
        if (!isReady) void stopped.then(() => exit(logger, 0));
      }, () => {
        // The program stops: its end is no failure, for which the predecessor would accept again.
        if (this.#parts.lifecycle.isOnProbation) this.#parts.takeover?.concludeNow();
      });
    }
    for (const signal of restartOn) {
      this.#signals.otherwise(signal, () => this.#parts.requestRestart(signal));
    }
  }

  /** {@linkcode Preloaded.ready} */
  async ready(): Promise<void> {
    await this.#rule.ready();
  }

  async #accept(): Promise<void> {
    try {
      await this.generation.ready();
    } catch (error) {
      const { lifecycle, logger } = this.#parts;
      // A generation that was rolled back has logged that, and ends.
      if (lifecycle.hasLeft) return;
      logger.error?.("This generation cannot accept, and its process ends", error);
      exit(logger, 1);
    }
  }

  /** {@linkcode NodeServersHost.listenNode} */
  listenNode(server: NodeServer, address: ListenAddress): void {
    this.generation.listenNode(server, address);
  }

  /** {@linkcode WrappersHost.hasLeft} */
  hasLeft(): boolean {
    return this.#parts.lifecycle.hasLeft;
  }

  /** {@linkcode WrappersHost.unclaimed} */
  unclaimed(): number {
    return this.#parts.inheritance.addresses().length;
  }

  /** {@linkcode WrappersHost.isInherited} */
  isInherited(address: AnyListenAddress): boolean {
    return this.#parts.inheritance.has(address);
  }

  /** {@linkcode WrappersHost.isInheritedPath} */
  isInheritedPath(path: string): boolean {
    return this.#parts.inheritance.hasPath(path);
  }

  /** {@linkcode WrappersHost.socketMade} */
  socketMade(address: AnyListenAddress): void {
    // As DENO_AUTO_SERVE: it was for this server.
    if (this.#isAutoServe) removeVariable("DENO_SERVE_ADDRESS");
    if ("path" in address) this.#paths.add(address.path);
    this.#rule.socketMade();
  }

  /**
   * Ends the process of a generation that has drained: by the program's own listeners of SIGTERM, if it has any, which may
   * close a database; or after some time.
   */
  #end(code?: number): void {
    const { exitTimeout, logger } = this.#settings;
    if (!this.#signals.has("SIGTERM")) return exit(logger, code);
    const limit = exitTimeout === false ? Infinity : exitTimeout;
    if (limit < longestPause) {
      const timer = setTimeout(() => {
        logger.error?.(
          `The program has not ended within ${limit} ms after its listeners of SIGTERM were called: its generation was ` +
            "replaced, and has drained. The process exits now",
        );
        exit(logger, code);
      }, limit);
      Deno.unrefTimer(timer);
    }
    if (code !== undefined) Deno.exitCode = code;
    try {
      this.#signals.call("SIGTERM");
    } catch (error) {
      logger.error?.("A listener of SIGTERM has failed; the process ends", error);
      exit(logger, code);
    }
  }
}
