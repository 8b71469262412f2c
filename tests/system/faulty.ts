/**
 * A service that can be told to end or stop itself, in one of many ways, at a named step of a handover; it
 * prints every step that it comes to. Started with a directory, a port and {@linkcode FaultyOptions}.
 *
 * @module
 */

import { openDescriptors } from "../../ffi/proc.ts";
import { ifSocket, peerAddress } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { type Generation, start, type StartOptions } from "../../mod.ts";

/** Where in a handover, and in which of the two. */
export interface Step {
  side: "new" | "old";
  step: string;
}

/** What is to come to pass once: it is in the file "fault" of the directory, as JSON. */
export interface Fault extends Step {
  way: Way;
}

/**
 * A signal with its default action; an error of the program, of each kind; or one that it catches before
 * it is ready, and tries again.
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

/** What the service gets as JSON. */
export interface FaultyOptions
  extends Pick<StartOptions, "probation" | "readyTimeout" | "peerTimeout"> {
  /**
   * What is wrong with this service, so that a test can see that it would notice: it lets its clients
   * down as soon as the next one is ready; or every generation has one more descriptor open than the
   * one before.
   */
  defect?: "leaves at once" | "leaks";
}

/** A line that the service prints. */
export interface Line {
  pid: number;
  /** Date.now() */
  at: number;
  side: "new" | "old" | "first";
  step: string;
  /** With an error: what it was. */
  message?: string;
  /** With the fault: the ports of the clients that it holds in that moment. */
  held?: number[];
}

const [directory, port, json] = Deno.args;
const { defect, ...options }: FaultyOptions = JSON.parse(json);

/** Milliseconds from the start of the probation, or of where it would be if there was one. */
const halfway = (options.probation || 300) / 2;

/** Steps of the old side that are not told by the successor being named. */
const ofTheOld = new Set(["left", "failed"]);

/** Not by console.log(), which since 2.7 does not tell that nobody reads it. */
function print(line: Omit<Line, "pid" | "at">): void {
  const text = JSON.stringify({ pid: Deno.pid, at: Date.now(), ...line });
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

function reached(side: Line["side"], step: string): void {
  print({ side, step });
  const fault = armed();
  if (fault?.side !== side || fault.step !== step) return;
  Deno.removeSync(`${directory}/fault`);
  if (fault.way === "unhandled rejection") {
    // It may accept something before the event loop comes to that.
    addEventListener("unhandledrejection", () => print({ side, step, held: held() }));
    Promise.reject(new Error("a bug"));
    return;
  }
  print({ side, step, held: held() });
  if (fault.way === "next try") throw new NextTry();
  else if (fault.way === "exit") Deno.exit(4);
  else if (fault.way === "out of memory") fillMemory();
  // Not here: a logger that throws is nothing to end for.
  else if (fault.way === "uncaught error") queueMicrotask(fail);
  else Deno.kill(Deno.pid, fault.way);
  // Deno sees to SIGHUP on another thread: nothing more is to be accepted meanwhile.
  while (fault.way === "SIGHUP");
}

class NextTry extends Error {}

function fail(): never {
  throw new Error("a bug");
}

/** V8 ends the process at the limit of its heap. */
function fillMemory(): never {
  for (const all: number[][] = [];;) all.push(new Array(100_000).fill(all.length));
}

function armed(): Fault | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(`${directory}/fault`));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Nobody else holds them, and between this and the fault none can come. */
function held(): number[] {
  return openDescriptors().map((raw) => ifSocket(raw, () => peerAddress(raw))).flatMap((peer) =>
    peer && "port" in peer ? [peer.port] : []
  );
}

function log(_message: string, about: unknown): void {
  const { phase, successor, generation } = (about ?? {}) as Record<string, unknown>;
  if (typeof phase !== "string") return;
  const isOld = successor !== undefined || ofTheOld.has(phase);
  const side = isOld ? "old" : generation === 1 ? "first" : "new";
  reached(side, phase);
  if (side === "old" && phase === "withdrawn") {
    if (defect === "leaves at once") Deno.exit(0);
    later("old", "probation", halfway);
  }
  if (side === "new" && phase === "healthy") later("new", "later", 50);
}

function later(side: "new" | "old", step: string, milliseconds: number): void {
  Deno.unrefTimer(setTimeout(() => reached(side, step), milliseconds));
}

async function answer({ url }: Request): Promise<Response> {
  // So that there are requests under way at any time.
  if (url.endsWith("/slow")) await pause(20);
  return new Response(String(Deno.pid));
}

/** Serves; with a next try, to its end. */
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
  // For the old one to come to this step, the new one has to fail.
  const fault = isFirst ? undefined : armed();
  if (fault?.side === "old" && fault.step === "failed") Deno.exit(3);

  await app.ready();
  if (!isFirst) later("new", "probation", halfway);
  await app.finished;
}

await run();
