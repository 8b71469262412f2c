/**
 * Clients that make each request on a new connection, and repeat none: each request without its answer is a failure.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";

/** A request without its answer. */
export interface Failure {
  /** "refused": there was no connection. "lost": the connection has ended without an answer. */
  kind: "refused" | "lost";
  /** When it failed, by performance.now(). */
  at: number;
  message: string;
}

/** Clients, until `end()`. */
export class FreshLoad {
  readonly failures: Failure[] = [];
  /** The number of answers of each process. */
  readonly answers = new Map<number, number>();
  readonly #port: number;
  readonly #clients: Promise<void>[];
  #isEnding = false;

  /** @param clients How many requests are under way at a time. */
  constructor(port: number, clients: number) {
    this.#port = port;
    this.#clients = Array.from({ length: clients }, () => this.#run());
  }

  /** The number of answers. */
  get answered(): number {
    return [...this.answers.values()].reduce((sum, count) => sum + count, 0);
  }

  /** Failures of one kind. */
  of(kind: Failure["kind"]): Failure[] {
    return this.failures.filter((failure) => failure.kind === kind);
  }

  /** Waits for the last answers. */
  async end(): Promise<void> {
    this.#isEnding = true;
    await Promise.all(this.#clients);
  }

  async #run(): Promise<void> {
    while (!this.#isEnding) {
      await this.#request();
      // Leaves processor time to the service.
      await pause(2);
    }
  }

  async #request(): Promise<void> {
    let isConnected = false;
    try {
      using conn = await Deno.connect({ hostname: "127.0.0.1", port: this.#port });
      isConnected = true;
      const pid = await answer(conn, "/");
      this.answers.set(pid, (this.answers.get(pid) ?? 0) + 1);
    } catch (error) {
      const { message } = error as Error;
      const kind = isConnected ? "lost" : "refused";
      this.failures.push({ kind, at: performance.now(), message });
    }
  }
}

/** Makes a request on a connection; resolves to its answer, which is a number. */
export async function answer(conn: Deno.Conn, path: string): Promise<number> {
  const request = `GET ${path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`;
  await conn.write(new TextEncoder().encode(request));
  const text = await wholeText(conn);
  const [head, body = ""] = text.split("\r\n\r\n");
  if (!/^HTTP\/1\.[01] 200 /.test(head) || !/^\d+$/.test(body)) {
    throw new Error(`Unexpected answer: ${JSON.stringify(text)}`);
  }
  return Number(body);
}

/** Reads to the end, 20 s at most. */
async function wholeText(conn: Deno.Conn): Promise<string> {
  const late = setTimeout(() => conn.close(), 20_000);
  try {
    const decoder = new TextDecoder();
    const chunk = new Uint8Array(1024);
    let text = "";
    for (let n; (n = await conn.read(chunk)) !== null;) {
      text += decoder.decode(chunk.subarray(0, n), { stream: true });
    }
    return text;
  } finally {
    clearTimeout(late);
  }
}

/** Makes one request on a new connection. */
export async function ask(port: number, path = "/"): Promise<number> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  return await answer(conn, path);
}
