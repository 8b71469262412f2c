/**
 * Runs generations of a service inside one process, for its tests.
 *
 * @module
 */

import { guarded, type Logger } from "../logger.ts";
import type { Generation } from "./generation.ts";
import type { StartOptions } from "./options.ts";
import { start } from "./start.ts";

/** The main program of a service, after `start()`. */
export type Main = (app: Generation) => void | Promise<void>;

/**
 * A service whose generations all run in this process, on real sockets: each call of `next()` starts a generation that
 * takes over from the previous one.
 *
 * It handles no signals, and starts no processes: `app.restart()` is not for such tests.
 *
 * ```ts
 * import { type Generation, TestService } from "@graceful/deno";
 * import { assertEquals } from "@std/assert";
 *
 * // The service: counts its requests, over all generations.
 * async function main(app: Generation): Promise<void> {
 *   let count = (app.take("count") as Uint8Array | undefined)?.[0] ?? 0;
 *   app.keep("count", () => Uint8Array.of(count));
 *   app.serve({ hostname: "127.0.0.1", port: 0 }, () => new Response(`${++count}`));
 *   await app.ready();
 *   await app.finished;
 * }
 *
 * await using service = new TestService(main);
 * const first = await service.next();
 * const [{ address }] = first.status().sockets;
 * const ask = async () => {
 *   const response = await fetch(`http://${address}`, { headers: { connection: "close" } });
 *   return await response.text();
 * };
 * assertEquals(await ask(), "1");
 * const second = await service.next();
 * await first.finished;
 * assertEquals([second.generation, await ask()], [2, "2"]);
 * ```
 */
export class TestService implements AsyncDisposable {
  readonly #main: Main;
  readonly #options: StartOptions;
  readonly #directory: string = Deno.makeTempDirSync({ prefix: "graceful-" });
  readonly #generations = new Set<Generation>();
  readonly #running = new Set<Promise<unknown>>();

  /** Prepares a service; `next()` runs it. Timeouts are short unless `options` has others. */
  constructor(main: Main, options: StartOptions = {}) {
    this.#main = main;
    this.#options = options;
  }

  /**
   * Starts the next generation; resolves when it has taken over. Rejects when its main program throws or ends before it
   * calls `ready()`: the previous generation goes on then.
   */
  async next(): Promise<Generation> {
    const { promise: ready, resolve } = Promise.withResolvers<void>();
    const app = await start(`${this.#directory}/app.sock`, {
      stopOn: [],
      probation: 0,
      drainTimeout: 100,
      forceCloseAfter: 0,
      ...this.#options,
      // It must not end the process of the test.
      exitTimeout: false,
      logger: notifying(["serving", "withdrawn"], resolve, guarded(this.#options.logger)),
    });
    this.#generations.add(app);
    const running = (async () => await this.#main(app))();
    this.#running.add(running);
    try {
      await Promise.race([ready, running]);
      if (app.status().state === "starting") {
        throw new TypeError("The main program has ended without calling ready()");
      }
      return app;
    } catch (error) {
      this.#running.delete(running);
      // An error of stop() must not hide that of the main program.
      await app.stop().catch(() => {});
      throw error;
    }
  }

  /** Stops all generations; rejects with the first error of their main programs. */
  async [Symbol.asyncDispose](): Promise<void> {
    // The newest first: an older one would take the service back. An error of stop() must not keep the others running.
    for (const app of [...this.#generations].reverse()) await app.stop().catch(() => {});
    const ended = await Promise.allSettled(this.#running);
    await Deno.remove(this.#directory, { recursive: true });
    const failed = ended.find(({ status }) => status === "rejected");
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }
}

/** A logger that also calls `notify` when one of these phases is logged. */
function notifying(phases: string[], notify: () => void, logger: Logger): Logger {
  return {
    debug: (message, ...details) => logger.debug?.(message, ...details),
    info(message, ...details) {
      const { phase } = (details[0] ?? {}) as { phase?: string };
      if (phase !== undefined && phases.includes(phase)) notify();
      logger.info?.(message, ...details);
    },
    warn: (message, ...details) => logger.warn?.(message, ...details),
    error: (message, ...details) => logger.error?.(message, ...details),
  };
}
