/**
 * One fault: a service under load, one of its processes ended or stopped at a step of a handover, and
 * what becomes of the other process and of the clients.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import type { Frame } from "../../lib/generation/protocol.ts";
import type { FaultsProgramOptions, Line } from "./faults_program.ts";
import { type Failure, Load, request } from "./faults_load.ts";
import {
  holdsSocketsAlone,
  isStop,
  type Scenario,
  type Side,
  steps,
  wayTo,
} from "./faults_scenarios.ts";
import { eventually, Service } from "./faults_service.ts";
import { sendSignal } from "./processes.ts";

/** What came of a fault. */
export interface Outcome {
  /** What differs from what the scenario demands, in words. */
  wrong: string[];
  /** The side that accepted afterwards. */
  accepts: Side | "unknown";
  /** Requests that were answered. */
  answered: number;
  /** Requests that failed together with the process that held them: no restart can save these. */
  excused: number;
  milliseconds: number;
  /** The output of the processes. */
  printed: string;
}

/** Milliseconds of a probation. */
const probation = 300;

/**
 * The death of a process closes its sockets, and needs no timeout to be noticed: these are too long to
 * matter. A stopped process is noticed by a timeout alone: for stops they are short.
 */
export const longTimeouts = { probation, readyTimeout: 20_000, peerTimeout: 20_000 };
const shortTimeouts = { probation, readyTimeout: 2000, peerTimeout: 1000 };

/** Milliseconds after a stop at which every one of `shortTimeouts` has ended. */
const afterTimeouts = 3500;

/** How many new connections have to be answered by the same process. */
const probes = 20;

/** How to cause a fault. */
export interface AttemptOptions extends Pick<FaultsProgramOptions, "defect" | "probation"> {
  /** The Deno that runs the service, and its first arguments. @default {this one} */
  deno?: string[];
}

