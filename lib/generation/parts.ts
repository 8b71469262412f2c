/**
 * The parts of one generation, connected: each gets the others through the interface that it declares for its host.
 *
 * @module
 */

import { formatPath } from "../../ffi/sockaddr.ts";
import { networkNamespace, ownNetworkNamespace } from "../../ffi/peer.ts";
import { WebSockets } from "../http/websockets.ts";
import type { Logger } from "../logger.ts";
import { detachedPause } from "../time.ts";
import type { UnixConn } from "../unix/conn.ts";
import type { UnixListener } from "../unix/listener.ts";
import type { Channel } from "./channel.ts";
import { ownToken } from "./environment.ts";
import { redirectStream, releaseOutputPipes } from "./output.ts";
import { OwnCommand } from "./command.ts";
import { Control } from "./control.ts";
import { Departure } from "./departure.ts";
import { Draining } from "./draining.ts";
import { type Handover, handOver, type Hello } from "./handover.ts";
import type { Inheritance } from "./inheritance.ts";
import { Lifecycle, type State } from "./lifecycle.ts";
import { type SharedFate, sharedFate } from "./main_process.ts";
import type { Settings } from "./options.ts";
import { running } from "./own_process.ts";
import { interval, Paths } from "./paths.ts";
import { logPhase, type Phase, type PhaseDetails } from "./phase_log.ts";
import type { Predecessor } from "./predecessor.ts";
import type { GenerationStatus } from "./protocol.ts";
import { ReadyWarnings } from "./ready_warnings.ts";
import type { ResourceOptions, Resources } from "./resources.ts";
import { DescriptorResources } from "./descriptor_resources.ts";
import { type Restarted, Restarts } from "./restart.ts";
import { ServiceManager } from "./service_manager.ts";
import { Signals } from "./signals.ts";
import type { KeptValue } from "./state.ts";
import { Takeover } from "./takeover.ts";

/** What a generation begins with. */
export interface Origin {
  generation: number;
  /** Absent where no descriptors are passed: no generation follows. */
  control?: UnixListener;
  inheritance: Inheritance;
  /** Makes the sockets and files. @default {on descriptors, inherited or new} */
  resources?: (options: ResourceOptions) => Resources;
  predecessor?: Predecessor;
  /** The connection to a plain server that was inherited from, which waits for "ready". */
  foreign?: UnixConn;
}

/** Milliseconds that the start of a preloaded program may take, before its generation does what can wait. */
const startTime = 100;

/** The parts of one generation, and what they ask of each other. */
export class Parts {
  readonly path: string;
  readonly number: number;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle = new Lifecycle();
  readonly since: Date = new Date();
  readonly draining: Draining;
  readonly command: OwnCommand | undefined;
  readonly inheritance: Inheritance;
  readonly foreign: UnixConn | undefined;
  readonly predecessor: Predecessor | undefined;
  readonly resources: Resources;
  readonly kept = new Map<string, KeptValue>();
  readonly webSockets: WebSockets = new WebSockets();
  readonly moves = new Set<Promise<boolean>>();
  readonly warnings: ReadyWarnings;
  readonly signals: Signals;
  readonly answering: Control;
  readonly paths: Paths;
  readonly restarts: Restarts;
  readonly departure: Departure;
  readonly manager: ServiceManager;
  takeover: Takeover | undefined;
  handover: Handover | undefined;
  /** Set while `ready()` is under way. */
  #isCommitting = false;
  #hasServed = false;
  /** Resolves when the process of a preloaded program has started. */
  #startTime: Promise<void> | undefined;

