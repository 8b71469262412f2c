/**
 * Replaces a Go web server by a Deno one under load, and counts the failed requests. Needs `go`, 1.21 or
 * later.
 *
 *     deno run -A examples/from_go/migrate.ts
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { Pool } from "undici";
import { fail, parseFlags } from "../flags.ts";

const usage = `Replaces a Go web server by a Deno one under load, and counts the failed requests.

Usage: deno run -A examples/from_go/migrate.ts [options]

  --back           then replace the Deno server by a Go one again
  --seconds S      load it for S seconds (6)
  --connections N  N keep-alive connections, each with one request after the other (16)
  --help           print this

Exits with 0 if every request was answered, with 1 if one failed, with 2 for a wrong argument.`;

const { back, seconds, connections } = parseFlags(usage, {
  back: false,
  seconds: 6,
  connections: 16,
});
if (Math.min(seconds, connections) < 1) fail(usage, "Every number must be at least 1");

/** A running web server. */
interface Service {
  language: "Go" | "Deno";
  pid: number;
  port: number;
  /** Resolves to the end of its last line when it has ended; rejects if its exit code is not 0. */
  ended: Promise<string>;
}

const directory = await Deno.makeTempDir({ prefix: "graceful-" });
const services: Service[] = [];
const running = new Set<number>();
/** By process: how many requests it has answered. */
const answered = new Map<number, number>();
const failures: string[] = [];
const took: number[] = [];

try {
  const binary = await buildGo();
  const options = ["--graceful", `${directory}/web.sock`];
  const start = {
    Go: () => startService("Go", binary, [...options, "--listen", "127.0.0.1:0"]),
    Deno: () => startService("Deno", Deno.execPath(), ["run", "-A", here("main.ts"), ...options]),
  };
  let current = await start.Go();
  const load = startLoad(current.port);
  const successors = back ? [start.Deno, start.Go] : [start.Deno];
  const share = seconds * 1000 / (successors.length + 1);
  for (const startNext of successors) {
    await pause(share);
    const from = performance.now();
    const next = await startNext();
    const served = performance.now();
    const lastLine = await current.ended;
    console.log(
      `${current.language} -> ${next.language}: serving after ${ms(served - from)}, ` +
        `the predecessor ended ${ms(performance.now() - served)} later: ${lastLine}`,
    );
    current = next;
  }
  await pause(share);
  await load.stop();
  Deno.kill(current.pid, "SIGTERM");
  await current.ended;
  printTable();
} finally {
  for (const pid of running) Deno.kill(pid, "SIGKILL");
  await Deno.remove(directory, { recursive: true });
}
if (failures.length > 0) {
  console.error(`\nFailed: ${failures.length} requests, the first with: ${failures[0]}`);
  Deno.exit(1);
}

async function buildGo(): Promise<string> {
  const binary = `${directory}/from_go`;
  const args = ["build", "-o", binary, "."];
  try {
    const go = new Deno.Command("go", { args, cwd: here("."), stderr: "inherit" });
    if ((await go.output()).success) return binary;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  throw new Error("Cannot build the Go web server: it needs `go` on the PATH, and the Go library");
}

/** Starts a web server; resolves when it serves. */
async function startService(
  language: "Go" | "Deno",
  command: string,
  args: string[],
): Promise<Service> {
  const child = new Deno.Command(command, { args, stdout: "piped", stderr: "inherit" }).spawn();
  running.add(child.pid);
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await lines.read();
    if (done) {
      await end(child, lines, language);
      throw new Error(`${language} ended before it served: ${text || "it printed nothing"}`);
    }
    text += value;
    const port = / serves on \S+:(\d+)\n/.exec(text)?.[1];
    if (!port) continue;
    const ended = end(child, lines, language);
    // Awaited later: until then a rejection must not count as unhandled.
    ended.catch(() => {});
    const service = { language, pid: child.pid, port: Number(port), ended };
    services.push(service);
    return service;
  }
}

/** Reads the rest of the output, and checks the exit code. */
async function end(
  child: Deno.ChildProcess,
  lines: ReadableStreamDefaultReader<string>,
  language: string,
): Promise<string> {
  let text = "";
  for (let read = await lines.read(); !read.done; read = await lines.read()) text += read.value;
  const { code } = await child.status;
  running.delete(child.pid);
  if (code !== 0) throw new Error(`${language} ended with exit code ${code}: ${text}`);
  return /; (.*)\n$/.exec(text)?.[1] ?? text;
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
        const pid = Number(/process (\d+)/.exec(text)?.[1]);
        answered.set(pid, (answered.get(pid) ?? 0) + 1);
      } catch (error) {
        failures.push(String(error));
      }
      took.push(performance.now() - from);
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

function printTable(): void {
  const sorted = Float64Array.from(took).sort();
  const quantile = (q: number) => ms(sorted[Math.min(sorted.length - 1, sorted.length * q | 0)]);
  const rows = [
    ["requests", took.length, `p50 ${quantile(0.5)}  p99 ${quantile(0.99)}`],
    ["failed", failures.length, ""],
    ...services.map(({ language, pid }) => [
      `  by ${language}`,
      answered.get(pid) ?? 0,
      `process ${pid}`,
    ]),
  ];
  console.log();
  for (const [what, count, detail] of rows) {
    const columns = `${String(what).padEnd(12)}${count.toLocaleString("en").padStart(9)}`;
    console.log(`${columns}   ${detail}`.trimEnd());
  }
}

function here(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

function ms(milliseconds: number): string {
  return `${milliseconds.toFixed(milliseconds < 10 ? 2 : 0)} ms`;
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
