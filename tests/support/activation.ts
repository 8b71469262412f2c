/**
 * Programs that are started with descriptors, as by a service manager.
 *
 * @module
 */

import { closeAll } from "../../ffi/fd.ts";
import { listen } from "../../mod.ts";
import { programPath } from "./child.ts";
import { sendRaw } from "./raw.ts";
import { succeeds } from "./succeeds.ts";

/** Whether `activate.py` and `service_manager.py` run here. */
export const hasPython: boolean = await succeeds([
  "python3",
  "-c",
  "import socket; socket.send_fds",
]);

/** A command that executes the rest of the command line with descriptors: the arguments are those of `activate.py`. */
export function activated(...args: string[]): string[] {
  return ["python3", programPath("activate.py"), ...args, "--"];
}

/** Sockets that the test holds, as a service manager does: any number of processes is started with them. */
export class HeldSockets implements AsyncDisposable {
  readonly #raws: number[];
  readonly #names: string[];
  readonly #path = `\0held-${crypto.randomUUID()}`;
  readonly #listener = listen(this.#path);
  readonly #sending: Promise<void>;

  /** @param sockets Their numbers, which are owned from here on, and their names. */
  constructor(sockets: [raw: number, name: string][]) {
    this.#raws = sockets.map(([raw]) => raw);
    this.#names = sockets.map(([, name]) => name);
    this.#sending = this.#send();
  }

  /** The argument of `activated()` for all of them. */
  get argument(): string {
    return `from:${this.#path.replace("\0", "@")}`;
  }

  async #send(): Promise<void> {
    for await (const conn of this.#listener) {
      sendRaw(conn, new TextEncoder().encode(JSON.stringify(this.#names)), this.#raws);
      conn.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#sending;
    closeAll(this.#raws);
  }
}