  constructor(path: string, settings: Settings, origin: Origin) {
    const { control, inheritance, predecessor } = origin;
    this.path = path;
    this.number = origin.generation;
    this.settings = settings;
    this.logger = settings.logger;
    this.draining = new Draining((error) => {
      this.logger.error?.("A listener of `draining` has failed; draining goes on", error);
    });
    this.command = control && new OwnCommand(this.logger);
    this.command?.warn(settings.command);
    this.inheritance = inheritance;
    this.foreign = origin.foreign;
    this.predecessor = predecessor;
    const make = origin.resources ?? ((options) => new DescriptorResources(inheritance, options));
    this.resources = make({
      logger: this.logger,
      webSockets: this.webSockets,
      onSocket: (address, isInherited) => {
        this.warnings.socketMade(address, isInherited);
        this.manager.store();
      },
      // A generation that leaves closes its sockets too, and leaves the store to the next start.
      onClosed: () => {
        if (this.lifecycle.isServing) this.manager.store();
      },
      keepsClosed: () =>
        predecessor !== undefined && !predecessor.gone &&
        (this.lifecycle.state === "starting" || this.lifecycle.isOnProbation),
      mayBeFreed: () => predecessor?.gone === true || this.manager.isRemoving,
      // A generation has made the control socket: its namespace is that of the generations.
      isForeignNetworkExpected: () =>
        predecessor !== undefined && networkNamespace(control!.fd.raw) === ownNetworkNamespace(),
      inUseAdvice: predecessor
        ? undefined
        : `nothing listened at the control path ${
          formatPath(path)
        }. If that was removed from under a generation of this service, it puts it back within ${
          interval / 1000
        } s, or at a signal of its \`restartOn\`: start again then`,
    });
    this.warnings = new ReadyWarnings(this);
    // The first part that may fail, for a signal that does not exist: nothing has to be undone yet.
    this.signals = new Signals(this);
    this.answering = new Control(control, this);
    this.paths = new Paths(control, this);
    this.manager = new ServiceManager(this);
    this.restarts = new Restarts(this);
    this.departure = new Departure(this);
    control?.trackFile();
  }

  /** The listener of the control socket. */
  get control(): UnixListener | undefined {
    return this.answering.listener;
  }

  /** The handover to the successor, if that accepts. */
  get successor(): Handover | undefined {
    return this.handover?.isReady ? this.handover : undefined;
  }

  /** Reads the predecessor's frames, or answers as the first generation. */
  begin(): void {
    running.add(this);
    if (this.predecessor) {
      if (this.settings.isPreloaded) this.predecessor.unref();
      // A process that this one starts from here on writes where the predecessor's output goes, and does not end with
      // the predecessor. The own stderr is still read there: its end is part of the message if this process fails.
      this.#takeStream("stdout");
      this.takeover = new Takeover(this.predecessor, this);
    } else {
      // The process that started this one may have ended by now.
      void releaseOutputPipes(this.logger);
      // A client that comes before ready() is told so.
      this.answer();
    }
  }

  answer(): void {
    this.#afterStart(() => void this.answering.answer());
  }

  restorePaths(): void {
    this.#afterStart(() => void this.paths.restore());
  }

