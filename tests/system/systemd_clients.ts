/**
 * The clients of a service inside a {@linkcode Systemd}: `programs/systemd_load.ts`, which runs there.
 *
 * @module
 */

import { Child } from "../support/child.ts";
import type { Systemd } from "../support/systemd.ts";
import { until } from "../support/until.ts";

/** What the clients have counted. */
export interface Figures {
  requests: number;
  /** Connections that were refused. */
  refused: number;
  /** Requests without a whole answer, except refused and held ones. */
  lost: number;
  /** Requests without a whole answer whose connection a process had that the clients killed. */
  held: number;
  /** The failures by kind, for a message. */
  kinds: string;
}

/** Clients that load the service at a port until they are stopped. */
export class Clients implements AsyncDisposable {
  readonly #child: Child;
  readonly #lines: Record<string, unknown>[] = [];
  readonly #reading: Promise<void>;
  /** Why there are no more lines. */
  #ended: Error | undefined;

  /** @param slow How long the requests of two clients take, in milliseconds. */
  constructor(systemd: Systemd, port: number, slow: number) {
    const program = "/srv/app/graceful/tests/programs/systemd_load.ts";
    this.#child = new Child(program, [String(port), String(slow)], {
      program: systemd.enter("/usr/bin/deno"),
    });
    this.#reading = this.#read().catch((error) => {
      this.#ended = error;
    });
  }

  async #read(): Promise<void> {
    while (!this.#lines.some((line) => "requests" in line)) {
      this.#lines.push(JSON.parse(await this.#child.line()));
    }
  }

  /** Waits until a process answers that is none of these; resolves to its number inside. */
  async answeredByOther(...known: number[]): Promise<number> {
    const line = await this.#until(({ pid }) =>
      pid !== undefined && !known.includes(pid as number)
    );
    return line.pid as number;
  }

  /** Kills a process, by its number inside, with SIGKILL; the requests that it has count as held. */
  async kill(inner: number): Promise<void> {
    await this.#child.tell(`kill ${inner}`);
  }

  /** Says when other processes were killed, in milliseconds of Date.now(): the requests that they had count as held. */
  async killedAt(times: number[]): Promise<void> {
    for (const time of times) await this.#child.tell(`killed ${time}`);
  }

  /**
   * Sends one request that takes so many milliseconds, a number that no other request has; resolves when the service
   * has accepted it, to a function that waits for the answer: it gives the process that has answered, or null.
   */
  async slow(ms: number): Promise<() => Promise<number | null>> {
    await this.#child.tell(`slow ${ms}`);
    await this.#until(({ accepted }) => accepted === ms);
    return async () => (await this.#until(({ slow }) => slow === ms)).by as number | null;
  }

  /** Waits until so many more requests are answered: a number that was not waited for yet. */
  async more(count: number): Promise<void> {
    await this.#child.tell(`more ${count}`);
    await this.#until(({ more }) => more === count);
  }

  /** Waits until a connection is refused. */
  async refused(): Promise<void> {
    await this.#until(({ refused }) => refused === true);
  }

  /** Waits until every request is answered, and sends no more, except `slow` ones. */
  async quiet(): Promise<void> {
    await this.#child.tell("quiet");
    await this.#until(({ quiet }) => quiet === true);
  }

  /** Ends the clients, after the last answer. */
  async stop(): Promise<Figures> {
    await this.#child.tell("stop");
    const { requests, failures } = await this.#until((line) => "requests" in line);
    const counted = failures as Record<string, number>;
    const { refused = 0, held = 0, ...others } = counted;
    return {
      requests: requests as number,
      refused,
      held,
      lost: Object.values(others).reduce((sum, count) => sum + count, 0),
      kinds: Object.entries(counted).map(([kind, count]) => `${count} ${kind}`).join(", "),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The program ends when its input does.
    await this.#child[Symbol.asyncDispose]();
    await this.#reading;
  }

  async #until(
    matches: (line: Record<string, unknown>) => boolean,
  ): Promise<Record<string, unknown>> {
    let found: Record<string, unknown> | undefined;
    await until(() => {
      if (this.#ended) throw this.#ended;
      found = this.#lines.find(matches);
      return found !== undefined;
    });
    return found!;
  }
}
