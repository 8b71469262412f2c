/**
 * Tracks an HTTP server of node's for a drain. A request costs nothing until the server may have to leave: what is in flight
 * is read from node's own objects.
 *
 * @module
 */

import type { Address } from "../../ffi/sockaddr.ts";
import { clientKey, type Connection } from "../http/connections.ts";
import type { Busy, DrainedServer } from "../http/drained_server.ts";
import type { Protocol } from "../http/protocols.ts";
import { closeForProgram } from "./close.ts";
import { closingHead } from "./closing_head.ts";
import {
  bySymbol,
  type Http2Session,
  type HttpConnections,
  type HttpResponse,
  type HttpSocket,
  isHttp2Server,
  type ListeningServer,
  netServerPrototype,
} from "./node_objects.ts";

/** The events of a new request: of the last two only if the program listens to them, or node does not answer itself. */
const requestEvents = ["request", "checkContinue", "checkExpectation"] as const;

/** One HTTP server of node's. */
export class NodeHttpTracker implements DrainedServer {
  readonly server = { shutdown: () => this.#shutdown(), unref: () => void this.#server.unref() };
  readonly isTls: boolean;
  readonly address: Address | undefined;
  readonly #server: ListeningServer;
  readonly #toldToClose = new Set<string>();
  readonly #sessions: ReadonlySet<Http2Session>;
  readonly #upgraded: ReadonlySet<HttpSocket>;
  #isAnnouncingClose = false;

  /** @param upgraded The sockets that speak another protocol by now. */
  constructor(
    server: ListeningServer,
    address: Address | undefined,
    upgraded: ReadonlySet<HttpSocket>,
  ) {
    this.#server = server;
    this.address = address;
    this.isTls = "setSecureContext" in server;
    this.#upgraded = upgraded;
    this.#sessions = sessionsOf(server);
  }

  /** Does nothing: node's own objects tell. */
  trackClients(): void {}

  /** {@linkcode DrainedServer.announceClose} */
  announceClose(): void {
    if (this.#isAnnouncingClose) return;
    this.#isAnnouncingClose = true;
    for (const { _httpMessage } of this.#sockets()) {
      if (_httpMessage) this.#tellToClose(_httpMessage);
    }
    for (const event of requestEvents) {
      // Without a listener node answers by itself.
      if (this.#server.listenerCount(event) > 0) {
        this.#server.prependListener(event, this.#onRequest);
      }
    }
  }

  /** {@linkcode DrainedServer.withdrawClose} */
  withdrawClose(): void {
    this.#isAnnouncingClose = false;
    for (const event of requestEvents) this.#server.removeListener(event, this.#onRequest);
  }

  readonly #onRequest = (_request: unknown, response: HttpResponse): void => {
    const client = response.socket && keyOf(response.socket);
    if (client) this.#toldToClose.delete(client);
    this.#tellToClose(response);
  };

  /** Has the head of a response say `Connection: close`, unless it is sent. */
  #tellToClose(response: HttpResponse): void {
    const store = response._storeHeader;
    // The response of an HTTP/2 stream has none.
    if (typeof store !== "function" || response.headersSent) return;
    response._storeHeader = (firstLine, headers) => {
      store.call(response, firstLine, headers);
      if (!this.#isAnnouncingClose || response._header === null) return;
      response._header = closingHead(response._header);
      const client = response.socket && keyOf(response.socket);
      if (client) this.#toldToClose.add(client);
    };
  }

  get isAnnouncingClose(): boolean {
    return this.#isAnnouncingClose;
  }

  get toldToClose(): ReadonlySet<string> {
    return this.#toldToClose;
  }

  wasToldToClose({ client }: Connection): boolean {
    return client !== undefined && this.#toldToClose.has(client);
  }

  forgetToldToClose(client: string): void {
    this.#toldToClose.delete(client);
  }

  protocolOf({ client }: Connection): Protocol | undefined {
    if (client === undefined) return undefined;
    const isOf = (socket: HttpSocket | undefined) =>
      socket !== undefined && keyOf(socket) === client;
    if ([...this.#upgraded].some(isOf)) return "WebSocket";
    if ([...this.#sessions].some(({ socket }) => isOf(socket))) return "HTTP/2";
    return "HTTP/1";
  }

  requestsInFlight(): Set<object> {
    const responses = this.#sockets().flatMap(({ _httpMessage }) => _httpMessage ?? []);
    return new Set(responses);
  }

  isAnyInFlight(requests: Set<object>): boolean {
    return ([...requests] as HttpResponse[]).some(({ writableFinished, destroyed }) =>
      !writableFinished && !destroyed
    );
  }

  busyConnections(connections: Connection[]): Busy {
    const busy = new Set<string | undefined>();
    for (const socket of this.#sockets()) if (socket._httpMessage) busy.add(keyOf(socket));
    busy.delete(undefined);
    return {
      isAny: connections.some(({ client }) => busy.has(client)),
      // A shutdown of node's does not break off a request.
      hasUpload: false,
      has: ({ client }) => busy.has(client),
    };
  }

  /** The connections that speak HTTP/1. */
  #sockets(): HttpSocket[] {
    const connections = bySymbol<HttpConnections>(this.#server, "http.server.connections");
    return [...connections?._all ?? []];
  }

  /**
   * Stops listening, closes the idle connections of a unix socket, and resolves when every connection has ended. `close()` of
   * node:http would close idle connections at once; that of node:net, which it overrides, closes none.
   */
  async #shutdown(): Promise<void> {
    // GOAWAY: streams under way go on; a later one is refused, and the client may repeat it (RFC 9113, 6.8).
    for (const session of this.#sessions) if (!session.closed) session.close();
    // Which connections of a unix socket are idle, node alone tells: the others were hung up on.
    if (this.address && "path" in this.address) {
      for (const socket of this.#sockets()) if (!socket._httpMessage) socket.destroy();
    }
    await new Promise<void>((resolve) => {
      // An error says that the program has closed it.
      closeForProgram(this.#server, netServerPrototype(this.#server).close, () => resolve());
    });
  }
}

/** The sessions of servers of node:http2: one that is closed may listen again. */
const sessionsByServer = new WeakMap<ListeningServer, Set<Http2Session>>();

/** The open sessions of a server of node:http2; none of another. */
function sessionsOf(server: ListeningServer): ReadonlySet<Http2Session> {
  const known = sessionsByServer.get(server);
  if (known) return known;
  const sessions = new Set<Http2Session>();
  sessionsByServer.set(server, sessions);
  if (isHttp2Server(server)) {
    server.on("session", (session: Http2Session) => {
      sessions.add(session);
      session.once("close", () => sessions.delete(session));
    });
  }
  return sessions;
}

/** The `clientKey` of the peer of a socket. */
function keyOf({ remoteAddress, remotePort }: HttpSocket): string | undefined {
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return clientKey({ transport: "tcp", hostname: remoteAddress, port: remotePort });
}
