/**
 * Where a handler writes the descriptors that it sends.
 *
 * @module
 */

import { closeAll, type Fd, rawOf } from "../../ffi/fd.ts";
import { OutgoingMessage } from "../../ffi/message.ts";
import { NotUnixConnError } from "../errors.ts";
import { guarded, type Logger } from "../logger.ts";
import { checkDuration } from "../time.ts";
import { metaBytes, type MetaLike } from "../wire/meta.ts";
import { UnixConn } from "../unix/conn.ts";
import {
  Batch,
  checkMaxMetaBytes,
  headerBytes,
  maxMetaBytes as defaultMaxMetaBytes,
  maxSentDescriptors,
} from "../wire/record.ts";

/** Options of everything that sends. */
export interface SendOptions {
  /**
   * The longest meta to send, in bytes. More than the default only to receivers of this library: the
   * Go library would cut it silently. @default {4092}
   */
  maxMetaBytes?: number;
  /**
   * How long the receiver may read nothing of what waits for it, in milliseconds: then it counts as
   * dead. What it holds back counts against every sender of the same user. @default {30000}
   */
  stallTimeout?: number;
  /** Ends a wait for the receiver to read; the wait rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** A descriptor that is the response's now, and what to do once it is sent. */
interface Gift {
  readonly fd: Fd;
  readonly afterwards: (() => void) | undefined;
}

/** One message in the making, and the buffers that it goes out from. */
interface Outgoing {
  readonly message: OutgoingMessage;
  readonly batch: Batch;
}

/** Those of responses that have ended: making the buffers takes longer than sending them. */
const spare: Outgoing[] = [];
const mostSpare = 8;

/** Where nothing is logged. */
const silent = guarded({});

function outgoing(maxMetaBytes: number): Outgoing {
  const reused = maxMetaBytes === defaultMaxMetaBytes ? spare.pop() : undefined;
  if (reused) return reused;
  const message = new OutgoingMessage(headerBytes + maxMetaBytes);
  const descriptors = message.descriptors.subarray(0, maxSentDescriptors);
  return { message, batch: new Batch(message.data, descriptors) };
}

/**
 * Collects descriptors into messages and sends them over one connection, in order.
 *
 * ```ts
 * import { type Handler, Meta } from "@graceful/deno";
 *
 * const handler: Handler = async (_conn, response) => {
 *   response.info("sending the standard streams");
 *   for (const fd of [0, 1, 2]) await response.write(fd, new Meta({ stream: fd }));
 * };
 * ```
 */
export class ResponseWriter implements Disposable {
  readonly #conn: UnixConn;
  readonly #outgoing: Outgoing;
  readonly #logger: Logger;
  readonly #signal: AbortSignal | undefined;
  readonly #stallTimeout: number;
  readonly #maxMetaBytes: number;
  /** What was given with the message in the making. */
  #gifts: Gift[] = [];
  /** Settles when everything that was called before is done; undefined when nothing is under way. */
  #last: Promise<void> | undefined;
  #failure: { error: unknown } | undefined;
  #ended = false;
  #sent = 0;

  /**
   * Writes to `conn`, which stays the caller's.
   *
   * @throws {NotUnixConnError} When `conn` is not a connection of this library's: another kind cannot
   * carry descriptors.
   */
  constructor(conn: UnixConn, options: SendOptions & { logger?: Logger } = {}) {
    if (!(conn instanceof UnixConn)) {
      throw new NotUnixConnError(
        "Descriptors travel over connections that connect(), or accept() of listen(), of this module gives",
      );
    }
    const { maxMetaBytes = defaultMaxMetaBytes, logger = silent, signal, stallTimeout = 30_000 } =
      options;
    checkMaxMetaBytes(maxMetaBytes);
    checkDuration("stallTimeout", stallTimeout);
    this.#conn = conn;
    this.#outgoing = outgoing(maxMetaBytes);
    this.#maxMetaBytes = maxMetaBytes;
    this.#logger = guarded(logger);
    this.#signal = signal;
    this.#stallTimeout = stallTimeout;
  }

  /** How many descriptors were sent. */
  get sent(): number {
    return this.#sent;
  }

  /**
   * Adds a descriptor and its meta to the message, which is sent when it is full and at `flush`. The
   * descriptor stays the caller's, who keeps it open until then.
   *
   * `await` what it gives. That is undefined where there is nothing to wait for, which is almost
   * always: who writes thousands may look first, because an `await` takes longer than the rest.
   *
   * ```ts
   * import { Fd, type Handler } from "@graceful/deno";
   *
   * const many = Array.from({ length: 1000 }, () => new Fd(0).dup());
   * const handler: Handler = async (_conn, response) => {
   *   for (const fd of many) {
   *     const room = response.write(fd);
   *     if (room) await room;
   *   }
   * };
   * ```
   *
   * @throws {LongWriteError} When no message has room for the meta; the others are not affected.
   */
  write(fd: Fd | number, meta?: MetaLike): Promise<void> | undefined {
    return this.#write(fd, meta);
  }

