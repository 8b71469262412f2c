/**
 * The load of the faults: clients that never repeat a request, and the requests that failed.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";

/** A request that got no correct answer. */
export interface Failure {
  /** When its connection was opened, and when it failed: Date.now(). */
  began: number;
  at: number;
  /** The port of the client; 0 when it was not connected. */
  port: number;
  /** The process that answered the previous requests on this connection, if one did. */
  pid?: number;
  what: string;
}

/** Clients that keep their connection, and clients that open one for each request. */
const keepAliveClients = 3;
const otherClients = 2;

/** Milliseconds between two requests of a client. */
const interval = 10;

/** Milliseconds after which a request has failed: longer than a process is stopped. */
const patience = 20_000;

/** Requests to a port of 127.0.0.1, until end() is called. */
export class Load {
  readonly failures: Failure[] = [];
  /** By process: how many requests it has answered, and when the first. */
  readonly answered = new Map<number, { count: number; since: number }>();
  readonly #port: number;
  readonly #end = new AbortController();
  readonly #clients: Promise<void>[];

  constructor(port: number) {
    this.#port = port;
    this.#clients = Array.from(
      { length: keepAliveClients + otherClients },
      (_, i) => this.#client(i),
    );
  }

  /** Makes no more requests, and waits for the answers of those under way. */
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
    const close = number >= keepAliveClients;
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

/** Makes a request, which is answered with a pid; `last` when the answer has `connection: close`. */
export async function request(
  conn: Deno.Conn,
  path: string,
  { close }: { close: boolean },
): Promise<{ pid: number; last: boolean }> {
  const head = `GET ${path} HTTP/1.1\r\nhost: a\r\n${close ? "connection: close\r\n" : ""}\r\n`;
  await conn.write(new TextEncoder().encode(head));
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(new Error(`No answer for ${patience} ms`));
    conn.close();
  }, patience);
  try {
    const reading = response(conn);
    // After the timeout the connection is closed, and the read rejects: `late` has the error to report.
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
      throw new Error(`Unexpected answer: ${JSON.stringify(text)}`);
    }
    return { pid: Number(body), last: /^connection: close$/mi.test(head) };
  }
}
