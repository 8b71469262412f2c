/**
 * Clients of the program node_service.ts: those of the soak in a process of their own, and others here. None of them repeats
 * a request, and each counts its failures.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { pause } from "../../lib/time.ts";
import { Child } from "../support/child.ts";
import { Http1Client } from "../support/http1_client.ts";
import { Http2Load } from "../support/http2_load.ts";
import { certificate } from "../support/tls.ts";
import type { Batch, SoakClientOptions } from "../system/soak_client.ts";
import type { Ports } from "../system/soak_service.ts";

/** The addresses of the program. */
export interface NodePorts extends Ports {
  https: number;
  http2: number;
  echo: number;
}

/** What became of requests. */
export class Tally {
  answered = 0;
  readonly failures = new Map<string, number>();

  failed(what: string): void {
    this.failures.set(what, (this.failures.get(what) ?? 0) + 1);
  }
}

/** Uses one connection until the server or the client ends it. */
type Use = (ports: NodePorts, tally: Tally, signal: AbortSignal) => Promise<void>;

/** Makes requests over a connection until an answer has `Connection: close`. */
async function http1(
  port: number,
  signal: AbortSignal,
  tally: Tally,
  ask: (client: Http1Client) => Promise<Headers[]>,
): Promise<void> {
  using client = await Http1Client.dial({ transport: "tcp", hostname: "127.0.0.1", port });
  for (let isLast = false; !isLast && !signal.aborted;) {
    const answers = await ask(client);
    tally.answered += answers.length;
    isLast = answers.some((headers) => headers.get("connection") === "close");
  }
}

/** Five requests at once: those behind an answer with `Connection: close` are answered too. */
const pipelined: Use = async ({ http }, tally, signal) => {
  const paths = ["/slow?ms=3", "/fast", "/none", "/slow?ms=2", "/fast"];
  await http1(http, signal, tally, async (client) => {
    for (const path of paths) await client.send(path);
    const answers: Headers[] = [];
    for (const path of paths) {
      const { status, body, headers } = await client.answer();
      assertEquals([status, body], path === "/none" ? [304, ""] : [200, path.slice(1, 5)]);
      answers.push(headers);
    }
    return answers;
  });
};

/** Uploads in two parts, with Expect: 100-continue. */
const upload: Use = async ({ http }, tally, signal) => {
  const head = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n";
  await http1(http, signal, tally, async (client) => {
    const write = (text: string) => client.conn.write(new TextEncoder().encode(text));
    await write(head);
    assertEquals((await client.answer()).status, 100);
    await write("1234");
    await pause(5);
    await write("5678");
    const { status, body, headers } = await client.answer();
    assertEquals([status, body], [200, "8"]);
    return [headers];
  });
};

/** Ten echoes. */
const echo: Use = async ({ echo: port }, tally) => {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  for (let i = 0; i < 10; i++) {
    await conn.write(Uint8Array.of(i));
    const read = new Uint8Array(2);
    assertEquals([await conn.read(read), read[0]], [1, i]);
    tally.answered++;
    await pause(2);
  }
};

/** HTTP/2 of another implementation than node's. */
const fetched: Use = async ({ http2: port }, tally, signal) => {
  using client = Deno.createHttpClient({ http1: false, http2: true, caCerts: [certificate.cert] });
  const requests = Array.from({ length: 3 }, async () => {
    for (let i = 0; i < 200 && !signal.aborted; i++) {
      // A body that is a stream is not sent again.
      const body = ReadableStream.from([new Uint8Array(5)]);
      const answer = await fetch(`https://localhost:${port}/`, { client, method: "POST", body });
      assertEquals(await answer.text(), "5");
      tally.answered++;
    }
  });
  await Promise.all(requests);
};

/** The connections that are made in this process. */
const connections = { pipelined, upload, echo, fetched };

/** Their kinds. */
export type Kind = keyof typeof connections;

/** Uses connections of some kinds, one after the other or `once`, until the signal is aborted. */
export async function use(
  kinds: Kind[],
  ports: NodePorts,
  tally: Tally,
  signal: AbortSignal,
  once = false,
): Promise<void> {
  const all = kinds.map(async (kind) => {
    do {
      try {
        await connections[kind](ports, tally, signal);
      } catch (error) {
        const { cause } = error as Error;
        tally.failed(`${kind}: ${error}${cause ? `, ${cause}` : ""}`);
        await pause(5);
      }
    } while (!once && !signal.aborted);
  });
  await Promise.all(all);
}

/** Clients of every kind, until `stop()`. */
export class Clients {
  readonly #tally = new Tally();
  readonly #soak: Child;
  /** From the start on: the process waits when its output is not read. */
  readonly #soakEnded: ReturnType<Child["ended"]>;
  readonly #http2: Http2Load;
  readonly #stopped = new AbortController();
  readonly #running: Promise<void>;

  /** @param kinds The kinds of connections of this process. */
  constructor(ports: NodePorts, kinds: Kind[]) {
    const options: SoakClientOptions = {
      ports,
      ca: certificate.cert,
      idleFor: 400,
      seed: 1,
      clients: {
        "busy": 2,
        "busy, unix path": 1,
        "busy, TLS (undici)": 2,
        "mostly idle": 4,
        "mostly idle, unix path": 2,
        "mostly idle, TLS": 2,
        "fresh connections": 2,
        "fresh connections, TLS": 1,
        "uploads": 2,
        "slow answers": 2,
        "streamed answers": 2,
        "large answers": 1,
      },
    };
    this.#soak = new Child("../system/soak_client.ts", [JSON.stringify(options)]);
    this.#soakEnded = this.#soak.ended();
    this.#http2 = new Http2Load(`https://127.0.0.1:${ports.http2}`, "/slow?ms=2");
    this.#running = use(kinds, ports, this.#tally, this.#stopped.signal);
  }

  /** Ends them. */
  async stop(): Promise<Tally> {
    await using soak = this.#soak;
    this.#stopped.abort();
    await soak.tell("stop");
    await this.#http2.stop();
    await this.#running;
    const { code, stdout, stderr } = await this.#soakEnded;
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    for (const line of stdout) {
      const batch: Batch = JSON.parse(line);
      this.#tally.answered += batch.at.length;
      for (const { kind } of batch.failures) this.#tally.failed(`${batch.class}: ${kind}`);
    }
    for (const failure of this.#http2.failures) this.#tally.failed(`http2: ${failure}`);
    this.#tally.answered += this.#http2.count;
    return this.#tally;
  }
}