  /**
   * The same for a descriptor that is not the caller's any more: it is closed once it is sent, and
   * `afterwards` runs.
   *
   * @ignore
   */
  async give(fd: Fd, meta?: MetaLike, afterwards?: () => void): Promise<void> {
    try {
      await this.#write(fd, meta, { fd, afterwards });
    } catch (error) {
      fd[Symbol.dispose]();
      throw error;
    }
  }

  #write(fd: Fd | number, meta: MetaLike | undefined, gift?: Gift): Promise<void> | undefined {
    try {
      const raw = rawOf(fd);
      const bytes = metaBytes(meta);
      if (!this.#last && this.#add(raw, bytes, gift)) return;
      return this.#inTurn(() => {
        if (this.#add(raw, bytes, gift)) return;
        const sending = this.#send();
        if (sending) return sending.then(() => void this.#add(raw, bytes, gift));
        this.#add(raw, bytes, gift);
      });
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Sends what was written and not sent yet.
   *
   * @throws {Deno.errors.BadResource} When one of the descriptors is not open; the message names it,
   * and none of those that were waiting with it was sent.
   */
  async flush(): Promise<void> {
    await this.#inTurn(() => this.#send());
  }

  /** Logs what happens all the time. */
  debug(message: string, ...details: unknown[]): void {
    this.#logger.debug?.(message, ...details);
  }

  /** Logs what an operator may want to know. */
  info(message: string, ...details: unknown[]): void {
    this.#logger.info?.(message, ...details);
  }

  /** Logs what went wrong. */
  error(message: string, ...details: unknown[]): void {
    this.#logger.error?.(message, ...details);
  }

  /**
   * Closes what it owns. What was written and not sent is not sent, but for a message that waits for
   * room already: that one ends with the connection at the latest. Nothing more can be written.
   */
  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    // What is on its way still needs all of it, until it is sent or has failed.
    if (this.#last) return;
    this.#release();
    const reusable = this.#maxMetaBytes === defaultMaxMetaBytes;
    if (reusable && spare.length < mostSpare) spare.push(this.#outgoing);
  }

  #check(): void {
    if (this.#failure) throw this.#failure.error;
    if (this.#ended) throw new Deno.errors.BadResource("The response has ended");
  }

  /** Empties the message; what was given with it is closed. */
  #release(): Gift[] {
    this.#outgoing.batch.clear();
    const gifts = this.#gifts;
    if (gifts.length === 0) return gifts;
    this.#gifts = [];
    closeAll(gifts.map(({ fd }) => fd.take()));
    return gifts;
  }

  /** Whether the message had room; throws what sending the one before threw. */
  #add(raw: number, bytes: Uint8Array, gift: Gift | undefined): boolean {
    this.#check();
    if (!this.#outgoing.batch.add(raw, bytes)) return false;
    if (gift) this.#gifts.push(gift);
    return true;
  }

  /** Runs a step when those before it are done, however they ended. */
  #inTurn(step: () => Promise<void> | undefined): Promise<void> | undefined {
    const result = this.#last ? this.#last.then(step) : step();
    if (!result) return undefined;
    const last = result.catch(() => {}).finally(() => {
      if (this.#last === last) this.#last = undefined;
    });
    this.#last = last;
    return result;
  }

  /** Sends what is there; undefined when nothing has to be waited for. */
  #send(): Promise<void> | undefined {
    this.#check();
    const { message, batch } = this.#outgoing;
    if (batch.count === 0) return undefined;
    try {
      const sending = this.#conn.send(message, batch.length, batch.count, {
        signal: this.#signal,
        stallTimeout: this.#stallTimeout,
      });
      if (sending) return sending.then(() => this.#hasSent(), (error) => this.#fail(error));
    } catch (error) {
      this.#fail(error);
    }
    this.#hasSent();
  }

  #fail(error: unknown): never {
    this.#failure = { error };
    this.#release();
    throw error;
  }

  #hasSent(): void {
    this.#sent += this.#outgoing.batch.count;
    for (const { afterwards } of this.#release()) {
      try {
        afterwards?.();
      } catch (error) {
        this.error("Cannot let go of what was sent", error);
      }
    }
  }
}
