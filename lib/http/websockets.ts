/**
 * The WebSockets of a generation, each of which gets a Close frame when the generation drains.
 *
 * A server's `WebSocket.close()` does not wait for the client's Close frame in Deno: the next message that is
 * read ends the connection (`[[eventLoop]]` in ext/websocket/01_websocket.js). A message that was queued already
 * ends it before the Close frame is written, which takes a turn of the event loop; and if more messages follow,
 * the kernel resets the connection, and drops the bytes that are not sent yet (RFC 1122, 4.2.2.13). A client's
 * `close()` reads on until the Close frame of the server has arrived (RFC 6455, 7.1.1): a server's socket takes
 * the role of a client when it is closed here.
 *
 * @module
 */

import { longestPause } from "../time.ts";
import { runtime } from "../runtime.ts";

/** Options of {@linkcode WebSockets.closeAll}. */
export interface CloseOptions {
  /** The code of the Close frame. */
  code: number;
  /** The reason in the Close frame. */
  reason: string;
  /** Milliseconds over which the Close frames are spread: their clients will connect elsewhere. */
  spread: number;
  /** Milliseconds to wait for a client that has not read all messages yet. */
  forceCloseAfter: number;
  /** Sends all Close frames now, when it is aborted. */
  hurry: AbortSignal;
}

/** A WebSocket of Deno's or of a library for node. */
export interface ClosableWebSocket {
  /** The bytes that are not sent yet. */
  readonly bufferedAmount: number;
  /** Sends a Close frame. */
  close(code: number, reason: string): void;
  /** Calls the listener when the connection has ended. */
  addEventListener(event: "close", listener: () => void): void;
  /** Ends the connection of a client that has not answered the Close frame, where nothing else does. */
  drop?(): void;
}

/** The WebSockets of one generation. */
export class WebSockets {
  readonly #open = new Set<ClosableWebSocket>();
  /** The sockets whose Close frame is not sent yet, or not answered. */
  readonly #closing = new Set<ClosableWebSocket>();
  /** Set by `closeAll()`. */
  #closeOptions: Omit<CloseOptions, "spread"> & { until: number } | undefined;

  /** As `Deno.upgradeWebSocket`. */
  upgrade(request: Request, options?: Deno.UpgradeWebSocketOptions): Deno.WebSocketUpgrade {
    const upgrade = runtime.upgradeWebSocket(request, options);
    const { socket } = upgrade;
    awaitCloseFrame(socket);
    // Only from here on: a handshake may fail without any event.
    socket.addEventListener("open", () => this.add(socket));
    return upgrade;
  }

  /** Adds a socket that is open; it is forgotten when its connection has ended. */
  add(socket: ClosableWebSocket): void {
    this.#open.add(socket);
    socket.addEventListener("close", () => this.#open.delete(socket));
    if (this.#closeOptions) this.#closeSoon(socket);
  }

  /** Closes all sockets, and those that are opened later. */
  closeAll({ spread, ...options }: CloseOptions): void {
    this.#closeOptions = { ...options, until: performance.now() + spread };
    for (const socket of this.#open) this.#closeSoon(socket);
  }

  /** Whether a Close frame is not sent yet, or not answered. */
  get isClosing(): boolean {
    return this.#closing.size > 0;
  }

  #closeSoon(socket: ClosableWebSocket): void {
    const { until, code, reason, forceCloseAfter, hurry } = this.#closeOptions!;
    const left = hurry.aborted ? 0 : Math.max(0, until - performance.now());
    this.#closing.add(socket);
    let timer = setTimeout(close, Math.random() * left);
    hurry.addEventListener("abort", close);
    const cancel = () => {
      clearTimeout(timer);
      hurry.removeEventListener("abort", close);
    };
    const end = () => {
      cancel();
      this.#closing.delete(socket);
    };
    function close() {
      cancel();
      const hasUnsent = socket.bufferedAmount > 0;
      const limit = hasUnsent ? forceCloseAfter : Math.min(answerTime, forceCloseAfter);
      const drop = () => {
        end();
        socket.drop?.();
      };
      timer = setTimeout(drop, Math.min(limit, longestPause));
      socket.close(code, reason);
    }
    socket.addEventListener("close", end);
  }
}

/** Milliseconds in which a client has to answer a Close frame. */
const answerTime = 1000;

/** `CLIENT` in ext/websocket/01_websocket.js. */
const clientRole = 1;

/**
 * Replaces `close()` of a server's socket: the new one reads on until the client has answered the Close frame,
 * for some time. A client that has not answered by then is dropped at its next message, as Deno does at once.
 * Messages that arrive after the call are not delivered: they could not be answered.
 */
function awaitCloseFrame(socket: WebSocket): void {
  const role = privateSymbol(socket, "[[role]]");
  const { close } = socket;
  let isClosing = false;
  // The first of all listeners: the program does not have the socket yet.
  socket.addEventListener("message", (event) => {
    if (isClosing) event.stopImmediatePropagation();
  });
  socket.close = (code, reason) => {
    if (isClosing) return;
    checkReason(reason);
    const closeNow = () => {
      close.call(socket, code, reason);
      if (role) readUntilClosed(socket, role);
    };
    if (socket.readyState === WebSocket.CONNECTING) {
      // Deno ignores a close() before the handshake. A turn later: the program's own listener may send a message.
      socket.addEventListener("open", () => setTimeout(closeNow), { once: true });
    } else {
      closeNow();
    }
    isClosing = true;
  };
}

/** @throws {DOMException} When the reason is too long for a Close frame (RFC 6455, 5.5). */
function checkReason(reason: string | undefined): void {
  if (reason === undefined || new TextEncoder().encode(String(reason)).length <= 123) return;
  throw new DOMException("The reason of a Close frame has 123 bytes at most", "SyntaxError");
}

/** Gives a socket the role of a client until the Close frame is answered, or `answerTime` is over. */
function readUntilClosed(socket: WebSocket, role: symbol): void {
  const serverRole = Reflect.get(socket, role);
  Reflect.set(socket, role, clientRole);
  const timer = setInterval(() => {
    // The client has not read everything yet, nor the Close frame behind it.
    if (socket.bufferedAmount > 0) return;
    clearInterval(timer);
    Reflect.set(socket, role, serverRole);
  }, answerTime);
  Deno.unrefTimer(timer);
  socket.addEventListener("close", () => clearInterval(timer));
}

/** The symbol of a private property; undefined if this version of Deno has no property of that name. */
function privateSymbol(object: object, description: string): symbol | undefined {
  return Object.getOwnPropertySymbols(object).find((symbol) => symbol.description === description);
}
