/**
 * The response of a handler: it collects descriptors into messages, and sends them.
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

/** Options of all sending functions. */
export interface SendOptions {
  /**
   * The longest meta to send, in bytes. More than the default only to receivers of this library: the
   * Go library would cut it silently. @default {4092}
   */
  maxMetaBytes?: number;
  /**
   * How long the receiver may read none of the queued bytes, in milliseconds: then it counts as dead. Descriptors
   * that it does not read count against the limit of all senders of the same user. @default {30000}
   */
  stallTimeout?: number;
  /** Ends a wait for the receiver to read; the wait rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** A descriptor that belongs to the response, and a function to call after it was sent. */
interface Gift {
  readonly fd: Fd;
  readonly afterwards: (() => void) | undefined;
}

/** A message that is being made, with its buffers. */
interface Outgoing {
  readonly message: OutgoingMessage;
  readonly batch: Batch;
}

/** Buffers of responses that have ended: to make them takes longer than to send them. */
const spare: Outgoing[] = [];
const mostSpare = 8;

/** A logger that logs nothing. */
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
  /** Descriptors that belong to the message that is being made. */
  #gifts: Gift[] = [];
  /** Settles when all earlier calls are done; undefined when none is pending. */
  #last: Promise<void> | undefined;
  #failure: { error: unknown } | undefined;
  #ended = false;
  #sent = 0;

  /**
   * Writes to `conn`, which stays the caller's.
   *
   * @throws {NotUnixConnError} When `conn` is not a `UnixConn`: no other object sends descriptors.
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

  /** The number of descriptors that were sent. */
  get sent(): number {
    return this.#sent;
  }

  /**
   * Adds a descriptor and its meta to the message, which is sent when it is full and at `flush`. The
   * descriptor stays the caller's, and has to stay open until then.
   *
   * `await` the result. It is undefined, almost always, when no wait is needed: a program that writes thousands may
   * check that first, because `await` takes longer than everything else.
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
   * @throws {LongWriteError} When the meta is longer than a message may be; all others are sent.
   */
  write(fd: Fd | number, meta?: MetaLike): Promise<void> | undefined {
    return this.#write(fd, meta);
  }

  /**
   * The same for a descriptor that belongs to the response from then on: it is closed after it was sent, and
   * `afterwards` is called.
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
   * Sends all descriptors that were written and not sent yet.
   *
   * @throws {Deno.errors.BadResource} When one of the descriptors is not open: the error names it, and no descriptor of
   * that message was sent.
   */
  async flush(): Promise<void> {
    await this.#inTurn(() => this.#send());
  }

  /** Logs at level "debug". */
  debug(message: string, ...details: unknown[]): void {
    this.#logger.debug?.(message, ...details);
  }

  /** Logs at level "info". */
  info(message: string, ...details: unknown[]): void {
    this.#logger.info?.(message, ...details);
  }

  /** Logs at level "error". */
  error(message: string, ...details: unknown[]): void {
    this.#logger.error?.(message, ...details);
  }

  /**
   * Closes the descriptors that it owns. Those that were not sent are not sent any more, except a message that waits
   * for room: that one ends with the connection at the latest. A later write throws.
   */
  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    // A pending send still needs the buffers, until it is done or has failed.
    if (this.#last) return;
    this.#release();
    const reusable = this.#maxMetaBytes === defaultMaxMetaBytes;
    if (reusable && spare.length < mostSpare) spare.push(this.#outgoing);
  }

  #check(): void {
    if (this.#failure) throw this.#failure.error;
    if (this.#ended) throw new Deno.errors.BadResource("The response has ended");
  }

  /** Empties the message, and closes the descriptors that belong to it. */
  #release(): Gift[] {
    this.#outgoing.batch.clear();
    const gifts = this.#gifts;
    if (gifts.length === 0) return gifts;
    this.#gifts = [];
    closeAll(gifts.map(({ fd }) => fd.take()));
    return gifts;
  }

  /** Whether the message had room; throws the error of the last send. */
  #add(raw: number, bytes: Uint8Array, gift: Gift | undefined): boolean {
    this.#check();
    if (!this.#outgoing.batch.add(raw, bytes)) return false;
    if (gift) this.#gifts.push(gift);
    return true;
  }

  /** Runs a step after all earlier ones, however these ended. */
  #inTurn(step: () => Promise<void> | undefined): Promise<void> | undefined {
    const result = this.#last ? this.#last.then(step) : step();
    if (!result) return undefined;
    // Its error is thrown where the result is awaited.
    const last = result.catch(() => {}).finally(() => {
      if (this.#last === last) this.#last = undefined;
    });
    this.#last = last;
    return result;
  }

  /** Sends the message; undefined if no wait was needed. */
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
