/**
 * Tracks an HTTP server: the requests in flight, the protocol of each client, and which clients were told to
 * close their connections.
 *
 * @module
 */

import type { Address } from "../../ffi/sockaddr.ts";
import { printError } from "../logger.ts";
import { asUpgrade, hasBody, isSendable, isUpgraded, withConnectionClose } from "./answers.ts";
import { clientKey, type Connection } from "./connections.ts";
import type { Busy, DrainedServer } from "./drained_server.ts";
import { ClientProtocols, hasHttp1HeaderNames, type Protocol } from "./protocols.ts";

/** Answers one request, as in `Deno.serve`. */
export type HttpHandler = (
  request: Request,
  info: Deno.ServeHandlerInfo,
) => Response | Promise<Response>;

/** Answers for a handler that has thrown. */
export type HttpErrorHandler = (error: unknown) => Response | Promise<Response>;

/** The address that a request came from; undefined for unix sockets, and after an upgrade. */
type RemoteAddr = Deno.Addr | undefined;

/** Options of {@linkcode HttpTracker}. */
export interface HttpTrackerOptions {
  /** Answers the requests. */
  handler: HttpHandler;
  /** Answers for a handler that has thrown. */
  onError: HttpErrorHandler;
  /** Whether the server speaks TLS. */
  isTls: boolean;
  /** The address that its listener is bound to. */
  address?: Address;
  /** Lists the connected clients; absent on a system without epoll, which cannot list them. */
  connectedClients?: () => ReadonlySet<string | undefined>;
}

/** One HTTP server, and the handlers that `Deno.serve` calls in place of the program's. */
export class HttpTracker implements DrainedServer {
  /** The server. */
  readonly server: Deno.HttpServer;
  /** Whether the server speaks TLS. */
  readonly isTls: boolean;
  /** The address that its listener is bound to. */
  readonly address: Address | undefined;
  readonly #handler: HttpHandler;
  readonly #onError: HttpErrorHandler;
  readonly #protocols: ClientProtocols;
  /**
   * The requests that are being answered, and where each came from. A tracked answer is in flight until its
   * last byte is sent, any other until the handler has returned it.
   */
  readonly #inFlight = new Map<Request, RemoteAddr>();
  /** The requests whose handler threw, by the error, until `onError` has answered. */
  readonly #failed = new Map<unknown, { request: Request; remoteAddr: RemoteAddr }>();
  /** The HTTP/1 clients whose last answer had `Connection: close`. */
  readonly #toldToClose = new Set<string>();
  /**
   * Whether synchronous answers are tracked, too: without TLS that costs a twentieth of the throughput, so it
   * is done only around a handover; with TLS it costs nothing, and is always done.
   */
  #isTracking: boolean;
  #isAnnouncingClose = false;

