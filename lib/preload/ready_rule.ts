/**
 * When a preloaded generation is ready: its program does not say so.
 *
 * @module
 */

/** What the rule needs of its generation. */
export interface ReadyRuleHost {
  /** How many inherited listeners and datagram sockets the program has not asked for. */
  unclaimed(): number;
  /** Accepts from here on. */
  ready(): Promise<void>;
}

/**
 * Ready is, from the first socket on, a generation that has asked for everything that was inherited, a turn later; or one
 * that has asked for no further socket for some time. Without a socket it is never ready.
 */
export class ReadyRule {
  readonly #host: ReadyRuleHost;
  readonly #settle: number;
  readonly #isExplicit: boolean;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ready: Promise<void> | undefined;

  /**
   * @param settle Milliseconds without a further socket.
   * @param isExplicit Whether only the program's own call counts.
   */
  constructor(host: ReadyRuleHost, settle: number, isExplicit: boolean) {
    this.#host = host;
    this.#settle = settle;
    this.#isExplicit = isExplicit;
  }

  /** Whether the generation is ready, or about to be. */
  get isReady(): boolean {
    return this.#ready !== undefined;
  }

  /** Notes that the program has made a socket. */
  socketMade(): void {
    if (this.#ready || this.#isExplicit) return;
    clearTimeout(this.#timer);
    const isComplete = this.#host.unclaimed() === 0;
    this.#timer = setTimeout(() => {
      // The program may have closed one again meanwhile.
      if (isComplete && this.#host.unclaimed() > 0) this.socketMade();
      else void this.ready();
    }, isComplete ? 0 : this.#settle);
    Deno.unrefTimer(this.#timer);
  }

  /** Is ready now; once. */
  ready(): Promise<void> {
    // The first call of any timer function loads those of node, for 5 ms.
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    return this.#ready ??= this.#host.ready();
  }
}
