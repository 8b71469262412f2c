/**
 * `deno task fuzz`: senders that break the rules in every way there is, and what the receiver and the
 * gob decoder make of it.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { Child } from "../support/child.ts";
import { addTally, emptyTally, runBatch, type Tally, warmUp } from "./converse.ts";
import { conversation, described } from "./mutate.ts";

const usage = `Usage: deno task fuzz [options]

Holds conversations between a sender that breaks the rules and a receiver of this library, and
decodes as many damaged gobs. Exits with 0 when every one came out as the protocol says, with
nothing lost, left open or hanging; with 1 when one did not, with 2 for wrong arguments.

  --count N     hold so many conversations (1000000)
  --seed S      of the seed S, a whole number (1)
  --first I     begin with conversation I (0)
  --only I      hold conversation I alone, and print it
  --seconds T   stop after T seconds
  --workers W   in W processes (as many as there are processors)
  --help        print this

A conversation is a function of its seed and its number, whatever the other options say.`;

/** Descriptors are counted after so many. */
const batch = 200;
/** Longer than a batch of conversations, each with its own deadline, may take when one hangs. */
const longestBatch = 120_000;
/** What a process may grow to; it begins with about a hundred. */
const mostMemory = 700 << 20;
/** Findings that are printed; there may be one for every conversation. */
const mostFindings = 20;

interface Options {
  count: number;
  seed: number;
  first: number;
  only: number | undefined;
  seconds: number;
  workers: number;
}

function number(name: string, text: string | undefined, least: number, most: number): number {
  const value = Number(text);
  if (text?.trim() && Number.isInteger(value) && value >= least && value <= most) return value;
  throw new TypeError(`--${name} is a whole number from ${least} to ${most}, not "${text}"`);
}

