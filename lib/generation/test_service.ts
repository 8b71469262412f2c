/**
 * Handovers inside one process, for the tests of a service.
 *
 * @module
 */

import { guarded, type Logger } from "../logger.ts";
import type { Generation } from "./generation.ts";
import type { StartOptions } from "./options.ts";
import { start } from "./start.ts";

/** A service: what its main program does with the generation that it starts. */
export type Main = (app: Generation) => void | Promise<void>;

/**
 * A service whose generations all run in this process, on sockets as real as ever: a test calls
 * `next()`, and the next generation takes over from the one that runs.
 *
 * Signals are left alone, and nobody is started as a process: `app.restart()` is not for here.
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

  /** Prepares a service; nothing runs before `next()`. Waits are short unless `options` say otherwise. */
  constructor(main: Main, options: StartOptions = {}) {
    this.#main = main;
    this.#options = options;
  }

  /**
   * Runs the next generation, until it is ready and has taken over. Rejects if its main program throws
   * before: then the one that runs goes on.
   */
  async next(): Promise<Generation> {
    const { promise: ready, resolve } = Promise.withResolvers<void>();
    const app = await start(`${this.#directory}/app.sock`, {
      stopOn: [],
      probation: 0,
      drainTimeout: 100,
      forceCloseAfter: 0,
      ...this.#options,
      // The process is that of the test.
      exitTimeout: false,
      logger: noticing(["serving", "withdrawn"], resolve, guarded(this.#options.logger)),
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
      await app.stop().catch(() => {});
      throw error;
    }
  }

  /** Stops every generation that still runs; rejects with what one of their main programs threw. */
  async [Symbol.asyncDispose](): Promise<void> {
    // The newest first: what it has, those before it must not take back.
    for (const app of [...this.#generations].reverse()) await app.stop().catch(() => {});
    const ended = await Promise.allSettled(this.#running);
    await Deno.remove(this.#directory, { recursive: true });
    const failed = ended.find(({ status }) => status === "rejected");
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }
}

/** A logger that passes everything on, and calls `notice` when one of these phases is reached. */
function noticing(wanted: string[], notice: () => void, logger: Logger): Logger {
  return {
    debug: (message, ...details) => logger.debug?.(message, ...details),
    info(message, ...details) {
      const { phase } = (details[0] ?? {}) as { phase?: string };
      if (phase !== undefined && wanted.includes(phase)) notice();
      logger.info?.(message, ...details);
    },
    warn: (message, ...details) => logger.warn?.(message, ...details),
    error: (message, ...details) => logger.error?.(message, ...details),
  };
}
