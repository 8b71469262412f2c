/**
 * Unix stream connections that read and write plain bytes and never lose a descriptor.
 *
 * @module
 */

import { closeAll, Fd } from "../../ffi/fd.ts";
import {
  IncomingMessage,
  OutgoingMessage,
  tooManyInFlight,
  wouldBlock,
} from "../../ffi/message.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { connectUnix, peerAddress } from "../../ffi/socket.ts";
import { type Credentials, peerCredentials } from "../../ffi/peer.ts";
import {
  growSendBuffer,
  isUnixStream,
  shutdownWrite,
  unsentBytes,
} from "../../ffi/socket_options.ts";
import { ControlTruncatedError, NotUnixConnError, UnexpectedEofError } from "../errors.ts";
import { isReadyInTime } from "../event_loop/busy_poll.ts";
import { abandon, ready, refreshKeepAlive, yieldToEventLoop } from "../event_loop/reactor.ts";
import { pause, unlessAborted } from "../time.ts";
import { defaultMaxReceivedMeta, RecordReader, type WireRecord } from "../wire/record.ts";
import { checkPeer, type PeerCheck } from "./peer.ts";
import { Stall } from "./stall.ts";

/** Options of every call that waits. */
export interface WaitOptions {
  /** Ends the wait: it rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Options of {@linkcode connect}. */
export interface ConnectOptions extends WaitOptions {
  /**
   * Called for the process that listens: if it returns false, nothing is sent or received. For a path that other
   * users may write to: `({ uid }) => uid === 0`. @default {every process}
   */
  allow?: PeerCheck;
}

/** Options of a write. */
export interface WriteOptions extends WaitOptions {
  /** Milliseconds in which the peer has to read some of the queued bytes. */
  stallTimeout?: number;
}

/**
 * Connects to the unix stream socket at `path`; "\0name" is a name in the abstract namespace.
 *
 * ```ts
 * import { connect } from "@graceful/deno";
 * import { assertRejects } from "@std/assert";
 *
 * await assertRejects(() => connect("/nonexistent/app.sock"), Deno.errors.NotFound);
 * ```
 *
 * @throws {Deno.errors.NotFound} When there is no such path.
 * @throws {Deno.errors.ConnectionRefused} When no process listens there.
 * @throws {PeerNotAllowedError} When `allow` returns false.
 */
export async function connect(path: string, options: ConnectOptions = {}): Promise<UnixConn> {
  const { allow, signal } = options;
  const attempt = `Cannot connect to ${formatPath(path)}`;
  for (let delay = 1;; delay = Math.min(delay * 2, 50)) {
    signal?.throwIfAborted();
    const raw = connectUnix(path, attempt);
    if (raw >= 0) {
      const conn = new UnixConn(new Fd(raw), true);
      conn.busyPoll = true;
      return allowed(conn, allow, attempt);
    }
    await pause(delay, signal);
  }
}

function allowed(conn: UnixConn, allow: PeerCheck | undefined, attempt: string): UnixConn {
  try {
    if (allow) checkPeer(conn, allow, attempt);
    return conn;
  } catch (error) {
    conn.close();
    throw error;
  }
}

/** How many reads in a row may succeed without a wait before the event loop gets a turn. */
const manyInARow = 8;

// Shared by all connections of the thread: filled and emptied within one turn of the event loop.
const chunkBytes = 1 << 16;
let incomingBuffers: IncomingMessage | undefined;
let outgoingBuffers: OutgoingMessage | undefined;

/**
 * A connected unix stream socket: plain bytes and descriptors.
 *
 * ```ts
 * import { connect, listen, receiveFrom, sendTo, UnixConn } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using conn: UnixConn = await connect(listener.addr.path!);
 * using other = await listener.accept();
 * await other.write(new TextEncoder().encode("26 bytes, then descriptors"));
 * await sendTo(other, 0);
 * await conn.readFull(new Uint8Array(26));
 * await receiveFrom(conn, (fd) => console.log("got", fd.raw));
 * ```
 */
export class UnixConn implements Disposable {
  /** The descriptor, on loan: the connection owns it. */
  readonly fd: Fd;
  /**
   * Whether to poll on this thread for the next bytes: most peers answer within a tenth of a millisecond, and a wait
   * elsewhere takes as long again. Set to false by the first answer that takes longer.
   *
   * @ignore
   */
  busyPoll = false;
  #referenced = true;
  readonly #keepsAlive = () => this.#referenced;
  readonly #reader = new RecordReader();
  #peer: Credentials | undefined;
  /** How many reads in a row have succeeded without a wait. */
  #immediate = 0;
  #received = 0;
  #wrote = false;
  /** Whether a write was sent in part. */
  #unfinished = false;
  /** The error of every further read, or write: a message was left incomplete. */
  #readEnd: Error | undefined;
  #writeEnd: Error | undefined;
  /** Settles when the pending writer is done. */
  #writing: Promise<void> | undefined;

