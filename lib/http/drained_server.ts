/**
 * What a drain needs of an HTTP server, Deno's or node's: its requests in flight, the protocol of each client, and which
 * clients were told to close their connections.
 *
 * @module
 */

import type { Address } from "../../ffi/sockaddr.ts";
import type { Connection } from "./connections.ts";
import type { Protocol } from "./protocols.ts";

/** The connections that have a request in flight at one moment. */
export interface Busy {
  /** Whether one of the connections in question is busy. */
  readonly isAny: boolean;
  /** Whether one of them may still send a body that a shutdown of the server would break off. */
  readonly hasUpload: boolean;
  /** Whether a connection has a request in flight. */
  has(connection: Connection): boolean;
}

/** An HTTP server that can be drained. */
export interface DrainedServer {
  /** The server itself. */
  readonly server: { shutdown(): Promise<void>; unref(): void };
  /** Whether it speaks TLS. */
  readonly isTls: boolean;
  /** The address that its listener is bound to. */
  readonly address: Address | undefined;
  /** Tracks every client and every answer from here on. */
  trackClients(): void;
  /** Sends `Connection: close` with every HTTP/1 answer from here on. */
  announceClose(): void;
  /** Ends `announceClose()`; clients that were told to close are still tracked. */
  withdrawClose(): void;
  /** Whether HTTP/1 answers have `Connection: close`. */
  readonly isAnnouncingClose: boolean;
  /** The HTTP/1 clients whose last answer had `Connection: close`, by their `clientKey`. */
  readonly toldToClose: ReadonlySet<string>;
  /** Whether the last answer on an HTTP/1 connection had `Connection: close`. */
  wasToldToClose(connection: Connection): boolean;
  /** Removes a client from `toldToClose`: its connection is closed. */
  forgetToldToClose(client: string): void;
  /** The protocol of a connection; undefined before its first request was tracked. */
  protocolOf(connection: Connection): Protocol | undefined;
  /** The requests in flight now. */
  requestsInFlight(): Set<object>;
  /** Whether any of these requests is still in flight. */
  isAnyInFlight(requests: Set<object>): boolean;
  /** The connections that have a request in flight now; `isAny` and `hasUpload` are about `connections` alone. */
  busyConnections(connections: Connection[]): Busy;
}
