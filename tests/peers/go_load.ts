/**
 * HTTP requests without a pause, while the server's listener passes between processes.
 *
 * @module
 */

import { Pool } from "undici";
import type { Child } from "../support/child.ts";
import { until } from "../support/until.ts";
import { readAll, text } from "./bytes.ts";

/**
 * Eight clients that send request after request over kept connections, and never retry a failed one.
 */
export class Load implements AsyncDisposable {
  /** The different bodies of the answers. */
  readonly answers = new Set<string>();
  readonly #port: number;
  readonly #pool: Pool;
  readonly #failures: string[] = [];
  readonly #clients: Promise<void>[];
  #answered = 0;
  #connecting = 0;
  #running = true;

  constructor(port: number) {
    const connections = 8;
    this.#port = port;
    this.#pool = new Pool(`http://127.0.0.1:${port}`, { connections, pipelining: 1 });
    this.#clients = Array.from({ length: connections }, async () => {
      while (this.#running) await this.#note(() => this.#request());
    });
  }

  /** Sends a request over a new connection; waits only while four such requests are unanswered. */
  async connectAgain(): Promise<void> {
    const request = text("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    this.#connecting++;
    this.#clients.push(this.#note(async () => {
      try {
        using conn = await Deno.connect({ hostname: "127.0.0.1", port: this.#port });
        await conn.write(request);
        const answer = await readAll(conn);
        if (!answer.startsWith("HTTP/1.1 200 ")) throw new Error(`answered ${answer}`);
        return answer.split("\r\n\r\n")[1];
      } finally {
        this.#connecting--;
      }
    }));
    await until(() => this.#connecting < 4);
  }

  /** Waits until 500 more requests are answered, and the timer of `child` has ticked five times more. */
  async awaitProgress(child?: Child): Promise<void> {
    const answered = this.#answered;
    await until(() => this.#answered > answered + 500);
    if (!child) return;
    const ticks = async () => {
      await child.tell("ticks");
      return Number(await child.line());
    };
    const before = await ticks();
    await until(async () => await ticks() > before + 5);
  }

  /** Ends the load; returns the failures. */
  async stop(): Promise<string[]> {
    this.#running = false;
    await Promise.all(this.#clients);
    await this.#pool.close();
    return this.#failures;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#running = false;
    await this.#pool.destroy();
  }

  async #request(): Promise<string> {
    const { statusCode, body } = await this.#pool.request({ method: "GET", path: "/" });
    const answer = await body.text();
    if (statusCode !== 200) throw new Error(`answered ${statusCode}: ${answer}`);
    return answer;
  }

  async #note(ask: () => Promise<string>): Promise<void> {
    try {
      this.answers.add(await ask());
      this.#answered++;
    } catch (error) {
      this.#failures.push(String(error));
    }
  }
}
