/**
 * `deno task faults`: ends and stops either side of a handover at every step, and restarts a service
 * very often.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { pause } from "../../lib/time.ts";
import type { Frame } from "../../lib/generation/protocol.ts";
import type { FaultyOptions, Line, Step, Way } from "./faulty.ts";
import { type Failure, Load, request } from "./fault_load.ts";
import { eventually, type Figures, Service, signal } from "./fault_service.ts";

const usage = `Usage: deno task faults [options]

Ends or stops one process of a service at a step of a handover, under load, and looks what becomes
of the other and of the clients: at every step, on both sides. Exits with 0 when everything was as it
is to be, with 1 when something was not, with 2 for wrong arguments.

  --repeat N     every fault N times (1)
  --side S       in the "new" or the "old" process alone
  --step S       at the step S alone
  --ending E     "killed", or ended by "SIGHUP", an "uncaught error", an "unhandled rejection", an "exit",
                 or "out of memory"; or stopped and then "continued", "continued late" or "killed later";
                 or, of the new one, an error that it catches, and a "next try"
  --via V        the next generation is started by a "command", or by the old one's "restart"
  --deno PATH    the service runs on that Deno
  --workers W    W at the same time (4)
  --restarts N   instead, restart N times in a row, and look what grows
  --failures N   instead, let N restarts in a row fail, and look what grows
  --verbose      print what the processes printed, when something was not as it is to be
  --help         print this`;

/** What becomes of the process. */
export type Ending = End | Stop | "next try";

/** It ends at once, in one of the ways in which a process does. */
type End =
  | "killed"
  | "SIGHUP"
  | "uncaught error"
  | "unhandled rejection"
  | "exit"
  | "out of memory";

/** It is stopped, and then goes on, or does not. */
type Stop = "continued" | "continued late" | "killed later";

/** How the next generation is started. */
export type Via = "command" | "restart";

/** One thing to try. */
export interface Scenario extends Step {
  ending: Ending;
  via: Via;
}

/** What came of it. */
export interface Outcome {
  /** What was not as it is to be. */
  wrong: string[];
  /** Which of the two accepted afterwards. */
  accepts: "new" | "old" | "neither" | "unknown";
  /** Requests that were answered, and that failed with the process that held them. */
  answered: number;
  excused: number;
  milliseconds: number;
  /** What the processes printed. */
  printed: string;
}

/** Every step, in the order in which it comes; and which side accepts when it was killed there. */
export const steps: (Step & { then: "new" | "old" | "neither" })[] = [
  { side: "new", step: "connected", then: "old" },
  { side: "new", step: "asked", then: "old" },
  { side: "old", step: "asked", then: "new" },
  { side: "old", step: "offered", then: "new" },
  { side: "new", step: "inherited", then: "old" },
  { side: "new", step: "started", then: "old" },
  { side: "new", step: "served", then: "old" },
  { side: "new", step: "accepting", then: "old" },
  { side: "new", step: "committed", then: "old" },
  { side: "old", step: "succeeded", then: "new" },
  { side: "old", step: "withdrawn", then: "new" },
  { side: "new", step: "ready", then: "old" },
  { side: "new", step: "probation", then: "old" },
  { side: "old", step: "probation", then: "new" },
  { side: "new", step: "healthy", then: "neither" },
  { side: "old", step: "handed over", then: "new" },
  { side: "old", step: "restarted", then: "new" },
  { side: "old", step: "draining", then: "new" },
  { side: "old", step: "left", then: "new" },
  { side: "new", step: "later", then: "neither" },
  { side: "old", step: "failed", then: "neither" },
];

/** Where the process is the only one that has the sockets: with it, they are gone. */
function isSole({ side, step }: Step): boolean {
  return side === "new" ? step === "healthy" || step === "later" : step === "asked" ||
    step === "failed";
}

/** Every way in which a process ends. */
export const ends: End[] = [
  "killed",
  "SIGHUP",
  "uncaught error",
  "unhandled rejection",
  "exit",
  "out of memory",
];
const stops: Stop[] = ["continued", "continued late", "killed later"];
const endings: Ending[] = [...ends, ...stops, "next try"];
const vias: Via[] = ["command", "restart"];

