/**
 * Clients of the soak, which never repeat a request: a request without the correct answer has failed. The
 * process prints a {@linkcode Batch} for each class a few times a second, until it reads a line.
 *
 *     soak_client.ts OPTIONS    OPTIONS: SoakClientOptions as JSON
 *
 * @module
 */

import { Pool } from "undici";
import { pause } from "../../lib/time.ts";
import { Chance } from "../support/chance.ts";
import { told } from "../support/child.ts";
import { bigLength, pieces, type Ports } from "./soak_service.ts";

/** The options of a process of clients, which it gets as JSON. */
export interface SoakClientOptions {
  ports: Ports;
  /** The certificate that vouches for that of the service. */
  ca?: string;
  /** The number of clients of each class. */
  clients: Partial<Record<ClientClass, number>>;
  /** The longest that an idle client is idle, in milliseconds. */
  idleFor: number;
  /** The seed of the pauses. */
  seed: number;
}

/** The classes of clients, by their names in the report. */
export type ClientClass = keyof typeof classes;

/** The results of some requests of a class. */
export interface Batch {
  class: string;
  /** Of each answered request: when, in milliseconds since 1970, and how many milliseconds it took. */
  at: number[];
  took: number[];
  failures: Failure[];
  /** How often the server closed a connection without a request on it, which is no failure. */
  hungUp: number;
  /** Of HTTP/2: the streams that GOAWAY reported as not processed. */
  refused: number;
}

/** A request without the correct answer. */
export interface Failure {
  class: string;
  /** When, in milliseconds since 1970. */
  at: number;
  /** What happened, by which failures are counted. */
  kind: string;
}

/** A request, and the correct answer. */
interface Exchange {
  path: string;
  /** The parts of the body, which are sent with a pause before each. */
  body?: Uint8Array[];
  /** The body of the answer, or its length. */
  expected: string | number;
}

interface Behaviour {
  transport: "http" | "https" | "unix";
  /** Gives the next request. */
  next: () => Exchange;
  /** Whether each request is made on a new connection. */
  fresh?: boolean;
  /** Milliseconds before each request. */
  rest?: (idleFor: number) => number;
  /** Whether undici makes the requests. */
  undici?: boolean;
}

const options: SoakClientOptions | undefined = import.meta.main
  ? JSON.parse(Deno.args[0])
  : undefined;
const chance = new Chance(options?.seed ?? 0, 0);

const fast = (): Exchange => ({ path: "/fast", expected: "fast" });
const slow = (): Exchange => ({
  path: `/slow?ms=${Math.floor(chance.next() * 300)}`,
  expected: "slow",
});
const stream = (): Exchange => ({ path: "/stream", expected: pieces.count * pieces.length });
const large = (): Exchange => ({ path: "/big", expected: bigLength });
const part = new Uint8Array(5000).fill(120);
const upload = (): Exchange => ({
  path: "/upload",
  body: [part, part, part, part, part],
  expected: String(5 * part.length),
});

/** Mostly far below the longest: many requests are made at the moment at which a server closes. */
const seldom = (idleFor: number) => idleFor * chance.next() ** 3;
/** Leaves processor time to the clients that make no pause. */
const shortly = () => 5 + 10 * chance.next();

const classes = {
  "busy": { transport: "http", next: fast },
  "busy, unix path": { transport: "unix", next: fast },
  "busy, TLS (undici)": { transport: "https", next: fast, rest: shortly, undici: true },
  "mostly idle": { transport: "http", next: fast, rest: seldom },
  "mostly idle, unix path": { transport: "unix", next: fast, rest: seldom },
  "mostly idle, TLS": { transport: "https", next: fast, rest: seldom },
  "fresh connections": { transport: "http", next: fast, rest: shortly, fresh: true },
  "fresh connections, TLS": { transport: "https", next: fast, rest: shortly, fresh: true },
  "uploads": { transport: "http", next: upload, rest: shortly },
  "slow answers": { transport: "http", next: slow, rest: shortly },
  "streamed answers": { transport: "http", next: stream, rest: shortly },
  "large answers": { transport: "http", next: large, rest: shortly },
} satisfies Record<string, Behaviour>;

/** Milliseconds without an answer after which a request has failed. */
const patience = 30_000;

/** A failure that is counted by its message. */
class Failed extends Error {
  override name = "Failed";
}

/**
 * A connection that always has a read pending: it notices at any time that the server has closed. Before a
 * request is sent that is no failure; afterwards it is one.
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
      // A failed handshake counts as a failure to connect.
      await conn.handshake();
      return new Connection(conn);
    }
    const conn = await Deno.connect({ hostname, port: ports.http });
    conn.setNoDelay();
    return new Connection(conn);
  }

  /** Whether the server has closed the connection, or reading has failed. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Makes a request; resolves to whether the connection may be used again. */
  async ask({ path, body, expected }: Exchange): Promise<boolean> {
    if (this.#received) throw new Failed("bytes without a request");
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
    // Closing makes a pending read reject.
    this.#reading.catch(() => {});
    // Deno 2.8.3 does not end a pending read when the connection is closed, and the process stays for it:
    // shut down, so that the server closes. It fails when the server has closed already.
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
    // Awaited by the next request, if one follows: until then a rejection must not count as unhandled.
    reading.catch(() => {});
    return reading;
  }
}

const encoder = new TextEncoder();

/** The results of the clients of one class. */
class Tally {
  readonly #class: string;
  #batch: Batch;
  /** The requests under way: when each began, and how to end it. */
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

  /** Prints the results since the previous call. */
  print(): void {
    console.log(JSON.stringify(this.#batch));
    this.#batch = this.#empty();
  }

  /** Ends the requests that take too long. */
  endLate(): void {
    const longAgo = performance.now() - patience;
    for (const { began, end } of this.underWay.values()) if (began < longAgo) end();
  }
}

/** Waits; ends early, without an error, when the signal aborts. */
async function pauseUntil(signal: AbortSignal, milliseconds: number): Promise<void> {
  try {
    await pause(milliseconds, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** The name of a failure in the report. */
function kindOf(error: unknown): string {
  if (error instanceof Failed) return error.message;
  const { name, code, message } = error as Error & { code?: string };
  return code ?? (name === "Error" ? message : name);
}

/** Runs one client until the signal aborts. */
async function run(
  { transport, next, fresh, rest }: Behaviour,
  tally: Tally,
  options: SoakClientOptions,
  signal: AbortSignal,
): Promise<void> {
  let connection: Connection | undefined;
  while (!signal.aborted) {
    if (rest) await pauseUntil(signal, rest(options.idleFor));
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
      const again = await connection.ask(next()) && !fresh;
      tally.answered(began);
      if (again) continue;
    } catch (error) {
      tally.failed(late ? `no answer for ${patience} ms` : kindOf(error));
      // Without a listener the next attempt would fail at once, too.
      await pause(10);
    } finally {
      tally.underWay.delete(client);
    }
    connection?.close();
    connection = undefined;
  }
  connection?.close();
}

/** Runs one client whose requests undici makes. */
async function runUndici(
  { next, rest }: Behaviour,
  tally: Tally,
  pool: Pool,
  { idleFor }: SoakClientOptions,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    if (rest) await pauseUntil(signal, rest(idleFor));
    const began = performance.now();
    const { path, expected } = next();
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
  const ending = setInterval(() => tallies.forEach((tally) => tally.endLate()), 1000);
  // Until a line, or the end of stdin.
  await told().next();
  stop.abort();
  await Promise.all(running);
  clearInterval(printing);
  clearInterval(ending);
  for (const tally of tallies) tally.print();
}

if (options) await main(options);
