/**
 * `deno task soak`: a service is restarted again and again under all kinds of load, and every request
 * that is not answered as it has to be is counted; then the same with `server.shutdown()` alone.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { pause } from "../../lib/time.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { connect } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import type { Batch, Failure, SoakClientOptions } from "./soak_client.ts";
import type { Ports, SoakLine, SoakServiceOptions } from "./soak_service.ts";
import type { StartTimes } from "./soak_start.ts";

const usage = `Usage: deno task soak [options]

Restarts a service again and again while clients that never repeat a request load it, in processes of
their own, and counts what fails. Then does the same with a service that leaves by server.shutdown()
alone, which does lose requests. Exits with 0 when nothing failed but in that, with 1 when something
did, with 2 for wrong arguments.

Every other restart is asked for at the control socket, every 20th is with default options, and the
rest start the next process. A stream of HTTP/2 of which GOAWAY says that it was not looked at is asked
for again, and counted apart.

  --restarts N   restart at least N times (100)
  --requests N   go on until N were answered on connections that are never idle (1000000)
  --control N    restart the service with server.shutdown() N times (10)
  --busy N       connections that are never idle (48)
  --idle N       connections that mostly are (1000)
  --idle-for MS  the longest that those are (5000)
  --starts N     start each way N times, to compare how long that takes (20)
  --answer-goaway
                 have the clients of HTTP/2 answer GOAWAY with GOAWAY, as Node does by itself: Deno's
                 server then drops what it has not answered yet, and that is counted as failed
  --help         print this`;

/** How to soak. */
export interface SoakOptions {
  restarts: number;
  /** Goes on until so many were answered on connections that are never idle. */
  requests: number;
  /** Whether the service leaves by `server.shutdown()` alone. */
  control: boolean;
  busy: number;
  idle: number;
  /** In milliseconds. */
  idleFor: number;
  /** Whether the clients of HTTP/2 answer GOAWAY with GOAWAY: see the usage. */
  answerGoaway?: boolean;
  /** Is told how far it is. */
  progress?: (line: string) => void;
}

/** What came of one class of clients. */
export interface ClassOutcome {
  name: string;
  requests: number;
  failures: Failure[];
  hungUp: number;
  refused: number;
  /** In milliseconds, in ascending order: of requests that met a restart, and of those that did not. */
  steady: Float64Array;
  restarting: Float64Array;
}

/** What came of a soak. */
export interface Outcome {
  control: boolean;
  restarts: number;
  seconds: number;
  requests: number;
  failed: number;
  classes: ClassOutcome[];
  /** Of every class whose answers take no time by themselves. */
  quick: ClassOutcome;
  /** What else is wrong: of the service, which nobody may have noticed. */
  complaints: string[];
  /** When each restart began, in milliseconds since 1970. */
  began: number[];
}

/** A generation of its own options, in place of those of a test. */
const everyDefault = 20;

/** Milliseconds of probation, but for that. */
const probation = 300;

/** Milliseconds for which a restart counts as going on after the old process stopped accepting. */
const aftermath = 500;

/** Milliseconds without a restart between two of them, at least. */
const calm = 500;

/** Milliseconds at the beginning that are no measure of anything. */
const warmUp = 1000;

/** Milliseconds after which what is waited for counts as never to come. */
const patience = 90_000;

/** The classes whose requests take a while whatever the service does. */
const slowClasses = new Set<string>([
  "uploads",
  "slow answers",
  "streamed answers",
  "large answers",
  "HTTP/2, slow answers",
  "HTTP/2, uploads",
]);

/** All processes of the service. */
class Service implements AsyncDisposable {
  readonly lines: SoakLine[] = [];
  readonly complaints: string[] = [];
  readonly #directory: string;
  readonly #control: boolean;
  readonly #output: Promise<unknown>[] = [];
  readonly #waiting = new Set<() => void>();

  constructor(directory: string, control: boolean) {
    this.#directory = directory;
    this.#control = control;
  }

