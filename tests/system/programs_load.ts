/**
 * The clients of an unchanged program. They never repeat a request, and count every failure.
 *
 * @module
 */

import { Pool } from "undici";
import { pause } from "../../lib/time.ts";
import { dialTls } from "../support/tls.ts";
import { sendText } from "./matrix_use.ts";
import type { ProgramService } from "./programs_service.ts";
import { Connection, Failed } from "./soak_connection.ts";

/** What has become of the requests. */
export interface Counts {
  requests: number;
  /** Connections that were refused. */
  refused: number;
  /** Requests, or connections, without the right answer. */
  lost: number;
}

type Dial = () => Promise<Deno.Conn>;

/** Sends one request over a connection; resolves to the process that answers, and whether to go on with it. */
type Ask = () => Promise<{ pid: number; again: boolean }>;

/** One client after the other: a new connection when the previous one is not used any more. */
interface Client {
  /** Opens a connection. */
  open(): Promise<{ ask: Ask; ended?: () => boolean; close(): void }>;
  /** The longest pause before a request, in milliseconds. */
  rest: number;
}

/** The lines that an echo client sends over a connection. */
const conversation = 20;

/** Milliseconds after which a request has failed. */
const patience = 20_000;

/** Clients of a service, until `end()` is called. */
export class Load {
  readonly counts: Counts = { requests: 0, refused: 0, lost: 0 };
  /** By process: how many requests it has answered. */
  readonly answered = new Map<number, number>();
  /** What happened to the requests that failed, and how often. */
  readonly failures = new Map<string, number>();
  /** How often the server closed a connection without a request on it, which is no failure. */
  hungUp = 0;
  readonly #ending = new AbortController();
  readonly #running: Promise<void>[];

  constructor(service: ProgramService) {
    this.#running = clientsOf(service).map((client) => this.#run(client));
    if (service.program.clients === "http") this.#running.push(...this.#undici(service.port));
  }

  /** Makes no more requests, and waits for the answers of those under way. */
  async end(): Promise<void> {
    this.#ending.abort();
    await Promise.all(this.#running);
  }

  async #run(client: Client): Promise<void> {
    let connection: Awaited<ReturnType<Client["open"]>> | undefined;
    while (!this.#ending.signal.aborted) {
      await pause(client.rest * Math.random());
      if (connection?.ended?.()) {
        this.hungUp++;
        connection.close();
        connection = undefined;
      }
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        connection?.close();
      }, patience);
      try {
        connection ??= await client.open();
        const { pid, again } = await connection.ask();
        this.#count(pid);
        if (again) continue;
      } catch (error) {
        this.#failed(late ? new Failed(`no answer for ${patience} ms`) : error);
        await pause(10);
      } finally {
        clearTimeout(timer);
      }
      if (!late) connection?.close();
      connection = undefined;
    }
    connection?.close();
  }

  /** Two connections of a client library that repeats no request as long as it sends one at a time. */
  #undici(port: number): Promise<void>[] {
    const connections = 2;
    const pool = new Pool(`http://127.0.0.1:${port}`, { connections, pipelining: 1 });
    const all = Array.from({ length: connections }, async () => {
      while (!this.#ending.signal.aborted) {
        await pause(10 * Math.random());
        try {
          const { statusCode, body } = await pool.request({ method: "GET", path: "/" });
          const text = await body.text();
          if (statusCode !== 200) throw new Failed(`status ${statusCode}`);
          this.#count(pidIn(text));
        } catch (error) {
          this.#failed(error);
          await pause(10);
        }
      }
    });
    return [...all, Promise.all(all).then(() => pool.close())];
  }

  #count(pid: number): void {
    this.counts.requests++;
    this.answered.set(pid, (this.answered.get(pid) ?? 0) + 1);
  }

  #failed(error: unknown): void {
    this.counts.requests++;
    if (isRefused(error)) this.counts.refused++;
    else this.counts.lost++;
    const { name, message, code } = error as Error & { code?: string };
    const what = code && !message.includes(code) ? `${code}: ${message}` : `${name}: ${message}`;
    this.failures.set(what, (this.failures.get(what) ?? 0) + 1);
  }
}

/** Whether nothing listens; a unix socket may have no path either. */
function isRefused(error: unknown): boolean {
  if (error instanceof Deno.errors.ConnectionRefused) return true;
  if (error instanceof Deno.errors.NotFound) return true;
  return (error as { code?: string }).code === "ECONNREFUSED";
}

/** The process that an answer names. @throws {Failed} If it names none: it is not an answer of the program. */
function pidIn(answer: string): number {
  const pid = Number(/process (\d+)/.exec(answer)?.[1]);
  if (!pid) throw new Failed(`a wrong answer: ${JSON.stringify(answer)}`);
  return pid;
}

/** The clients of a program: those that keep their connection, and others that open one for each request. */
function clientsOf({ port, admin, program: { clients, hasSlow } }: ProgramService): Client[] {
  const tcp = () => Deno.connect({ hostname: "127.0.0.1", port });
  const tls = async () => {
    const conn = await dialTls(port);
    await conn.handshake();
    return conn;
  };
  const unix = () => Deno.connect({ transport: "unix", path: admin });
  if (clients === "echo") return Array.from({ length: 6 }, () => echo(tcp));
  const dial = clients === "https" ? tls : tcp;
  const [keeping, fresh] = clients === "https" ? [3, 1] : [4, 2];
  return [
    ...Array.from({ length: keeping }, () => http(dial, { rest: 4 })),
    // Most of the time it is idle: its server may close the connection at the moment of a request.
    http(dial, { rest: 400 }),
    ...Array.from({ length: fresh }, () => http(dial, { rest: 10, isFresh: true })),
    ...hasSlow ? [http(dial, { rest: 20, path: "/slow" }), http(dial, { path: "/slow" })] : [],
    ...clients === "admin"
      ? [http(unix, { rest: 4 }), http(unix, { rest: 10, isFresh: true })]
      : [],
  ];
}

/** A client of HTTP/1.1; `isFresh`: each request has a connection of its own. */
function http(
  dial: Dial,
  { rest = 0, path = "/", isFresh = false }: { rest?: number; path?: string; isFresh?: boolean },
): Client {
  return {
    rest,
    async open() {
      const connection = new Connection(await dial());
      return {
        async ask() {
          const { answer, again } = await connection.request({ path });
          return { pid: pidIn(answer), again: again && !isFresh };
        },
        ended: () => connection.ended,
        close: () => connection.close(),
      };
    },
  };
}

/** A client of an echo server: it reads the greeting, sends some lines, and leaves. */
function echo(dial: Dial): Client {
  return {
    rest: 4,
    async open() {
      const conn = await dial();
      let pid = 0;
      let sent = 0;
      return {
        async ask() {
          pid ||= pidIn(await line(conn));
          await sendText(conn, conn, `line ${++sent}\n`);
          return { pid, again: sent < conversation };
        },
        close: () => conn.close(),
      };
    },
  };
}

/** Reads to the end of a line, and not beyond. */
async function line(conn: Deno.Conn): Promise<string> {
  const byte = new Uint8Array(1);
  for (let text = "";; text += String.fromCharCode(byte[0])) {
    if (text.endsWith("\n")) return text;
    if (await conn.read(byte) === null) throw new Failed(`EOF after ${JSON.stringify(text)}`);
  }
}
