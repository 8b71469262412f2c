/**
 * A server: it sends descriptors to each client that connects.
 *
 * @module
 */

import type { FileIdentity } from "../../ffi/file.ts";
import { isReadySoon } from "../event_loop/busy_poll.ts";
import { formatAddress, type UnixAddress } from "../../ffi/sockaddr.ts";
import { checkDuration, longestPause, pause, unlessAborted } from "../time.ts";
import { listenerDescriptor } from "../native/descriptor.ts";
import { wasPassedOn } from "../native/registry.ts";
import { NotUnixListenerError, PeerNotAllowedError } from "../errors.ts";
import { handle, type Handler } from "./handler.ts";
import { guarded, type Logger } from "../logger.ts";
import { ResponseWriter, type SendOptions } from "./response_writer.ts";
import { checkPeer, type PeerCheck, sameUserOrRoot } from "../unix/peer.ts";
import type { UnixConn } from "../unix/conn.ts";
import { closeNativeListener, fileOfNative } from "../native/close.ts";
import { listen, type ListenOptions, UnixListener } from "../unix/listener.ts";
import { checkMaxMetaBytes } from "../wire/record.ts";

/** Options of a server. */
export interface ServerOptions extends Omit<SendOptions, "signal"> {
  /**
   * Called for each client before the handler: if it returns false, the client is logged and refused, and its stream
   * ends inside a record. @default {processes of the same user, and of root}
   */
  allow?: PeerCheck;
  /** Gets errors, and the descriptors that were sent. @default {the console: warnings and errors alone} */
  logger?: Logger;
  /** Shuts the server down, as {@linkcode Server.shutdown} does. */
  signal?: AbortSignal;
}

/** Options of {@linkcode Server.shutdown}. */
export interface ShutdownOptions {
  /**
   * How long connected clients may take, in milliseconds; then the connections that are left are closed inside a
   * record. @default {10000}
   */
  drainTimeout?: number;
  /** Ends the wait; the server goes on shutting down. */
  signal?: AbortSignal;
}

/**
 * Listens on the unix socket at `path` and runs `handler` for each client.
 *
 * ```ts
 * import { fdListener, listenAndServe, listenerHandler, receive } from "@graceful/deno";
 *
 * using http = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using server = listenAndServe(path, listenerHandler(http));
 * await receive(path, (fd) => {
 *   using inherited = fdListener(fd);
 *   console.log(server.addr.path, "gave", inherited.addr);
 * });
 * ```
 *
 * @throws {Deno.errors.AddrInUse} When another instance serves there, or its file is left.
 */
export function listenAndServe(
  path: string,
  handler: Handler,
  options: ServerOptions & ListenOptions = {},
): Server {
  const listener = listen(path, options);
  try {
    return new Server(listener, handler, options);
  } catch (error) {
    listener.close();
    throw error;
  }
}

/**
 * Runs `handler` for each client of `listener`, which belongs to the server from then on: closing one closes the other.
 *
 * ```ts
 * import { fdHandler, listen, receive, serve } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = serve(listen(path, { mode: 0o660 }), fdHandler(0));
 * await receive(path, (fd) => console.log("got", fd.raw));
 * ```
 *
 * @throws {NotUnixListenerError} When it does not listen on a unix stream socket.
 */
export function serve(
  listener: UnixListener | Deno.Listener,
  handler: Handler,
  options: ServerOptions = {},
): Server {
  return new Server(listener, handler, options);
}

/**
 * A running server. The functions {@linkcode serve} and {@linkcode listenAndServe} make one.
 *
 * ```ts
 * import { fdHandler, listen, Server } from "@graceful/deno";
 *
 * const listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * const server = new Server(listener, fdHandler(0), { logger: console });
 * await server.shutdown();
 * ```
 */
export class Server implements AsyncDisposable {
  /** The address that it listens at. */
  readonly addr: UnixAddress;
  /** Resolves when it has stopped and every client has been served; rejects if accepting failed for good. */
  readonly finished: Promise<void>;
  readonly #listener: UnixListener;
  readonly #native: Deno.Listener | undefined;
  readonly #nativeFile: FileIdentity | undefined;
  readonly #handler: Handler;
  readonly #options: ServerOptions;
  readonly #logger: Logger;
  readonly #allow: PeerCheck;
  readonly #conversations = new Set<Conversation>();
  /** Called when the last conversation is over. */
  #whenAlone: (() => void) | undefined;
  readonly #hangUp = new AbortController();
  #hangUpTimer: ReturnType<typeof setTimeout> | undefined;
  #hasEnded = false;
  #lastEnd = -Infinity;
  #refusalReported = -Infinity;