/** Where the program itself can catch an error, and has not accepted anything. */
const triedAgain = ["started", "served"];

/** All that can be tried. */
export const scenarios: Scenario[] = steps.flatMap(({ side, step }) =>
  endings.flatMap((ending) => vias.map((via) => ({ side, step, ending, via })))
).filter(({ step, via, ending }) =>
  (step !== "restarted" || via === "restart") &&
  (ending !== "next try" || triedAgain.includes(step))
);

/** What the process does to come to that ending. */
function wayTo(ending: Ending): Way {
  if (ending === "killed") return "SIGKILL";
  return isStop(ending) ? "SIGSTOP" : ending;
}

function isStop(ending: Ending): ending is Stop {
  return (stops as Ending[]).includes(ending);
}

const probation = 300;

/**
 * The death of a process shows without any timeout. That it was stopped shows by nothing else, and
 * they are short then.
 */
const patient = { probation, readyTimeout: 20_000, peerTimeout: 20_000 };
const impatient = { probation, readyTimeout: 2000, peerTimeout: 1000 };

/** Longer than a process that was stopped would have waited for any answer. */
const longerThanAll = 3500;

/** New connections that have to be answered by one process. */
const probes = 20;

/** How to try it. */
export interface AttemptOptions extends Pick<FaultyOptions, "defect" | "probation"> {
  /** The Deno that runs the service, and its first arguments. @default {this one} */
  deno?: string[];
}

/** Tries it. */
export async function attempt(
  scenario: Scenario,
  { defect, probation, deno }: AttemptOptions = {},
): Promise<Outcome> {
  const began = performance.now();
  const timeouts = isStop(scenario.ending) ? impatient : patient;
  await using service = new Service({
    ...timeouts,
    ...(probation !== undefined && { probation }),
    defect,
  }, deno);
  const run = new Run(service, scenario);
  await run.all();
  const { wrong, accepts, excused, load } = run;
  const answered = [...load?.answered.values() ?? []].reduce((sum, { count }) => sum + count, 0);
  return {
    wrong,
    accepts,
    answered,
    excused,
    milliseconds: performance.now() - began,
    printed: described(service),
  };
}

function described({ lines, complaints }: Service): string {
  const from = lines[0]?.at ?? 0;
  const rows = lines.map(({ pid, at, side, step, message = "", held }) =>
    `${String(at - from).padStart(6)} ms  ${pid}  ${side} ${step} ${message}${
      held ? `FAULT, holds ${held.join(" ")}` : ""
    }`
  );
  return `${rows.join("\n")}\n${complaints}`;
}

class Run {
  readonly wrong: string[] = [];
  accepts: Outcome["accepts"] = "unknown";
  excused = 0;
  load: Load | undefined;
  readonly #service: Service;
  readonly #scenario: Scenario;
  /** When what the process held was lost, if it was. */
  #lostAt = Infinity;

  constructor(service: Service, scenario: Scenario) {
    this.#service = service;
    this.#scenario = scenario;
  }

  async all(): Promise<void> {
    try {
      await this.#all();
    } catch (error) {
      this.wrong.push((error as Error).message);
    } finally {
      await this.load?.end();
    }
  }

  async #all(): Promise<void> {
    const service = this.#service;
    const { side, step, ending, via } = this.#scenario;
    const first = service.start();
    await service.line("the first one is ready", ({ step }) => step === "ready");
    const load = this.load = new Load(service.port);
    await eventually("the clients are served", () => (load.answered.get(first)?.count ?? 0) >= 20);

    service.arm({ side, step, way: wayTo(ending) });
    const handover = via === "restart" ? service.restart() : service.start();
    const answer = Promise.resolve(handover).catch(() => undefined);
    const fault = await service.line(`${side}: ${step}`, ({ held }) => held !== undefined);
    await this.#end(fault, first, answer);
    const told = await answer;
    if (ending === "next try") this.#checkTold(told, fault.pid);

