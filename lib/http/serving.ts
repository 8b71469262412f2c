/**
 * An HTTP server while it serves: what each client speaks, which requests are being answered, and how a
 * client learns that it has to leave.
 *
 * @module
 */

import type { Address } from "../../ffi/sockaddr.ts";
import { ifSocket, peerAddress } from "../../ffi/socket.ts";
import { denoRegistrations, type Registration } from "../event_loop/registration.ts";
import { printError } from "../logger.ts";

/** Answers one request, as in `Deno.serve`. */
export type HttpHandler = (
  request: Request,
  info: Deno.ServeHandlerInfo,
) => Response | Promise<Response>;

/** Answers for a handler that has thrown. */
type HttpErrorHandler = (error: unknown) => Response | Promise<Response>;

/**
 * What a connection speaks. Deno does not tell the version of a request: one with a Host header, and
 * without any header that HTTP/2 forbids, may be of either.
 */
export type Protocol = "HTTP/1" | "HTTP/1 or 2" | "HTTP/2" | "WebSocket";

/** The address that a request came from; undefined once a request was upgraded, and of unix sockets. */
type Client = Deno.Addr | undefined;

/** One HTTP server, and the handler that `Deno.serve` calls in place of the user's. */
export class Serving {
  /** Whether it serves TLS. */
  readonly tls: boolean;
  /** What its listener is bound to. */
  readonly address: Address | undefined;
  /** Whether every answer has to tell its client to leave. */
  leaving = false;
  readonly #handler: HttpHandler;
  readonly #onError: HttpErrorHandler;
  #server: Deno.HttpServer | undefined;
  #registration: Registration | undefined;
  /** How the part of a URL ends that names the host of a request without one. */
  #fallback = "no port";
  #watching = false;
  /** Requests whose answer, or as far as that is known its last byte, is not out. */
  readonly #active = new Map<Request, Client>();
  /** Requests whose handler threw, by the error, until `onError` has answered. */
  readonly #failed = new Map<unknown, { request: Request; client: Client }>();
  readonly #protocols = new Map<string, Protocol>();
  /** Clients of HTTP/1 whose last answer said that its connection closes. */
  readonly #told = new Set<string>();
  /** How many clients make it worth a look at which of them are still connected. */
  #many = 1000;

  /** Wraps a handler; `started` has to follow in the turn in which the server is made. */
  constructor(
    handler: HttpHandler,
    onError: HttpErrorHandler,
    { tls, address }: { tls: boolean; address: Address | undefined },
  ) {
    this.#handler = handler;
    this.#onError = onError;
    this.tls = tls;
    this.address = address;
  }

  /**
   * @param fallback The address that Deno puts into the URL of a request that names no host.
   * @param slot Absent on a system without an epoll: its connections cannot be looked at.
   */
  started(server: Deno.HttpServer, fallback: Deno.Addr, registration?: Registration): void {
    this.#server = server;
    this.#registration = registration;
    if ("port" in fallback) this.#fallback = `:${fallback.port}/`;
  }

  /** The server. */
  get server(): Deno.HttpServer {
    return this.#server!;
  }

  /** The place of its listener. */
  get registration(): Registration {
    return this.#registration!;
  }

