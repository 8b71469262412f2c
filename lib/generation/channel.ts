/**
 * Frames, bytes and descriptors over one connection between two generations.
 *
 * @module
 */

import { Fd } from "../../ffi/fd.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import { either, expiring, unlessAborted } from "../time.ts";
import type { UnixConn, WaitOptions } from "../unix/conn.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { HandoverError, UnexpectedEofError } from "../errors.ts";
import { decodeFrame, encodeFrame, frameLength } from "./frame.ts";
import type { Frame } from "./protocol.ts";
import { ResponseWriter } from "../passing/response_writer.ts";
import { maxMetaBytes } from "../wire/record.ts";

/** A descriptor to send, which stays the caller's, with what is to be known of it. */
export interface Passed {
  fd: Fd | number;
  meta?: Uint8Array;
}

/** A descriptor that came, and what came with it. */
export interface Received {
  fd: Fd;
  meta: Uint8Array | null;
}

/** Where the bytes of a state begin: `take()` makes a view of it, for the program may ask for a few of many. */
export interface State {
  bytes: Uint8Array<ArrayBuffer>;
  at: number;
}

/** What goes with a frame. */
export interface SendFrameOptions extends WaitOptions {
  /** Bytes that it announces. */
  state?: Uint8Array[];
  /** Descriptors that it announces. */
  descriptors?: Passed[];
}

/** How long to wait for a frame. */
export interface ReceiveFrameOptions extends WaitOptions {
  /** In milliseconds; for ever without it. */
  timeout?: number;
}

/** How often, and after how many milliseconds, to look again for what has come before giving up. */
const maxLooks = 20;
const lookInterval = 20;

/** Carries frames, and what follows them, over a connection that it owns. */
export class Channel implements Disposable {
  /** The connection. */
  readonly conn: UnixConn;
  readonly #stallTimeout: number;
  #sending: Promise<void> = Promise.resolve();
  /** The pending read of a frame: a wait that times out does not lose it. */
  #receiving: Promise<Frame | undefined> | undefined;

  /**
   * Takes `conn` over.
   *
   * @param stallTimeout Milliseconds in which the peer must read some of what is sent: a large state may
   * take as long as it likes while it flows.
   */
  constructor(conn: UnixConn, stallTimeout = Infinity) {
    // What generations have to say to each other takes its time, in which there is something to do.
    conn.busyPoll = false;
    this.conn = conn;
    this.#stallTimeout = stallTimeout;
  }