function options(args: string[]): Options | "help" {
  const { values } = parseArgs({
    args,
    options: {
      count: { type: "string", default: "1000000" },
      seed: { type: "string", default: "1" },
      first: { type: "string", default: "0" },
      only: { type: "string" },
      seconds: { type: "string" },
      workers: { type: "string", default: String(navigator.hardwareConcurrency) },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return "help";
  const most = 2 ** 31 - 1;
  return {
    count: number("count", values.count, 1, most),
    seed: number("seed", values.seed, 0, most),
    first: number("first", values.first, 0, most),
    only: values.only === undefined ? undefined : number("only", values.only, 0, most),
    seconds: values.seconds === undefined ? Infinity : number("seconds", values.seconds, 1, most),
    workers: number("workers", values.workers, 1, 64),
  };
}

/** The conversations that are still to be held, and what came of the others. */
class Run {
  readonly tally: Tally = emptyTally();
  readonly start = performance.now();
  /** The most memory that a process was seen with. */
  memory = 0;
  readonly #options: Options;
  #next: number;

  constructor(options: Options) {
    this.#options = options;
    this.#next = options.first;
  }

  get seconds(): number {
    return (performance.now() - this.start) / 1000;
  }

  /** The next batch; undefined when all were held, or there is no time for it. */
  next(): [from: number, to: number] | undefined {
    const { first, count, seconds } = this.#options;
    if (this.#next >= first + count || this.seconds >= seconds) return undefined;
    const from = this.#next;
    this.#next = Math.min(from + batch, first + count);
    return [from, this.#next];
  }

  add(tally: Tally): void {
    for (const finding of tally.findings) {
      const shown = this.tally.findings.length;
      if (shown < mostFindings) console.log(`\nFAILED: ${finding}`);
      if (shown === mostFindings) console.log("\nThere is more that failed.");
      this.tally.findings.push(finding);
    }
    addTally(this.tally, { ...tally, findings: [] });
  }
}

/** Has one process after the other hold conversations until there are none left. */
async function work(run: Run, { seed }: Options): Promise<void> {
  let span: [number, number] | undefined;
  while ((span = run.next())) {
    await using child = new Child("../system/fuzz_worker.ts", [String(seed)]);
    const failed = await feed(run, child, span);
    if (failed === undefined) continue;
    run.add({ ...emptyTally(), findings: [await culprit(seed, failed.span, failed.why)] });
  }
}

/** Gives the span at which the process ended or hung, if it did. */
async function feed(
  run: Run,
  child: Child,
  first: [number, number],
): Promise<{ span: [number, number]; why: string } | undefined> {
  let span: [number, number] | undefined = first;
  try {
    await inTime(child.line());
    for (; span; span = run.next()) {
      await child.tell(span.join(" "));
      const { rss, ...tally }: Tally & { rss: number } = JSON.parse(await inTime(child.line()));
      run.memory = Math.max(run.memory, rss);
      if (rss > mostMemory) tally.findings.push(`A process has grown to ${rss} bytes at ${span}`);
      run.add(tally);
      // Another process takes the next; what this one held is free again.
      if (rss > mostMemory) return undefined;
    }
  } catch (error) {
    return { span: span!, why: error instanceof Error ? error.message : String(error) };
  }
}

async function inTime<T>(promise: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error("The process hangs")), longestBatch);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The conversation that ends or hangs a process of its own. */
async function culprit(seed: number, [from, to]: [number, number], why: string): Promise<string> {
  await using child = new Child("../system/fuzz_worker.ts", [String(seed)]);
  let index = from;
  try {
    await inTime(child.line());
    for (; index < to; index++) {
      await child.tell(`${index} ${index + 1}`);
      await inTime(child.line());
    }
  } catch (error) {
    return `${error instanceof Error ? error.message : error}\n${
      described(conversation(seed, index))
    }`;
  }
  return `${why}\nseed ${seed}, conversations ${from} to ${to}, and none of them alone`;
}

/** Says every second, or in a log every ten, how far it is. */
function report(run: Run, { count }: Options): () => void {
  const terminal = Deno.stdout.isTerminal();
  const write = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(text));
  const timer = setInterval(() => {
    const { conversations, findings } = run.tally;
    const rate = Math.round(conversations / run.seconds);
    const line = `${conversations} of ${count}, ${rate} a second, ${findings.length} failed`;
    write(terminal ? `\r${line}\x1b[K` : `${line}\n`);
  }, terminal ? 1000 : 10_000);
  return () => {
    clearInterval(timer);
    if (terminal) write("\r\x1b[K");
  };
}

function table(title: string, counts: Record<string, number>): string {
  const rows = Object.entries(counts).sort(([, a], [, b]) => b - a);
  const width = Math.max(...rows.map(([name]) => name.length));
  return [title, ...rows.map(([name, n]) => `  ${name.padEnd(width)}  ${n}`)].join("\n");
}

async function only(seed: number, index: number): Promise<number> {
  console.log(described(conversation(seed, index)));
  await warmUp();
  const { findings, ends } = await runBatch(seed, index, index + 1);
  console.log(`It ended with ${Object.keys(ends).join(", its gob with ")}`);
  for (const finding of findings) console.log(`FAILED: ${finding.split("\n")[0]}`);
  return findings.length > 0 ? 1 : 0;
}

async function main(args: string[]): Promise<number> {
  let chosen: Options | "help";
  try {
    chosen = options(args);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    console.error(`${error.message}\n\n${usage}`);
    return 2;
  }
  if (chosen === "help") {
    console.log(usage);
    return 0;
  }
  if (chosen.only !== undefined) return await only(chosen.seed, chosen.only);

  const run = new Run(chosen);
  const done = report(run, chosen);
  await Promise.all(Array.from({ length: chosen.workers }, () => work(run, chosen)));
  done();
  const { conversations, delivered, kinds, ends, findings } = run.tally;
  console.log(table("What was done:", kinds));
  console.log(table("How it ended:", ends));
  console.log(
    `${conversations} conversations and as many gobs of seed ${chosen.seed}, ${delivered} ` +
      `descriptors delivered, ${run.seconds.toFixed(1)} s, at most ${run.memory >> 20} MiB: ` +
      `${findings.length} failed`,
  );
  return findings.length > 0 ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