  /** Notes from here on what clients speak, for it may soon have to leave. */
  watch(): void {
    // Of a connection that was noted in an earlier handover, requests since then were not.
    if (!this.#isWatched) this.#protocols.clear();
    this.#watching = true;
  }

  /** Answers with `Connection: close` from here on. */
  leave(): void {
    this.watch();
    this.leaving = true;
  }

  /** Serves on as before; clients that were told to leave are still to be hung up on. */
  stay(): void {
    this.leaving = false;
    if (this.#told.size === 0) this.#watching = false;
  }

  /** The clients that were told to leave by the last answer on their connection. */
  get told(): ReadonlySet<string> {
    return this.#told;
  }

  /** Forgets that a client was told to leave: it has. */
  forgetTold(client: string): void {
    this.#told.delete(client);
    if (this.#told.size === 0 && !this.leaving) this.#watching = false;
  }

  /**
   * Noting every answer costs a twentieth of the throughput where handlers answer synchronously; with TLS
   * it costs nothing.
   */
  get #isWatched(): boolean {
    return this.tls || this.#watching;
  }

  /** The handler for `Deno.serve`: what it throws is what the user's handler has thrown. */
  readonly handle: HttpHandler = (request, info) => {
    const isWatched = this.#isWatched;
    const client = isWatched ? clientOf(info) : undefined;
    if (isWatched) this.#note(client, request);
    let answer: Response | Promise<Response>;
    try {
      answer = this.#handler(request, info);
    } catch (error) {
      this.#fail(error, request, client);
      throw error;
    }
    if (answer instanceof Response) {
      return isWatched ? this.#give(answer, request, info, client) : answer;
    }
    return this.#giveLater(answer, request, info, client ?? clientOf(info));
  };

  async #giveLater(
    answer: Promise<Response>,
    request: Request,
    info: Deno.ServeHandlerInfo,
    client: Client,
  ): Promise<Response> {
    this.#active.set(request, client);
    let given: Response;
    try {
      given = await answer;
    } catch (error) {
      this.#fail(error, request, client);
      throw error;
    }
    this.#active.delete(request);
    return this.#isWatched ? this.#give(given, request, info, client) : given;
  }

  /** Notes an answer, which is under way until its last byte is out: Deno tells that from 2.1 on. */
  #give(
    answer: Response,
    request: Request,
    info: Deno.ServeHandlerInfo,
    client: Client,
  ): Response {
    if (this.leaving && !isSendable(answer)) {
      // Deno throws as well, but does not tell onError which request that is about.
      const error = new TypeError(
        "Cannot answer with what is no Response, or was sent or read before",
      );
      this.#fail(error, request, client);
      throw error;
    }
    if (!(answer instanceof Response)) return answer;
    if (answer.status === 101) {
      const key = keyOf(client);
      if (key !== undefined) this.#protocols.set(key, "WebSocket");
      return answer;
    }
    if (client && "completed" in info) {
      this.#active.set(request, client);
      const done = () => this.#active.delete(request);
      info.completed.then(done, done);
    }
    return this.leaving ? this.#farewell(answer, request, client) : answer;
  }

