/**
 * The restart demo: starts the web example, puts keep-alive load on it and replaces it several times,
 * while a live view shows which instance answers, and how fast. Fails if one request failed.
 *
 *     deno task example
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Pool } from "undici";

const usage = `Replaces a web server several times under load, and counts what fails.

Usage: deno task example [options]

  --restarts N     how many times to replace it (6)
  --seconds S      how long the load lasts (14)
  --connections N  how many keep-alive connections ask, each as fast as it is answered (16)
  --web FILE       the server to replace, with the flags of the web example (examples/web.ts)
  --help           this text

Exits with 0 if every request was answered, with 1 if one failed, with 2 for a wrong argument.`;

const { restarts, seconds, connections, web } = readFlags();

/** One running web server. */
interface Instance {
  name: string;
  pid: number;
  port: number;
  answered: number;
  /** Resolves when the process has ended; rejects if it did not end well. */
  ended: Promise<void>;
}

/** What came of one request: milliseconds since the start, and how many it took. */
interface Sample {
  at: number;
  took: number;
}

/** From the start of a successor to the end of its predecessor. */
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

/** Starts a web server, which takes over from the one that runs; resolves when it serves. */
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
      // Awaited later; a failure meanwhile is not unhandled.
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
        `${ms(served - from)}, the old one left ${ms(to - served)} later`,
    );
    current = next;
  }
  return current;
}

/**
 * Keep-alive connections that never try a request again, and count every failure. (Deno's `fetch` and
 * `node:http` repeat what fails on a reused connection, and would hide it; undici does not.)
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
        if (!instance) throw new Error(`An answer that no instance gives: ${text}`);
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

/** A line that is rewritten in a terminal, one a second in a log. */
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

function show(line: string): void {
  if (terminal) Deno.stdout.writeSync(new TextEncoder().encode(`\r\x1b[K${line}`));
  else console.log(line);
}

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

/** Waits until so many milliseconds have passed since the start. */
function until(milliseconds: number): Promise<void> {
  const left = began + milliseconds - performance.now();
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, left)));
}

/** What the command line says. */
interface Flags {
  restarts: number;
  seconds: number;
  connections: number;
  web: string;
}

function readFlags(): Flags {
  try {
    const { values } = parseArgs({
      options: {
        restarts: { type: "string", default: "6" },
        seconds: { type: "string", default: "14" },
        connections: { type: "string", default: "16" },
        web: { type: "string", default: fileURLToPath(new URL("web.ts", import.meta.url)) },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      console.log(usage);
      Deno.exit();
    }
    return {
      restarts: positive("restarts", values.restarts),
      seconds: positive("seconds", values.seconds),
      connections: positive("connections", values.connections),
      web: values.web,
    };
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    Deno.exit(2);
  }
}

function positive(flag: string, value: string): number {
  const n = Number(value);
  if (!Number.isInteger(n) || n < 1) throw new Error(`--${flag} takes a number, not "${value}"`);
  return n;
}
