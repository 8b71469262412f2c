/**
 * The service that the faults are caused in: it ends or stops itself at a step of a handover, as a file
 * orders it, and prints every step that it reaches.
 *
 *     faults_program.ts DIRECTORY PORT OPTIONS    OPTIONS: FaultsProgramOptions as JSON
 *
 * @module
 */

import { openDescriptors } from "../../ffi/proc.ts";
import { ifSocket } from "../../ffi/socket_options.ts";
import { peerAddress } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { type Generation, start, type StartOptions } from "../../mod.ts";

/** A step of a handover, in one of the two processes. */
export interface Step {
  side: "new" | "old";
  step: string;
}

/** The fault to cause, once: the service reads it from the file "fault" of its directory, as JSON. */
export interface Fault extends Step {
  way: Way;
}

/**
 * What the process does: it sends itself a signal, which has its default action; or the program fails, in
 * one of the ways in which programs fail; or it catches an error before ready(), and starts again.
 */
export type Way =
  | "SIGKILL"
  | "SIGSTOP"
  | "SIGHUP"
  | "uncaught error"
  | "unhandled rejection"
  | "exit"
  | "out of memory"
  | "next try";

/** The options of the service, which it gets as JSON. */
export interface FaultsProgramOptions
  extends Pick<StartOptions, "probation" | "readyTimeout" | "peerTimeout"> {
  /**
   * A defect that the checks have to find: a generation exits without draining when its successor is
   * ready; or each generation has one more descriptor open than its predecessor.
   */
  defect?: "exits without draining" | "leaks";
}

/** A line that the service prints. */
export interface Line {
  pid: number;
  /** Date.now() */
  at: number;
  side: "new" | "old" | "first";
  step: string;
  /** The message of an error. */
  message?: string;
  /** In the line of the fault: the ports of the clients that are connected to this process. */
  held?: number[];
}

const [directory, port, json] = Deno.args;
const { defect, ...options }: FaultsProgramOptions = JSON.parse(json);

/** Milliseconds from the start of a probation to its middle, or to where that would be without one. */
const halfway = (options.probation || 300) / 2;

/** Phases of the old side whose log lines name no successor. */
const oldPhases = new Set(["stopped", "rollback"]);

/** Not console.log(): since Deno 2.7 it reports no error when the reader of the pipe has gone. */
function print(line: Omit<Line, "pid" | "at">): void {
  const text = JSON.stringify({ pid: Deno.pid, at: Date.now(), ...line });
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** Prints a step, and causes the fault that is ordered for it. */
function reached(side: Line["side"], step: string): void {
  print({ side, step });
  const fault = orderedFault();
  if (fault?.side !== side || fault.step !== step) return;
  Deno.removeSync(`${directory}/fault`);
  if (fault.way === "unhandled rejection") {
    // The event loop may accept a connection before it comes to the rejection: list them then.
    addEventListener("unhandledrejection", () => print({ side, step, held: held() }));
    Promise.reject(new Error("a bug"));
    return;
  }
  print({ side, step, held: held() });
  if (fault.way === "next try") throw new NextTry();
  else if (fault.way === "exit") Deno.exit(4);
  else if (fault.way === "out of memory") fillMemory();
  // Not thrown here: the library catches what a logger throws.
  else if (fault.way === "uncaught error") queueMicrotask(fail);
  else Deno.kill(Deno.pid, fault.way);
  // Deno handles SIGHUP on another thread: block this one, so that no more connections are accepted.
  while (fault.way === "SIGHUP");
}

class NextTry extends Error {}

function fail(): never {
  throw new Error("a bug");
}

/** Allocates until V8 ends the process at the limit of its heap. */
function fillMemory(): never {
  for (const all: number[][] = [];;) all.push(new Array(100_000).fill(all.length));
}

/** The fault that is ordered. */
function orderedFault(): Fault | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(`${directory}/fault`));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** The ports of the connected clients. No other process has these connections. */
function held(): number[] {
  return openDescriptors().map((raw) => ifSocket(raw, () => peerAddress(raw))).flatMap((peer) =>
    peer && "port" in peer ? [peer.port] : []
  );
}

/** A logger: its phases are the steps of a handover. */
function log(_message: string, about: unknown): void {
  const { phase, successor, generation } = (about ?? {}) as Record<string, unknown>;
  if (typeof phase !== "string") return;
  const isOld = successor !== undefined || oldPhases.has(phase);
  const side = isOld ? "old" : generation === 1 ? "first" : "new";
  reached(side, phase);
  if (side === "old" && phase === "withdrawn") {
    if (defect === "exits without draining") Deno.exit(0);
    later("old", "halfway", halfway);
  }
  if (side === "new" && phase === "healthy") later("new", "later", 50);
}

/** A step that comes some time after another one. */
function later(side: "new" | "old", step: string, milliseconds: number): void {
  Deno.unrefTimer(setTimeout(() => reached(side, step), milliseconds));
}

async function answer({ url }: Request): Promise<Response> {
  // Some requests take a while, so that some are being answered at any time.
  if (url.endsWith("/slow")) await pause(20);
  return new Response(String(Deno.pid));
}

/** Runs a generation to its end; starts again after the error of a next try. */
async function run(): Promise<void> {
  const app = await start(`${directory}/run/app.sock`, {
    ...options,
    logger: {
      debug: log,
      info: log,
      error: (message, error) =>
        print({ side: "first", step: "error", message: `${message}: ${error}` }),
    },
  });
  try {
    await serve(app);
  } catch (error) {
    if (!(error instanceof NextTry)) throw error;
    await app.stop();
    return await run();
  }
}

async function serve(app: Generation): Promise<void> {
  app.draining.addEventListener("abort", () => reached("old", "draining"));
  if (defect === "leaks") {
    for (let i = 0; i < app.generation; i++) Deno.openSync("/dev/null");
  }
  const isFirst = app.generation === 1;
  if (!isFirst) reached("new", "started");
  app.serve({ hostname: "127.0.0.1", port: Number(port) }, answer);
  app.serve({ path: `${directory}/run/web.sock` }, answer);
  if (!isFirst) reached("new", "served");
  // The old side reaches its step "rollback" only when the new one fails.
  const fault = isFirst ? undefined : orderedFault();
  if (fault?.side === "old" && fault.step === "rollback") Deno.exit(3);

  await app.ready();
  if (!isFirst) later("new", "halfway", halfway);
  await app.finished;
}

await run();