  /**
   * Does it now; in the first generation of a preloaded program, when its process has started: the program is not to wait for
   * that, and a client of the control socket may.
   */
  #afterStart(step: () => void): void {
    const { isPreloaded } = this.settings;
    this.#startTime ??= isPreloaded && !this.predecessor ? detachedPause(startTime) : undefined;
    if (!this.#startTime) return step();
    void this.#startTime.then(() => {
      if (!this.lifecycle.hasLeft) step();
    });
  }

  addresses(): string[] {
    return this.resources.addresses();
  }

  droppedAddresses(): string[] {
    return this.warnings.droppedAddresses();
  }

  /** {@linkcode Generation.status} */
  status(): GenerationStatus {
    const { settings, lifecycle, resources, kept, predecessor } = this;
    return {
      generation: this.number,
      pid: Deno.pid,
      ...(settings.service !== undefined && { service: settings.service }),
      since: this.since.getTime(),
      state: lifecycle.state,
      sockets: resources.sockets(),
      kept: [...kept.keys(), ...resources.files()],
      ...(predecessor && !predecessor.gone && {
        predecessor: {
          pid: predecessor.pid,
          generation: predecessor.generation,
          connections: predecessor.connections,
        },
      }),
    };
  }

  /** {@linkcode Generation.finished} */
  get finished(): Promise<void> {
    return this.departure.finished;
  }

  /** Whether this is the first call of `serve()`, where a control socket exists: elsewhere `Deno.serve` itself looks. */
  isFirstServer(): boolean {
    const isFirst = !this.#hasServed && this.control !== undefined;
    this.#hasServed = true;
    return isFirst;
  }

  /** {@linkcode Generation.ready} */
  async ready(): Promise<void> {
    const { lifecycle, takeover, predecessor, warnings } = this;
    // A generation that was stopped before has nothing to be ready for.
    if (lifecycle.hasLeft) return await this.finished;
    if (lifecycle.state !== "starting" || this.#isCommitting) {
      const why = this.#isCommitting ? "about to be ready" : lifecycle.state;
      throw new TypeError(
        `Cannot be ready: ready() was called before, and this generation is ${why}`,
      );
    }
    this.#isCommitting = true;
    const began = warnings.readyCalled();
    if (takeover) await takeover.commit(began);
    else this.accept("serving");
    this.#isCommitting = false;
    // It may have been stopped meanwhile.
    if (lifecycle.hasLeft) return await this.finished;
    // Without a predecessor that could accept again there is no probation.
    if (lifecycle.isOnProbation && predecessor!.gone) lifecycle.enter("serving");
    const { isOnProbation } = lifecycle;
    // After that: another handover is refused during the probation.
    this.answer();
    this.restorePaths();
    if (isOnProbation) warnings.warnOfUnserved();
    await this.#tellForeign();
    if (predecessor) this.log("withdrawn", began, { predecessor: predecessor.pid });
    else this.log("serving", began);
    if (isOnProbation) void takeover!.prove();
    else this.provenHealthy();
  }

  /** Begins to accept. */
  accept(state: State): void {
    this.takeStderr();
    this.manager.claim();
    this.lifecycle.enter(state);
    this.resources.open();
    this.manager.accepting();
  }

  /** The predecessor cannot accept again: what was not asked for is closed, and the next restart may begin. */
  provenHealthy(): void {
    if (this.lifecycle.isServing) {
      this.warnings.closeUnclaimed();
      void this.manager.proven();
    }
    this.restarts.proceed();
  }

  /** Tells a plain server that its listeners are served: by "ready", and the end of the connection. */
  async #tellForeign(): Promise<void> {
    const { foreign } = this;
    try {
      await foreign?.write(new TextEncoder().encode("ready"));
    } catch (error) {
      this.logger.debug?.(
        "The server that sent the first listeners closed before it was told that they are served",
        error,
      );
    } finally {
      foreign?.[Symbol.dispose]();
    }
  }

  async restart(): Promise<Restarted> {
    return await this.restarts.restart();
  }

  requestRestart(cause: string): void {
    this.restarts.request(cause);
  }

  /** Sends the successor a request for one more restart. */
  async passOn(): Promise<void> {
    await this.successor!.channel.send({ type: "restart" });
  }

  async handOver(channel: Channel, hello: Hello): Promise<void> {
    await handOver(this, channel, hello);
  }

  sharedFate(): SharedFate | undefined {
    if (this.settings.restartAsMain || !this.control) return undefined;
    return sharedFate(ownToken() !== undefined);
  }

  async stopForClient(): Promise<void> {
    await this.departure.stopForClient();
  }

  async rollBack(reason: unknown): Promise<void> {
    await this.departure.rollBack(reason);
  }

  async depart(): Promise<void> {
    await this.departure.depart();
  }

  get isStopping(): boolean {
    return this.departure.isStopping;
  }

  get isReplaced(): boolean {
    return this.successor !== undefined || this.rolledBack !== undefined;
  }

  get rolledBack(): string | undefined {
    return this.departure.rolledBack;
  }

  startReporting(): void {
    this.departure.startReporting();
  }

  stopReporting(): void {
    this.departure.stopReporting();
  }

  /** Stops accepting, in a way that can be undone. */
  withdraw(): void {
    this.departure.endStopDelay();
    this.answering.withdraw();
    this.manager.withdraw();
    this.resources.shut();
  }

  takeStderr(): void {
    this.#takeStream("stderr");
  }

  /** Has an output stream lead where that of the predecessor does, if the predecessor has started this process. */
  #takeStream(kind: "stdout" | "stderr"): void {
    using fd = this.inheritance.take(kind, "")?.fd;
    if (fd) redirectStream(kind === "stdout" ? 1 : 2, fd);
  }

  log(phase: Phase, began: number, details: PhaseDetails = {}): void {
    logPhase(this.logger, phase, began, { generation: this.number, ...details });
  }
}
