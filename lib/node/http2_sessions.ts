/**
 * The sessions of a server of node:http2, and how they end without losing a request: by two GOAWAY frames (RFC 9113, 6.8).
 * The first has the client open no more streams, and refuses none; the second, of `session.close()`, refuses streams that the
 * client has sent and the server has not read.
 *
 * @module
 */

import { Clients } from "./clients.ts";
import { bySymbol, type Emitter, type HttpSocket } from "./node_objects.ts";

/** A session of node:http2. */
export interface Http2Session extends Emitter {
  /** A proxy, which cannot be written to. */
  readonly socket?: HttpSocket;
  readonly closed: boolean;
  readonly destroyed: boolean;
  close(done?: () => void): void;
}

/**
 * GOAWAY with the last possible stream and NO_ERROR. `session.goaway()` would have node ignore each later stream, and
 * `submitShutdownNotice()` of its handle has it refuse them.
 */
const notice = Uint8Array.of(0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0);

/** Milliseconds between the two frames: what the client has sent by then has arrived. */
const noticeTime = 1000;

/** The open sessions of one server. */
export class Http2Sessions {
  /** The clients of the sessions. */
  readonly clients: Clients = new Clients();
  /** The sessions, and when each may get the second GOAWAY: undefined before the first. */
  readonly #open = new Map<Http2Session, number | undefined>();

  /** Adds a session until it is closed. */
  add(session: Http2Session): void {
    closeInLaterTurn(session);
    this.#open.set(session, undefined);
    if (session.socket) this.clients.add(session.socket, session);
    session.once("close", () => this.#open.delete(session));
  }

  /** Sends the first GOAWAY to each session that has not got it. */
  announceClose(): void {
    for (const [session, closeAt] of this.#open) {
      if (closeAt !== undefined) continue;
      const now = performance.now();
      this.#open.set(session, notify(session) ? now + noticeTime : now);
    }
  }

  /** Sends the second GOAWAY to each session, as soon as its client has had time to follow the first. */
  close(): void {
    this.announceClose();
    for (const [session, closeAt] of this.#open) {
      const left = Math.max(0, closeAt! - performance.now());
      const timer = setTimeout(() => session.close(), left);
      session.once("close", () => clearTimeout(timer));
    }
  }
}

/** Sends the first GOAWAY; returns whether that was possible. */
function notify(session: Http2Session): boolean {
  const socket = bySymbol<HttpSocket>(session, "socket");
  if (session.closed || session.destroyed || !socket?.writable) return false;
  // Node writes each frame as a whole in one turn of the event loop: this is between two frames.
  socket.write(notice);
  return true;
}

/**
 * Has `session.close()` wait for the next turn of the event loop: inside the call that reads a session, where node calls it
 * too, it can end the process (Deno 2.9.6).
 */
function closeInLaterTurn(session: Http2Session): void {
  const { close } = session;
  session.close = (done) => {
    if (typeof done === "function") session.once("close", done);
    setTimeout(() => close.call(session));
  };
}
