/**
 * An HTTP/1 connection of a client of the soak.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import type { Ports } from "./soak_service.ts";

/** A request, and the correct answer. */
export interface Exchange {
  path: string;
  /** The parts of the body, which are sent with a pause before each. */
  body?: Uint8Array[];
  /** The body of the answer, or its length. */
  expected: string | number;
}

/** A failure that is counted by its message. */
export class Failed extends Error {
  override name = "Failed";
}

const encoder = new TextEncoder();

/**
 * A connection that always has a read pending: it notices at any time that the server has closed. Before a
 * request is sent that is no failure; afterwards it is one.
 */
export class Connection {
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
    transport: "http" | "https" | "unix",
    { ports, ca }: { ports: Ports; ca?: string },
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
  async ask({ expected, ...request }: Exchange): Promise<boolean> {
    const { answer, again } = await this.request(request);
    if (answer !== expected && answer.length !== expected) throw new Failed("a wrong body");
    return again;
  }

  /** Makes a request; resolves to the body of the answer, and to whether the connection may be used again. */
  async request(
    { path, body }: Omit<Exchange, "expected">,
  ): Promise<{ answer: string; again: boolean }> {
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
    return { answer, again: !lines.includes("connection: close") };
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
