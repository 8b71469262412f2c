/**
 * Has Deno's own epoll report the events of an epoll of ours: no thread of the pool has to wait for them.
 *
 * A native connection reads a byte that is queued already. The runtime reads only when its epoll reports the connection,
 * and there our epoll is registered in place of the connection (epoll(7): an epoll can watch another one). So each read
 * resolves when our epoll has an event.
 *
 * @module
 */

import { closeAll, closeRaw } from "../../ffi/fd.ts";
import type { Waker } from "./reactor.ts";
import { socketPair, writeByte } from "../../ffi/socket.ts";
import { divert, mayBeAbstract, type Registration, revert, unixStandIn } from "./registration.ts";

/**
 * Makes a waker for `epoll`; undefined where this process may not connect to abstract unix sockets, and before Deno
 * 2.8, whose test sanitizers would report its connection as a leak.
 *
 * @throws {UnsupportedRuntimeError} When this runtime has no epoll that could be used so.
 */
export async function makeWaker(epoll: number): Promise<Waker | undefined> {
  if (/^2\.[0-7]\./.test(Deno.version.deno) || !mayBeAbstract()) return undefined;
  const { conn, registration } = await unixStandIn();
  try {
    return new ReadWaker(conn, registration, epoll);
  } catch (error) {
    conn.close();
    throw error;
  }
}

class ReadWaker implements Waker {
  readonly #conn: Deno.UnixConn;
  readonly #registration: Registration;
  readonly #epoll: number;
  /** The other end of the connection. */
  readonly #far: number;
  // A read that does not fill the buffer tells the runtime that no more bytes are queued (tokio,
  // `PollEvented::poll_read`): it waits for its epoll again.
  readonly #into = new Uint8Array(2);
  /** The pending read. */
  #next: Promise<unknown> | undefined;
  #alive = true;

  constructor(conn: Deno.UnixConn, registration: Registration, epoll: number) {
    const [near, far] = socketPair();
    try {
      divert(registration, near, epoll);
    } catch (error) {
      closeRaw(far);
      throw error;
    } finally {
      closeRaw(near);
    }
    this.#conn = conn;
    this.#registration = registration;
    this.#epoll = epoll;
    this.#far = far;
  }

  async woken(): Promise<boolean> {
    try {
      await (this.#next ??= this.#read());
      this.#next = undefined;
      return true;
    } catch {
      // The waker was disposed of, or is broken: no read resolves any more.
      return false;
    }
  }

  #read(): Promise<unknown> {
    writeByte(this.#far);
    return this.#conn.read(this.#into);
  }

  keepAlive(alive: boolean): void {
    if (alive === this.#alive) return;
    this.#alive = alive;
    if (alive) this.#conn.ref();
    else this.#conn.unref();
  }

  [Symbol.dispose](): void {
    // The pending read ends with the connection.
    this.#next?.catch(() => {});
    revert(this.#registration, this.#epoll);
    this.#conn.close();
    closeAll([this.#far]);
  }
}