  /**
   * Takes over a connected unix stream socket.
   *
   * @param known Whether the caller knows that it is one: it is not checked then.
   * @throws {NotUnixConnError} When `fd` is something else; it stays open, with the caller.
   */
  constructor(fd: Fd, known = false) {
    if (!known && (!isUnixStream(fd.raw, { listening: false }) || !peerAddress(fd.raw))) {
      throw new NotUnixConnError(`Descriptor ${fd.raw} is not a unix stream connection`);
    }
    this.fd = fd;
  }

  /** The process at the other end, as the kernel gives it (unix(7), SO_PEERCRED). */
  get peer(): Credentials {
    return this.#peer ??= peerCredentials(this.fd.raw);
  }

  /**
   * The number of bytes received so far, those of records included.
   *
   * @ignore
   */
  get received(): number {
    return this.#received;
  }

  /**
   * Reads up to `into.length` plain bytes; resolves to their number, or to null at the end of the stream.
   *
   * Do not read more than the plain bytes that the peer sends: the bytes of a record that were read are missing from it.
   * The descriptors that were attached to them stay queued.
   */
  async read(into: Uint8Array, options: WaitOptions = {}): Promise<number | null> {
    if (into.length === 0) return 0;
    if (this.#readEnd) throw this.#readEnd;
    const waiting = this.#reader.read(into);
    if (waiting > 0) return waiting;
    return await this.#fill(into.length, options.signal) ? this.#reader.read(into) : null;
  }

  /**
   * Fills `into` with plain bytes, and reads no more: a message behind them stays whole.
   *
   * @throws {UnexpectedEofError} When the stream ends before.
   */
  async readFull<T extends Uint8Array>(into: T, options: WaitOptions = {}): Promise<T> {
    let filled = 0;
    while (filled < into.length) {
      const n = await this.read(into.subarray(filled), options);
      if (n === null) {
        throw new UnexpectedEofError(
          `The stream ended after ${filled} of ${into.length} bytes`,
        );
      }
      filled += n;
    }
    return into;
  }

  /** Writes all of `bytes`; resolves to their number. */
  async write(bytes: Uint8Array, options: WaitOptions = {}): Promise<number> {
    const buffers = outgoingBuffers ??= new OutgoingMessage(chunkBytes);
    await this.#write(bytes.length, options, (sent) => {
      const chunk = bytes.subarray(sent, sent + chunkBytes);
      buffers.data.set(chunk);
      return buffers.send(this.fd.raw, 0, chunk.length, 0);
    });
    return bytes.length;
  }

  /** Ends the sending half: the peer reads the end of the stream after the queued bytes (shutdown(2), SHUT_WR). */
  closeWrite(): void {
    shutdownWrite(this.fd.raw);
  }

