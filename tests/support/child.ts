/**
 * A fixture in a process of its own: it prints lines and is told lines.
 *
 * @module
 */

/** How a process ended. */
export interface Ended {
  code: number;
  /** The lines it printed and nobody asked for. */
  stdout: string[];
  stderr: string;
}

/** Where the programs are: the names that a Child is made of are relative to this folder. */
const programs = new URL("../programs/", import.meta.url);

/** A running fixture; killed at the end of its block if it has not ended by then. */
export class Child implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: AsyncGenerator<string>;
  readonly #stderr: Promise<string>;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  #status: Deno.CommandStatus | undefined;

  /**
   * Starts `fixture` with `deno run -A`, with other words for that in `deno` and another Deno in
   * `program`, or with `command` a program of another language; with `openFiles`, under that
   * RLIMIT_NOFILE; with `through`, started by that command.
   */
  constructor(
    fixture: string,
    args: string[] = [],
    options: {
      openFiles?: number;
      command?: string;
      deno?: string[];
      program?: string[];
      env?: Record<string, string>;
      through?: string[];
    } = {},
  ) {
    const path = new URL(fixture, programs).pathname;
    const { command: other, deno = ["run", "-A"], through = [] } = options;
    const { program = [Deno.execPath()] } = options;
    const start = [...through, ...(other ? [other] : [...program, ...deno])];
    const line = [...start, path, ...args];
    const [command, ...rest] = options.openFiles === undefined
      ? line
      : ["sh", "-c", `ulimit -n ${options.openFiles} && exec "$0" "$@"`, ...line];
    this.#process = new Deno.Command(command, {
      args: rest,
      env: { NO_COLOR: "1", ...options.env },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#lines = linesOf(this.#process.stdout);
    this.#stderr = new Response(this.#process.stderr).text();
    this.#stdin = this.#process.stdin.getWriter();
    this.#process.status.then((status) => this.#status = status);
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** The next line it prints; throws when it ends instead. */
  async line(): Promise<string> {
    const { done, value } = await this.#lines.next();
    if (!done) return value;
    throw new Error(`The fixture ended instead of printing a line: ${await this.#stderr}`);
  }

  /** Tells it a line. */
  async tell(line: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(`${line}\n`));
  }

  /** Waits for its end. */
  async ended(): Promise<Ended> {
    const stdout = [];
    for await (const line of this.#lines) stdout.push(line);
    const { code } = await this.#process.status;
    return { code, stdout, stderr: await this.#stderr };
  }

  /** Ends it without asking. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#status) this.#process.kill("SIGKILL");
    // What it did not read is of no interest any more.
    await this.#stdin.abort().catch(() => {});
    await this.ended();
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest) yield rest;
}

/** In a fixture: the lines that it is told, to the end. */
export function told(): AsyncGenerator<string> {
  return linesOf(Deno.stdin.readable);
}