  /**
   * Sends a frame and what it announces in one piece: other calls wait until it is sent. When it fails or is
   * aborted half-way, the connection cannot be used any more.
   *
   * @throws {HandoverError} When the peer reads nothing for as long as `stallTimeout`.
   */
  async send(
    frame: Frame,
    { state = [], descriptors = [], signal }: SendFrameOptions = {},
  ): Promise<void> {
    const options = { signal, stallTimeout: this.#stallTimeout };
    const sent = this.#sending.then(async () => {
      await this.conn.write(encodeFrame(frame), options);
      for (const part of partsOf(state.map(({ length }) => length))) {
        await this.conn.write(joined(state.slice(part.start, part.end), part.length), options);
      }
      if (descriptors.length === 0) return;
      // Spread as arguments, many would not fit on the stack.
      const longest = descriptors.reduce(
        (longest, { meta }) => Math.max(longest, meta?.length ?? 0),
        maxMetaBytes,
      );
      using response = new ResponseWriter(this.conn, {
        maxMetaBytes: longest,
        ...options,
      });
      for (const { fd, meta } of descriptors) await response.write(fd, meta);
      await response.flush();
    });
    // The next send waits for this one, whatever comes of it.
    this.#sending = sent.catch(() => {});
    try {
      await unlessAborted(sent, signal);
    } catch (cause) {
      if (!(cause instanceof Deno.errors.TimedOut)) throw cause;
      const what = `The other generation has read nothing for ${this.#stallTimeout} ms`;
      throw new HandoverError(what, "ERR_HANDOVER_TIMEOUT", { cause });
    }
  }

  /** Sends a frame to a process that may not read any more: what it said before, and its end, tell why. */
  async tell(frame: Frame): Promise<void> {
    try {
      await this.send(frame);
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
    }
  }

  /**
   * The next frame; undefined at the end of the stream, which is the end of the other process.
   *
   * @throws {HandoverError} When what comes is no frame, or nothing comes in time.
   */
  async receive({ timeout, signal }: ReceiveFrameOptions = {}): Promise<Frame | undefined> {
    const receiving = this.#receiving ??= this.#receive();
    using late = timeout === undefined ? undefined : this.#expiring(
      timeout,
      `The other generation has not answered for ${timeout} ms`,
    );
    try {
      const frame = await unlessAborted(receiving, late ? either(late.signal, signal) : signal);
      this.#receiving = undefined;
      return frame;
    } catch (error) {
      // Of a wait that ended by itself, the frame is still to come.
      if (!signal?.aborted && !late?.signal.aborted) this.#receiving = undefined;
      throw error;
    }
  }

  /**
   * A signal that is aborted with a {@linkcode HandoverError} when nothing has come for so many
   * milliseconds: one for all that is waited for, however many values that are.
   */
  stalling(milliseconds: number, what: string): { signal: AbortSignal } & Disposable {
    let before = this.conn.received;
    return this.#expiring(milliseconds, what, () => {
      const { received } = this.conn;
      const more = received > before;
      before = received;
      return more;
    });
  }

  /** @param hasProgressed Whether the time begins anew when it is up. */
  #expiring(
    milliseconds: number,
    what: string,
    hasProgressed: () => boolean = () => false,
  ): { signal: AbortSignal } & Disposable {
    let looks = 0;
    return expiring(milliseconds, () => new HandoverError(what, "ERR_HANDOVER_TIMEOUT"), () => {
      if (hasProgressed()) {
        looks = 0;
        return milliseconds;
      }
      // A process that was stopped finds its timers due before it sees what has come meanwhile.
      const come = this.conn.fd.owned && unreadBytes(this.conn.fd.raw) > 0;
      return looks++ === 0 || come && looks <= maxLooks ? lookInterval : 0;
    });
  }

  async #receive(): Promise<Frame | undefined> {
    const head = new Uint8Array(4);
    try {
      const n = await this.conn.read(head);
      if (n === null) return undefined;
      await this.conn.readFull(head.subarray(n));
      return decodeFrame(await this.conn.readFull(new Uint8Array(frameLength(head))));
    } catch (error) {
      // It was killed while it wrote, or left without reading what it was sent.
      if (isEnd(error)) return undefined;
      throw error;
    }
  }

  /** The bytes that the items of an offer announced: so many of each, and several in the same memory. */
  async receiveState(lengths: number[], options: WaitOptions = {}): Promise<State[]> {
    const all: State[] = [];
    for (const { start, end, length } of partsOf(lengths)) {
      const bytes = await this.conn.readFull(new Uint8Array(length), options);
      for (let i = start, at = 0; i < end; at += lengths[i++]) all.push({ bytes, at });
    }
    return all;
  }

  /**
   * So many descriptors, which are the caller's.
   *
   * @throws {UnexpectedEofError} When the stream ends before; those that came are closed.
   */
  async receiveDescriptors(
    count: number,
    options: WaitOptions = {},
  ): Promise<Received[]> {
    using received = new DisposableStack();
    const all: Received[] = [];
    while (all.length < count) {
      const record = await this.conn.record(options);
      if (!record) {
        throw new UnexpectedEofError(
          `The stream ended after ${all.length} of ${count} descriptors`,
        );
      }
      all.push({
        fd: received.use(new Fd(record.descriptor)),
        meta: record.meta,
      });
    }
    received.move();
    return all;
  }

  /** Closes the connection. */
  [Symbol.dispose](): void {
    // The wait for a frame ends with it.
    this.#receiving?.catch(() => {});
    this.conn[Symbol.dispose]();
  }
}

/** How many bytes of small states are written and read at once. */
const fullPart = 1 << 16;

/** Splits states of these lengths into parts to write or read at once: one large state, or several small ones. */
function* partsOf(lengths: number[]): Generator<{ start: number; end: number; length: number }> {
  for (let start = 0, end = 0; start < lengths.length; start = end) {
    let length = lengths[end++];
    while (end < lengths.length && length + lengths[end] <= fullPart) length += lengths[end++];
    yield { start, end, length };
  }
}

function joined(parts: Uint8Array[], length: number): Uint8Array {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Whether an error of a connection is the end of the process at its other end. */
export function isEnd(error: unknown): boolean {
  return error instanceof UnexpectedEofError || error instanceof Deno.errors.ConnectionReset;
}