  /** Starts serving; see {@linkcode serve}. */
  constructor(
    listener: UnixListener | Deno.Listener,
    handler: Handler,
    options: ServerOptions = {},
  ) {
    if (listener instanceof UnixListener) {
      this.#listener = listener;
    } else {
      this.#listener = ownListener(listener);
      this.#native = listener;
      this.#nativeFile = fileOfNative(listener, this.#listener.fd.raw);
    }
    this.addr = this.#listener.addr;
    this.#handler = handler;
    this.#options = options;
    const { maxMetaBytes, stallTimeout, allow = sameUserOrRoot } = options;
    if (maxMetaBytes !== undefined) checkMaxMetaBytes(maxMetaBytes);
    if (stallTimeout !== undefined) checkDuration("stallTimeout", stallTimeout);
    this.#allow = allow;
    this.#logger = guarded(options.logger);
    this.finished = this.#run();
    // The error is logged; a program that does not await it must not end by it.
    this.finished.catch(() => {});
  }

  /** Has the server keep the process running, as by default. */
  ref(): void {
    this.#listener.ref();
  }

  /** Has the server not keep the process running. */
  unref(): void {
    this.#listener.unref();
  }

  /** Stops listening; resolves when every client has been served, or its connection was closed. */
  async shutdown(options: ShutdownOptions = {}): Promise<void> {
    const { drainTimeout = defaultDeadline, signal } = options;
    checkDuration("drainTimeout", drainTimeout);
    this.#listener[Symbol.dispose]();
    if (!this.#hasEnded) this.#hangUpAfter(drainTimeout);
    await unlessAborted(this.finished, signal);
  }

  /** {@linkcode Server.shutdown} */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  async #run(): Promise<void> {
    const { signal } = this.#options;
    const stop = () => this.#listener[Symbol.dispose]();
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop);
    try {
      await this.#accept();
    } catch (error) {
      this.#logger.error?.(`Cannot accept on ${formatAddress(this.addr)} any more`, error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
      stop();
      if (this.#native) {
        closeNativeListener(this.#native, this.#nativeFile, wasPassedOn(this.#native));
      }
      if (this.#hangUpTimer === undefined) this.#hangUpAfter(defaultDeadline);
      await this.#alone();
      this.#hasEnded = true;
      clearTimeout(this.#hangUpTimer);
    }
  }

  #hangUpAfter(drainTimeout: number): void {
    clearTimeout(this.#hangUpTimer);
    const reason = new Deno.errors.TimedOut(
      `The server was shut down, and its client was not done ${drainTimeout} ms later`,
    );
    // A timer takes no longer delay.
    const delay = Math.min(drainTimeout, longestPause);
    this.#hangUpTimer = setTimeout(() => {
      this.#hangUp.abort(reason);
      for (const conversation of this.#conversations) this.#end(conversation, { error: reason });
    }, delay);
  }

  /** Resolves when every client has been served. */
  #alone(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#conversations.size === 0) resolve();
      else this.#whenAlone = resolve;
    });
  }

  async #accept(): Promise<void> {
    let delay = 0;
    while (this.#listener.fd.owned) {
      try {
        const conn = await this.#listener.accept();
        if (delay > 0) this.#logger.info?.(`Accepting on ${formatAddress(this.addr)} again`);
        delay = 0;
        const conversation: Conversation = { conn, response: undefined };
        this.#converse(conversation);
        // A handler that waits for nothing ends before the next client is accepted.
        for (let i = 0; i < manySteps && this.#conversations.has(conversation); i++) {
          await undefined;
        }
      } catch (error) {
        if (!this.#listener.fd.owned) return;
        if (!passing.has((error as { code?: string }).code ?? "")) throw error;
        // An error that lasts is logged once.
        if (delay === 0) {
          this.#logger.error?.(`Cannot accept on ${formatAddress(this.addr)}; trying again`, error);
        }
        delay = Math.min(2 * delay || shortestDelay, longestDelay);
        await pause(delay);
      }
    }
  }

  /** Serves one client; never rejects. */
  async #converse(conversation: Conversation): Promise<void> {
    const { conn } = conversation;
    this.#conversations.add(conversation);
    try {
      this.#logger.debug?.(`Accepted a connection from ${nameOf(conn)}`);
      const { signal } = this.#hangUp;
      signal.throwIfAborted();
      checkPeer(conn, this.#allow, "Refused a client");
      const { maxMetaBytes, stallTimeout } = this.#options;
      const logger = this.#logger;
      const response = new ResponseWriter(conn, { maxMetaBytes, stallTimeout, signal, logger });
      conversation.response = response;
      await handle(this.#handler, conn, response);
      await response.flush();
      this.#end(conversation);
    } catch (error) {
      this.#end(conversation, { error });
    }
  }

  /** Closes the connection of a client, once: it was served, or its handler failed, or the time is over. */
  #end(conversation: Conversation, failure?: { error: unknown }): void {
    if (!this.#conversations.delete(conversation)) return;
    const { conn, response } = conversation;
    try {
      if (failure) this.#report(failure.error, conn);
      else this.#logger.info?.(`Sent ${response?.sent} descriptors to ${nameOf(conn)}`);
    } finally {
      try {
        response?.[Symbol.dispose]();
        conn[Symbol.dispose]();
      } catch (error) {
        // The program may have closed its descriptor.
        this.#logger.debug?.(`Cannot close the connection of ${nameOf(conn)}`, error);
      }
      if (this.#conversations.size === 0) {
        this.#whenAlone?.();
        // A client in this process needs this thread.
        if (conn.peer.pid !== Deno.pid) this.#stayAwake();
      }
    }
  }

  /** Polls for the next client, if clients come one after the other: the process need not be woken then. */
  #stayAwake(): void {
    const now = performance.now();
    const often = now - this.#lastEnd < quickSuccession;
    this.#lastEnd = now;
    if (often && this.#listener.fd.owned) isReadySoon(this.#listener.fd.raw, "readable");
  }

  #report(error: unknown, conn: UnixConn): void {
    if (!(error instanceof PeerNotAllowedError)) {
      this.#logger.error?.(`Cannot send descriptors to ${nameOf(conn)}`, error);
    } else if (this.#mayReportRefusal()) {
      this.#logger.error?.(error.message, error);
    }
    this.#poison(conn);
  }

  /** Logs refused clients at most once in an interval: thousands may connect. */
  #mayReportRefusal(): boolean {
    const now = performance.now();
    if (now - this.#refusalReported < refusalInterval) return false;
    this.#refusalReported = now;
    return true;
  }

  /** Ends the stream inside a record, so that the client reports an error. */
  #poison(conn: UnixConn): void {
    try {
      conn.poison();
    } catch (error) {
      this.#logger.debug?.(`Cannot tell ${nameOf(conn)}: it is gone already`, error);
    }
  }
}

