/**
 * Unix stream connections that read and write plain bytes and never lose a descriptor.
 *
 * @module
 */

import { closeAll, Fd } from "../../ffi/fd.ts";
import {
  IncomingMessage,
  inFlightError,
  OutgoingMessage,
  tooManyInFlight,
  wouldBlock,
} from "../../ffi/message.ts";
import { abandon, isReadyInTime, ready, yieldToEventLoop } from "../../ffi/poll.ts";
import { readText } from "../../ffi/file.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import {
  connectUnix,
  type Credentials,
  effectiveUser,
  growSendBuffer,
  isUnixStream,
  peerAddress,
  peerCredentials,
  shutdownWrite,
  unsentBytes,
} from "../../ffi/socket.ts";
import { either, longestPause, pause, unlessAborted } from "../time.ts";
import {
  ControlTruncatedError,
  NotUnixConnError,
  PeerNotAllowedError,
  UnexpectedEofError,
} from "../errors.ts";
import { defaultMaxReceivedMeta, RecordReader, type WireRecord } from "../wire/record.ts";

/** What waits takes a signal: aborting it rejects the wait with the signal's reason. */
export interface WaitOptions {
  /** Ends the wait. */
  signal?: AbortSignal;
}

/** Whether the process at the other end is one to talk to: by its user, group or number. */
export type PeerCheck = (peer: Credentials) => boolean;

/** Allows those who may have everything that this process has anyway. */
export function sameUserOrRoot({ uid }: Credentials): boolean {
  return uid === 0 || uid === effectiveUser() && !isOverflow(uid);
}

/**
 * Whether the number stands for every user that has none in this user namespace
 * (user_namespaces(7), "Unmapped user and group IDs"), and so tells nothing.
 */
function isOverflow(uid: number): boolean {
  if (uid !== Number(readText("/proc/sys/kernel/overflowuid") ?? 65534)) return false;
  const lines = (readText("/proc/self/uid_map") ?? "").trim().split("\n");
  return !lines.some((line) => {
    const [first, , count] = line.trim().split(/ +/).map(Number);
    return uid >= first && uid < first + count;
  });
}

/** Options of {@linkcode connect}. */
export interface ConnectOptions extends WaitOptions {
  /**
   * Asked about the process that listens: nothing is taken from one, or given to it, for which this
   * is false. For a path that others may write to: `({ uid }) => uid === 0`. @default {any}
   */
  allow?: PeerCheck;
}

/** How a message is sent. */
export interface WriteOptions extends WaitOptions {
  /** Milliseconds in which the peer must read some of what waits for it. */
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
 * @throws {Deno.errors.ConnectionRefused} When nobody listens there.
 * @throws {PeerNotAllowedError} When `allow` says so.
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

/**
 * @throws {PeerNotAllowedError} When `allow` is not true for the process at the other end, or throws.
 *
 * @ignore
 */
export function checkPeer({ peer }: UnixConn, allow: PeerCheck, attempt: string): void {
  const who = `process ${peer.pid} of user ${peer.uid}`;
  let answer: unknown;
  try {
    answer = allow(peer);
  } catch (cause) {
    const what = `${attempt}: \`allow\` has failed for ${who}: ${cause}`;
    throw new PeerNotAllowedError(what, { cause });
  }
  if (answer === true) return;
  // A promise is no answer, and if it rejects, that is no reason to end the process.
  if (answer instanceof Promise) answer.catch(() => {});
  throw new PeerNotAllowedError(`${attempt}: \`allow\` refuses ${who}`);
}

/** How often a connection may find something to read before others are thought of. */
const manyInARow = 8;

// Shared by every connection of the thread: filled and emptied within one turn.
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
   * Whether the peer is expected to answer at once, and has so far: most do within a tenth of a
   * millisecond, and to wait for that elsewhere takes as long again.
   *
   * @ignore
   */
  busyPoll = false;
  readonly #reader = new RecordReader();
  #peer: Credentials | undefined;
  /** How often in a row there was something to read without waiting. */
  #immediate = 0;
  #received = 0;
  #wrote = false;
  /** Whether a write has gone out in part. */
  #unfinished = false;
  /** Why no more can be read, or written: what came before was left half done. */
  #readEnd: Error | undefined;
  #writeEnd: Error | undefined;
  /** Settles when the writer that waits for room is done. */
  #writing: Promise<void> | undefined;