    const accepting = await this.#settled("after the fault");
    this.accepts = accepting === undefined ? "neither" : accepting === first ? "old" : "new";
    this.#checkSurvivor();
    await this.#restarts();

    await load.end();
    this.#judge(fault);
    await this.#stops();
  }

  /** Does with the process what is to be done, and waits until the other one has noticed. */
  async #end(fault: Line, first: number, answer: Promise<unknown>): Promise<void> {
    const service = this.#service;
    const { ending } = this.#scenario;
    const isGone = () => !service.processes().includes(fault.pid);
    if (ending === "next try") return;
    if (!isStop(ending)) {
      this.#lostAt = fault.at;
      await eventually("it is gone", isGone);
      return;
    }
    // It says so before it is: going on would come too early.
    await eventually("it is stopped", () => service.isStopped(fault.pid));
    await this.#noticed(fault, first);
    if (ending === "continued late") {
      // Before it has answered, another restart would be refused.
      if (fault.pid !== first) await answer;
      if (!isSole(this.#scenario)) await this.#restarts(fault.pid);
      const left = fault.at + longerThanAll - Date.now();
      if (left > 0) await pause(left);
    }
    if (ending === "killed later") {
      this.#lostAt = Date.now();
      signal(fault.pid, "SIGKILL");
      await eventually("it is gone", isGone);
    } else {
      signal(fault.pid, "SIGCONT");
    }
  }

  /** Waits until the process that goes on has done what it does about the one that was stopped. */
  async #noticed(fault: Line, first: number): Promise<void> {
    const service = this.#service;
    const others = fault.pid === first ? ["healthy"] : ["failed", "left", "error"];
    await eventually("the other one notices", () => {
      const hasNoticed = service.lines.some(({ pid, step }) =>
        pid !== fault.pid && others.includes(step)
      );
      return hasNoticed || service.processes().every((pid) => pid === fault.pid);
    });
  }

  /**
   * Waits until one process is left, but for one that is stopped, and it is the one that answers; or
   * none is. Gives which. With `next`, it has to be that one, which may not have begun yet.
   */
  async #settled(
    when: string,
    { next, stopped }: { next?: number; stopped?: number } = {},
  ): Promise<number | undefined> {
    const service = this.#service;
    let seen = "";
    const look = async () => {
      const processes = service.processes().filter((pid) => pid !== stopped);
      if (processes.length === 0) return next === undefined && "none";
      const status = await service.status();
      seen = `processes ${processes.join(", ")}, ${JSON.stringify(status)}`;
      const isOne = processes.length === 1 && status?.pid === processes[0] &&
        status.state === "serving" && (stopped !== undefined || !status.predecessor);
      return isOne && (next ?? status.pid) === status.pid && status.pid;
    };
    const accepting = await eventually(() => `one generation is left ${when}: ${seen}`, look);
    if (accepting === "none") return undefined;
    const answers = await this.#probe();
    if (answers.some((pid) => pid !== accepting)) {
      this.wrong.push(
        `${when} process ${accepting} has taken over, and requests were answered by ${answers}`,
      );
    }
    const files = service.files().join();
    if (files !== "app.sock,web.sock") {
      this.wrong.push(`${when} there are the files ${files}`);
    }
    return accepting;
  }

  /** Who answers on new connections, to the port and to the path. */
  async #probe(): Promise<number[]> {
    const answers = new Set<number>();
    for (let i = 0; i < probes; i++) {
      using conn = await (i % 5 > 0
        ? Deno.connect({ hostname: "127.0.0.1", port: this.#service.port })
        : Deno.connect({ transport: "unix", path: this.#service.path.replace("app.", "web.") }));
      answers.add((await request(conn, "/", { close: true })).pid);
    }
    return [...answers];
  }

  #checkSurvivor(): void {
    const { side, step, ending } = this.#scenario;
    if (ending.startsWith("continued")) {
      if (this.accepts === "neither") this.wrong.push("Nobody accepts any more");
      return;
    }
    if (ending === "next try") {
      if (this.accepts !== "new") this.wrong.push(`Not the new one accepts: ${this.accepts}`);
      return;
    }
    const { then } = steps.find((each) => each.side === side && each.step === step)!;
    // One that got no answer in time has given up.
    const expected = ending === "killed later" && side === "old" && isSole({ side, step })
      ? "neither"
      : then;
    if (this.accepts === expected) return;
    this.wrong.push(`It is to be the ${expected} one that accepts, and is the ${this.accepts}`);
  }

  /** That restart() has waited for the next try. */
  #checkTold(told: number | Frame | undefined, pid: number): void {
    if (typeof told === "number" || told?.type === "done" && told.pid === pid) return;
    this.wrong.push(`The restart is to be done, by process ${pid}, and is ${JSON.stringify(told)}`);
  }

  /** The next restart works; with another process that is stopped meanwhile, if there is one. */
  async #restarts(stopped?: number): Promise<void> {
    const service = this.#service;
    const { via } = this.#scenario;
    const when = stopped === undefined ? "after the next restart" : "while it is stopped";
    const viaRestart = via === "restart" &&
      service.processes().some((pid) => pid !== stopped);
    let next: number;
    if (viaRestart) {
      const answer = await service.restart();
      if (answer?.type !== "done") {
        this.wrong.push(`The restart ${when} failed: ${JSON.stringify(answer)}`);
        return;
      }
      next = answer.pid;
    } else {
      next = service.start();
    }
    await this.#settled(when, { next, stopped });
  }

  /** Which of the failures nothing could have been done about. */
  #judge({ held, at }: Line): void {
    const back = Math.min(
      ...[...this.load!.answered.values()].map(({ since }) => since).filter((since) =>
        since > this.#lostAt
      ),
    );
    const isExcused = (failure: Failure) => {
      if (failure.at < this.#lostAt) return false;
      // Before it was stopped or killed, and by it.
      if (failure.began <= at && held!.includes(failure.port)) return true;
      return isSole(this.#scenario) && failure.began <= back;
    };
    for (const failure of this.load!.failures) {
      if (isExcused(failure)) {
        this.excused++;
        continue;
      }
      const { began, pid = "nobody", port, what } = failure;
      const relative = (time: number) => `${time - at} ms`;
      this.wrong.push(
        `A request failed at ${relative(failure.at)} on port ${port}, connected since ` +
          `${relative(began)}, served by ${pid} before: ${what}`,
      );
    }
  }

  /** Ends the last one; nothing is left of it. */
  async #stops(): Promise<void> {
    const service = this.#service;
    for (const pid of service.processes()) signal(pid, "SIGTERM");
    await eventually("all have ended", () => service.processes().length === 0);
    const files = service.files().join();
    if (files !== "") this.wrong.push(`In the end there are the files ${files}`);
  }
}