/** Causes one fault, and checks what comes of it. */
export async function attempt(
  scenario: Scenario,
  { defect, probation, deno }: AttemptOptions = {},
): Promise<Outcome> {
  const began = performance.now();
  const timeouts = isStop(scenario.ending) ? shortTimeouts : longTimeouts;
  await using service = new Service({
    ...timeouts,
    ...(probation !== undefined && { probation }),
    defect,
  }, deno);
  const attempt = new Attempt(service, scenario);
  await attempt.run();
  const { wrong, accepts, excused, load } = attempt;
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

/** Causes many faults, `workers` at a time. */
export async function attemptAll(
  all: Scenario[],
  workers: number,
  each: (scenario: Scenario, outcome: Outcome) => void,
  options: AttemptOptions = {},
): Promise<void> {
  const waiting = all.slice();
  const work = async () => {
    for (let next; (next = waiting.shift());) each(next, await attempt(next, options));
  };
  await Promise.all(Array.from({ length: workers }, work));
}

/** The output of all processes, with the time of each line. */
function described({ lines, otherOutput }: Service): string {
  const from = lines[0]?.at ?? 0;
  const rows = lines.map(({ pid, at, side, step, message = "", held }) =>
    `${String(at - from).padStart(6)} ms  ${pid}  ${side} ${step} ${message}${
      held ? `FAULT, holds ${held.join(" ")}` : ""
    }`
  );
  return `${rows.join("\n")}\n${otherOutput}`;
}

class Attempt {
  readonly wrong: string[] = [];
  accepts: Outcome["accepts"] = "unknown";
  excused = 0;
  load: Load | undefined;
  readonly #service: Service;
  readonly #scenario: Scenario;
  /** When the requests that the process held were lost; Infinity when they were not. */
  #lostAt = Infinity;

  constructor(service: Service, scenario: Scenario) {
    this.#service = service;
    this.#scenario = scenario;
  }

  async run(): Promise<void> {
    try {
      await this.#run();
    } catch (error) {
      this.wrong.push((error as Error).message);
    } finally {
      await this.load?.end();
    }
  }

  async #run(): Promise<void> {
    const service = this.#service;
    const { side, step, ending, via } = this.#scenario;
    const first = service.start();
    await service.line(
      "the first generation is ready",
      ({ step }) => step === "serving" || step === "withdrawn",
    );
    const load = this.load = new Load(service.port);
    await eventually("clients are served", () => (load.answered.get(first)?.count ?? 0) >= 20);

    service.arm({ side, step, way: wayTo(ending) });
    const handover = via === "restart" ? service.restart() : service.start();
    // A restart whose generation is killed has no reply; what came of it is checked below.
    const reply = Promise.resolve(handover).catch(() => undefined);
    const fault = await service.line(`${side}: ${step}`, ({ held }) => held !== undefined);
    await this.#endOrStop(fault, first, reply);
    const replied = await reply;
    if (ending === "next try") this.#checkReply(replied, fault.pid);

    const accepting = await this.#settled("after the fault");
    this.accepts = accepting === undefined ? "neither" : accepting === first ? "old" : "new";
    this.#checkSurvivor();
    await this.#restartAgain();

    await load.end();
    this.#judgeFailures(fault);
    await this.#terminate();
  }

  /** Waits for the fault; continues or kills a stopped process when the other process has noticed. */
  async #endOrStop(fault: Line, first: number, reply: Promise<unknown>): Promise<void> {
    const service = this.#service;
    const { ending } = this.#scenario;
    const isGone = () => !service.processes().includes(fault.pid);
    if (ending === "next try") return;
    if (!isStop(ending)) {
      this.#lostAt = fault.at;
      await eventually("the process has ended", isGone);
      return;
    }
    // The process prints its line before it stops itself: a SIGCONT now could come first.
    await eventually("the process is stopped", () => service.isStopped(fault.pid));
    await this.#noticed(fault, first);
    if (ending === "continued late") {
      // Until the first restart has got its reply, another one is refused.
      if (fault.pid !== first) await reply;
      if (!holdsSocketsAlone(this.#scenario)) await this.#restartAgain(fault.pid);
      const left = fault.at + afterTimeouts - Date.now();
      if (left > 0) await pause(left);
    }
    if (ending === "killed later") {
      this.#lostAt = Date.now();
      sendSignal(fault.pid, "SIGKILL");
      await eventually("the process has ended", isGone);
    } else {
      sendSignal(fault.pid, "SIGCONT");
    }
  }

  /** Waits until the process that is not stopped has given up on the stopped one, or has ended. */
  async #noticed(fault: Line, first: number): Promise<void> {
    const service = this.#service;
    const notices = fault.pid === first ? ["healthy"] : ["rollback", "stopped", "error"];
    await eventually("the other process notices", () => {
      const hasNoticed = service.lines.some(({ pid, step }) =>
        pid !== fault.pid && notices.includes(step)
      );
      return hasNoticed || service.processes().every((pid) => pid === fault.pid);
    });
  }

  /**
   * Waits until a single process is left beside `stopped`, and that process serves; or none is left.
   * Gives its pid. With `next` that process has to be left, which may not have started yet.
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

  /** The processes that answer on new connections, to the port and to the unix path. */
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
      if (this.accepts === "neither") this.wrong.push("No process accepts any more");
      return;
    }
    const { then } = steps.find((each) => each.side === side && each.step === step)!;
    let expected = ending === "next try" ? "new" : then;
    // The successor got no offer in time and gave up, before its predecessor was killed.
    if (ending === "killed later" && side === "old" && holdsSocketsAlone({ side, step })) {
      expected = "neither";
    }
    if (this.accepts === expected) return;
    this.wrong.push(`Expected "${expected}" to accept, and "${this.accepts}" does`);
  }

  /** Checks that restart() has waited for the next try. */
  #checkReply(reply: number | Frame | undefined, pid: number): void {
    if (typeof reply === "number" || reply?.type === "done" && reply.pid === pid) return;
    this.wrong.push(
      `Expected a restart that is done by process ${pid}, and got ${JSON.stringify(reply)}`,
    );
  }

  /** Restarts once more, which has to work; with `stopped`, while that process is stopped. */
  async #restartAgain(stopped?: number): Promise<void> {
    const service = this.#service;
    const { via } = this.#scenario;
    const when = stopped === undefined ? "after the next restart" : "while a process is stopped";
    const isRunning = service.processes().some((pid) => pid !== stopped);
    let next: number;
    if (via === "restart" && isRunning) {
      const reply = await service.restart();
      if (reply?.type !== "done") {
        this.wrong.push(`The restart ${when} failed: ${JSON.stringify(reply)}`);
        return;
      }
      next = reply.pid;
    } else {
      next = service.start();
    }
    await this.#settled(when, { next, stopped });
  }

  /** Counts the failures that no restart can prevent as excused, and the others as wrong. */
  #judgeFailures({ held, at }: Line): void {
    const servedAgainAt = Math.min(
      ...[...this.load!.answered.values()].map(({ since }) => since).filter((since) =>
        since > this.#lostAt
      ),
    );
    const isExcused = (failure: Failure) => {
      if (failure.at < this.#lostAt) return false;
      // The process held this connection when it was ended or stopped.
      if (failure.began <= at && held!.includes(failure.port)) return true;
      return holdsSocketsAlone(this.#scenario) && failure.began <= servedAgainAt;
    };
    for (const failure of this.load!.failures) {
      if (isExcused(failure)) {
        this.excused++;
        continue;
      }
      const { began, pid, port, what } = failure;
      const relative = (time: number) => `${time - at} ms`;
      this.wrong.push(
        `A request failed at ${relative(failure.at)} on port ${port}, connected since ` +
          `${relative(began)}, served by ${pid ?? "no process"} before: ${what}`,
      );
    }
  }

  /** Terminates the last generation: no process and no file may be left. */
  async #terminate(): Promise<void> {
    const service = this.#service;
    for (const pid of service.processes()) sendSignal(pid, "SIGTERM");
    await eventually("all processes have ended", () => service.processes().length === 0);
    const files = service.files().join();
    if (files !== "") this.wrong.push(`In the end there are the files ${files}`);
  }
}
