/**
 * Clients of the soak, which never repeat a request: one that is not answered as it has to be has
 * failed. A process prints a {@linkcode Batch} a few times a second, until it is told to stop. Started
 * with {@linkcode SoakClientOptions}.
 *
 * @module
 */

import { Pool } from "undici";
import { pause } from "../../lib/time.ts";
import { told } from "../support/child.ts";
import { bigLength, pieces, type Ports } from "./soak_service.ts";

/** What a process of clients gets as JSON. */
export interface SoakClientOptions {
  ports: Ports;
  /** What the certificate of the service is to be verified with. */
  ca?: string;
  /** Which clients, and how many of each. */
  clients: Partial<Record<ClientClass, number>>;
  /** The longest that an idle client is idle, in milliseconds. */
  idleFor: number;
}

/** The classes of clients, by what they are called in the report. */
export type ClientClass = keyof typeof classes;

/** What became of some requests. */
export interface Batch {
  class: string;
  /** When each was answered, in milliseconds since 1970, and how long that took. */
  at: number[];
  took: number[];
  failures: Failure[];
  /** How often a connection was hung up on while nothing was asked on it, which is no failure. */
  hungUp: number;
  /** Of HTTP/2: streams of which GOAWAY said that they were not looked at. */
  refused: number;
}

/** A request that was not answered as it has to be. */
export interface Failure {
  class: string;
  /** When, in milliseconds since 1970. */
  at: number;
  /** What happened: the same words for the same thing. */
  kind: string;
}

/** Something to ask for, and what is to come back. */
interface Question {
  path: string;
  /** Parts of a body, which are sent with a pause between them. */
  body?: Uint8Array[];
  /** What the answer has to be, or how long. */
  expected: string | number;
}

interface Behaviour {
  transport: "http" | "https" | "unix";
  /** Which question comes next. */
  ask: () => Question;
  /** Whether every request has a connection of its own. */
  fresh?: boolean;
  /** Milliseconds before the next request. */
  rest?: (idleFor: number) => number;
  /** Has undici make the requests. */
  undici?: boolean;
}

const fast = (): Question => ({ path: "/fast", expected: "fast" });
const slow = (): Question => ({
  path: `/slow?ms=${Math.floor(Math.random() * 300)}`,
  expected: "slow",
});
const stream = (): Question => ({ path: "/stream", expected: pieces.count * pieces.length });
const large = (): Question => ({ path: "/big", expected: bigLength });
const part = new Uint8Array(5000).fill(120);
const upload = (): Question => ({
  path: "/upload",
  body: [part, part, part, part, part],
  expected: String(5 * part.length),
});

/** Mostly far below the longest, so that many a request meets the moment at which a server leaves. */
const seldom = (idleFor: number) => idleFor * Math.random() ** 3;
/** Enough to leave some of the processor to those that do not rest at all. */
const shortly = () => 5 + 10 * Math.random();

const classes = {
  "busy": { transport: "http", ask: fast },
  "busy, unix path": { transport: "unix", ask: fast },
  "busy, TLS (undici)": { transport: "https", ask: fast, rest: shortly, undici: true },
  "mostly idle": { transport: "http", ask: fast, rest: seldom },
  "mostly idle, unix path": { transport: "unix", ask: fast, rest: seldom },
  "mostly idle, TLS": { transport: "https", ask: fast, rest: seldom },
  "fresh connections": { transport: "http", ask: fast, rest: shortly, fresh: true },
  "fresh connections, TLS": { transport: "https", ask: fast, rest: shortly, fresh: true },
  "uploads": { transport: "http", ask: upload, rest: shortly },
  "slow answers": { transport: "http", ask: slow, rest: shortly },
  "streamed answers": { transport: "http", ask: stream, rest: shortly },
  "large answers": { transport: "http", ask: large, rest: shortly },
} satisfies Record<string, Behaviour>;

/** Milliseconds without an answer after which a request has failed. */
const patience = 30_000;

/** A failure with a name of its own. */
class Failed extends Error {
  override name = "Failed";
}

/**
 * A connection that always reads, so that it is known at any time whether the other end has hung up:
 * before a request is sent that is no failure, and afterwards it is one.
 */
class Connection {
  #ended = false;
  #received = "";
  readonly #conn: Deno.Conn;
  readonly #buffer = new Uint8Array(1 << 14);
  readonly #decoder = new TextDecoder("latin1");
  #reading: Promise<boolean>;

