/**
 * Decides what follows when processes of the service end: another generation is the main process, the command is started
 * again, or hold ends.
 *
 * @module
 */

import { endedChild, type Exit, isDescendant, reapChild } from "../../ffi/child_process.ts";
import type { Fd } from "../../ffi/fd.ts";
import { readText } from "../../ffi/file.ts";
import { hasEnded, identify, isRunning, type ProcessId, processStat } from "../../ffi/proc.ts";
import { escaped } from "../../ffi/quote.ts";
import { pause } from "../time.ts";
import { Backoff } from "./backoff.ts";
import type { Descriptors } from "./descriptors.ts";
import { type Notification, wholeNumber } from "./notification.ts";
import { requestRestart } from "./restart_request.ts";
import { send, Stop, StopTime } from "./stop.ts";

/** What the supervisor needs of hold. */
export interface SupervisorHost {
  /** The control path of the service. */
  readonly path: string;
  readonly pidFile: string;
  /** How long processes may take to end, in milliseconds. */
  readonly stopTimeout: number;
  readonly descriptors: Descriptors;
  /** Starts the command; gives its process id. */
  start(): number;
  /** Takes the messages that the service has sent. */
  takeNotifications(): void;
  log(text: string): void;
}

/** Milliseconds for which a previous generation may take the service back: it writes the PID file then. */
const rollbackTime = 500;

/** Milliseconds within which the first start of a program fails that says nothing to NOTIFY_SOCKET. */
const silentTime = 1000;

/** Milliseconds within which a generation whose control path was removed puts it back: it looks each 10 s. */
const restoreTime = 15_000;

/** Milliseconds between two looks at whether it has. */
const restoreInterval = 200;

/** The service, as its supervisor sees it. */
export class Supervisor {
  readonly #host: SupervisorHost;
  readonly #backoff = new Backoff();
  readonly #stopTime: StopTime;
  readonly #finished = Promise.withResolvers<number>();
  /** Aborted at the end: requests to the service end. */
  readonly #ended = new AbortController();
  #main: ProcessId | undefined;
  /** Main processes of before that have not ended: generations that drain, or stand by. */
  readonly #previous = new Set<number>();
  /** The end of the last main process. */
  #last: Exit = { code: 0 };
  #starts = 0;
  /** Whether the service has said READY=1; undefined before it has said anything. */
  #isReady: boolean | undefined;
  /** "restarting": the main process was sent SIGTERM, and is started again. "done": it has ended with 0. */
  #state: "running" | "restarting" | "done" = "running";
  #stop: Stop | undefined;
  /** Until the command is started, or a previous generation has had time to take the service back. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** The time of a main process that was sent SIGTERM. */
  #restartTime: Disposable | undefined;
  #isReloading = false;
  #isReloadWanted = false;

  constructor(host: SupervisorHost) {
    this.#host = host;
    this.#stopTime = new StopTime(host.stopTimeout);
  }

  /** The code with which hold ends. */
  get finished(): Promise<number> {
    return this.#finished.promise;
  }

