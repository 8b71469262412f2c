/**
 * A process that owns descriptors and sends them to each client that connects.
 *
 * @module
 */

import type { FileIdentity } from "../../ffi/file.ts";
import { isReadySoon } from "../event_loop/busy_poll.ts";
import { formatAddress, type UnixAddress } from "../../ffi/sockaddr.ts";
import { checkDuration, longestPause, pause, unlessAborted } from "../time.ts";
import { listenerDescriptor, wasPassedOn } from "../native/descriptor.ts";
import { NotUnixListenerError, PeerNotAllowedError } from "../errors.ts";
import { handle, type Handler } from "./handler.ts";
import { guarded, type Logger } from "../logger.ts";
import { ResponseWriter, type SendOptions } from "./response_writer.ts";
import { checkPeer, type PeerCheck, sameUserOrRoot, type UnixConn } from "../unix/conn.ts";
import {
  closeNativeListener,
  fileOfNative,
  listen,
  type ListenOptions,
  UnixListener,
} from "../unix/listener.ts";
import { checkMaxMetaBytes } from "../wire/record.ts";

/** Options of a server. */
export interface ServerOptions extends Omit<SendOptions, "signal"> {
  /**
   * Asked about each client before the handler: one for which it is false is logged and refused, and
   * learns that from its end of the stream. @default {those of the same user, and of root}
   */
  allow?: PeerCheck;
  /** Where to log. @default {the console: warnings and errors alone} */
  logger?: Logger;
  /** Shuts the server down, as {@linkcode Server.shutdown} does. */
  signal?: AbortSignal;
}

/** Options of {@linkcode Server.shutdown}. */
export interface ShutdownOptions {
  /**
   * How long the clients that are connected may take, in milliseconds; then those that are left are
   * hung up on, and see that it was too early. @default {10000}
   */
  drainTimeout?: number;
  /** Ends the wait; the server goes on leaving. */
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
 * @throws {Deno.errors.AddrInUse} When another instance is serving there, or left its file behind.
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
 * Runs `handler` for each client of `listener`, which becomes the server's: closing either ends both.
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
  /** Where it listens. */
  readonly addr: UnixAddress;
  /** Resolves when it has stopped and every client has been served; rejects if it had to stop. */
  readonly finished: Promise<void>;
  readonly #listener: UnixListener;
  readonly #native: Deno.Listener | undefined;
  readonly #nativeFile: FileIdentity | undefined;
  readonly #handler: Handler;
  readonly #options: ServerOptions;
  readonly #logger: Logger;
  readonly #allow: PeerCheck;
  readonly #conversations = new Set<Conversation>();
  /** Runs when the last of the conversations is over. */
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
    // It is logged; that nobody waits for it must not end the process.
    this.finished.catch(() => {});
  }

  /** Waiting for clients keeps the process running; that is how it starts. */
  ref(): void {
    this.#listener.ref();
  }

  /** Waiting for clients does not keep the process running. */
  unref(): void {
    this.#listener.unref();
  }

  /** Stops listening, and resolves when every client has been served, or hung up on. */
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
    // No timer is longer.
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
        // An answer that waits for nothing comes before the next client.
        for (let i = 0; i < manySteps && this.#conversations.has(conversation); i++) {
          await undefined;
        }
      } catch (error) {
        if (!this.#listener.fd.owned) return;
        if (!passing.has((error as { code?: string }).code ?? "")) throw error;
        // What lasts is said once.
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

  /** Hangs up on a client, once: it is served, or something went wrong, or there is no time left. */
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
        // One in this very process needs this thread.
        if (conn.peer.pid !== Deno.pid) this.#stayAwake();
      }
    }
  }

  /** Where clients come one after the other, the next one need not wake this process. */
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

  /** Refused clients may come by the thousand, and are not to fill the log. */
  #mayReportRefusal(): boolean {
    const now = performance.now();
    if (now - this.#refusalReported < refusalInterval) return false;
    this.#refusalReported = now;
    return true;
  }

  /** A client that is not served to the end is to see it. */
  #poison(conn: UnixConn): void {
    try {
      conn.poison();
    } catch (error) {
      this.#logger.debug?.(`Cannot tell ${nameOf(conn)}: it is gone already`, error);
    }
  }
}

/** A client that is being served, and what it is sent, once that has begun. */
interface Conversation {
  readonly conn: UnixConn;
  response: ResponseWriter | undefined;
}

function nameOf({ peer }: UnixConn): string {
  return `process ${peer.pid}`;
}

/** Milliseconds between two clients that are expected to be followed by a third. */
const quickSuccession = 1;

/** How many steps an answer gets before others are looked for. */
const manySteps = 32;

/** How long the clients of a server that is shut down may take, in milliseconds. */
const defaultDeadline = 10_000;

/** Out of descriptors or memory: that passes, and the client waits in the queue meanwhile. */
const passing = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]);

/** Milliseconds between two lines about clients that are refused. */
const refusalInterval = 1000;

/** Milliseconds before accepting again after it failed: twice as many each time. */
const shortestDelay = 5;
const longestDelay = 1000;

/** A listener of ours on the socket of a native one. */
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
