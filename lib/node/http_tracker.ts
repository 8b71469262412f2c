/**
 * Tracks an HTTP server of node's for a drain. A request costs nothing until the server may have to leave: what is in flight
 * is read from node's own objects.
 *
 * @module
 */

import type { Address } from "../../ffi/sockaddr.ts";
import type { Connection } from "../http/connections.ts";
import type { Busy, DrainedServer } from "../http/drained_server.ts";
import type { Protocol } from "../http/protocols.ts";
import { type Clients, keyOf } from "./clients.ts";
import { closeForProgram } from "./close.ts";
import { closingHead } from "./closing_head.ts";
import { type Http2Session, Http2Sessions } from "./http2_sessions.ts";
import {
  bySymbol,
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
  readonly #sessions: Http2Sessions;
  readonly #upgraded: Clients;
  #isAnnouncingClose = false;

  /** @param upgraded The clients that speak another protocol by now. */
  constructor(server: ListeningServer, address: Address | undefined, upgraded: Clients) {
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
    // Also those that were opened since the last call.
    this.#sessions.announceClose();
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
    // The response of an HTTP/2 stream.
    if (typeof response._storeHeader !== "function") return;
    const client = clientOf(response);
    if (client) this.#toldToClose.delete(client);
    this.#tellToClose(response);
  };

  /** Has the head of a response say `Connection: close`, unless it is sent. */
  #tellToClose(response: HttpResponse): void {
    if (response.headersSent) return;
    const store = response._storeHeader!;
    response._storeHeader = (firstLine, headers) => {
      store.call(response, firstLine, headers);
      // An upgrade is no answer (RFC 9110, 15.2.2).
      const isUpgrade = response.statusCode === 101;
      if (!this.#isAnnouncingClose || response._header === null || isUpgrade) return;
      response._header = closingHead(response._header);
      const client = clientOf(response);
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
    if (this.#upgraded.has(client)) return "WebSocket";
    if (this.#sessions.clients.has(client)) return "HTTP/2";
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
    this.#sessions.close();
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

/** The sessions by server: a server of node:http2 that was closed may call `listen()` again. */
const sessionsByServer = new WeakMap<ListeningServer, Http2Sessions>();

/** The open sessions of a server of node:http2; none of another. */
function sessionsOf(server: ListeningServer): Http2Sessions {
  const known = sessionsByServer.get(server);
  if (known) return known;
  const sessions = new Http2Sessions();
  sessionsByServer.set(server, sessions);
  if (isHttp2Server(server)) {
    for (const session of bySymbol<Set<Http2Session>>(server, "sessions") ?? []) {
      sessions.add(session);
    }
    server.on("session", (session: Http2Session) => sessions.add(session));
  }
  return sessions;
}

/** The client of an answer, which has no socket while it waits for the answer to an earlier request. */
function clientOf({ req: { socket } }: HttpResponse): string | undefined {
  return socket ? keyOf(socket) : undefined;
}