  /** @param serve Starts the server with these two handlers, which it calls in a later turn at the earliest. */
  constructor(
    { handler, onError, isTls, address, connectedClients }: HttpTrackerOptions,
    serve: (handle: HttpHandler, handleError: HttpErrorHandler) => Deno.HttpServer,
  ) {
    this.#handler = handler;
    this.#onError = onError;
    this.isTls = isTls;
    this.address = address;
    this.#isTracking = isTls;
    this.server = serve(this.#handle, this.#handleError);
    this.#protocols = new ClientProtocols({
      fallbackAddress: this.server.addr,
      connectedClients,
    });
  }

  /** Tracks every client and every answer from here on. */
  trackClients(): void {
    // Protocols that were noted in an earlier handover may be outdated: later requests were not noted.
    if (!this.#isTracking) this.#protocols.clear();
    this.#isTracking = true;
  }

  /** Sends `Connection: close` with every HTTP/1 answer from here on. */
  announceClose(): void {
    this.trackClients();
    this.#isAnnouncingClose = true;
  }

  /** Ends {@linkcode announceClose}; clients that were told to close are still tracked. */
  withdrawClose(): void {
    this.#isAnnouncingClose = false;
    this.#stopTrackingIfDone();
  }

  /** Whether HTTP/1 answers have `Connection: close`. */
  get isAnnouncingClose(): boolean {
    return this.#isAnnouncingClose;
  }

  /** The HTTP/1 clients whose last answer had `Connection: close`. */
  get toldToClose(): ReadonlySet<string> {
    return this.#toldToClose;
  }

  /** Whether the last answer on an HTTP/1 connection had `Connection: close`. */
  wasToldToClose({ client }: Connection): boolean {
    return client !== undefined && this.#toldToClose.has(client);
  }

  /** Removes a client from {@linkcode toldToClose}: its connection is closed. */
  forgetToldToClose(client: string): void {
    this.#toldToClose.delete(client);
    this.#stopTrackingIfDone();
  }

  #stopTrackingIfDone(): void {
    if (this.#isAnnouncingClose || this.#toldToClose.size > 0) return;
    this.#isTracking = this.isTls;
  }

  /** The protocol of a connection; undefined before its first request was tracked. */
  protocolOf({ client }: Connection): Protocol | undefined {
    return client === undefined ? undefined : this.#protocols.get(client);
  }

  /** The requests in flight now. */
  requestsInFlight(): Set<Request> {
    return new Set(this.#inFlight.keys());
  }

  /** Whether any of these requests is still in flight. */
  isAnyInFlight(requests: Set<object>): boolean {
    for (const request of requests) if (this.#inFlight.has(request as Request)) return true;
    return false;
  }

  /** The connections that have a request in flight now; `isAny` and `hasUpload` are about `connections` alone. */
  busyConnections(connections: Connection[]): Busy {
    return new BusyConnections(this.#inFlight, this.#protocols, connections);
  }

  /** The handler for `Deno.serve`; throws what the program's handler throws. */
  readonly #handle: HttpHandler = (request, info) => {
    const isTracking = this.#isTracking;
    const remoteAddr = isTracking ? remoteAddrOf(info) : undefined;
    if (isTracking) this.#noteRequest(request, remoteAddr);
    let answer: Response | Promise<Response>;
    try {
      answer = this.#handler(request, info);
    } catch (error) {
      this.#noteFailure(error, request, remoteAddr);
      throw error;
    }
    if (answer instanceof Response) {
      return isTracking ? this.#trackAnswer(answer, request, info, remoteAddr) : answer;
    }
    return this.#awaitAnswer(answer, request, info, remoteAddr ?? remoteAddrOf(info));
  };

  async #awaitAnswer(
    promise: Promise<Response>,
    request: Request,
    info: Deno.ServeHandlerInfo,
    remoteAddr: RemoteAddr,
  ): Promise<Response> {
    this.#inFlight.set(request, remoteAddr);
    let answer: Response;
    try {
      answer = await promise;
    } catch (error) {
      this.#noteFailure(error, request, remoteAddr);
      throw error;
    }
    this.#inFlight.delete(request);
    return this.#isTracking ? this.#trackAnswer(answer, request, info, remoteAddr) : answer;
  }

  #noteRequest(request: Request, remoteAddr: RemoteAddr): void {
    const client = clientKey(remoteAddr);
    if (client === undefined) return;
    this.#toldToClose.delete(client);
    this.#protocols.note(client, request);
  }

  /** Keeps a request in flight until the last byte of its answer is sent (`info.completed`, Deno 2.1 on). */
  #trackAnswer(
    answer: Response,
    request: Request,
    info: Deno.ServeHandlerInfo,
    remoteAddr: RemoteAddr,
  ): Response {
    if (this.#isAnnouncingClose && !isSendable(answer)) {
      // Deno would throw as well, but onError could not tell for which request.
      const error = new TypeError(
        "Cannot answer a request with a value that is not a Response, or with a Response that was used before",
      );
      this.#noteFailure(error, request, remoteAddr);
      throw error;
    }
    if (!(answer instanceof Response)) return answer;
    if (answer.status === 101) {
      const client = clientKey(remoteAddr);
      if (client !== undefined) this.#protocols.set(client, "WebSocket");
      return answer;
    }
    if (remoteAddr && "completed" in info) {
      this.#inFlight.set(request, remoteAddr);
      const complete = () => this.#inFlight.delete(request);
      info.completed.then(complete, complete);
    }
    return this.#isAnnouncingClose ? this.#tellToClose(answer, request, remoteAddr) : answer;
  }

  /** Keeps a request in flight until `onError` has answered it. */
  #noteFailure(error: unknown, request: Request, remoteAddr: RemoteAddr): void {
    // Two requests threw the same error: onError cannot tell the second from the first.
    if (this.#failed.has(error)) {
      this.#inFlight.delete(request);
      return;
    }
    this.#inFlight.set(request, remoteAddr);
    this.#failed.set(error, { request, remoteAddr });
  }

  /** `onError` for `Deno.serve`, which calls it for streamed answers that break off, too. */
  readonly #handleError: HttpErrorHandler = async (error) => {
    const failed = this.#failed.get(error);
    this.#failed.delete(error);
    try {
      const answer = await this.#answerError(error);
      if (!failed || !isSendable(answer)) return answer;
      const { request, remoteAddr } = failed;
      if (isUpgraded(request)) return asUpgrade(answer);
      return this.#isAnnouncingClose ? this.#tellToClose(answer, request, remoteAddr) : answer;
    } finally {
      if (failed) this.#inFlight.delete(failed.request);
    }
  };

  /** The answer of the program's `onError`; if that throws, the one that Deno sends then. */
  async #answerError(error: unknown): Promise<Response> {
    try {
      return await this.#onError(error);
    } catch (cause) {
      printError("onError threw when it was called for the error of a handler", cause);
      return new Response("Internal Server Error", { status: 500 });
    }
  }

  /** Gives an answer `Connection: close`, unless its client speaks HTTP/2. */
  #tellToClose(answer: Response, request: Request, remoteAddr: RemoteAddr): Response {
    const client = clientKey(remoteAddr);
    if (client !== undefined) {
      // The request may have come before clients were tracked.
      const protocol = hasHttp1HeaderNames(request)
        ? "HTTP/1"
        : this.#protocols.protocolOf(request);
      this.#protocols.set(client, protocol);
      if (protocol === "HTTP/2") return answer;
      this.#toldToClose.add(client);
    }
    return withConnectionClose(answer, request);
  }
}

