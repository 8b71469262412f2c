/**
 * The restart demo: starts examples/web.ts, loads it over keep-alive connections and replaces it several
 * times. A line shows which instances answer, and how fast. Exits with 1 if a request failed.
 *
 *     deno task example
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { Pool } from "undici";
import { fail, parseFlags } from "./flags.ts";

const usage = `Replaces a web server several times under load, and counts what fails.

Usage: deno task example [options]

  --restarts N     replace it N times (6)
  --seconds S      load it for S seconds (14)
  --connections N  N keep-alive connections, each with one request after the other (16)
  --web FILE       the server, which takes the flags of examples/web.ts (examples/web.ts)
  --help           print this

Exits with 0 if every request was answered, with 1 if one failed, with 2 for a wrong argument.`;

const { restarts, seconds, connections, web } = parseFlags(usage, {
  restarts: 6,
  seconds: 14,
  connections: 16,
  web: fileURLToPath(new URL("web.ts", import.meta.url)),
});
if (Math.min(restarts, seconds, connections) < 1) fail(usage, "Every number must be at least 1");

/** One running web server. */
interface Instance {
  name: string;
  pid: number;
  port: number;
  answered: number;
  /** Resolves when the process has ended; rejects if its exit code is not 0. */
  ended: Promise<void>;
}

/** One request: its start in milliseconds since the start of the demo, and its duration. */
interface Sample {
  at: number;
  took: number;
}

/** A restart: from the start of a successor to the end of its predecessor. */
interface Window {
  from: number;
  to: number;
}

const directory = await Deno.makeTempDir({ prefix: "graceful-" });
const began = performance.now();
const samples: Sample[] = [];
const failures: string[] = [];
const instances = new Map<string, Instance>();
const windows: Window[] = [];
const terminal = Deno.stdout.isTerminal();

try {
  const first = await startInstance("127.0.0.1:0");
  report(`instance ${first.name} (process ${first.pid}) serves on port ${first.port}`);
  const load = startLoad(first.port);
  const view = startView();
  const last = await replaceRepeatedly(first);
  await until(seconds * 1000);
  await load.stop();
  view.stop();
  Deno.kill(last.pid, "SIGTERM");
  await last.ended;
  printTable();
} finally {
  await Deno.remove(directory, { recursive: true });
}
if (failures.length > 0) {
  console.error(`\nFailed: ${failures.length} requests, the first with: ${failures[0]}`);
  Deno.exit(1);
}

/** Starts a web server, which takes over from the running one; resolves when it serves. */
async function startInstance(listen: string): Promise<Instance> {
  const options = ["--graceful", `${directory}/web.sock`, "--listen", listen, "--sleep", "0"];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", web, ...options],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const greeting = /server "(\w+)" serves on \S+:(\d+)/;
  let text = "";
  for (let found = greeting.exec(text);; found = greeting.exec(text)) {
    if (found) {
      const [, name, port] = found;
      const ended = end(child, lines, name);
      // Awaited later: until then a rejection must not count as unhandled.
      ended.catch(() => {});
      const instance = { name, pid: child.pid, port: Number(port), answered: 0, ended };
      instances.set(name, instance);
      return instance;
    }
    const { value, done } = await lines.read();
    if (done) throw new Error(`The web server did not start: ${text || "it printed nothing"}`);
    text += value;
  }
}

/** Reads the rest of the output, and checks the exit code. */
async function end(
  child: Deno.ChildProcess,
  lines: ReadableStreamDefaultReader<string>,
  name: string,
): Promise<void> {
  while (!(await lines.read()).done);
  const { code } = await child.status;
  if (code !== 0) throw new Error(`Instance ${name} ended with exit code ${code}`);
}

async function replaceRepeatedly(first: Instance): Promise<Instance> {
  let current = first;
  for (let n = 1; n <= restarts; n++) {
    await until(n * seconds * 1000 / (restarts + 1));
    const from = performance.now();
    const next = await startInstance(`127.0.0.1:${current.port}`);
    const served = performance.now();
    await current.ended;
    const to = performance.now();
    windows.push({ from: from - began, to: to - began });
    report(
      `restart ${n}: ${current.name} -> ${next.name} (process ${next.pid}), serving after ` +
        `${ms(served - from)}, the predecessor ended ${ms(to - served)} later`,
    );
    current = next;
  }
  return current;
}