  /** The request is being answered until `onError` has. */
  #fail(error: unknown, request: Request, client: Client): void {
    // An error that another request has thrown as well tells nothing of this one.
    if (this.#failed.has(error)) {
      this.#active.delete(request);
      return;
    }
    this.#active.set(request, client);
    this.#failed.set(error, { request, client });
  }

  /** `onError` for `Deno.serve`, which calls it for streamed answers that break off, too. */
  readonly handleError = async (error: unknown): Promise<Response> => {
    const failed = this.#failed.get(error);
    this.#failed.delete(error);
    try {
      const answer = await this.#answerTo(error);
      if (!failed || !isSendable(answer)) return answer;
      if (isUpgraded(failed.request)) return asUpgrade(answer);
      return this.leaving ? this.#farewell(answer, failed.request, failed.client) : answer;
    } finally {
      if (failed) this.#active.delete(failed.request);
    }
  };

  /** What `onError` answers; if it throws, what Deno answers then. */
  async #answerTo(error: unknown): Promise<Response> {
    try {
      return await this.#onError(error);
    } catch (cause) {
      printError("onError threw when it was called for the error of a handler", cause);
      return new Response("Internal Server Error", { status: 500 });
    }
  }

  /** The answer with the header by which its client leaves. */
  #farewell(answer: Response, request: Request, client: Client): Response {
    const key = keyOf(client);
    if (key !== undefined) {
      // The request may have come before clients were watched.
      const protocol = namesAreHttp1(request) ? "HTTP/1" : this.#protocolOf(request);
      this.#protocols.set(key, protocol);
      if (protocol === "HTTP/2") return answer;
      this.#told.add(key);
    }
    if (hasBody(request)) touchBody(request);
    return mayBeHttp10(request, answer) ? closeDelimited(answer) : withConnectionClose(answer);
  }

  #note(client: Client, request: Request): void {
    const key = keyOf(client);
    if (key === undefined) return;
    this.#told.delete(key);
    this.#protocols.set(key, this.#protocolOf(request));
    if (this.#protocols.size > this.#many) this.#prune();
  }

  /** Tells the protocol by the headers that only one version of HTTP may have. */
  #protocolOf({ headers, url }: Request): Protocol {
    // RFC 9113, 8.2.2: HTTP/2 has no connection-specific headers.
    if (headers.has("connection") || headers.has("transfer-encoding")) return "HTTP/1";
    if (headers.has("host")) return "HTTP/1 or 2";
    // HTTP/2 names the host in :authority; HTTP/1.0 need not name one.
    const authority = url.slice(0, url.indexOf("/", "https://".length) + 1);
    return authority.endsWith(this.#fallback) ? "HTTP/1" : "HTTP/2";
  }

  #prune(): void {
    // Which clients are connected cannot be told: the protocol of each is noted again at its next request.
    if (!this.#registration) return this.#protocols.clear();
    const clients = denoRegistrations().map(({ tfd }) =>
      ifSocket(tfd, () => keyOf(peerAddress(tfd)))
    );
    const here = new Set(clients);
    for (const client of this.#protocols.keys()) {
      if (!here.has(client)) this.#protocols.delete(client);
    }
    this.#many = Math.max(1000, 2 * this.#protocols.size);
  }

  /** What a client speaks; undefined before its first request is noted. */
  protocolOf({ client }: Connection): Protocol | undefined {
    return client === undefined ? undefined : this.#protocols.get(client);
  }

  /** Whether the last answer on a connection said that it closes. */
  wasTold({ client }: Connection): boolean {
    return client !== undefined && this.#told.has(client);
  }

  /** The requests that are being answered now. */
  answering(): Set<Request> {
    return new Set(this.#active.keys());
  }

  /** Whether some of these requests are still being answered. */
  isAnsweringAny(requests: Set<Request>): boolean {
    for (const request of requests) if (this.#active.has(request)) return true;
    return false;
  }

  /** The requests that are being answered now to clients at the other ends of `connections`. */
  busy(connections: Connection[]): Busy {
    return new Busy(this.#active, this.#protocols, connections);
  }
}

/** A connection that came in at the server. */
export interface Connection {
  readonly raw: number;
  /** By which it is told from a later one of that number (SO_COOKIE). */
  readonly cookie: bigint;
  /** The client at its other end; undefined on a unix socket. */
  readonly client: string | undefined;
}

/** The client at the other end of `raw`, by its address. */
export function clientAt(raw: number): string | undefined {
  return keyOf(peerAddress(raw));
}

/** The connections on which requests are being answered, at one moment. */
export class Busy {
  readonly #clients = new Set<string | undefined>();
  /** Whether there are any among the connections that were asked about. */
  readonly any: boolean = false;
  /** Whether one of them may still send the body of a request of HTTP/1. */
  readonly uploading: boolean = false;

  /** Looks which of the `active` requests came over one of the `connections`. */
  constructor(
    active: ReadonlyMap<Request, Client>,
    protocols: ReadonlyMap<string, Protocol>,
    connections: Connection[],
  ) {
    if (active.size === 0) return;
    const here = new Set(connections.map(({ client }) => client));
    for (const [request, client] of active) {
      const key = keyOf(client);
      this.#clients.add(key);
      if (!here.has(key)) continue;
      this.any = true;
      const isHttp2 = key !== undefined && protocols.get(key) === "HTTP/2";
      if (!isHttp2 && hasBody(request)) this.uploading = true;
    }
  }

  /** Whether a request is being answered on a connection. */
  has({ client }: Connection): boolean {
    return this.#clients.has(client);
  }
}

/** Deno throws once a request was upgraded (2.8.3), or has been answered. */
function clientOf(info: Deno.ServeHandlerInfo): Client {
  try {
    return info.remoteAddr;
  } catch {
    return undefined;
  }
}

function keyOf(address: Deno.Addr | Address | undefined): string | undefined {
  return address && "hostname" in address ? `${address.hostname} ${address.port}` : undefined;
}

/** Whether Deno sends this answer. */
function isSendable(answer: unknown): answer is Response {
  return answer instanceof Response && !answer.bodyUsed && answer.type !== "error";
}

/** Under which Deno keeps what a Request is made of: not in its public interface. */
let innerRequest: symbol | undefined;

/**
 * Whether a request is one of HTTP/1 for certain, by capital letters in the names of its headers: HTTP/2
 * has none (RFC 9113, 8.2.1). Deno tells them from 2.8.3 on; before, it closes the connections of HTTP/1
 * itself whose answers say so.
 */
function namesAreHttp1(request: Request): boolean {
  try {
    innerRequest ??= Object.getOwnPropertySymbols(request)
      .find(({ description }) => description === "request");
    const { headerList } =
      (request as unknown as Record<symbol, { headerList: [string, string][] }>)[
        innerRequest!
      ];
    return headerList.some(([name]) => /[A-Z]/.test(name));
  } catch {
    // Another Deno may keep them elsewhere: then it is not certain.
    return false;
  }
}

/** Whether a request has a body, which may still be on its way. */
function hasBody({ method, headers }: Request): boolean {
  if (method === "GET" || method === "HEAD") return false;
  return headers.has("transfer-encoding") || Number(headers.get("content-length") ?? 0) > 0;
}

/**
 * Has Deno take the body of a request for read: for one that is still on its way it says `Connection:
 * close` as well otherwise (2.9.6; 2.8.3 to 2.9.3 do so in any case).
 */
function touchBody(request: Request): void {
  void request.bodyUsed;
}

/**
 * An answer that Deno takes for that of an upgrade, and sends as it is. It closes the whole server when a
 * request that was upgraded gets any other ("Upgrade response was not returned from callback").
 */
function asUpgrade(answer: Response): Response {
  return Object.defineProperty(answer, "status", { value: 101 });
}

/** Whether a request was upgraded: Deno has let go of it then. */
function isUpgraded(request: Request): boolean {
  // The methods of WebSocket's handshake, by HTTP/1 and HTTP/2. The body of any other would be touched.
  if (request.method !== "GET" && request.method !== "CONNECT") return false;
  try {
    void request.body;
    return false;
  } catch {
    return true;
  }
}

/**
 * Whether the client may be one of HTTP/1.0 that keeps its connection: those of HTTP/1.1 may say
 * keep-alive, too. Deno tells such a client to keep it whatever the answer says, beside `close` (2.9) or in
 * its place (up to 2.8.2).
 */
function mayBeHttp10({ headers, method }: Request, { status }: Response): boolean {
  if (method === "HEAD" || status === 204 || status === 205 || status === 304) return false;
  return /\bkeep-alive\b/i.test(headers.get("connection") ?? "");
}

/**
 * The answer without a length: it ends with the connection in HTTP/1.0 (RFC 9112, 6.3), which Deno closes
 * then in every version; HTTP/1.1 sends it in chunks.
 */
function closeDelimited(answer: Response): Response {
  const headers = new Headers(answer.headers);
  headers.delete("content-length");
  headers.set("connection", "close");
  const { status, statusText } = answer;
  return new Response(withoutLength(answer.body), { headers, status, statusText });
}

/** A body of which Deno does not know the length: of one that it was given as a whole it does (2.9). */
function withoutLength(body: ReadableStream<Uint8Array> | null): ReadableStream<Uint8Array> {
  const reader = body?.getReader();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await reader?.read() ?? { done: true };
      if (done) controller.close();
      else controller.enqueue(value!);
    },
    cancel: (reason) => reader?.cancel(reason),
  });
}

/** The client closes the connection, so that no request of its can be on the way. */
function withConnectionClose(answer: Response): Response {
  const { headers } = answer;
  const before = headers.get("connection");
  try {
    headers.set("connection", "close");
  } catch (error) {
    // Response.redirect() and fetch() give immutable headers.
    if (!(error instanceof TypeError)) throw error;
    const headers = new Headers(answer.headers);
    headers.set("connection", "close");
    const { body, status, statusText } = answer;
    return new Response(body, { headers, status, statusText });
  }
  // One without a body may be the program's answer to the next request, too. Deno has read it by then.
  setTimeout(() =>
    before === null ? headers.delete("connection") : headers.set("connection", before)
  );
  return answer;
}
