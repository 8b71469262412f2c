/**
 * A program in a process of its own, which a test reads lines from and writes lines to.
 *
 * @module
 */

/** How a process ended. */
export interface Ended {
  code: number;
  /** The lines that the process printed and the test has not read. */
  stdout: string[];
  stderr: string;
}

const programs = new URL("../programs/", import.meta.url);

/** The path of a program; a relative name starts at the folder `tests/programs`. */
export function programPath(name: string): string {
  return new URL(name, programs).pathname;
}

/** A running program; the end of its block kills the process if it still runs. */
export class Child implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: AsyncGenerator<string>;
  readonly #stderr: Promise<string>;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  #status: Deno.CommandStatus | undefined;

  /**
   * Starts `name`, a path as {@linkcode programPath} takes it, with `deno run -A`. Options: `deno`, other
   * arguments for Deno; `program`, another Deno; `command`, an interpreter for a program in another language;
   * `openFiles`, the RLIMIT_NOFILE of the process; `through`, a command that executes the rest of the command
   * line.
   */
  constructor(
    name: string,
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
    const { command: other, deno = ["run", "-A"], through = [] } = options;
    const { program = [Deno.execPath()] } = options;
    const start = [...through, ...(other ? [other] : [...program, ...deno])];
    const line = [...start, programPath(name), ...args];
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

  /** Reads the next line of the output; throws when the output ends instead. */
  async line(): Promise<string> {
    const { done, value } = await this.#lines.next();
    if (!done) return value;
    throw new Error(`The program ended instead of printing a line: ${await this.#stderr}`);
  }

  /** Reads lines until one equals `wanted`, or matches it; returns that line. */
  async until(wanted: string | RegExp): Promise<string> {
    for (;;) {
      const line = await this.line();
      if (typeof wanted === "string" ? line === wanted : wanted.test(line)) return line;
    }
  }

  /** Reads lines until `NAME: NUMBER ...`; returns the numbers. */
  async numbers(name: string): Promise<number[]> {
    const line = await this.until(new RegExp(`^${name}: `));
    return line.slice(name.length + 2).split(" ").map(Number);
  }

  /** Writes a line to the standard input of the process. */
  async tell(line: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(`${line}\n`));
  }

  /** Waits for the end of the process. */
  async ended(): Promise<Ended> {
    const stdout = [];
    for await (const line of this.#lines) stdout.push(line);
    const { code } = await this.#process.status;
    return { code, stdout, stderr: await this.#stderr };
  }

  /** Kills the process with SIGKILL if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#status) this.#process.kill("SIGKILL");
    // Input that the process has not read does not matter any more.
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

/** For programs: the lines that the test writes, to the end of the standard input. */
export function told(): AsyncGenerator<string> {
  return linesOf(Deno.stdin.readable);
}
