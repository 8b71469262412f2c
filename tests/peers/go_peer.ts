/**
 * A Go process that passes descriptors: the library `graceful`, or a stand-in for it, on Go's runtime.
 *
 * @module
 */

import { assertEquals, assertInstanceOf } from "@std/assert";
import { text } from "./bytes.ts";
import { buildPeer } from "./go_build.ts";

const built = await buildPeer();

/** Options of a test with a Go process. */
export const withGo: { ignore: boolean } = { ignore: built === undefined };

/** Options of a test of the library `graceful` itself. */
export const withLibrary: { ignore: boolean } = { ignore: !built?.hasLibrary };

/** A value as the peer reports it: the name of its Go type, and its text or its elements. */
export type GoValue = unknown[];

/** An open descriptor, as the peer describes it. */
export interface Described {
  kind?: "listener" | "connection" | "datagram" | "file";
  local?: string;
  peer?: string;
  content?: string;
}

/** A record that the peer received. */
export interface Reported extends Described {
  meta?: string;
  values?: Record<string, GoValue>;
}

/** A descriptor to send, by its name in the peer, and its meta. */
export interface Item {
  name: string;
  meta?: string | Record<string, GoValue> | null;
}

/** A request to the peer: `go/peer/main.go` documents each field. */
export interface Request {
  do: string;
  name?: string;
  over?: string;
  path?: string | null;
  kind?: string;
  at?: string | null;
  data?: string;
  n?: number;
  items?: Item[];
  keep?: boolean;
  refuse?: number;
}

/** The peer's answer to a request. */
export interface Answer extends Described {
  id: number;
  error?: string;
  data: string;
  from: string;
  n: number;
  log: string[];
  records: Reported[];
}

/** A process of `go/peer`; the end of its block kills it. */
export class GoPeer implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #waiting = new Map<number, PromiseWithResolvers<Answer>>();
  readonly #reading: Promise<void>;
  #id = 0;

  private constructor() {
    this.#process = new Deno.Command(built!.path, { stdin: "piped", stdout: "piped" }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#reading = this.#read();
  }

  /** Starts a peer, and waits until it reads requests. */
  static async start(): Promise<GoPeer> {
    const go = new GoPeer();
    await go.#answer(0);
    return go;
  }

  /** Sends a request; returns the answer, and throws if the request failed. */
  async ask(request: Request): Promise<Answer> {
    const answer = await this.attempt(request);
    if (answer.error !== undefined) throw new Error(`Go, ${request.do}: ${answer.error}`);
    return answer;
  }

  /** Sends a request; returns the answer, with its `error` if the request failed. */
  async attempt(request: Request): Promise<Answer> {
    const id = ++this.#id;
    const answer = this.#answer(id);
    await this.#input.write(text(`${JSON.stringify({ id, ...request })}\n`));
    return await answer;
  }

  /** Ends the input, on which the process exits with code 0. */
  async exit(): Promise<void> {
    await this.#input.close();
    assertEquals((await this.#process.status).code, 0);
  }

  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.kill();
    } catch (error) {
      assertInstanceOf(error, TypeError, "kill() of a process that has ended");
    }
    // Input that the process has not read does not matter any more.
    await this.#input.abort().catch(() => {});
    await this.#reading;
  }

  #answer(id: number): Promise<Answer> {
    const answer = Promise.withResolvers<Answer>();
    this.#waiting.set(id, answer);
    return answer.promise;
  }

  async #read(): Promise<void> {
    let rest = "";
    for await (const chunk of this.#process.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const answer = JSON.parse(line) as Answer;
        this.#waiting.get(answer.id)!.resolve(answer);
        this.#waiting.delete(answer.id);
      }
    }
    for (const { reject } of this.#waiting.values()) {
      reject(new Error("The Go process ended without an answer"));
    }
  }
}

/** An address as Go prints it. */
export function addressOf(addr: Deno.Addr): string {
  return "hostname" in addr ? `${addr.hostname}:${addr.port}` : (addr as Deno.UnixAddr).path;
}

export function portOf(address: string): number {
  return Number(address.split(":")[1]);
}
