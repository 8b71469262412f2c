/**
 * A client: it connects to a server, sends nothing, and receives descriptors to the end of the stream.
 *
 * @module
 */

import { ClosingRun, Fd } from "../../ffi/fd.ts";
import { NotUnixConnError } from "../errors.ts";
import { checkPeer } from "../unix/peer.ts";
import { connect, type ConnectOptions, UnixConn, type WaitOptions } from "../unix/conn.ts";
import { checkMaxMetaBytes, type WireRecord } from "../wire/record.ts";

/**
 * Called with each descriptor and its meta, which is null if none was sent. A descriptor that the callback does not
 * take is closed, with the others of the same message, before anything else is awaited. If the callback throws, no
 * further descriptor is delivered, all others are closed, and the receiving function rejects with that error.
 */
export type ReceiveCallback = (fd: Fd, meta: Uint8Array | null) => void | Promise<void>;

/** A descriptor and its meta, as the iterator gives it; it is closed at the next step if it was not taken. */
export interface Received {
  /** The descriptor. */
  fd: Fd;
  /** The meta; null if none was sent. */
  meta: Uint8Array | null;
}

/** Options of all receiving functions. */
export interface ReceiveOptions extends ConnectOptions {
  /** The longest meta to accept, in bytes; a longer one is an error. @default {1048576} */
  maxMetaBytes?: number;
}

/**
 * Connects to the unix socket at `path` and delivers every descriptor, to the end of the stream: to `callback`, and
 * resolves to their number; or, without a callback, as an async iterator.
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
 * @throws {Deno.errors.ConnectionRefused} When no process listens there: the instance has ended.
 * @throws {UnexpectedEofError} When the sender failed half-way, or refused this process.
 * @throws {PeerNotAllowedError} When `allow` refuses the process that listens there.
 */
export function receive(path: string, options?: ReceiveOptions): AsyncGenerator<Received>;
/** Connects to `path` and delivers every descriptor to `callback`; resolves to their number. */
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
 * Delivers the descriptors of one message, or all that have arrived: waits for at least one. Resolves to their number,
 * which is 0 at the end of the stream.
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
 * Delivers every descriptor that is sent over `conn`, to the end of the stream: to `callback`, and resolves to their
 * number; or, without a callback, as an async iterator. `conn` stays the caller's.
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
/** Delivers every descriptor sent over `conn` to `callback`; resolves to their number. */
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
 * The receiving functions, with common options.
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

  /** Gives the connection, if it is one of this library. */
  #carrier(conn: UnixConn): UnixConn {
    if (!(conn instanceof UnixConn)) {
      throw new NotUnixConnError(
        "Descriptors arrive on connections that connect(), or accept() of listen(), of this module " +
          "gives; a Deno.UnixConn reads without room for them, and the kernel closes them",
      );
    }
    const { allow } = this.#options;
    // Read now: the credentials of a closed connection cannot be read.
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
        // The caller has left the loop: the other descriptors are closed.
        if (left) conn.discard();
      }
    }
  }
}

/** Delivers `first`, the records that have arrived, and those that `next` waits for; gives their number. */
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
        // Not awaited: thousands arrive at once, and a turn of the event loop for each would take most of the time.
        if (done) {
          untaken.close();
          await done;
        }
      } catch (error) {
        conn.discard();
        throw error;
      } finally {
        // Not by `using`, which takes five times as long.
        if (fd.owned) untaken.add(fd.take());
      }
      count++;
      // Received records stay in the connection, for the next call that receives from it.
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
