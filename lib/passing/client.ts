/**
 * A process that wants descriptors: it connects, says nothing and reads to the end.
 *
 * @module
 */

import { ClosingRun, Fd } from "../../ffi/fd.ts";
import { NotUnixConnError } from "../errors.ts";
import {
  checkPeer,
  connect,
  type ConnectOptions,
  UnixConn,
  type WaitOptions,
} from "../unix/conn.ts";
import { checkMaxMetaBytes, type WireRecord } from "../wire/record.ts";

/**
 * Called with each descriptor and the meta that came with it, or null. What it does not take, or hand
 * to something that does, is closed, together with others of the same message and before anything is
 * waited for. When it throws, nothing more is delivered, the
 * rest is closed, and the receiving function rejects with what it threw.
 */
export type ReceiveCallback = (fd: Fd, meta: Uint8Array | null) => void | Promise<void>;

/** A descriptor and its meta, as iterated over; not taken, it is closed at the next step. */
export interface Received {
  /** The descriptor. */
  fd: Fd;
  /** What came with it; null when nothing did. */
  meta: Uint8Array | null;
}

/** Options of everything that receives. */
export interface ReceiveOptions extends ConnectOptions {
  /** The longest meta to accept, in bytes; a longer one is an error. @default {1048576} */
  maxMetaBytes?: number;
}

/**
 * Connects to the unix socket at `path` and delivers every descriptor that is sent, to the end of the
 * stream: to `callback`, resolving to how many there were; or, without one, as an async iterator.
 *
 * ```ts
 * import { fdHandler, fdListener, listenAndServe, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, fdHandler(0));
 *
 * const count = await receive(path, (fd, meta) => console.log(fd.raw, meta));
 *
 * for await (const { fd, meta } of receive(path)) console.log(fd.raw, meta, "of", count);
 * ```
 *
 * @throws {Deno.errors.NotFound} When there is no such path: no instance is running.
 * @throws {Deno.errors.ConnectionRefused} When nobody listens there: an instance died.
 * @throws {UnexpectedEofError} When the sender failed half-way, or refused this process.
 * @throws {PeerNotAllowedError} When `allow` refuses the process that listens there.
 */
export function receive(path: string, options?: ReceiveOptions): AsyncGenerator<Received>;
/** Connects to `path` and delivers every descriptor to `callback`; resolves to how many. */
export function receive(
  path: string,
  callback: ReceiveCallback,
  options?: ReceiveOptions,
): Promise<number>;
export function receive(
  path: string,
  callback?: ReceiveCallback | ReceiveOptions,
  options?: ReceiveOptions,
): AsyncGenerator<Received> | Promise<number> {
  if (typeof callback === "function") return new Client(options).receive(path, callback);
  return new Client(callback).receive(path);
}

/**
 * Delivers the descriptors of one message, or of what has arrived: waits for at least one. Resolves
 * to how many there were, to 0 at the end of the stream.
 *
 * ```ts
 * import { connect, listen, receiveFrom, sendTo } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * await sendTo(server, 0);
 * console.log(await receiveFrom(client, (fd) => console.log("got", fd.raw)), "descriptor");
 * ```
 */
export function receiveFrom(
  conn: UnixConn,
  callback: ReceiveCallback,
  options?: ReceiveOptions,
): Promise<number> {
  return new Client(options).receiveFrom(conn, callback);
}

/**
 * Delivers every descriptor that is sent over `conn`, to the end of the stream: to `callback`,
 * resolving to how many there were; or, without one, as an async iterator. `conn` stays the caller's.
 *
 * ```ts
 * import { connect, listen, receiveAllFrom, sendTo } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * for (const fd of [0, 1, 2]) await sendTo(server, fd);
 * server.close();
 * console.log(await receiveAllFrom(client, (fd) => console.log("got", fd.raw)), "descriptors");
 * ```
 */
export function receiveAllFrom(conn: UnixConn, options?: ReceiveOptions): AsyncGenerator<Received>;
/** Delivers every descriptor sent over `conn` to `callback`; resolves to how many. */
export function receiveAllFrom(
  conn: UnixConn,
  callback: ReceiveCallback,
  options?: ReceiveOptions,
): Promise<number>;
export function receiveAllFrom(
  conn: UnixConn,
  callback?: ReceiveCallback | ReceiveOptions,
  options?: ReceiveOptions,
): AsyncGenerator<Received> | Promise<number> {
  if (typeof callback === "function") return new Client(options).receiveAllFrom(conn, callback);
  return new Client(callback).receiveAllFrom(conn);
}