  /**
   * Takes over a connected unix stream socket.
   *
   * @param known Whether the caller has just been given it as one: then the kernel is not asked.
   * @throws {NotUnixConnError} When `fd` is something else; it stays open, with the caller.
   */
  constructor(fd: Fd, known = false) {
    if (!known && (!isUnixStream(fd.raw, { listening: false }) || !peerAddress(fd.raw))) {
      throw new NotUnixConnError(`Descriptor ${fd.raw} is not a unix stream connection`);
    }
    this.fd = fd;
  }

  /** The other process, by the kernel's word (unix(7), SO_PEERCRED). */
  get peer(): Credentials {
    return this.#peer ??= peerCredentials(this.fd.raw);
  }

  /**
   * How many bytes have come so far, of records too.
   *
   * @ignore
   */
  get received(): number {
    return this.#received;
  }

  /**
   * Reads up to `into.length` plain bytes; resolves to how many, or to null at the end.
   *
   * Read no further than the peer's plain bytes go: what is read is not a record's any more. The
   * descriptors that were attached to it stay queued.
   */
  async read(into: Uint8Array, options: WaitOptions = {}): Promise<number | null> {
    if (into.length === 0) return 0;
    if (this.#readEnd) throw this.#readEnd;
    const waiting = this.#reader.read(into);
    if (waiting > 0) return waiting;
    return await this.#fill(into.length, options.signal) ? this.#reader.read(into) : null;
  }

  /**
   * Fills `into` with plain bytes: exactly so many, so that a message that follows stays whole.
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

  /** Writes all of `bytes`; resolves to how many that are. */
  async write(bytes: Uint8Array, options: WaitOptions = {}): Promise<number> {
    const buffers = outgoingBuffers ??= new OutgoingMessage(chunkBytes);
    await this.#write(bytes.length, options, (sent) => {
      const chunk = bytes.subarray(sent, sent + chunkBytes);
      buffers.data.set(chunk);
      return buffers.send(this.fd.raw, 0, chunk.length, 0);
    });
    return bytes.length;
  }

  /** Says that no more will be written: the peer reads the end after what is queued. */
  closeWrite(): void {
    shutdownWrite(this.fd.raw);
  }

  /**
   * Sends `length` bytes of `message` with its first `count` descriptors, whole. Gives undefined when
   * there was nothing to wait for: many are sent, and a promise for each would cost as much again.
   *
   * @ignore
   */
  send(
    message: OutgoingMessage,
    length: number,
    count: number,
    options: WriteOptions = {},
  ): Promise<void> | undefined {
    // The kernel attaches all descriptors to the first part; the rest goes without.
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
   * Makes the peer's end of stream an error, without waiting: a stream that ends inside a record is
   * one at every receiver, and one that ends after whole records is not.
   *
   * @ignore
   */
  poison(): void {
    if (this.#writeEnd) return;
    this.#writeEnd = new Deno.errors.BadResource(
      "Nothing more can be written to this connection: its stream was ended inside a record",
    );
    // One byte more might make it whole.
    if (this.#unfinished) return;
    // Room for a byte is to be had where a peer that does not read has left none.
    growSendBuffer(this.fd.raw);
    const buffers = outgoingBuffers ??= new OutgoingMessage(chunkBytes);
    buffers.data[0] = 0;
    buffers.send(this.fd.raw, 0, 1, 0);
  }

  /**
   * The next record that is whole already, without waiting.
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
   * The next record; undefined at the end of the stream. Its descriptor is the caller's.
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
      // Until it is looked at somebody else may ask for the next one.
      if (record) return { ...record };
      if (ended) {
        this.#checked(() => this.#reader.end());
        return undefined;
      }
      ended = !await this.#fill(chunkBytes, signal);
    }
  }

  /**
   * Closes every descriptor that arrived and was not handed out. Between two messages that is none;
   * inside one, what follows could not be told apart any more.
   *
   * @ignore
   */
  discard(): void {
    closeAll(this.#reader.releaseDescriptors());
    if (!this.#reader.isBetweenMessages) this.#loseTrack();
  }

  /** Which record belongs to which descriptor cannot be told from here on. */
  #loseTrack(): void {
    this.#readEnd ??= new Deno.errors.BadResource(
      "Nothing more can be received on this connection: a message was left half read",
    );
  }

  /**
   * Closes the connection, and every descriptor that arrived and was not handed out.
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

  /** Waits for bytes and takes them in; false at the end of the stream. */
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
      // A peer that closes without having read what we wrote resets: after whole records that is
      // its end like any other.
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

  /** What fails has lost the line between records: whatever waits is closed. */
  #checked<T>(step: () => T): T {
    try {
      return step();
    } catch (error) {
      this.discard();
      throw error;
    }
  }

  /**
   * Writes `length` bytes by `attempt`s, which tell how many went out; one writer at a time.
   *
   * @param first What the first attempt gave, if that was made already.
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
    // Who is in this very process may need this thread to answer.
    this.busyPoll &&= this.peer.pid !== Deno.pid;
    if (this.busyPoll) {
      this.busyPoll = isReadyInTime(this.fd.raw, readiness);
      if (this.busyPoll) return await yieldToEventLoop(signal);
    }
    await ready(this.fd.raw, readiness, { owner: this, signal });
  }
}

/** A time in which nothing could be written. It begins anew whenever the peer has read something. */
class Stall {
  #end: number;
  #waiting: number;
  readonly #milliseconds: number;
  readonly #waitingNow: () => number;
  #delay = 1;

  /** @param waitingNow How much waits for the peer to read it. */
  constructor(milliseconds: number, waitingNow: () => number) {
    this.#milliseconds = milliseconds;
    this.#waitingNow = waitingNow;
    this.#waiting = waitingNow();
    this.#end = performance.now() + milliseconds;
  }

  /** Milliseconds until it has lasted too long, if nothing happens. */
  #left(): number {
    const left = this.#end - performance.now();
    if (left > 0) return left;
    // Room to write shows when most of the buffer is free: much later than that some of it is.
    const waiting = this.#waitingNow();
    if (waiting >= this.#waiting) return 0;
    this.#waiting = waiting;
    this.#end = performance.now() + this.#milliseconds;
    return this.#milliseconds;
  }

  /** Waits a little longer each time. */
  async pause(signal: AbortSignal | undefined): Promise<void> {
    const left = this.#left();
    if (left === 0) throw inFlightError(this.#milliseconds);
    await pause(Math.min(this.#delay, left), signal);
    this.#delay = Math.min(2 * this.#delay, 100);
  }

  /** Runs a wait, and ends it when the time is up. */
  async limit(
    signal: AbortSignal | undefined,
    wait: (signal: AbortSignal | undefined) => Promise<void>,
  ): Promise<void> {
    if (this.#milliseconds === Infinity) return await wait(signal);
    const late = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = () => {
      const left = this.#left();
      if (left > 0) {
        timer = setTimeout(look, Math.min(left, longestPause));
        return;
      }
      late.abort(
        new Deno.errors.TimedOut(
          `Cannot write: the peer has read nothing for ${this.#milliseconds} ms`,
        ),
      );
    };
    look();
    try {
      await wait(either(late.signal, signal));
    } finally {
      clearTimeout(timer);
    }
  }
}