  /**
   * Sends `length` bytes of `message` with its first `count` descriptors. Gives undefined if it was sent without a
   * wait: a promise for each message would cost as much as the message.
   *
   * @ignore
   */
  send(
    message: OutgoingMessage,
    length: number,
    count: number,
    options: WriteOptions = {},
  ): Promise<void> | undefined {
    // The kernel attaches all descriptors to the first part: the other parts have none.
    const attempt = (sent: number) =>
      message.send(this.fd.raw, sent, length, sent === 0 ? count : 0);
    if (this.#writing) return this.#write(length, options, attempt);
    options.signal?.throwIfAborted();
    if (this.#writeEnd) throw this.#writeEnd;
    const sent = attempt(0);
    if (sent >= 0) this.#wrote = true;
    return sent === length ? undefined : this.#write(length, options, attempt, sent);
  }

  /**
   * Makes the end of the stream an error for the peer, without a wait: every receiver reports a stream that ends inside
   * a record, and none a stream that ends behind one.
   *
   * @ignore
   */
  poison(): void {
    if (this.#writeEnd) return;
    this.#writeEnd = new Deno.errors.BadResource(
      "Nothing more can be written to this connection: its stream was ended inside a record",
    );
    // One more byte could complete the record.
    if (this.#unfinished) return;
    // The peer may not read, and the buffer be full: room for one byte is added.
    growSendBuffer(this.fd.raw);
    const buffers = outgoingBuffers ??= new OutgoingMessage(chunkBytes);
    buffers.data[0] = 0;
    buffers.send(this.fd.raw, 0, 1, 0);
  }

  /**
   * The next record, if it is complete already; without a wait.
   *
   * @ignore
   */
  whole(): WireRecord | undefined {
    try {
      return this.#reader.next();
    } catch (error) {
      this.discard();
      throw error;
    }
  }

  /**
   * Receives the next record; undefined at the end of the stream. Its descriptor is the caller's.
   *
   * @ignore
   */
  async record(
    { maxMetaBytes = defaultMaxReceivedMeta, signal }: WaitOptions & { maxMetaBytes?: number } = {},
  ): Promise<WireRecord | undefined> {
    signal?.throwIfAborted();
    if (this.#readEnd) throw this.#readEnd;
    this.#reader.limit(maxMetaBytes);
    for (let ended = false;;) {
      const record = this.whole();
      // A copy: the reader reuses the object for the next record, which may be asked for before this one is looked at.
      if (record) return { ...record };
      if (ended) {
        this.#checked(() => this.#reader.end());
        return undefined;
      }
      ended = !await this.#fill(chunkBytes, signal);
    }
  }

  /**
   * Closes every descriptor that arrived and was not delivered: none between two messages; inside a message, the
   * boundary to the next record is lost.
   *
   * @ignore
   */
  discard(): void {
    closeAll(this.#reader.releaseDescriptors());
    if (!this.#reader.isBetweenMessages) this.#loseTrack();
  }

  /** Ends receiving: the boundary between records is lost. */
  #loseTrack(): void {
    this.#readEnd ??= new Deno.errors.BadResource(
      "Nothing more can be received on this connection: a message was left half read",
    );
  }

  /** Has pending calls keep the process running, as by default. */
  ref(): void {
    this.#referenced = true;
    refreshKeepAlive();
  }

  /** Has pending calls not keep the process running. */
  unref(): void {
    this.#referenced = false;
    refreshKeepAlive();
  }

  /**
   * Closes the connection, and every descriptor that arrived and was not delivered.
   *
   * @throws {Deno.errors.BadResource} When it is closed already.
   */
  close(): void {
    const raw = this.fd.take();
    abandon(raw, this, () => new Deno.errors.BadResource("The connection was closed"));
    closeAll([raw]);
    this.discard();
  }

  /** Closes the connection unless it is closed. */
  [Symbol.dispose](): void {
    if (this.fd.owned) this.close();
  }

  /** Waits for bytes, and passes them to the reader; false at the end of the stream. */
  async #fill(most: number, signal: AbortSignal | undefined): Promise<boolean> {
    const buffers = incomingBuffers ??= new IncomingMessage(chunkBytes);
    for (;;) {
      signal?.throwIfAborted();
      const n = this.#receive(buffers, Math.min(most, chunkBytes));
      if (n === 0) return false;
      if (n !== wouldBlock) {
        this.#checked(() => this.#take(buffers, n));
        if (++this.#immediate > manyInARow) await yieldToEventLoop(signal);
        return true;
      }
      await this.#wait("readable", signal);
      this.#immediate = 0;
    }
  }

  #receive(buffers: IncomingMessage, most: number): number {
    try {
      return buffers.receive(this.fd.raw, most);
    } catch (error) {
      // A peer that closes with unread bytes resets the connection: behind a whole record that is the end of the stream.
      const reset = error instanceof Deno.errors.ConnectionReset;
      if (reset && this.#wrote && this.#reader.isBetweenMessages) return 0;
      this.discard();
      throw error;
    }
  }

  #take(buffers: IncomingMessage, n: number): void {
    this.#received += n;
    const descriptors = buffers.descriptors.subarray(0, buffers.count);
    this.#reader.push(buffers.data.subarray(0, n), descriptors);
    if (buffers.truncated) {
      this.#loseTrack();
      throw new ControlTruncatedError(
        `Descriptors of a message were dropped by the kernel after ${buffers.count}: the process ` +
          `has reached its limit of open ones (RLIMIT_NOFILE); raise it with ulimit -n`,
      );
    }
  }

  /** Runs a step; on an error the record boundary is lost: closes all queued descriptors. */
  #checked<T>(step: () => T): T {
    try {
      return step();
    } catch (error) {
      this.discard();
      throw error;
    }
  }

  /**
   * Writes `length` bytes by `attempt`s, each of which gives the number of bytes it has sent; one writer at a time.
   *
   * @param first The result of the first attempt, if that was made already.
   */
  async #write(
    length: number,
    { signal, stallTimeout = Infinity }: WriteOptions,
    attempt: (sent: number) => number,
    first?: number,
  ): Promise<void> {
    while (this.#writing) await unlessAborted(this.#writing, signal);
    signal?.throwIfAborted();
    if (this.#writeEnd) throw this.#writeEnd;
    let turn: PromiseWithResolvers<void> | undefined;
    let stall: Stall | undefined;
    let sent = 0;
    try {
      while (sent < length) {
        const n = first ?? attempt(sent);
        first = undefined;
        if (n >= 0) {
          sent += n;
          this.#unfinished = sent < length;
          stall = undefined;
          this.#wrote = true;
          continue;
        }
        turn ??= Promise.withResolvers<void>();
        this.#writing = turn.promise;
        stall ??= new Stall(stallTimeout, () => unsentBytes(this.fd.raw));
        if (n === tooManyInFlight) await stall.pause(signal);
        else await stall.limit(signal, (limited) => this.#wait("writable", limited));
      }
    } catch (cause) {
      if (sent > 0) {
        const end = new Deno.errors.BadResource(
          `Nothing more can be written to this connection: a write ended after ${sent} of ${length} bytes`,
        );
        this.#writeEnd = Object.assign(end, { cause });
      }
      throw cause;
    } finally {
      if (turn) {
        this.#writing = undefined;
        turn.resolve();
      }
    }
  }

  async #wait(
    readiness: "readable" | "writable",
    signal: AbortSignal | undefined,
  ): Promise<void> {
    // Never poll for a peer in this process: it needs this thread to answer.
    this.busyPoll &&= this.peer.pid !== Deno.pid;
    if (this.busyPoll) {
      this.busyPoll = isReadyInTime(this.fd.raw, readiness);
      if (this.busyPoll) return await yieldToEventLoop(signal);
    }
    await ready(this.fd.raw, readiness, { keepsAlive: this.#keepsAlive, owner: this, signal });
  }
}