/** The connections that have a request in flight at one moment. */
class BusyConnections implements Busy {
  readonly #clients = new Set<string | undefined>();
  /** Whether one of the connections in question is busy. */
  readonly isAny: boolean = false;
  /** Whether one of the connections in question may still send the body of an HTTP/1 request. */
  readonly hasUpload: boolean = false;

  constructor(
    inFlight: ReadonlyMap<Request, RemoteAddr>,
    protocols: ClientProtocols,
    connections: Connection[],
  ) {
    if (inFlight.size === 0) return;
    const asked = new Set(connections.map(({ client }) => client));
    for (const [request, remoteAddr] of inFlight) {
      const client = clientKey(remoteAddr);
      this.#clients.add(client);
      if (!asked.has(client)) continue;
      this.isAny = true;
      const isHttp2 = client !== undefined && protocols.get(client) === "HTTP/2";
      if (!isHttp2 && hasBody(request)) this.hasUpload = true;
    }
  }

  /** Whether a connection has a request in flight. */
  has({ client }: Connection): boolean {
    return this.#clients.has(client);
  }
}

/** Deno throws after the request was upgraded (from 2.8.3 on), and after it was answered. */
function remoteAddrOf(info: Deno.ServeHandlerInfo): RemoteAddr {
  try {
    return info.remoteAddr;
  } catch {
    return undefined;
  }
}
