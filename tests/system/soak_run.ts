/**
 * One soak: a service is restarted again and again while clients load it.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { Directory } from "../support/directory.ts";
import { succeeds } from "../support/succeeds.ts";
import { sendSignal } from "./processes.ts";
import type { Batch, SoakClientOptions } from "./soak_client.ts";
import { Clients, Service } from "./soak_processes.ts";
import { Answers, type Outcome, slowClasses, together, type Window } from "./soak_results.ts";
import type { Ports } from "./soak_service.ts";

/** The options of a soak. */
export interface SoakOptions {
  restarts: number;
  /** Goes on until so many requests were answered on connections that are never idle. */
  requests: number;
  /** Whether the service ends by `server.shutdown()` alone. */
  control: boolean;
  busy: number;
  idle: number;
  /** The longest that an idle connection is idle, in milliseconds. */
  idleFor: number;
  /** The seed of the pauses of the clients. */
  seed: number;
  /** Whether the HTTP/2 clients answer GOAWAY with GOAWAY: see the usage of the command. */
  answerGoaway?: boolean;
  /** Is called now and then with the figures so far. */
  progress?: (figures: Figures) => void;
}

/** One restart of so many is with the default options of a generation, and not with a short probation. */
const everyDefault = 20;

/** Milliseconds of the short probation. */
const probation = 300;

/** Milliseconds for which a restart counts as going on after the new process has begun to serve. */
const aftermath = 500;

/** Milliseconds between two restarts, at least. */
const calm = 500;

/** Milliseconds at the beginning whose requests are not measured: the processes warm up. */
const warmUp = 1000;

const hasOpenssl = () => succeeds(["openssl", "version"]);
const hasNode = () => succeeds(["node", "--version"]);

/** Makes a self-signed certificate for 127.0.0.1; gives undefined without openssl. */
async function makeCertificate(directory: string): Promise<string | undefined> {
  if (!await hasOpenssl()) return undefined;
  const args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 " +
    "-subj /CN=soak -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE " +
    "-keyout key.pem -out cert.pem";
  const { success, stderr } = await new Deno.Command("openssl", {
    args: args.split(" "),
    cwd: directory,
  }).output();
  if (!success) throw new Error(`Cannot make a certificate: ${new TextDecoder().decode(stderr)}`);
  return await Deno.readTextFile(`${directory}/cert.pem`);
}

/** The programs that are not installed, and the clients that are left out without them. */
export async function missingTools(): Promise<string[]> {
  const missing = [];
  if (!await hasOpenssl()) missing.push("Without TLS and HTTP/2: openssl is not installed");
  else if (!await hasNode()) missing.push("Without HTTP/2: node is not installed");
  return missing;
}

/** The clients of each process: those that are never idle must not wait for the others. */
function clientProcesses(
  { busy, idle }: SoakOptions,
  tls: boolean,
): SoakClientOptions["clients"][] {
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
async function startClients(
  options: SoakOptions,
  answers: Answers,
  ports: Ports,
  ca?: string,
): Promise<Clients[]> {
  const { idleFor, seed } = options;
  const withHttp2 = ca !== undefined && await hasNode();
  const add = (batch: Batch) => answers.add(batch);
  const program = new URL("./soak_client.ts", import.meta.url).pathname;
  const all = clientProcesses(options, ca !== undefined).map((clients, i) => {
    const chosen: SoakClientOptions = { ports, ca, clients, idleFor, seed: seed + i };
    return new Clients(Deno.execPath(), ["run", "-A", program, JSON.stringify(chosen)], add);
  });
  if (withHttp2) {
    const chosen = JSON.stringify({
      port: ports.https,
      ca,
      sessions: 4,
      streams: 5,
      answerGoaway: options.answerGoaway,
      seed,
    });
    const program = new URL("./soak_http2.mjs", import.meta.url).pathname;
    all.push(new Clients("node", [program, chosen], add));
  }
  return all;
}

/** Restarts a service under load, as often as `options` demand. */
export async function soak(options: SoakOptions): Promise<Outcome> {
  const { control, restarts, requests } = options;
  using directory = new Directory();
  const ca = await makeCertificate(directory.path);
  await using service = new Service(directory.path, control);
  await using stack = new AsyncDisposableStack();
  service.start(probation);
  const { pid, ports } = await service.line(
    "the first generation serves",
    ({ phase }) => phase === "listening",
  );
  const answers = new Answers();
  const from = Date.now() + warmUp;
  const all = await startClients(options, answers, ports!, ca);
  for (const clients of all) stack.use(clients);
  const windows: Window[] = [];
  const timer = setInterval(() => options.progress?.(figuresOf(answers, windows, from)), 500);
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
    clearInterval(timer);
  }
  for (const clients of all) await clients.stop();
  sendSignal(current, "SIGTERM");
  const running = await service.ended();
  const errors = [...service.errors];
  if (running.length > 0) errors.push(`Processes that have not ended: ${running.join(", ")}`);
  const classes = answers.outcomes(windows, from);
  return {
    control,
    restarts: windows.length,
    seconds: (Date.now() - from + warmUp) / 1000,
    requests: answers.requests,
    failed: answers.failed,
    classes,
    quick: together(
      "all but the slow ones",
      classes.filter(({ name }) => !slowClasses.has(name)),
    ),
    errors,
    began: windows.map(([began]) => began),
  };
}

/** Starts the next generation, by a command or by restart(); resolves when its predecessor has handed over. */
async function handOver(
  service: Service,
  number: number,
): Promise<{ pid: number; accepts: number }> {
  // The first generation is 1, and restart 0 starts generation 2.
  const generation = number + 2;
  const byDefault = number % everyDefault === everyDefault - 1;
  // A generation that restart() starts has the options of the running one: start it by a command.
  const byCommand = byDefault || number % 2 === 0;
  const restarted = byCommand
    ? void service.start(byDefault ? undefined : probation)
    : service.restart();
  const serving = service.line(
    `generation ${generation} serves`,
    (line) => line.phase === "listening" && line.generation === generation,
  );
  const { pid } = await Promise.race([serving, restarted?.then(() => serving) ?? serving]);
  const accepts = Date.now();
  await restarted;
  await service.line(
    `generation ${generation - 1} has handed over`,
    ({ phase, successor, ...line }) =>
      phase === "healthy" && successor !== undefined && line.generation === generation - 1,
  );
  return { pid, accepts };
}

/** Starts the process that replaces a process which ends by `server.shutdown()` alone. */
async function replace(
  service: Service,
  current: number,
): Promise<{ pid: number; accepts: number }> {
  const next = service.start();
  const { pid } = await service.line(
    "the next process serves",
    (line) => line.phase === "listening" && line.pid === next,
  );
  sendSignal(current, "SIGTERM");
  return { pid, accepts: Date.now() };
}

/** How far a soak is. */
export interface Figures {
  restarts: number;
  requests: number;
  failed: number;
  /** Requests a second. */
  rate: number;
}

function figuresOf({ requests, failed }: Answers, windows: Window[], from: number): Figures {
  const rate = Math.round(1000 * requests / (Date.now() - from + warmUp));
  return { restarts: windows.length, requests, failed, rate };
}
