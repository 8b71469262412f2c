/**
 * Restarts an unchanged program under load, and counts what its clients lose.
 *
 * @module
 */

import { hasEnded, identify } from "../../ffi/proc.ts";
import { Child } from "../support/child.ts";
import { eventually } from "./faults_service.ts";
import type { Program } from "./programs_list.ts";
import { type Counts, Load } from "./programs_load.ts";
import { ProgramService, type ServiceOptions, type Way } from "./programs_service.ts";
import type { Connection } from "./websocket_clients.ts";

/** One restart, from the command until the previous process has ended and the next one has answered for a while. */
export interface Restart extends Counts {
  way: Way;
  /** The process that answers now. */
  pid: number;
  milliseconds: number;
}

/** What became of a program. */
export interface Outcome extends Counts {
  program: Program;
  restarts: Restart[];
  /** Messages of WebSockets that were sent, and not answered when the Close frame came. */
  underWay: number;
  /** What happened to the requests that failed, and how often. */
  failures: Map<string, number>;
  /** What the processes have printed to stderr. */
  stderr: string;
}

/** Options of {@linkcode restartUnderLoad}. */
export interface RunOptions extends ServiceOptions {
  restarts: number;
  /** How many requests the next process must have answered after each restart. @default 1000 */
  enough?: number;
  /** The way of the first restart; the next one has the other. @default "SIGHUP" */
  first?: "SIGHUP" | "cli.ts restart";
  /** Is called after each restart. */
  restarted?: (restart: Restart) => void;
}

const clientsOfWebSockets = 40;

/** Restarts a program again and again under load. */
export async function restartUnderLoad(program: Program, options: RunOptions): Promise<Outcome> {
  const run = program.clients === "websocket" ? restartUnderWebSockets : restartUnderRequests;
  return await run(program, options);
}

/** By turns by signal and by command. */
function wayOf(number: number, { isPlain, first = "SIGHUP" }: RunOptions): Way {
  if (isPlain) return "stop and start";
  return (number % 2 === 0) === (first === "SIGHUP") ? "SIGHUP" : "cli.ts restart";
}

async function restartUnderRequests(program: Program, options: RunOptions): Promise<Outcome> {
  const { enough = 1000 } = options;
  await using service = new ProgramService(program, options);
  let pid = await firstPid(service);
  const load = new Load(service);
  const restarts: Restart[] = [];
  try {
    await answers(load, pid, enough);
    for (let i = 0; i < options.restarts; i++) {
      const way = wayOf(i, options);
      const before = { ...load.counts };
      const began = performance.now();
      await service.restart(pid, way);
      pid = await nextPid(load, pid);
      await answers(load, pid, enough);
      const milliseconds = performance.now() - began;
      const restart = { way, pid, milliseconds, ...since(before, load.counts) };
      restarts.push(restart);
      options.restarted?.(restart);
    }
  } finally {
    await load.end();
  }
  await service.stop(pid);
  const { counts, failures } = load;
  return { program, restarts, ...counts, underWay: 0, failures, stderr: service.stderr };
}

/** The process that answers at first. */
async function firstPid(service: ProgramService): Promise<number> {
  const load = new Load(service);
  try {
    const [pid] = await eventually(
      () => `${service.program.file} answers: ${[...load.failures.keys()].join("; ")}`,
      () => {
        service.checkRunning();
        return load.answered.size > 0 && [...load.answered.keys()];
      },
    );
    return pid;
  } finally {
    await load.end();
  }
}

/** The process that answers after `old`. */
async function nextPid(load: Load, old: number): Promise<number> {
  return await eventually(
    () => `another process than ${old} answers: ${[...load.failures.keys()].join("; ")}`,
    () => [...load.answered.keys()].find((pid) => pid !== old && !hasEnded(identify(pid))),
  );
}

/** Waits until a process has answered so many requests. */
async function answers(load: Load, pid: number, count: number): Promise<void> {
  await eventually(
    () => `process ${pid} has answered ${count} requests`,
    () => (load.answered.get(pid) ?? 0) >= count,
  );
}

function since(before: Counts, now: Counts): Counts {
  return {
    requests: now.requests - before.requests,
    refused: now.refused - before.refused,
    lost: now.lost - before.lost,
  };
}

/**
 * WebSocket clients send all the time. Each connection must end by a Close frame with the code 1012, and every
 * answer must arrive that the program has sent.
 */
async function restartUnderWebSockets(program: Program, options: RunOptions): Promise<Outcome> {
  await using service = new ProgramService(program, options);
  let pid = await firstPid(service);
  await using clients = new Child("../system/websocket_clients.ts", [
    String(service.port),
    String(clientsOfWebSockets),
    "1",
  ]);
  const restarts: Restart[] = [];
  let line = await clients.line();
  for (let i = 0; i < options.restarts && line.startsWith("generation: "); i++) {
    const began = performance.now();
    const way = wayOf(i, options);
    await service.restart(pid, way);
    // In the control the clients have lost their connections, and connect no more.
    line = await clients.line();
    const milliseconds = performance.now() - began;
    if (line.startsWith("generation: ")) pid = Number(line.slice("generation: ".length));
    const restart = { way, pid, milliseconds, requests: 0, refused: 0, lost: 0 };
    restarts.push(restart);
    options.restarted?.(restart);
  }
  // In the control the clients did not see it.
  if (!line.startsWith("generation: ")) pid = await firstPid(service);
  // They may have ended, each with a failure that it has printed.
  await clients.tell("stop").catch(() => {});
  while (!line.startsWith("[")) line = await clients.line();
  const connections: Connection[] = JSON.parse(line);
  await service.stop(pid);
  return {
    program,
    restarts,
    ...ofConnections(connections, service.stdout),
    stderr: service.stderr,
  };
}

/** What became of the messages: `stdout` has a line of the program for each connection that was closed. */
function ofConnections(connections: Connection[], stdout: string[]) {
  const answered = new Map<string, number>();
  for (const line of stdout) {
    const [, id, count] = /^answered: (\S+) (\d+)$/.exec(line) ?? [];
    if (id) answered.set(id, Number(count));
  }
  const counts = { requests: 0, refused: 0, lost: 0, underWay: 0 };
  const failures = new Map<string, number>();
  const fail = (what: string) => failures.set(what, (failures.get(what) ?? 0) + 1);
  for (const { id, sent, answers, end } of connections) {
    counts.requests += answers;
    if (end === "stopped") continue;
    counts.underWay += sent - answers;
    const missing = (answered.get(id) ?? answers) - answers;
    counts.lost += missing;
    if (missing > 0) fail("some answers did not arrive");
    if (end === 1012) {
      if (!answered.has(id)) fail("the program has not seen the end of the connection");
      continue;
    }
    const isRefused = typeof end === "string" && end.includes("refused");
    counts[isRefused ? "refused" : "lost"]++;
    fail(typeof end === "number" ? `closed with the code ${end}` : end);
  }
  return { ...counts, failures };
}