/** Restarts a service so many times; gives what each generation had open, the first one included. */
export async function restartOften(
  count: number,
  { defect, each }: Pick<FaultyOptions, "defect"> & { each?: (figures: Figures) => void } = {},
): Promise<Figures[]> {
  await using service = new Service({ ...patient, probation: 20, defect });
  let running = service.start();
  await service.line("it is ready", ({ step }) => step === "ready");
  const all: Figures[] = [];
  for (let i = 0;; i++) {
    const figures = await settledFigures(service, running);
    all.push(figures);
    each?.(figures);
    if (i === count) return all;
    const answer = await service.restart();
    if (answer?.type !== "done") throw new Error(`Restart ${i + 1}: ${JSON.stringify(answer)}`);
    const before = running;
    running = answer.pid;
    await eventually("the one before has ended", () => !service.isRunning(before));
    // What they print is not looked at.
    service.lines.length = 0;
  }
}

/** What a new generation may be killed at, and the old one goes on. */
const failing = steps.filter(({ side, then }) => side === "new" && then === "old");

/** Lets so many restarts of one process fail; gives what it had open before the first and after each. */
export async function failOften(
  count: number,
  { each }: { each?: (figures: Figures) => void } = {},
): Promise<Figures[]> {
  await using service = new Service({ ...patient, probation: 20 });
  const running = service.start();
  await service.line("it is ready", ({ step }) => step === "ready");
  const all: Figures[] = [];
  for (let i = 0;; i++) {
    const figures = await settledFigures(service, running);
    all.push(figures);
    each?.(figures);
    if (i === count) return all;
    const { side, step } = failing[i % failing.length];
    service.arm({ side, step, way: "SIGKILL" });
    const answer = await service.restart();
    if (answer?.type !== "failed") {
      throw new Error(`Restart ${i + 1}, killed at ${step}: ${JSON.stringify(answer)}`);
    }
    await eventually("it is alone", () => service.processes().length === 1);
    service.lines.length = 0;
  }
}

