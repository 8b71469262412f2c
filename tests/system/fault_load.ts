/**
 * Clients that never repeat a request, and what became of each.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";

/** A request that got no right answer. */
export interface Failure {
  /** When its connection was asked for, and when it failed: Date.now(). */
  began: number;
  at: number;
  /** The client's port; 0 when it was not connected. */
  port: number;
  /** Of the process that had answered on this connection before, if one had. */
  pid?: number;
  what: string;
}

/** How many clients keep their connection, and how many take another for each request. */
const kept = 3;
const fresh = 2;

/** Milliseconds between two requests of a client. */
const interval = 10;

/** Milliseconds after which a request counts as lost: longer than a process is stopped. */
const patience = 20_000;

/** Loads the service at a port of 127.0.0.1 until it is ended. */
export class Load {
  readonly failures: Failure[] = [];
  /** How many requests a process has answered, and when the first. */
  readonly answered = new Map<number, { count: number; since: number }>();
  readonly #port: number;
  readonly #end = new AbortController();
  readonly #clients: Promise<void>[];

  constructor(port: number) {
    this.#port = port;
    this.#clients = Array.from({ length: kept + fresh }, (_, i) => this.#client(i));
  }

  /** Lets what is under way come to its end. */
  async end(): Promise<void> {
    this.#end.abort();
    await Promise.all(this.#clients);
  }

  async #client(number: number): Promise<void> {
    while (!this.#end.signal.aborted) {
      const began = Date.now();
      const client: { port: number; pid?: number } = { port: 0 };
      try {
        using conn = await Deno.connect({ hostname: "127.0.0.1", port: this.#port });
        client.port = conn.localAddr.port;
        conn.setNoDelay();
        await this.#requests(conn, number, client);
      } catch (error) {
        const { name, message } = error as Error;
        const failure = { began, at: Date.now(), ...client, what: `${name}: ${message}` };
        this.failures.push(failure);
        await pause(interval);
      }
    }
  }

  async #requests(conn: Deno.TcpConn, number: number, client: { pid?: number }): Promise<void> {
    const close = number >= kept;
    for (let round = 0; !this.#end.signal.aborted; round++) {
      const path = (round + number) % 3 === 0 ? "/slow" : "/";
      const { pid, last } = await request(conn, path, { close });
      if (client.pid !== undefined && client.pid !== pid) {
        throw new Error(`Process ${pid} answers on a connection of process ${client.pid}`);
      }
      client.pid = pid;
      const { count = 0, since = Date.now() } = this.answered.get(pid) ?? {};
      this.answered.set(pid, { count: count + 1, since });
      if (last || close) {
        if (close) await pause(interval);
        return;
      }
      await pause(interval);
    }
  }
}

/** Asks a process that answers with its number; `last` when it said that it will not answer again. */
export async function request(
  conn: Deno.Conn,
  path: string,
  { close }: { close: boolean },
): Promise<{ pid: number; last: boolean }> {
  const ask = `GET ${path} HTTP/1.1\r\nhost: a\r\n${close ? "connection: close\r\n" : ""}\r\n`;
  await conn.write(new TextEncoder().encode(ask));
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(new Error(`No answer for ${patience} ms`));
    conn.close();
  }, patience);
  try {
    const reading = response(conn);
    // What closing it makes of the read is of no interest.
    reading.catch(() => {});
    return await Promise.race([reading, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function response(conn: Deno.Conn): Promise<{ pid: number; last: boolean }> {
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(1024);
  let text = "";
  for (;;) {
    const n = await conn.read(chunk);
    if (n === null) throw new Error(`The connection ended after ${text.length} characters`);
    text += decoder.decode(chunk.subarray(0, n), { stream: true });
    const [head, body] = text.split("\r\n\r\n");
    const length = Number(/^content-length: (\d+)$/mi.exec(head)?.[1]);
    if (body === undefined || body.length < length) continue;
    if (!/^HTTP\/1.1 200 /.test(head) || body.length !== length) {
      throw new Error(`A wrong answer: ${JSON.stringify(text)}`);
    }
    return { pid: Number(body), last: /^connection: close$/mi.test(head) };
  }
}
