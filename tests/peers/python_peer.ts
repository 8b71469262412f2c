/**
 * A Python process that passes descriptors with `socket.send_fds` and `recvmsg` (`python_peer.py`).
 *
 * @module
 */

import { assertEquals, assertInstanceOf } from "@std/assert";
import { text } from "./bytes.ts";

const python = await findPython();
if (!python) {
  console.log("The tests with Python are skipped: no python3 with socket.send_fds (3.9)");
}

/** Options of a test with a Python process. */
export const withPython: { ignore: boolean } = { ignore: python === undefined };

/** A record that Python's `receive` reports. */
export interface Reported {
  meta: string;
  kind: "file" | "listener" | "connection" | "datagram" | "other";
  inode?: number;
  content?: string;
  family?: string;
  local?: unknown;
  peer?: unknown;
}

/** A line of Python's output; its fields depend on `event`. */
export interface PythonEvent {
  event: string;
  listens: boolean;
  plain: string;
  messages: number[];
  records: Reported[];
  bytes: string;
  descriptors: number;
}

/** One step of a conversation: a sendmsg(2), or a report followed by a wait for `PythonPeer.go()`. */
export type Step = { data: string; files?: string[] } | { wait: string };

/** A process that runs a subcommand of `python_peer.py`; the end of its block kills it. */
export class PythonPeer implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #text = "";
  #hasEnded = false;

  private constructor(args: string[]) {
    const script = new URL("python_peer.py", import.meta.url).pathname;
    this.#child = new Deno.Command(python!, {
      // Isolated and without the module site: it starts faster, with the standard library alone.
      args: ["-I", "-S", decodeURIComponent(script), ...args],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Starts a subcommand. */
  static start(...args: string[]): PythonPeer {
    return new PythonPeer(args);
  }

  /** Starts `send`: each client at `path` gets the next of these conversations. */
  static async send(path: string, conversations: Step[][]): Promise<PythonPeer> {
    // The socket of an earlier peer; there may be none.
    await Deno.remove(path).catch(() => {});
    const peer = new PythonPeer(["send", path]);
    await peer.#input.write(text(`${JSON.stringify(conversations)}\n`));
    await peer.next("listening");
    return peer;
  }

  /** Reads the next line, which must report this event. */
  async next(event: string): Promise<PythonEvent> {
    while (!this.#text.includes("\n")) {
      const { done, value } = await this.#output.read();
      if (done) throw new Error(`Python ended before it reported "${event}"`);
      this.#text += value;
    }
    const [line] = this.#text.split("\n", 1);
    this.#text = this.#text.slice(line.length + 1);
    const reported = JSON.parse(line) as PythonEvent;
    assertEquals(reported.event, event);
    return reported;
  }

  /** Ends the wait of a conversation. */
  async go(): Promise<void> {
    await this.#input.write(text("\n"));
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  /** Waits for the end of the process, which must succeed. */
  async finished(): Promise<void> {
    const { code } = await this.#child.status;
    this.#hasEnded = true;
    assertEquals(code, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) {
      try {
        this.kill();
      } catch (error) {
        assertInstanceOf(error, TypeError, "kill() of a process that has ended");
      }
    }
    await this.#child.status;
    // The process may have ended without reading its input.
    await this.#input.close().catch(() => {});
    await this.#output.cancel();
  }
}

/**
 * The path of a Python with `socket.send_fds`: of the interpreter itself, since the shims of version managers
 * are slow.
 */
async function findPython(): Promise<string | undefined> {
  const program = "import socket, sys; socket.send_fds; print(sys.executable)";
  try {
    const { success, stdout } = await new Deno.Command("python3", {
      args: ["-c", program],
      stderr: "null",
    }).output();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