/** What a process has open when it has nothing to do: it may be about to close something. */
async function settledFigures(service: Service, pid: number): Promise<Figures> {
  const looks: Figures[] = [];
  for (let i = 0; i < 5; i++) {
    looks.push(service.figures(pid));
    await pause(5);
  }
  return looks.sort((a, b) => a.descriptors - b.descriptors)[0];
}

/** How much more memory is taken for chance. */
const tolerance = 1.15;

/**
 * What is more at the end than at the beginning: medians of two windows are compared, for memory
 * varies. What comes before the first window is warming up. One more thread is Deno's pool, which takes
 * one when it has to and keeps it.
 */
export function growth(all: Figures[]): string[] {
  const size = Math.max(1, Math.floor(all.length / 5));
  const first = all.slice(size, 2 * size);
  const last = all.slice(-size);
  const grown: string[] = [];
  for (const name of ["descriptors", "threads", "memory"] as const) {
    const before = median(first.map((figures) => figures[name]));
    const after = median(last.map((figures) => figures[name]));
    const most = before * (name === "memory" ? tolerance : 1) + (name === "threads" ? 1 : 0);
    if (after > most) grown.push(`${name}: from ${before} to ${after}`);
  }
  const [before, after] = [all[0], all.at(-1)!].map(({ files }) => files.join(" "));
  if (before !== after) grown.push(`files: from ${before} to ${after}`);
  return grown;
}

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

interface Options {
  repeat: number;
  workers: number;
  restarts: number | undefined;
  failures: number | undefined;
  verbose: boolean;
  deno: string[] | undefined;
  chosen: Scenario[];
}