  constructor(conn: Deno.Conn) {
    this.#conn = conn;
    this.#reading = this.#read();
  }

  static async open(
    transport: Behaviour["transport"],
    { ports, ca }: SoakClientOptions,
  ): Promise<Connection> {
    const hostname = "127.0.0.1";
    if (transport === "unix") {
      return new Connection(await Deno.connect({ transport: "unix", path: ports.path }));
    }
    if (transport === "https") {
      const conn = await Deno.connectTls({ hostname, port: ports.https!, caCerts: [ca!] });
      // A connection counts from here: what is wrong in the handshake is wrong with connecting.
      await conn.handshake();
      return new Connection(conn);
    }
    const conn = await Deno.connect({ hostname, port: ports.http });
    conn.setNoDelay();
    return new Connection(conn);
  }

  /** Whether the other end has hung up, or said something without being asked. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Asks; resolves to whether the connection may be used again. */
  async ask({ path, body, expected }: Question): Promise<boolean> {
    if (this.#received) throw new Failed("bytes that nobody asked for");
    const length = body?.reduce((sum, { length }) => sum + length, 0);
    const head = body ? `POST ${path}` : `GET ${path}`;
    const lengthLine = body ? `content-length: ${length}\r\n` : "";
    await this.#write(encoder.encode(`${head} HTTP/1.1\r\nhost: soak\r\n${lengthLine}\r\n`));
    for (const part of body ?? []) {
      await pause(10);
      await this.#write(part);
    }
    const lines = (await this.#until("\r\n\r\n")).toLowerCase().split("\r\n");
    const status = lines[0].split(" ")[1];
    const answer = await this.#body(lines);
    if (status !== "200") throw new Failed(`status ${status}`);
    if (answer !== expected && answer.length !== expected) throw new Failed("a wrong body");
    return !lines.includes("connection: close");
  }

  close(): void {
    this.#reading.catch(() => {});
    // Deno 2.8.3 does not end a read that waits when the connection is closed, and stays for it: the
    // other end has to hang up.
    void this.#conn.closeWrite().catch(() => {}).finally(() => this.#conn.close());
  }

  async #body(head: string[]): Promise<string> {
    if (!head.includes("transfer-encoding: chunked")) {
      const line = head.find((line) => line.startsWith("content-length: "));
      if (!line) throw new Failed("an answer without a length");
      return await this.#take(Number(line.slice(16)));
    }
    for (let body = "";;) {
      const length = parseInt(await this.#until("\r\n"), 16);
      body += await this.#take(length);
      if (await this.#take(2) !== "\r\n") throw new Failed("a wrong chunk");
      if (length === 0) return body;
    }
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let rest = bytes; rest.length > 0;) rest = rest.subarray(await this.#conn.write(rest));
  }

  async #until(mark: string): Promise<string> {
    let at: number;
    while ((at = this.#received.indexOf(mark)) < 0) await this.#more();
    const before = this.#received.slice(0, at);
    this.#received = this.#received.slice(at + mark.length);
    return before;
  }

  async #take(length: number): Promise<string> {
    while (this.#received.length < length) await this.#more();
    const taken = this.#received.slice(0, length);
    this.#received = this.#received.slice(length);
    return taken;
  }

  async #more(): Promise<void> {
    if (!await this.#reading) {
      throw new Failed(this.#received ? "EOF in an answer" : "EOF before an answer");
    }
    this.#reading = this.#read();
  }

  #read(): Promise<boolean> {
    const reading = this.#conn.read(this.#buffer).then((n) => {
      if (n === null) {
        this.#ended = true;
        return false;
      }
      this.#received += this.#decoder.decode(this.#buffer.subarray(0, n), { stream: true });
      return true;
    }, (error) => {
      this.#ended = true;
      throw error;
    });
    // It may be nobody's turn to hear of it.
    reading.catch(() => {});
    return reading;
  }
}

const encoder = new TextEncoder();

/** What the clients of one class have in common. */
class Tally {
  readonly #class: string;
  #batch: Batch;
  /** When what is under way began, and how to end it. */
  readonly underWay = new Map<object, { began: number; end: () => void }>();

  constructor(name: string) {
    this.#class = name;
    this.#batch = this.#empty();
  }

