/**
 * Requests one after the other, each on a connection of its own, none of them repeated.
 *
 * @module
 */

import { askOnce } from "./http1_client.ts";
import { until } from "./until.ts";

/** Clients of a server; each failure is counted. */
export class Load {
  readonly #addr: Deno.Addr;
  readonly #stopped = new AbortController();
  readonly #clients: Promise<void>[];
  /** The answers, by their bodies. */
  readonly answers = new Map<string, number>();
  /** The failures, by the names and messages of their errors. */
  readonly failures = new Map<string, number>();
  count = 0;

  /** Starts the clients. */
  constructor(addr: Deno.Addr, clients = 4) {
    this.#addr = addr;
    this.#clients = Array.from({ length: clients }, () => this.#run());
  }

  async #run(): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      let counts = this.answers;
      let key: string;
      try {
        key = (await askOnce(this.#addr)).body;
      } catch (error) {
        counts = this.failures;
        key = `${(error as Error).name}: ${(error as Error).message}`;
      }
      counts.set(key, (counts.get(key) ?? 0) + 1);
      this.count++;
    }
  }

  /** Waits for so many more requests. */
  async more(requests: number): Promise<void> {
    const wanted = this.count + requests;
    await until(() => this.count >= wanted);
  }

  /** Ends the clients; returns the number of failed requests that match. */
  async stop(failure = /./): Promise<number> {
    this.#stopped.abort();
    await Promise.all(this.#clients);
    return [...this.failures].reduce((sum, [what, n]) => failure.test(what) ? sum + n : sum, 0);
  }
}
