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
import { Connection, type Exchange, Failed } from "./soak_connection.ts";
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