/**
 * The receiving functions with options in common.
 *
 * ```ts
 * import { Client, fdHandler, listenAndServe } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, fdHandler(0));
 * const client = new Client({ signal: AbortSignal.timeout(5000) });
 * await client.receive(path, (fd) => console.log("got", fd.raw));
 * ```
 */
export class Client {
  readonly #options: ReceiveOptions;

  /** Receives with these options. */
  constructor(options: ReceiveOptions = {}) {
    if (options.maxMetaBytes !== undefined) checkMaxMetaBytes(options.maxMetaBytes);
    this.#options = options;
  }

  /** {@linkcode receive} */
  receive(path: string): AsyncGenerator<Received>;
  /** {@linkcode receive} */
  receive(path: string, callback: ReceiveCallback): Promise<number>;
  receive(path: string, callback?: ReceiveCallback): AsyncGenerator<Received> | Promise<number> {
    return callback ? this.#receive(path, callback) : this.#iterate(path);
  }

  /** {@linkcode receiveFrom} */
  async receiveFrom(conn: UnixConn, callback: ReceiveCallback): Promise<number> {
    const first = await this.#carrier(conn).record(this.#options);
    return first ? await deliver(conn, first, callback, () => undefined, this.#options) : 0;
  }

  /** {@linkcode receiveAllFrom} */
  receiveAllFrom(conn: UnixConn): AsyncGenerator<Received>;
  /** {@linkcode receiveAllFrom} */
  receiveAllFrom(conn: UnixConn, callback: ReceiveCallback): Promise<number>;
  receiveAllFrom(
    conn: UnixConn,
    callback?: ReceiveCallback,
  ): AsyncGenerator<Received> | Promise<number> {
    return callback ? this.#receiveAll(conn, callback) : this.#iterateAll(conn);
  }

  async #receive(path: string, callback: ReceiveCallback): Promise<number> {
    using conn = await connect(path, this.#options);
    return await this.#receiveAll(conn, callback);
  }

  async #receiveAll(conn: UnixConn, callback: ReceiveCallback): Promise<number> {
    const next = () => conn.record(this.#options);
    const first = await this.#carrier(conn).record(this.#options);
    return first ? await deliver(conn, first, callback, next, this.#options) : 0;
  }

  async *#iterate(path: string): AsyncGenerator<Received> {
    using conn = await connect(path, this.#options);
    yield* this.#iterateAll(conn);
  }

  /** A connection that may be received from. */
  #carrier(conn: UnixConn): UnixConn {
    if (!(conn instanceof UnixConn)) {
      throw new NotUnixConnError(
        "Descriptors arrive on connections that connect(), or accept() of listen(), of this module " +
          "gives; a Deno.UnixConn reads without room for them, and the kernel closes them",
      );
    }
    const { allow } = this.#options;
    // What was asked for once is known when the connection is closed, too.
    if (allow) checkPeer(conn, allow, "Cannot receive");
    else void conn.peer;
    return conn;
  }

  async *#iterateAll(conn: UnixConn): AsyncGenerator<Received> {
    this.#carrier(conn);
    for (;;) {
      const record = await conn.record(this.#options);
      if (!record) return;
      using fd = new Fd(record.descriptor, conn.peer.pid);
      let left = true;
      try {
        yield { fd, meta: record.meta };
        left = false;
      } finally {
        // Nobody will ask for the rest.
        if (left) conn.discard();
      }
    }
  }
}

/** Delivers `first`, what has arrived with it, and what `next` waits for; gives how many. */
async function deliver(
  conn: UnixConn,
  first: WireRecord,
  callback: ReceiveCallback,
  next: () => Promise<WireRecord | undefined> | undefined,
  { signal }: WaitOptions,
): Promise<number> {
  const { pid } = conn.peer;
  const untaken = new ClosingRun();
  let count = 0;
  try {
    for (let record: WireRecord | undefined = first; record;) {
      const fd = new Fd(record.descriptor, pid);
      try {
        const done = callback(fd, record.meta);
        // Thousands arrive at once: a turn of the event loop for each would take most of the time.
        if (done) {
          untaken.close();
          await done;
        }
      } catch (error) {
        conn.discard();
        throw error;
      } finally {
        // As `using` would, which takes five times as long.
        if (fd.owned) untaken.add(fd.take());
      }
      count++;
      // What has arrived stays with the connection, for who receives from it again.
      signal?.throwIfAborted();
      record = conn.whole();
      if (record) continue;
      untaken.close();
      record = await next();
    }
  } finally {
    untaken.close();
  }
  return count;
}
