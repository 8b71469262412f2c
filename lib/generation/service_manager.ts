/**
 * What a generation tells the service manager of its process, systemd or `cli.ts hold`: that it accepts, which process is
 * the main one of the unit, and which sockets to keep for a start after a crash.
 *
 * All generations of a service live in one unit. When its main process ends, systemd reads the unit's PID file before it
 * gives the unit up: the process of the unit that is named there is the main one from then on. So a generation writes
 * that file before it accepts, and its predecessor writes it again if it takes the service back.
 *
 * A unit without PIDFile= is told by MAINPID= in the same places. A main process that is no child of systemd is not waited
 * for at a stop: the generation becomes one at the end of its probation, and has systemd look at it again.
 *
 * @module
 */

import { closeAll } from "../../ffi/fd.ts";
import { readText, replaceFile } from "../../ffi/file.ts";
import { isReady } from "../../ffi/poll.ts";
import { variable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { socketPair } from "../../ffi/socket.ts";
import { noDescriptors } from "../../ffi/system.ts";
import type { Logger } from "../logger.ts";
import { Notifier } from "../systemd/notifier.ts";
import { notifyVariable } from "../systemd/notify.ts";
import { longestPause, pause } from "../time.ts";
import { endStarter } from "./child.ts";
import { DescriptorStore } from "./descriptor_store.ts";
import type { Inheritance } from "./inheritance.ts";
import { isInService, mainProcess } from "./main_process.ts";
import type { Resources } from "./resources.ts";

/** What the service manager needs of its generation. */
export interface ServiceManagerHost {
  readonly number: number;
  readonly logger: Logger;
  readonly resources: Resources;
  readonly inheritance: Inheritance;
  readonly predecessor:
    | { readonly pid: number; readonly generation: number; readonly invocation: string | undefined }
    | undefined;
}

/** Microseconds by which the stop of a unit is extended, again and again while its last generation drains. */
const extension = 10_000_000;

/** Milliseconds between two extensions. */
const extendInterval = 1000;

/** Milliseconds for which the manager may take to read what it was sent. */
const barrierTimeout = 5000;

/** Milliseconds between two looks at whether it has. */
const barrierInterval = 10;

/** The unit's PID file (systemd.exec(5), PIDFILE). */
const pidFile = () => variable("PIDFILE") || undefined;

/**
 * Whether this process is to stay a child of its starter until its probation is over: systemd does not see the end of a main
 * process that is not its child, so that the predecessor has the time to say MAINPID= of itself again.
 */
export function isToldByMainPid(): boolean {
  return hasManager() && pidFile() === undefined;
}

/** Whether a service manager is there: none is on systems where no generation follows another one. */
function hasManager(): boolean {
  return !noDescriptors() && (variable(notifyVariable) ?? "") !== "";
}

/** The service manager, as far as one generation speaks for the unit; each method is without effect otherwise. */
export class ServiceManager {
  /** The unit that the generation speaks for, by its INVOCATION_ID; undefined where it speaks for none. */
  readonly invocation: string | undefined;
  readonly #host: ServiceManagerHost;
  /** The process that systemd is to know as the main one. */
  readonly #main: number;
  /** Whether the generation follows another one in the same unit. */
  readonly #isSuccessor: boolean;
  readonly #notifier: Notifier;
  readonly #store: DescriptorStore;
  /** The PID file before this generation has written it. */
  #before: string | undefined;
  #hasClaimed = false;
  #isProven = false;
  #watchdog: ReturnType<typeof setInterval> | undefined;
  #extending: ReturnType<typeof setInterval> | undefined;

  constructor(host: ServiceManagerHost) {
    this.#host = host;
    const own = hasManager() ? variable("INVOCATION_ID") ?? "" : undefined;
    const { predecessor, inheritance } = host;
    this.#isSuccessor = own !== undefined && predecessor?.invocation === own;
    const main = own === undefined || this.#isSuccessor ? undefined : mainProcess();
    this.#main = main ?? Deno.pid;
    this.invocation = this.#isSuccessor || main !== undefined ? own : undefined;
    const isKept = this.invocation !== undefined && (this.#isSuccessor || !predecessor);
    this.#notifier = new Notifier(host.logger, () => this.store());
    const stored = isKept ? inheritance.storedSockets() : new Map<bigint, string>();
    this.#store = new DescriptorStore(host.resources, this.#notifier, stored);
  }

  /** Has the unit live as long as this generation: to be called before it accepts, and when it accepts again. */
  claim(): void {
    if (this.invocation === undefined) return;
    this.#hasClaimed = true;
    const path = pidFile();
    if (path === undefined) {
      // systemd has started the main process of the first generation itself.
      if (this.#isSuccessor) this.#tell(mainPid(this.#main));
      return;
    }
    this.#before ??= readText(path);
    this.#writePidFile(path, `${this.#main}\n`, this.#main);
  }

  /**
   * The predecessor has taken the service back. It has claimed the unit again before it said so, and this generation may have
   * claimed it after that: its event loop was blocked in between.
   */
  givenBack(): void {
    if (!this.#isSuccessor || !this.#hasClaimed) return;
    this.#notifier.stop();
    const { number, predecessor } = this.#host;
    const { pid, generation } = predecessor!;
    const path = pidFile();
    // A shell may be the first main process.
    const first = generation === 1 ? Number(variable("SYSTEMD_EXEC_PID")) : 0;
    const main = first || pid;
    if (path === undefined) this.#tell(mainPid(main));
    else if (readText(path) === `${this.#main}\n`) {
      this.#writePidFile(path, this.#before ?? `${main}\n`, main);
    } else return;
    this.#tell(failedStatus(number - 1, pid));
  }

  /** Writes the PID file; where that fails, the manager is told of process `main` by a message. */
  #writePidFile(path: string, text: string, main: number): void {
    const attempt = `Cannot write the PID file ${quoted(path)} of this unit`;
    try {
      replaceFile(path, text, attempt);
    } catch (error) {
      this.#host.logger.error?.(
        `${attempt}: its directory has to belong to the user of the service (RuntimeDirectory=)`,
        error,
      );
      this.#tell(mainPid(main));
    }
  }

  /** Tells that the generation accepts. */
  accepting(): void {
    const { number, predecessor } = this.#host;
    const meanwhile = this.#isSuccessor
      ? `; generation ${number - 1}, process ${predecessor!.pid}, stands by`
      : "";
    this.#tell(`READY=1\nSTATUS=Generation ${number}, process ${Deno.pid}, accepts${meanwhile}`);
    this.#watch();
  }

  /** Tells that the generation has lived through its probation, and stores its sockets. */
  async proven(): Promise<void> {
    if (isToldByMainPid()) endStarter();
    if (this.invocation === undefined) return;
    this.#tell(`STATUS=Generation ${this.#host.number}, process ${Deno.pid}, serves`);
    this.#isProven = true;
    this.store();
    if (this.#isSuccessor && isToldByMainPid()) await this.#becomeChild();
  }

  /**
   * Has systemd look anew whether this process is its child: it does so when the main process is another one than before
   * (src/core/service.c, `service_set_main_pid`).
   */
  async #becomeChild(): Promise<void> {
    const { logger } = this.#host;
    try {
      const { state } = Deno.permissions.querySync({ name: "run", command: "/bin/sh" });
      // A prompt at a terminal would block the service.
      if (state !== "granted") throw new Error("it runs without --allow-run=/bin/sh");
      const command = new Deno.Command("/bin/sh", { args: ["-c", "read _"], stdin: "piped" });
      const other = command.spawn();
      try {
        if (!this.#notifier.send(mainPid(other.pid))) throw new Error("It does not read");
        this.#tell(mainPid(Deno.pid));
        // The unit would end with the other process, as long as that is the main one.
        while (this.#notifier.isWaiting) await pause(barrierInterval);
        await this.#barrier();
      } finally {
        await other.stdin.close();
        await other.status;
      }
    } catch (error) {
      logger.warn?.(
        "Cannot have systemd wait for this process at a stop of its unit; give the unit a PIDFile=",
        error,
      );
    }
  }

  /** Waits until the manager has read all that it was sent: it closes a descriptor then (sd_notify_barrier(3)). */
  async #barrier(): Promise<void> {
    const [here, there] = socketPair();
    try {
      const isSent = this.#notifier.send("BARRIER=1", [there]);
      closeAll([there]);
      for (let left = isSent ? barrierTimeout : 0; left > 0; left -= barrierInterval) {
        if (isReady(here, "readable")) return;
        await pause(barrierInterval);
      }
    } finally {
      closeAll([here]);
    }
  }

  /** Brings the store up to date. Before the end of the probation it stays that of the predecessor. */
  store(): void {
    if (this.#isProven) this.#store.update();
  }

  /** Whether the manager may be about to close a socket that was taken out of the store. */
  get isRemoving(): boolean {
    return this.#store.isRemoving;
  }

  /** A successor accepts: process `pid`. */
  handedTo(pid: number): void {
    if (this.invocation === undefined) return;
    this.withdraw();
    // What this generation has not been able to tell must not come after what the successor tells.
    this.#notifier.stop();
    const group = readText(`/proc/${pid}/cgroup`);
    if (group === undefined || group === readText("/proc/self/cgroup")) {
      // With NotifyAccess=main systemd reads messages of the main process alone: this one, until this message.
      if (pidFile() === undefined) this.#tell(mainPid(pid));
      return;
    }
    // A unit for each generation, as of a template: systemd would take a process of the other unit for the main one here.
    if (isInService(group)) return;
    this.#host.logger.warn?.(
      `Process ${pid}, the next generation, was started outside of the unit of this service: systemd does not supervise ` +
        "it, and removes the RuntimeDirectory= of the unit when this process ends. Under systemd, restart by " +
        "`systemctl reload` or the command line",
    );
  }

  /** The successor has failed, and this generation accepts, or goes on. */
  takenBack(): void {
    if (this.invocation === undefined) return;
    if (pidFile() === undefined) this.#tell(mainPid(this.#main));
    else this.claim();
    this.#tell(failedStatus(this.#host.number, Deno.pid));
    this.#watch();
  }

  /** Stops telling that this process is alive: it does not accept. */
  withdraw(): void {
    clearInterval(this.#watchdog);
    this.#watchdog = undefined;
  }

  /** Pings the watchdog twice in its time (sd_watchdog_enabled(3)); WATCHDOG_PID is the number of the first generation. */
  #watch(): void {
    if (this.invocation === undefined || this.#watchdog !== undefined) return;
    const time = Number(variable("WATCHDOG_USEC") ?? 0) / 1000;
    if (!(time > 0)) return;
    const ping = () => this.#notifier.send("WATCHDOG=1");
    ping();
    this.#watchdog = setInterval(ping, Math.min(time / 2, longestPause));
    Deno.unrefTimer(this.#watchdog);
  }

  /** Tells that the generation accepts for `stopDelay` before it stops, and extends the time that the manager has for that. */
  delaying(): void {
    this.#tell(
      `STATUS=Generation ${this.#host.number}, process ${Deno.pid}, accepts for the last time`,
    );
    this.extendStop();
  }

  /**
   * Tells that the service stops, and extends the time that the manager has for that, until `ended()`. Not for a generation
   * with a successor: the whole unit would be ended.
   */
  stopping(): void {
    const { number } = this.#host;
    this.#tell(`STOPPING=1\nSTATUS=Generation ${number}, process ${Deno.pid}, drains`);
    this.extendStop();
  }

  /** Extends the time that the manager has for a stop, until `ended()`. */
  extendStop(): void {
    if (this.invocation === undefined || this.#extending !== undefined) return;
    const extend = () => this.#notifier.send(`EXTEND_TIMEOUT_USEC=${extension}`);
    extend();
    this.#extending = setInterval(extend, extendInterval);
    Deno.unrefTimer(this.#extending);
  }

  /** The generation has ended. */
  ended(): void {
    this.withdraw();
    clearInterval(this.#extending);
    this.#notifier.stop();
    this.#store.end();
  }

  #tell(state: string): void {
    if (this.invocation !== undefined) this.#notifier.tell(state);
  }
}

/** Tells systemd which process is the main one. */
function mainPid(pid: number): string {
  return `MAINPID=${pid}`;
}

/** The status of a unit whose generation `number` goes on, because the next one has failed. */
function failedStatus(number: number, pid: number): string {
  return `STATUS=Generation ${number}, process ${pid}, serves; generation ${number + 1} has failed`;
}
