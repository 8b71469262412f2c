/**
 * Requests over HTTP/2, of node's client, none of them repeated.
 *
 * @module
 */

import { type ClientHttp2Session, connect } from "node:http2";
import { pause } from "../../lib/time.ts";

/** How many streams of a client are open at the same time. */
const streams = 4;

/** Sends requests over sessions that are opened again when the server closes one; none is repeated. */
export class Http2Load {
  readonly answers = new Map<string, number>();
  readonly failures: string[] = [];
  readonly #stopped = new AbortController();
  readonly #done: Promise<void>;
  readonly #path: string;

  /** @param once Whether it ends with its first session. */
  constructor(authority: string, path = "/", once = false) {
    this.#path = path;
    this.#done = this.#run(authority, once);
  }

  get count(): number {
    return [...this.answers.values()].reduce((sum, n) => sum + n, 0);
  }

  async #run(authority: string, once: boolean): Promise<void> {
    do {
      const session = connect(authority, { rejectUnauthorized: false });
      let isGoing = false;
      session.on("goaway", () => isGoing = true);
      session.on("error", () => isGoing = true);
      session.on("close", () => isGoing = true);
      const isOpen = () => !isGoing && !session.closed && !session.destroyed;
      const requests = Array.from({ length: streams }, async () => {
        while (isOpen() && !this.#stopped.signal.aborted) await this.#request(session);
      });
      await Promise.all(requests);
      session.close();
    } while (!once && !this.#stopped.signal.aborted);
  }

  async #request(session: ClientHttp2Session): Promise<void> {
    try {
      const body = await ask(session, this.#path);
      this.answers.set(body, (this.answers.get(body) ?? 0) + 1);
    } catch (error) {
      this.failures.push(String(error));
      await pause(5);
    }
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#done;
  }
}

/** Sends a request, and gives the body of the answer. */
export function ask(session: ClientHttp2Session, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":path": path });
    let body = "";
    stream.on("data", (chunk) => body += chunk);
    stream.on("end", () => resolve(body));
    stream.on("error", reject);
    stream.end();
  });
}
