/**
 * How the runtime itself comes to say that an epoll of ours has something: no thread of its pool has to
 * wait for it and pass it on.
 *
 * A native connection reads one byte that is there already, and would at once; but the runtime tries
 * to read only when its own epoll says so, and there the other epoll stands in the connection's place
 * (epoll(7), "an epoll instance may be added to another one"). So each read resolves when there was an
 * event.
 *
 * @module
 */

import { closeAll, closeRaw } from "../../ffi/fd.ts";
import type { Waker } from "./reactor.ts";
import { socketPair, writeByte } from "../../ffi/socket.ts";
import { divert, mayBeAbstract, type Registration, revert, unixStandIn } from "./registration.ts";

/**
 * An alarm for `epoll`; undefined where this process may not connect to abstract unix sockets, and
 * before Deno 2.8, whose tests would take its connection for something that one of them has left
 * open.
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
  /** What is written here the connection reads. */
  readonly #far: number;
  // A read that fills less of it than there is room for tells the runtime that there is no more
  // (tokio, `PollEvented::poll_read`), and it waits for its epoll again.
  readonly #into = new Uint8Array(2);
  /** The read that waits, if one does. */
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
      // Disposed of, or broken: no read resolves any more.
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
    this.#next?.catch(() => {});
    revert(this.#registration, this.#epoll);
    this.#conn.close();
    closeAll([this.#far]);
  }
}
