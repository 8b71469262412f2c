/**
 * The socket that the service sends its states to: NOTIFY_SOCKET of sd_notify(3).
 *
 * @module
 */

import { closeAll, Fd } from "../../ffi/fd.ts";
import { IncomingMessage, wouldBlock } from "../../ffi/message.ts";
import { ready } from "../event_loop/reactor.ts";
import { pause } from "../time.ts";
import { bindDatagrams } from "../unix/bind.ts";
import { DatagramPath } from "../unix/datagram_path.ts";
import { type Notification, parseNotification } from "./notification.ts";

/** The most bytes of a message; systemd drops a longer one too. */
const maxBytes = 4096;

/** Milliseconds before the next message is taken after an error. */
const failedInterval = 100;

/** Takes a message; descriptors that it does not take are closed. */
export type TakeNotification = (notification: Notification, descriptors: Fd[]) => void;

/** A bound unix datagram socket of mode 0600: its senders are processes of the same user, and of root. */
export class NotifySocket implements Disposable {
  readonly #bound: DatagramPath;
  readonly #take: TakeNotification;
  readonly #fail: (why: string) => void;
  readonly #message = new IncomingMessage(maxBytes + 1);
  readonly #closed = new AbortController();

  /**
   * Binds it.
   *
   * @param fail Called for a message that cannot be taken.
   * @throws {Deno.errors.AddrInUse} When another process has a socket there.
   */
  constructor(path: string, take: TakeNotification, fail: (why: string) => void) {
    this.#bound = new DatagramPath(bindDatagrams(path, 0o600), path);
    this.#take = take;
    this.#fail = fail;
  }

  /** Takes messages until the socket is closed; keeps the process running. */
  async run(): Promise<void> {
    const { signal } = this.#closed;
    while (!signal.aborted) {
      // It rejects when the socket is closed.
      await ready(this.#bound.fd.raw, "readable", { signal }).catch(() => {});
      if (signal.aborted) return;
      try {
        this.takeAll();
      } catch (error) {
        this.#fail((error as Error).message);
        // An error that lasts does not keep the processor busy.
        await pause(failedInterval);
      }
    }
  }

  /** Takes the messages that are queued. */
  takeAll(): void {
    const message = this.#message;
    for (;;) {
      const length = message.receive(this.#bound.fd.raw);
      if (length === wouldBlock) return;
      const descriptors = Array.from(
        message.descriptors.subarray(0, message.count),
        (raw) => new Fd(raw),
      );
      try {
        if (message.truncated) this.#fail("descriptors of a message were lost: none is free here");
        if (length > maxBytes) this.#fail(`a message has more than ${maxBytes} bytes`);
        else {
          const text = new TextDecoder().decode(message.data.subarray(0, length));
          this.#take(parseNotification(text), descriptors);
        }
      } finally {
        // Also ends the wait of a sender of BARRIER=1 (sd_notify_barrier(3)).
        closeAll(descriptors.filter(({ owned }) => owned).map((fd) => fd.take()));
      }
    }
  }

  /** Closes the socket, and removes its path. */
  [Symbol.dispose](): void {
    this.#closed.abort();
    this.#bound.release();
  }
}