/**
 * Loads the server over keep-alive connections, and counts every failed request. (undici repeats none;
 * Deno's `fetch` and `node:http` silently repeat a request that fails on a reused connection.)
 */
function startLoad(port: number): { stop(): Promise<void> } {
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections, pipelining: 1 });
  let running = true;
  const clients = Array.from({ length: connections }, async () => {
    while (running) {
      const from = performance.now();
      try {
        const { statusCode, body } = await pool.request({ method: "GET", path: "/" });
        const text = await body.text();
        if (statusCode !== 200) throw new Error(`HTTP ${statusCode}: ${text}`);
        const instance = instances.get(/"(\w+)"/.exec(text)?.[1] ?? "");
        if (!instance) throw new Error(`The answer is of no instance: ${text}`);
        instance.answered++;
      } catch (error) {
        failures.push(String(error));
      }
      samples.push({ at: from - began, took: performance.now() - from });
    }
  });
  return {
    async stop() {
      running = false;
      await Promise.all(clients);
      await pool.close();
    },
  };
}

/** Shows the figures in one line that is overwritten; without a terminal, in a line a second. */
function startView(): { stop(): void } {
  const interval = terminal ? 100 : 1000;
  let shown = 0;
  let answered = new Map<string, number>();
  const timer = setInterval(() => {
    const took = samples.slice(shown).map((sample) => sample.took);
    const rate = Math.round(took.length * 1000 / interval);
    shown = samples.length;
    const active = [...instances.values()]
      .filter((instance) => instance.answered > (answered.get(instance.name) ?? 0))
      .map((instance) => instance.name);
    answered = new Map([...instances.values()].map(({ name, answered }) => [name, answered]));
    show(
      `${((performance.now() - began) / 1000).toFixed(1).padStart(5)} s  ` +
        `${active.join(" + ").padEnd(19)}  ${number(rate).padStart(6)} req/s  ` +
        `p50 ${ms(quantile(took, 0.5))}  p99 ${ms(quantile(took, 0.99))}  ` +
        `${number(samples.length)} requests  ${failures.length} failed`,
    );
  }, interval);
  return {
    stop() {
      clearInterval(timer);
      if (terminal) show("");
    },
  };
}

/** Writes over the line, in a terminal. */
function show(line: string): void {
  if (terminal) Deno.stdout.writeSync(new TextEncoder().encode(`\r\x1b[K${line}`));
  else console.log(line);
}

/** Prints a line that stays. */
function report(line: string): void {
  if (terminal) show("");
  console.log(line);
}

function printTable(): void {
  const inWindow = ({ at, took }: Sample) =>
    windows.some(({ from, to }) => at + took >= from && at <= to);
  const around = samples.filter(inWindow).map(({ took }) => took);
  const steady = samples.filter((sample) => !inWindow(sample)).map(({ took }) => took);
  const rows = [
    ["requests", number(samples.length), ""],
    ["failed", number(failures.length), ""],
    ["restarts", number(windows.length), ""],
    ...[...instances.values()].map(({ name, pid, answered }) => [
      `  by ${name}`,
      number(answered),
      `process ${pid}`,
    ]),
    ["steady", number(steady.length), latency(steady)],
    ["around restarts", number(around.length), latency(around)],
  ];
  console.log();
  for (const [what, count, detail] of rows) {
    console.log(`${what.padEnd(16)}${count.padStart(9)}   ${detail}`.trimEnd());
  }
}

function latency(took: number[]): string {
  return `p50 ${ms(quantile(took, 0.5))}  p99 ${ms(quantile(took, 0.99))}`;
}

function quantile(values: number[], q: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted.length === 0 ? NaN : sorted[Math.min(sorted.length - 1, sorted.length * q | 0)];
}

function ms(milliseconds: number): string {
  return Number.isNaN(milliseconds) ? "-" : `${milliseconds.toFixed(milliseconds < 10 ? 2 : 0)} ms`;
}

function number(n: number): string {
  return n.toLocaleString("en");
}

/** Waits until this many milliseconds after the start of the demo. */
function until(milliseconds: number): Promise<void> {
  const left = began + milliseconds - performance.now();
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, left)));
}
