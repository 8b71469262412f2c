/**
 * WebSockets of a generation, whose clients are told when it leaves.
 *
 * A server's `WebSocket.close()` does not wait for the client's Close frame in Deno: the next message that
 * is read ends the connection (`[[eventLoop]]` in ext/websocket/01_websocket.js). If that message was there
 * already, that is before the Close frame is written, which takes a turn of the event loop; and if more
 * messages follow, the kernel resets the connection, and drops what it has not sent yet (RFC 1122,
 * 4.2.2.13). A client's `close()` reads on until the Close frame of the other end has come, as RFC 6455,
 * 7.1.1, has it: a socket that is closed here takes that role.
 *
 * @module
 */

import { longestPause } from "../time.ts";

/** How sockets are closed. */
export interface CloseOptions {
  code: number;
  reason: string;
  /** Milliseconds over which the closing is spread, for the clients will connect elsewhere. */
  spread: number;
  /** Milliseconds for which a client is waited for that has not read all messages yet. */
  forceCloseAfter: number;
  /** Closes those now that are still to be closed, when it is aborted. */
  hurry: AbortSignal;
}

/** The sockets that are open. */
export class WebSockets {
  readonly #open = new Set<WebSocket>();
  /** Those that are to be closed, or are being closed. */
  readonly #closing = new Set<WebSocket>();
  /** Set when they are to be closed. */
  #leaving: Omit<CloseOptions, "spread"> & { until: number } | undefined;

  /** As `Deno.upgradeWebSocket`. */
  upgrade(request: Request, options?: Deno.UpgradeWebSocketOptions): Deno.WebSocketUpgrade {
    const upgrade = Deno.upgradeWebSocket(request, options);
    const { socket } = upgrade;
    awaitCloseFrame(socket);
    // A handshake may fail without any event.
    socket.addEventListener("open", () => {
      this.#open.add(socket);
      if (this.#leaving) this.#closeSoon(socket);
    });
    socket.addEventListener("close", () => this.#open.delete(socket));
    return upgrade;
  }

  /** Closes all, and those that are still to come. */
  leave({ spread, ...options }: CloseOptions): void {
    this.#leaving = { ...options, until: performance.now() + spread };
    for (const socket of this.#open) this.#closeSoon(socket);
  }

  /** Whether there are some to be closed, or waiting for their clients to answer the Close frame. */
  get closing(): boolean {
    return this.#closing.size > 0;
  }

  #closeSoon(socket: WebSocket): void {
    const { until, code, reason, forceCloseAfter, hurry } = this.#leaving!;
    const left = hurry.aborted ? 0 : Math.max(0, until - performance.now());
    this.#closing.add(socket);
    let timer = setTimeout(close, Math.random() * left);
    hurry.addEventListener("abort", close);
    const stopWaiting = () => {
      clearTimeout(timer);
      hurry.removeEventListener("abort", close);
    };
    const end = () => {
      stopWaiting();
      this.#closing.delete(socket);
    };
    function close() {
      stopWaiting();
      const isBehind = socket.bufferedAmount > 0;
      const limit = isBehind ? forceCloseAfter : Math.min(answerTime, forceCloseAfter);
      timer = setTimeout(end, Math.min(limit, longestPause));
      socket.close(code, reason);
    }
    socket.addEventListener("close", end);
  }
}

/** Milliseconds that a client has to answer a Close frame with its own. */
const answerTime = 1000;

/** `CLIENT` in ext/websocket/01_websocket.js. */
const clientRole = 1;

/**
 * Gives a server's socket a `close()` after which it reads on to the client's Close frame, for some time:
 * a client that has not answered by then is dropped at its next message, as Deno does at once. What
 * arrives after the call is not delivered: it could not be answered.
 */
function awaitCloseFrame(socket: WebSocket): void {
  const role = privateName(socket, "[[role]]");
  const { close } = socket;
  let closing = false;
  // It is the first listener: the program has not seen the socket yet.
  socket.addEventListener("message", (event) => {
    if (closing) event.stopImmediatePropagation();
  });
  socket.close = (code, reason) => {
    if (closing) return;
    checkReason(reason);
    const closeNow = () => {
      close.call(socket, code, reason);
      if (role) readOn(socket, role);
    };
    if (socket.readyState === WebSocket.CONNECTING) {
      // Deno forgets a close() before the handshake; the program's own listener may send something.
      socket.addEventListener("open", () => setTimeout(closeNow), { once: true });
    } else {
      closeNow();
    }
    closing = true;
  };
}

/** @throws {DOMException} When a Close frame has no room for it (RFC 6455, 5.5). */
function checkReason(reason: string | undefined): void {
  if (reason === undefined || new TextEncoder().encode(String(reason)).length <= 123) return;
  throw new DOMException("The reason of a Close frame has 123 bytes at most", "SyntaxError");
}

/** Has a socket read on until its client has answered the Close frame, or had its time to. */
function readOn(socket: WebSocket, role: symbol): void {
  const server = Reflect.get(socket, role);
  Reflect.set(socket, role, clientRole);
  const timer = setInterval(() => {
    // The client has not read all yet, nor the Close frame behind it.
    if (socket.bufferedAmount > 0) return;
    clearInterval(timer);
    Reflect.set(socket, role, server);
  }, answerTime);
  Deno.unrefTimer(timer);
  socket.addEventListener("close", () => clearInterval(timer));
}

/** The name of a private property, undefined where this Deno has none of that name. */
function privateName(object: object, description: string): symbol | undefined {
  return Object.getOwnPropertySymbols(object).find((name) => name.description === description);
}
