/**
 * The command line of the tools: flags, `--help`, exit codes, and a line of progress.
 *
 * @module
 */

import { parseArgs, type ParseArgsConfig } from "node:util";

/** A wrong argument: {@linkcode runTool} prints the message and the usage, and exits with 2. */
export class UsageError extends Error {
  override name = "UsageError";
}

/**
 * Parses the arguments of this process and runs the tool; ends the process with 0 when `run` resolves to
 * true, with 1 when it resolves to false, and with 2 for a wrong argument. `--help` prints the usage.
 */
export async function runTool<C extends ParseArgsConfig>(
  usage: string,
  config: C,
  run: (parsed: ReturnType<typeof parseArgs<C>>) => Promise<boolean>,
): Promise<never> {
  const help = { type: "boolean", short: "h", default: false } as const;
  try {
    const parsed = parseArgs({ ...config, options: { ...config.options, help } });
    if ((parsed.values as { help?: boolean }).help) {
      console.log(usage);
      Deno.exit(0);
    }
    Deno.exit(await run(parsed as unknown as ReturnType<typeof parseArgs<C>>) ? 0 : 1);
  } catch (error) {
    if (!isUsageError(error)) throw error;
    console.error(`${error.message}\n\n${usage}`);
    Deno.exit(2);
  }
}

/** parseArgs() of node:util throws a TypeError with a code of its own. */
function isUsageError(error: unknown): error is Error {
  if (error instanceof UsageError) return true;
  return error instanceof TypeError &&
    (error as { code?: string }).code?.startsWith("ERR_PARSE_ARGS_") === true;
}

/** The largest number that a timer and a 32-bit seed can take. */
const largest = 2 ** 31 - 1;

/** The value of `--name` as a number. @throws {UsageError} For anything else. */
export function wholeNumber(
  name: string,
  text: string,
  { least = 0, most = largest }: { least?: number; most?: number } = {},
): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  const range = most === largest ? `of at least ${least}` : `from ${least} to ${most}`;
  throw new UsageError(`--${name} takes a whole number ${range}, not "${text}"`);
}

/**
 * Writes a line to stderr again and again until it is disposed of: every second in a terminal, where each
 * line replaces the previous one; every ten seconds in a log.
 */
export class Progress implements Disposable {
  readonly #isTerminal = Deno.stderr.isTerminal();
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(line: () => string) {
    const show = () => this.#write(this.#isTerminal ? `\r${line()}\x1b[K` : `${line()}\n`);
    this.#timer = setInterval(show, this.#isTerminal ? 1000 : 10_000);
    Deno.unrefTimer(this.#timer);
  }

  /** Prints a line to stdout, which stays. */
  print(line: string): void {
    this.#clear();
    console.log(line);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#clear();
  }

  #clear(): void {
    if (this.#isTerminal) this.#write("\r\x1b[K");
  }

  #write(text: string): void {
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  }
}

/** Seconds since a `performance.now()`, in words. */
export function secondsSince(began: number): string {
  return `${((performance.now() - began) / 1000).toFixed(1)} s`;
}