  #empty(): Batch {
    return { class: this.#class, at: [], took: [], failures: [], hungUp: 0, refused: 0 };
  }

  answered(began: number): void {
    const now = performance.now();
    this.#batch.at.push(Math.round(performance.timeOrigin + now));
    this.#batch.took.push(Math.round((now - began) * 1000) / 1000);
  }

  failed(kind: string): void {
    this.#batch.failures.push({ class: this.#class, at: Date.now(), kind });
  }

  hungUp(): void {
    this.#batch.hungUp++;
  }

  /** Prints what came since the last time. */
  print(): void {
    console.log(JSON.stringify(this.#batch));
    this.#batch = this.#empty();
  }

  /** Gives up on what takes too long. */
  sweep(): void {
    const longAgo = performance.now() - patience;
    for (const { began, end } of this.underWay.values()) if (began < longAgo) end();
  }
}

/** What a failure is called in the report. */
function kindOf(error: unknown): string {
  if (error instanceof Failed) return error.message;
  const { name, code, message } = error as Error & { code?: string };
  return code ?? (name === "Error" ? message : name);
}

/** One client, until there is to be no more. */
async function run(
  { transport, ask, fresh, rest }: Behaviour,
  tally: Tally,
  options: SoakClientOptions,
  signal: AbortSignal,
): Promise<void> {
  let connection: Connection | undefined;
  while (!signal.aborted) {
    if (rest) await pause(rest(options.idleFor), signal).catch(() => {});
    if (signal.aborted) break;
    if (connection?.ended) {
      tally.hungUp();
      connection.close();
      connection = undefined;
    }
    const began = performance.now();
    let late = false;
    const client = {};
    tally.underWay.set(client, {
      began,
      end: () => {
        late = true;
        connection?.close();
        connection = undefined;
      },
    });
    try {
      connection ??= await Connection.open(transport, options);
      const again = await connection.ask(ask()) && !fresh;
      tally.answered(began);
      if (again) continue;
    } catch (error) {
      tally.failed(late ? `no answer for ${patience} ms` : kindOf(error));
      // Where nobody listens, another attempt at once is no better.
      await pause(10);
    } finally {
      tally.underWay.delete(client);
    }
    connection?.close();
    connection = undefined;
  }
  connection?.close();
}

/** One client of a class whose connections undici makes. */
async function runUndici(
  { ask, rest }: Behaviour,
  tally: Tally,
  pool: Pool,
  { idleFor }: SoakClientOptions,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    if (rest) await pause(rest(idleFor), signal).catch(() => {});
    const began = performance.now();
    const { path, expected } = ask();
    try {
      const { statusCode, body } = await pool.request({ path, method: "GET" });
      const answer = await body.text();
      if (statusCode !== 200) throw new Failed(`status ${statusCode}`);
      if (answer !== expected) throw new Failed("a wrong body");
      tally.answered(began);
    } catch (error) {
      tally.failed(kindOf(error));
      await pause(10);
    }
  }
}

async function main(options: SoakClientOptions): Promise<void> {
  const stop = new AbortController();
  const tallies: Tally[] = [];
  const running: Promise<void>[] = [];
  const { ports, ca, clients } = options;
  for (const [name, count] of Object.entries(clients)) {
    const behaviour: Behaviour = classes[name as ClientClass];
    const tally = new Tally(name);
    tallies.push(tally);
    if (behaviour.undici) {
      const pool = new Pool(`https://127.0.0.1:${ports.https}`, {
        connections: count,
        pipelining: 1,
        connect: { ca },
        headersTimeout: patience,
        bodyTimeout: patience,
      });
      const all = Array.from(
        { length: count },
        () => runUndici(behaviour, tally, pool, options, stop.signal),
      );
      running.push(Promise.all(all).then(() => pool.close()));
    } else {
      for (let i = 0; i < count; i++) running.push(run(behaviour, tally, options, stop.signal));
    }
  }
  const printing = setInterval(() => tallies.forEach((tally) => tally.print()), 250);
  const sweeping = setInterval(() => tallies.forEach((tally) => tally.sweep()), 1000);
  // Until it is told a line, or there is nobody any more to tell it one.
  await told().next();
  stop.abort();
  await Promise.all(running);
  clearInterval(printing);
  clearInterval(sweeping);
  for (const tally of tallies) tally.print();
}

if (import.meta.main) await main(JSON.parse(Deno.args[0]));