  /** Starts a process of it. */
  start(probation?: number): number {
    const options: SoakServiceOptions = {
      directory: this.#directory,
      control: this.#control,
      probation,
    };
    const process = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        new URL("./soak_service.ts", import.meta.url).pathname,
        JSON.stringify(options),
      ],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#output.push(
      process.status,
      read(process.stdout, (line) => this.#printed(line)),
      read(process.stderr, (line) => this.complaints.push(line)),
    );
    return process.pid;
  }

  #printed(text: string): void {
    const line: SoakLine = JSON.parse(text);
    if (line.phase === "complained") this.complaints.push(`${line.pid}: ${line.message}`);
    this.lines.push(line);
    for (const look of [...this.#waiting]) look();
  }

  /** The first line that fits, which may have come already. */
  async line(what: string, fits: (line: SoakLine) => boolean): Promise<SoakLine> {
    const { promise, resolve, reject } = Promise.withResolvers<SoakLine>();
    const look = () => {
      const found = this.lines.find(fits);
      if (found) resolve(found);
    };
    const timer = setTimeout(() => {
      const said = [
        ...this.lines.slice(-20).map((line) => JSON.stringify(line)),
        ...this.complaints,
      ];
      reject(new Error(`Never came to pass: ${what}; the service said last:\n${said.join("\n")}`));
    }, patience);
    this.#waiting.add(look);
    try {
      look();
      return await promise;
    } finally {
      this.#waiting.delete(look);
      clearTimeout(timer);
    }
  }

  /** Has the generation that runs start the next one. */
  async restart(): Promise<void> {
    using channel = new Channel(await connect(`${this.#directory}/app.sock`));
    await channel.send({ type: "restart" });
    const answer = await channel.receive({ timeout: patience });
    if (answer?.type !== "done") throw new Error(`Not restarted: ${JSON.stringify(answer)}`);
  }

  /** Waits until every process has ended by itself, and gives those that do not. */
  async ended(): Promise<number[]> {
    const end = performance.now() + patience;
    for (;;) {
      const left = this.#processes();
      if (left.length === 0 || performance.now() > end) return left;
      await pause(20);
    }
  }

  /** Those that have not ended; one that was started by another is not a child of this one. */
  #processes(): number[] {
    const found = Array.from(Deno.readDirSync("/proc"), ({ name }) => Number(name));
    return found.filter((pid) =>
      pid > 0 &&
      argumentsOf(pid).some((argument) => argument.includes(`"directory":"${this.#directory}"`))
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let left; (left = this.#processes()).length > 0; await pause(20)) {
      for (const pid of left) signal(pid, "SIGKILL");
    }
    await Promise.all(this.#output);
  }
}

/** None when the process has gone, which it may do while it is looked at. */
function argumentsOf(pid: number): string[] {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/cmdline`).split("\0");
  } catch (error) {
    const { code } = error as { code?: string };
    if (error instanceof Deno.errors.NotFound || code === "ESRCH") return [];
    throw error;
  }
}

function signal(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function read(
  stream: ReadableStream<Uint8Array>,
  each: (line: string) => void,
): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    lines.forEach(each);
  }
  if (rest) each(rest);
}

/** What the clients have said so far. */
class Answers {
  requests = 0;
  /** Those of them on connections that are never idle. */
  busy = 0;
  failed = 0;
  readonly #classes = new Map<string, Omit<Batch, "class">>();

  add({ class: name, at, took, failures, hungUp, refused }: Batch): void {
    let all = this.#classes.get(name);
    if (!all) {
      all = { at: [], took: [], failures: [], hungUp: 0, refused: 0 };
      this.#classes.set(name, all);
    }
    for (let i = 0; i < at.length; i++) {
      all.at.push(at[i]);
      all.took.push(took[i]);
    }
    all.failures.push(...failures);
    all.hungUp += hungUp;
    all.refused += refused;
    this.requests += at.length;
    if (name.startsWith("busy")) this.busy += at.length;
    this.failed += failures.length;
  }

  /** Tells requests that met one of the windows from those that did not, from a time on. */
  outcomes(windows: Window[], from: number): ClassOutcome[] {
    return [...this.#classes].map(([name, { at, took, failures, hungUp, refused }]) => {
      const steady: number[] = [];
      const restarting: number[] = [];
      for (let i = 0; i < at.length; i++) {
        const began = at[i] - took[i];
        if (began < from) continue;
        (meets(windows, began, at[i]) ? restarting : steady).push(took[i]);
      }
      return {
        name,
        requests: at.length,
        failures,
        hungUp,
        refused,
        steady: Float64Array.from(steady).sort(),
        restarting: Float64Array.from(restarting).sort(),
      };
    });
  }
}

/** From and to when a restart went on. */
type Window = [from: number, to: number];

/** The windows are in the order of time, and apart. */
function meets(windows: Window[], from: number, to: number): boolean {
  let low = 0;
  let high = windows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (windows[middle][1] < from) low = middle + 1;
    else high = middle;
  }
  return low < windows.length && windows[low][0] <= to;
}

/** A process of clients, which prints batches. */
class Clients implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #reading: Promise<unknown>;
  #complaints = "";
  #ended = false;

  constructor(command: string, args: string[], answers: Answers) {
    this.#process = new Deno.Command(command, {
      args,
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#reading = Promise.all([
      this.#process.status.then(() => this.#ended = true),
      read(this.#process.stdout, (line) => answers.add(JSON.parse(line))),
      read(this.#process.stderr, (line) => this.#complaints += `${line}\n`),
    ]);
  }

  /** Lets what is under way come to its end. */
  async stop(): Promise<void> {
    await this.#process.stdin.close().catch(() => {});
    await this.#reading;
    const { code } = await this.#process.status;
    if (code !== 0) throw new Error(`Clients ended with code ${code}: ${this.#complaints}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) this.#process.kill("SIGKILL");
    await this.#process.stdin.close().catch(() => {});
    await this.#reading;
  }
}

/** Whether a program is there. */
export function isThere(program: string): boolean {
  try {
    return new Deno.Command(program, { args: ["version"], stdout: "null", stderr: "null" })
      .outputSync().code >= 0;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Makes a certificate for 127.0.0.1 that vouches for itself; gives it, or undefined without openssl. */
async function certify(directory: string): Promise<string | undefined> {
  if (!isThere("openssl")) return undefined;
  const args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 " +
    "-subj /CN=soak -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE " +
    "-keyout key.pem -out cert.pem";
  const { success, stderr } = await new Deno.Command("openssl", {
    args: args.split(" "),
    cwd: directory,
  }).output();
  if (!success) throw new Error(`No certificate: ${new TextDecoder().decode(stderr)}`);
  return await Deno.readTextFile(`${directory}/cert.pem`);
}

/** What is not there, and what is left out for it. */
export function leftOut(): string[] {
  const without = [];
  if (!isThere("openssl")) without.push("No TLS and no HTTP/2: openssl is not installed");
  else if (!isThere("node")) without.push("No HTTP/2: node is not installed");
  return without;
}

/** Which clients run in which process: those that are never idle must not wait for the others. */
function processesOf({ busy, idle }: SoakOptions, tls: boolean): SoakClientOptions["clients"][] {
  const part = Math.floor(idle / 10);
  return [
    { "busy": busy - Math.floor(busy / 6), "busy, unix path": Math.floor(busy / 6) },
    {
      "mostly idle": tls ? idle - 2 * part : idle - part,
      "mostly idle, unix path": part,
      "fresh connections": 6,
      "uploads": 8,
      "slow answers": 16,
      "streamed answers": 8,
      "large answers": 4,
    },
    ...tls
      ? [{ "busy, TLS (undici)": 8, "mostly idle, TLS": part, "fresh connections, TLS": 2 }]
      : [],
  ];
}

/** Starts all clients. */
function load(options: SoakOptions, answers: Answers, ports: Ports, ca?: string): Clients[] {
  const { idleFor } = options;
  const fixture = new URL("./soak_client.ts", import.meta.url).pathname;
  const all = processesOf(options, ca !== undefined).map((clients) => {
    const chosen: SoakClientOptions = { ports, ca, clients, idleFor };
    return new Clients(Deno.execPath(), ["run", "-A", fixture, JSON.stringify(chosen)], answers);
  });
  if (ca && isThere("node")) {
    const chosen = JSON.stringify({
      port: ports.https,
      ca,
      sessions: 4,
      streams: 5,
      answerGoaway: options.answerGoaway,
    });
    const fixture = new URL("./soak_http2.mjs", import.meta.url).pathname;
    all.push(new Clients("node", [fixture, chosen], answers));
  }
  return all;
}

/** Restarts a service under load, as often and for as long as `options` say. */
export async function soak(options: SoakOptions): Promise<Outcome> {
  const { control, restarts, requests } = options;
  using directory = new Directory();
  const ca = await certify(directory.path);
  await using service = new Service(directory.path, control);
  await using stack = new AsyncDisposableStack();
  service.start(probation);
  const { pid, ports } = await service.line("the first serves", ({ phase }) => phase === "serving");
  const answers = new Answers();
  const from = Date.now() + warmUp;
  const all = load(options, answers, ports!, ca).map((clients) => stack.use(clients));
  const windows: Window[] = [];
  const stopped = reporting(options, answers, windows, from);
  let current = pid;
  try {
    await pause(warmUp + calm);
    for (let i = 0; i < restarts || answers.busy < requests; i++) {
      const began = Date.now();
      const next = control ? replace(service, current) : handOver(service, i);
      const { pid, accepts } = await next;
      current = pid;
      windows.push([began, accepts + aftermath]);
      await pause(Math.max(0, accepts + aftermath + calm - Date.now()));
    }
  } finally {
    stopped();
  }
  for (const clients of all) await clients.stop();
  signal(current, "SIGTERM");
  const stayed = await service.ended();
  const complaints = [...service.complaints];
  if (stayed.length > 0) complaints.push(`Processes that have not left: ${stayed.join(", ")}`);
  const classes = answers.outcomes(windows, from);
  return {
    control,
    restarts: windows.length,
    seconds: (Date.now() - from + warmUp) / 1000,
    requests: answers.requests,
    failed: answers.failed,
    classes,
    quick: together(
      "all but what takes long",
      classes.filter(({ name }) => !slowClasses.has(name)),
    ),
    complaints,
    began: windows.map(([began]) => began),
  };
}

/** The next generation, by either way; resolves when the one before has let go. */
async function handOver(
  service: Service,
  number: number,
): Promise<{ pid: number; accepts: number }> {
  // The first generation is 1, and restart 0 makes it 2.
  const generation = number + 2;
  const byDefault = number % everyDefault === everyDefault - 1;
  // What the running generation starts has the options of that one.
  const byCommand = byDefault || number % 2 === 0;
  const restarted = byCommand
    ? void service.start(byDefault ? undefined : probation)
    : service.restart();
  const serving = service.line(
    `generation ${generation} serves`,
    (line) => line.phase === "serving" && line.generation === generation,
  );
  const { pid } = await Promise.race([serving, restarted?.then(() => serving) ?? serving]);
  const accepts = Date.now();
  await restarted;
  await service.line(
    `generation ${generation - 1} lets go`,
    (line) => line.phase === "handed over" && line.generation === generation - 1,
  );
  return { pid, accepts };
}

/** What replaces a process that leaves by `server.shutdown()` alone. */
async function replace(
  service: Service,
  current: number,
): Promise<{ pid: number; accepts: number }> {
  const next = service.start();
  const { pid } = await service.line(
    "the next one serves",
    (line) => line.phase === "serving" && line.pid === next,
  );
  signal(current, "SIGTERM");
  return { pid, accepts: Date.now() };
}

/** Tells now and then how far it is. */
function reporting(
  { restarts, control, progress = () => {} }: SoakOptions,
  answers: Answers,
  windows: Window[],
  from: number,
): () => void {
  const report = () => {
    const { requests, failed } = answers;
    const rate = Math.round(1000 * requests / (Date.now() - from + warmUp));
    const what = control ? "restarts with shutdown() alone" : "restarts";
    progress(
      `${windows.length} of ${restarts} ${what}, ${requests} requests, ${rate} a second, ` +
        `${failed} failed`,
    );
  };
  const timer = setInterval(report, Deno.stdout.isTerminal() ? 1000 : 10_000);
  return () => clearInterval(timer);
}

/** Several classes as one. */
function together(name: string, classes: ClassOutcome[]): ClassOutcome {
  const all = (part: (of: ClassOutcome) => Float64Array) =>
    Float64Array.from(classes.flatMap((of) => [...part(of)])).sort();
  const sum = (part: (of: ClassOutcome) => number) =>
    classes.reduce((sum, of) => sum + part(of), 0);
  return {
    name,
    requests: sum(({ requests }) => requests),
    failures: classes.flatMap(({ failures }) => failures),
    hungUp: sum(({ hungUp }) => hungUp),
    refused: sum(({ refused }) => refused),
    steady: all(({ steady }) => steady),
    restarting: all(({ restarting }) => restarting),
  };
}

/** What so large a part of the values is at most; they are in ascending order. */
export function quantile(values: Float64Array, part: number): number {
  return values[Math.max(0, Math.ceil(part * values.length) - 1)] ?? NaN;
}

/** Columns, of which the first is left-aligned. */
function columns(rows: string[][]): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ")
      .trimEnd()
  ).join("\n");
}

function figures({ name, requests, failures, hungUp, refused, steady, restarting }: ClassOutcome) {
  const milliseconds = (value: number) => Number.isNaN(value) ? "-" : value.toFixed(1);
  const before = quantile(steady, 0.99);
  const during = quantile(restarting, 0.99);
  return [
    name,
    String(requests),
    String(failures.length),
    String(hungUp),
    String(refused),
    milliseconds(quantile(steady, 0.5)),
    milliseconds(before),
    milliseconds(quantile(restarting, 0.5)),
    milliseconds(during),
    milliseconds(during / before),
  ];
}

/** Failures in words: at which restart, and how often. */
function failuresOf({ classes, began }: Outcome): string[] {
  const counts = new Map<string, number>();
  for (const { class: name, kind, at } of classes.flatMap(({ failures }) => failures)) {
    const index = began.findLastIndex((time) => time <= at);
    const when = index < 0 ? "before the first restart" : timeIn(at - began[index]);
    const what = `${name}: ${kind}, ${when}`;
    counts.set(what, (counts.get(what) ?? 0) + 1);
  }
  return [...counts].sort(([, a], [, b]) => b - a).map(([what, count]) => `${count} x ${what}`);
}

/** What the service printed that it should not have; of a stack, its first line. */
function complaintsOf({ complaints }: Outcome): string[] {
  const heads = [...new Set(complaints.filter((line) => !line.startsWith("    at ")))];
  const shown = heads.slice(0, mostLines).map((line) => `COMPLAINED: ${line}`);
  return heads.length > mostLines ? [...shown, `and ${heads.length - mostLines} more`] : shown;
}

function timeIn(milliseconds: number): string {
  const from = 250 * Math.floor(milliseconds / 250);
  return `${from} to ${from + 250} ms after a restart began`;
}

/** Lines about failures that are shown; there may be thousands. */
const mostLines = 25;

/** An outcome as a table, and what there is to say about it. */
export function report(outcome: Outcome): string {
  const { control, restarts, seconds, requests, failed, classes, quick } = outcome;
  const names = ["p50", "p99", "p50 in restarts", "p99 in restarts", "ratio"];
  const rows = [
    ["clients", "requests", "failed", "hung up idle", "refused by GOAWAY", ...names],
    ...[...classes, quick].map(figures),
  ];
  const failures = failuresOf(outcome);
  const lines = [
    `${
      control ? "With server.shutdown() alone: " : ""
    }${restarts} restarts, ${requests} requests, ` +
    `${seconds.toFixed(0)} s: ${failed} failed`,
    "",
    columns(rows),
    "",
    ...failures.slice(0, mostLines).map((line) => `FAILED: ${line}`),
    ...failures.length > mostLines ? [`and ${failures.length - mostLines} more kinds`] : [],
    ...complaintsOf(outcome),
  ];
  return lines.join("\n").trimEnd();
}

/** Milliseconds from starting a process to each step, of many. */
export interface Starts {
  /** By how it starts, then by step. */
  medians: Record<"plain" | "first" | "next", Record<string, number>>;
  count: number;
}

/** Measures how long each way of starting takes, one after the other and over again. */
export async function starts(count: number): Promise<Starts> {
  using directory = new Directory();
  const all = { plain: [], first: [], next: [] } as Record<string, Record<string, number>[]>;
  const service = directory.join("service.sock");
  let running = await begin("first", service);
  try {
    // One of each is not counted: it fills the caches.
    for (let i = 0; i <= count; i++) {
      const plain = await begin("plain", "");
      await plain.child[Symbol.asyncDispose]();
      const first = await begin("first", directory.join("first.sock"));
      await first.child[Symbol.asyncDispose]();
      const next = await begin("next", service);
      const { code, stderr } = await running.child.ended();
      await running.child[Symbol.asyncDispose]();
      running = next;
      if (code !== 0) throw new Error(`The one before ended with code ${code}: ${stderr}`);
      if (i === 0) continue;
      all.plain.push(plain.steps);
      all.first.push(first.steps);
      all.next.push(next.steps);
    }
  } finally {
    await running.child[Symbol.asyncDispose]();
  }
  const medians = Object.fromEntries(
    Object.entries(all).map(([how, runs]) => {
      const steps = Object.keys(runs[0] ?? {});
      const median = (step: string) =>
        quantile(Float64Array.from(runs, (run) => run[step]).sort(), 0.5);
      return [how, Object.fromEntries(steps.map((step) => [step, median(step)]))];
    }),
  ) as Starts["medians"];
  return { medians, count };
}

/** Starts a process, and gives what each step of it took. */
async function begin(
  how: string,
  path: string,
): Promise<{ child: Child; steps: Record<string, number> }> {
  const spawned = performance.timeOrigin + performance.now();
  const child = new Child("../system/soak_start.ts", [how, path]);
  const { origin, began, imported, started, served, ready, answered }: StartTimes = JSON.parse(
    await child.line(),
  );
  const sum = origin + answered - spawned;
  return {
    child,
    steps: {
      "runtime": origin + began - spawned,
      ...how === "plain" ? { "serve()": ready - began } : {
        "import": imported - began,
        "start()": started - imported,
        "serve()": served - started,
        "ready()": ready - served,
      },
      "first answer": answered - ready,
      sum,
    },
  };
}

/** The comparison as a table. */
export function reportStarts({ medians, count }: Starts): string {
  const { plain, first, next } = medians;
  const steps = Object.keys(next);
  const cell = (value: number | undefined) => value === undefined ? "-" : value.toFixed(1);
  const rows = [
    ["", ...steps, "beyond Deno.serve"],
    ...([["Deno.serve", plain], ["the first generation", first], ["the next one", next]] as const)
      .map(([name, run]) => [
        name,
        ...steps.map((step) => cell(run[step])),
        cell(run.sum - plain.sum),
      ]),
  ];
  return `From the start of a process to its first answer, in milliseconds; medians of ${count}\n\n${
    columns(rows)
  }`;
}

type Options = Omit<SoakOptions, "control" | "progress"> & { control: number; starts: number };

function number(name: string, text: string | undefined, least: number): number {
  const value = Number(text);
  if (text?.trim() && Number.isInteger(value) && value >= least && value < 2 ** 31) return value;
  throw new TypeError(`--${name} is a whole number from ${least} on, not "${text}"`);
}

function options(args: string[]): Options | "help" {
  const { values } = parseArgs({
    args,
    options: {
      "restarts": { type: "string", default: "100" },
      "requests": { type: "string", default: "1000000" },
      "control": { type: "string", default: "10" },
      "busy": { type: "string", default: "48" },
      "idle": { type: "string", default: "1000" },
      "idle-for": { type: "string", default: "5000" },
      "starts": { type: "string", default: "20" },
      "answer-goaway": { type: "boolean", default: false },
      "help": { type: "boolean", default: false },
    },
  });
  if (values.help) return "help";
  return {
    restarts: number("restarts", values.restarts, 0),
    requests: number("requests", values.requests, 0),
    control: number("control", values.control, 0),
    busy: number("busy", values.busy, 0),
    idle: number("idle", values.idle, 0),
    idleFor: number("idle-for", values["idle-for"], 1),
    starts: number("starts", values.starts, 0),
    answerGoaway: values["answer-goaway"],
  };
}

function show(line: string): void {
  const text = Deno.stdout.isTerminal() ? `\r${line}\x1b[K` : `${line}\n`;
  Deno.stdout.writeSync(new TextEncoder().encode(text));
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
  for (const line of leftOut()) console.log(line);
  const told: string[] = [];
  let wrong = false;
  if (chosen.starts > 0) told.push(reportStarts(await starts(chosen.starts)));
  if (chosen.restarts > 0) {
    const outcome = await soak({ ...chosen, control: false, progress: show });
    wrong ||= outcome.failed > 0 || outcome.complaints.length > 0;
    told.push(report(outcome));
  }
  if (chosen.control > 0) {
    const outcome = await soak({
      ...chosen,
      restarts: chosen.control,
      requests: 0,
      control: true,
      progress: show,
    });
    // Then these clients would not notice either.
    if (outcome.failed === 0) wrong = true;
    told.push(report(outcome));
  }
  console.log(`\n${told.join("\n\n")}`);
  return wrong ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