function options(args: string[]): Options | "help" {
  const { values } = parseArgs({
    args,
    options: {
      repeat: { type: "string", default: "1" },
      workers: { type: "string", default: "4" },
      side: { type: "string" },
      step: { type: "string" },
      ending: { type: "string" },
      via: { type: "string" },
      restarts: { type: "string" },
      failures: { type: "string" },
      deno: { type: "string" },
      verbose: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return "help";
  const chosen = scenarios.filter((scenario) =>
    (["side", "step", "ending", "via"] as const).every((name) =>
      values[name] === undefined || scenario[name] === values[name]
    )
  );
  if (chosen.length === 0) {
    const names = [...new Set(steps.map(({ step }) => step))].join(", ");
    throw new TypeError(`There is nothing of that kind. The steps are: ${names}`);
  }
  return {
    repeat: number("repeat", values.repeat),
    workers: number("workers", values.workers),
    restarts: values.restarts === undefined ? undefined : number("restarts", values.restarts),
    failures: values.failures === undefined ? undefined : number("failures", values.failures),
    verbose: values.verbose,
    deno: values.deno === undefined ? undefined : [values.deno],
    chosen,
  };
}

function number(name: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0 && value < 2 ** 31) return value;
  throw new TypeError(`--${name} is a whole number above 0, not "${text}"`);
}

/** Tries all, so many at the same time. */
export async function attemptAll(
  all: Scenario[],
  workers: number,
  each: (scenario: Scenario, outcome: Outcome) => void,
  options: AttemptOptions = {},
): Promise<void> {
  const left = all.slice();
  const work = async () => {
    for (let next; (next = left.shift());) each(next, await attempt(next, options));
  };
  await Promise.all(Array.from({ length: workers }, work));
}

/** A scenario in words. */
export function named({ side, step, ending, via }: Scenario): string {
  return `${side} ${ending} at "${step}", started by ${via}`;
}

async function faults({ chosen, repeat, workers, verbose, deno }: Options): Promise<number> {
  const began = performance.now();
  const outcomes = new Map<Scenario, Outcome[]>(chosen.map((scenario) => [scenario, []]));
  await attemptAll(
    Array.from({ length: repeat }, () => chosen).flat(),
    workers,
    (scenario, outcome) => {
      outcomes.get(scenario)!.push(outcome);
      for (const wrong of outcome.wrong) console.log(`FAILED: ${named(scenario)}: ${wrong}`);
      if (verbose && outcome.wrong.length > 0) console.log(outcome.printed);
    },
    { deno },
  );
  for (const row of rows(outcomes)) console.log(row);
  const all = [...outcomes.values()].flat();
  const wrong = all.filter((outcome) => outcome.wrong.length > 0).length;
  const sum = (name: "answered" | "excused") =>
    all.reduce((total, outcome) => total + outcome[name], 0);
  console.log(
    `${all.length} faults in ${seconds(began)}: ${wrong} were not as they are to be; ` +
      `${sum("answered")} requests answered, ${sum("excused")} failed with who held them`,
  );
  return wrong > 0 ? 1 : 0;
}

/** A row for every step, a column for every ending: who accepted afterwards, and how often. */
function rows(outcomes: Map<Scenario, Outcome[]>): string[] {
  const table = new Map<string, Map<Ending, Outcome[]>>();
  for (const [{ side, step, ending }, some] of outcomes) {
    const name = `${side} ${step}`;
    if (!table.has(name)) table.set(name, new Map());
    const row = table.get(name)!;
    row.set(ending, [...row.get(ending) ?? [], ...some]);
  }
  const tried = endings.filter((ending) => [...table.values()].some((row) => row.has(ending)));
  const line = (cells: string[]) =>
    cells.map((cell, i) => cell.padEnd(Math.max(16, (tried[i - 1] ?? "").length))).join(" ")
      .trimEnd();
  return [
    line(["", ...tried]),
    ...Array.from(
      table,
      ([name, row]) => line([name, ...tried.map((ending) => cell(row.get(ending) ?? []))]),
    ),
  ];
}

function cell(outcomes: Outcome[]): string {
  const kinds = outcomes.map(({ wrong, accepts }) => wrong.length > 0 ? "FAILED" : accepts);
  return [...new Set(kinds)].sort().map((kind) =>
    `${kind} ${kinds.filter((each) => each === kind).length}`
  ).join(", ");
}

function seconds(began: number): string {
  return `${((performance.now() - began) / 1000).toFixed(1)} s`;
}

async function endurance(
  kind: "restarts" | "failures",
  count: number,
): Promise<number> {
  const began = performance.now();
  let done = 0;
  const each = ({ descriptors, threads, memory, files }: Figures) => {
    if (done % Math.ceil(count / 10) === 0) {
      console.log(
        `after ${done} ${kind}: ${descriptors} descriptors, ${threads} threads, ` +
          `${(memory / 2 ** 20).toFixed(1)} MiB, files ${files.join(" ")}`,
      );
    }
    done++;
  };
  const all = await (kind === "restarts" ? restartOften : failOften)(count, { each });
  const grown = growth(all);
  for (const what of grown) console.log(`FAILED: more ${what}`);
  console.log(`${count} ${kind} in ${seconds(began)}: ${grown.length} figures have grown`);
  return grown.length > 0 ? 1 : 0;
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
  const { restarts, failures } = chosen;
  if (restarts !== undefined) return await endurance("restarts", restarts);
  if (failures !== undefined) return await endurance("failures", failures);
  return await faults(chosen);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