  /** Starts the command. @throws {Error} When it cannot be started, or an address be bound. */
  start(): void {
    const { path, descriptors, log } = this.#host;
    clearTimeout(this.#timer);
    this.#state = "running";
    this.#backoff.started();
    descriptors.bind(path);
    const pid = this.#host.start();
    this.#starts++;
    this.#main = identify(pid);
    log(`started process ${pid}${this.#starts > 1 ? ` (start ${this.#starts})` : ""}`);
  }

  /** Waits for the children that have ended, and decides what follows. */
  reap(): void {
    for (let pid; (pid = endedChild()) !== undefined;) {
      // Of what a process has sent before its end, nothing is lost.
      this.#host.takeNotifications();
      const exit = reapChild(pid);
      if (!exit) break;
      const wasPrevious = this.#previous.delete(pid);
      if (pid === this.#main?.pid) this.#mainEnded(pid, exit);
      else if (wasPrevious) this.#host.log(`process ${pid}, a previous generation, ${how(exit)}`);
    }
    // MAINPID= may have named a child of another process, which gets its code. A child of this one is a zombie before
    // waitpid(2) gives its code: until all of its threads have ended.
    const main = this.#main;
    if (main && processStat(main.pid)?.parent !== Deno.pid && hasEnded(main)) {
      this.#mainEnded(main.pid, { code: 1 });
    }
    for (const pid of this.#previous) if (!isRunning(pid)) this.#previous.delete(pid);
    if (this.#stop ? this.#stop.proceed() : this.#isDone()) this.#finish(this.#last.code);
  }

  #isDone(): boolean {
    return this.#state === "done" && this.#previous.size === 0;
  }

  #mainEnded(pid: number, exit: Exit): void {
    const { log } = this.#host;
    this.#main = undefined;
    this.#last = exit;
    this.#restartTime?.[Symbol.dispose]();
    log(`process ${pid} ${how(exit)}`);
    this.#followPidFile();
    if (this.#main || this.#stop) return;
    if (this.#previous.size === 0) return this.#decide();
    this.#timer = setTimeout(() => {
      this.#followPidFile();
      if (!this.#main) this.#decide();
      this.reap();
    }, rollbackTime);
  }

  /** Decides what follows without a main process. */
  #decide(): void {
    const { code } = this.#last;
    if (this.#state === "restarting") return this.#startAgain();
    if (code === 0) this.#state = "done";
    else if (this.#hasFirstStartFailed()) {
      this.#host.log("the first start has failed: not starting it again");
      this.#finish(code);
    } else this.#startLater();
  }

  #hasFirstStartFailed(): boolean {
    return this.#starts === 1 && !(this.#isReady ?? this.#backoff.ran >= silentTime);
  }

  #startLater(): void {
    const wait = this.#backoff.next();
    if (wait === 0) return this.#startAgain();
    this.#host.log(`starting it again in ${Math.ceil(wait)} ms`);
    this.#timer = setTimeout(() => this.#startAgain(), wait);
  }

  #startAgain(): void {
    try {
      this.start();
    } catch (error) {
      this.#host.log(`cannot start it again: ${(error as Error).message}`);
      this.#startLater();
    }
  }

  /** Takes a message of the service. */
  notified(notification: Notification, descriptors: Fd[]): void {
    const { ready, status, mainPid, extendBy, store, remove, name, poll } = notification;
    const kept = this.#host.descriptors;
    if (remove) kept.remove(name);
    if (store) { for (const fd of descriptors) kept.store(fd, name, poll); }
    if (ready) this.#isReady = true;
    else this.#isReady ??= false;
    if (status) this.#host.log(escaped(status));
    if (extendBy !== undefined) this.#stopTime.extend(extendBy);
    if (mainPid !== undefined) this.#setMain(mainPid);
    // A generation writes the PID file before it says either.
    if (ready || status) this.#followPidFile();
  }

  /** Makes the process that the PID file names the main one, if it is one of the service. */
  #followPidFile(): void {
    const pid = this.#recorded();
    if (pid !== undefined) this.#setMain(pid);
  }

  /** The process that the PID file names. */
  #recorded(): number | undefined {
    return wholeNumber(readText(this.#host.pidFile)?.trim());
  }

  #setMain(pid: number): void {
    if (pid === this.#main?.pid || !isDescendant(pid)) return;
    if (this.#main) this.#previous.add(this.#main.pid);
    this.#previous.delete(pid);
    clearTimeout(this.#timer);
    // A previous generation may take the service back after `rollbackTime`: its event loop was blocked.
    if (this.#state === "done") this.#state = "running";
    this.#main = identify(pid);
    this.#host.log(`process ${pid} is the main process`);
  }

  /** Sends a signal to the main process. */
  forward(signal: Deno.Signal): void {
    if (this.#main) send(this.#main.pid, signal, this.#host.log);
  }

  /** Stops the service; called again, it kills it. */
  stop(signal: Deno.Signal): void {
    const { log } = this.#host;
    if (this.#stop) return this.#stop.kill(`${signal} again`);
    log(`stopping on ${signal}`);
    clearTimeout(this.#timer);
    this.#stop = new Stop(signal, this.#stopTime, log);
    this.reap();
  }

  /** Restarts the service; a call during a restart makes one more after it. */
  async reload(): Promise<void> {
    this.#isReloadWanted = true;
    if (this.#isReloading) return;
    this.#isReloading = true;
    while (this.#isReloadWanted && !this.#stop) {
      this.#isReloadWanted = false;
      await this.#reload();
    }
    this.#isReloading = false;
  }

  async #reload(): Promise<void> {
    const { log } = this.#host;
    try {
      const next = await this.#requestRestart();
      if (next) log(`generation ${next.generation} runs, process ${next.pid}`);
      else this.#restartMain();
    } catch (error) {
      if (!this.#stop) log(`the restart failed: ${(error as Error).message}`);
    }
  }

  /** Requests a restart of the generation at the control path; undefined when there is none. */
  async #requestRestart(): ReturnType<typeof requestRestart> {
    const { path, log } = this.#host;
    const { signal } = this.#ended;
    const end = performance.now() + restoreTime;
    for (let isLogged = false;; isLogged = true) {
      const next = await requestRestart(path, signal);
      if (next || this.#stop || !this.#isMainRecorded() || performance.now() > end) return next;
      if (!isLogged) log("waiting for the generation to put the control path back");
      await pause(restoreInterval, signal);
    }
  }

  /** Whether the PID file names the main process: a program without generations does not write it. */
  #isMainRecorded(): boolean {
    return this.#main !== undefined && this.#recorded() === this.#main.pid;
  }

  /** Ends the main process, and starts the command when it has ended. */
  #restartMain(): void {
    const { log } = this.#host;
    if (this.#stop || this.#state !== "running") return;
    const main = this.#main;
    if (!main) return this.#startAgain();
    log(`restarting: no generation answers at the control path, ending process ${main.pid}`);
    this.#state = "restarting";
    send(main.pid, "SIGTERM", log);
    this.#restartTime = this.#stopTime.limit(() => send(main.pid, "SIGKILL", log));
  }

  #finish(code: number): void {
    clearTimeout(this.#timer);
    this.#stop?.[Symbol.dispose]();
    this.#ended.abort();
    this.#finished.resolve(code);
  }
}

/** The end of a process, in words. */
function how({ code, signal }: Exit): string {
  return signal === undefined ? `has ended with code ${code}` : `was ended by ${signal}`;
}