/** A client that is served, and its response as soon as that has begun. */
interface Conversation {
  readonly conn: UnixConn;
  response: ResponseWriter | undefined;
}

function nameOf({ peer }: UnixConn): string {
  return `process ${peer.pid}`;
}

/** The longest time between two clients, in milliseconds, after which a third one is polled for. */
const quickSuccession = 1;

/** How many turns of the microtask queue a handler gets before the next client is accepted. */
const manySteps = 32;

/** The default of `drainTimeout`, in milliseconds. */
const defaultDeadline = 10_000;

/** Errors that pass: no descriptor or memory is left, and the client waits in the accept queue. */
const passing = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]);

/** Milliseconds between two log lines about refused clients. */
const refusalInterval = 1000;

/** Milliseconds before accepting again after it failed: twice as many each time. */
const shortestDelay = 5;
const longestDelay = 1000;

/** Gives a listener of this library on the socket of a native one. */
function ownListener(listener: Deno.Listener): UnixListener {
  if ((listener.addr as Deno.Addr | undefined)?.transport !== "unix") {
    throw new NotUnixListenerError("Descriptors can be served on a unix stream listener only");
  }
  const fd = listenerDescriptor(listener);
  try {
    return new UnixListener(fd);
  } catch (error) {
    fd.close();
    throw error;
  }
}
