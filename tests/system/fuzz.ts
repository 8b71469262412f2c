/**
 * `deno task fuzz`: senders that break the protocol in every way, and what the receiver and the gob
 * decoder make of it.
 *
 * @module
 */

import { Child } from "../support/child.ts";
import { Progress, runTool, wholeNumber } from "../support/command_line.ts";
import { addTally, emptyTally, runBatch, type Tally, warmUp } from "./fuzz_batch.ts";
import { describe } from "./fuzz_conversation.ts";
import { makeConversation } from "./fuzz_generate.ts";

const usage = `Usage: deno task fuzz [options]

Runs conversations between a sender that breaks the protocol and a receiver of this library, and
decodes as many damaged gobs. Exits with 0 when each of them ended as the protocol demands, with no
descriptor lost or left open, and none hung; with 1 when one did not, with 2 for wrong arguments.

  --count N     run N conversations (1000000)
  --seed S      of seed S, a whole number (1)
  --first I     begin with conversation I (0)
  --only I      run conversation I alone, and print it
  --seconds T   stop after T seconds
  --workers W   in W processes (as many as there are processors)
  --help        print this

A conversation is a function of its seed and its number, whatever the other options are.`;

/** The number of conversations after which descriptors are counted. */
const batch = 200;
/** Milliseconds; longer than a batch takes of which one conversation hangs until its own deadline. */
const longestBatch = 120_000;
/** Bytes that a process may use; at its start it uses about 100 MB. */
const mostMemory = 700 << 20;
/** The number of findings that are printed; there may be one for every conversation. */
const mostFindings = 20;

interface Options {
  count: number;
  seed: number;
  first: number;
  seconds: number;
  workers: number;
}

/** The conversations that are still to run, and the results of the others. */
class Run {
  readonly tally: Tally = emptyTally();
  readonly began = performance.now();
  /** The most memory that a process has used. */
  memory = 0;
  readonly #options: Options;
  #next: number;
  #progress: Progress | undefined;

  constructor(options: Options) {
    this.#options = options;
    this.#next = options.first;
  }

  get seconds(): number {
    return (performance.now() - this.began) / 1000;
  }

  /** Runs all conversations in several processes. */
  async run(): Promise<void> {
    using progress = new Progress(() => this.#progressLine());
    this.#progress = progress;
    const { workers } = this.#options;
    await Promise.all(Array.from({ length: workers }, () => work(this, this.#options)));
  }

  #progressLine(): string {
    const { conversations, findings } = this.tally;
    const rate = Math.round(conversations / this.seconds);
    const { count } = this.#options;
    return `${conversations} of ${count}, ${rate} a second, ${findings.length} failed`;
  }

  /** The next batch; undefined when none is left, or the time is over. */
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
      if (shown < mostFindings) this.#progress?.print(`\nFAILED: ${finding}`);
      if (shown === mostFindings) this.#progress?.print("\nMore have failed.");
      this.tally.findings.push(finding);
    }
    addTally(this.tally, { ...tally, findings: [] });
  }
}

/** Runs batches in one process after the other, until none is left. */
async function work(run: Run, { seed }: Options): Promise<void> {
  let span: [number, number] | undefined;
  while ((span = run.next())) {
    await using child = new Child("../system/fuzz_worker.ts", [String(seed)]);
    const failed = await feed(run, child, span);
    if (failed === undefined) continue;
    const finding = await findCulprit(seed, failed.span, failed.why);
    run.add({ ...emptyTally(), findings: [finding] });
  }
}

/** Runs batches in one process; gives the batch in which the process ended or hung, if it did. */
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
      // A new process goes on with the next batch: the memory of this one is freed.
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

/** Runs a batch again, one by one, and describes the conversation that ends or hangs the process. */
async function findCulprit(
  seed: number,
  [from, to]: [number, number],
  why: string,
): Promise<string> {
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
      describe(makeConversation(seed, index))
    }`;
  }
  return `${why}\nseed ${seed}, conversations ${from} to ${to}, but none of them alone`;
}

function table(title: string, counts: Record<string, number>): string {
  const rows = Object.entries(counts).sort(([, a], [, b]) => b - a);
  const width = Math.max(...rows.map(([name]) => name.length));
  return [title, ...rows.map(([name, n]) => `  ${name.padEnd(width)}  ${n}`)].join("\n");
}

/** Runs and prints one conversation. */
async function runOnly(seed: number, index: number): Promise<boolean> {
  console.log(describe(makeConversation(seed, index)));
  await warmUp();
  const { findings, ends } = await runBatch(seed, index, index + 1);
  console.log(`It ended with ${Object.keys(ends).join(", its gob with ")}`);
  for (const finding of findings) console.log(`FAILED: ${finding.split("\n")[0]}`);
  return findings.length === 0;
}

async function fuzz(options: Options): Promise<boolean> {
  const run = new Run(options);
  await run.run();
  const { conversations, delivered, kinds, ends, findings } = run.tally;
  console.log(table("Mutations and circumstances:", kinds));
  console.log(table("Ends:", ends));
  console.log(
    `${conversations} conversations and as many gobs of seed ${options.seed}, ${delivered} ` +
      `descriptors delivered, ${run.seconds.toFixed(1)} s, at most ${run.memory >> 20} MiB: ` +
      `${findings.length} failed`,
  );
  return findings.length === 0;
}

if (import.meta.main) {
  await runTool(usage, {
    options: {
      count: { type: "string", default: "1000000" },
      seed: { type: "string", default: "1" },
      first: { type: "string", default: "0" },
      only: { type: "string" },
      seconds: { type: "string" },
      workers: { type: "string", default: String(navigator.hardwareConcurrency) },
    },
  }, async ({ values }) => {
    const seed = wholeNumber("seed", values.seed);
    if (values.only !== undefined) return await runOnly(seed, wholeNumber("only", values.only));
    const least = 1;
    return await fuzz({
      seed,
      count: wholeNumber("count", values.count, { least }),
      first: wholeNumber("first", values.first),
      seconds: values.seconds === undefined
        ? Infinity
        : wholeNumber("seconds", values.seconds, { least }),
      workers: wholeNumber("workers", values.workers, { least, most: 64 }),
    });
  });
}
