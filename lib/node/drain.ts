/**
 * `drain()`: shuts down one HTTP server, of Deno or of node, that another process follows on the same listener.
 *
 * @module
 */

import { noDescriptors } from "../../ffi/system.ts";
import { localAddress } from "../../ffi/socket.ts";
import { denoRegistrations } from "../event_loop/registration.ts";
import { type Drainable, type DrainOptions, drainServer } from "../http/drain.ts";
import { stopAccepting, trackerOf } from "../http/serve.ts";
import { park } from "../native/accept_switch.ts";
import { listenerDescriptor } from "../native/descriptor.ts";
import type { NodeServer } from "../native/objects.ts";
import { identityOf } from "../native/registry.ts";
import { Clients } from "./clients.ts";
import { NodeHttpTracker } from "./http_tracker.ts";
import { checkNodeServer, isHttpServer } from "./node_objects.ts";

/**
 * Shuts down a server of {@linkcode serveHttp}, node:http, https or http2 without losing a request, once another process
 * accepts on the same listener: stops accepting, answers with `Connection: close` so that the clients close their
 * connections, waits until they have, and shuts the server down. Resolves to the number of connections that were still open
 * after `drainTimeout`.
 *
 * `server.shutdown()` and node's `server.close()` alone close idle connections while a request may be on its way on them.
 *
 * ```ts
 * import { drain, serveHttp } from "@graceful/deno";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const server = serveHttp(listener, () => new Response("hello"));
 * console.log(await drain(server), "connections had to be closed");
 * ```
 *
 * @throws {TypeError} When the server is neither of serveHttp's nor of node:http, https or http2, or does not listen.
 * @throws {UnsupportedRuntimeError} For a server of node before Deno 2.8.
 * @throws {RangeError} When `drainTimeout` or `forceCloseAfter` is negative or not a number.
 */
export async function drain(
  server: Deno.HttpServer | NodeServer,
  options: DrainOptions = {},
): Promise<number> {
  return await drainServer(isOfNode(server) ? ofNode(server) : ofDeno(server), options);
}

function isOfNode(server: Deno.HttpServer | NodeServer): server is NodeServer {
  return typeof server === "object" && server !== null && "address" in server;
}

function ofDeno(server: Deno.HttpServer): Drainable {
  const tracker = trackerOf(server);
  if (tracker) return { tracker, stopAccepting: () => stopAccepting(server) };
  throw noDescriptors() ?? new TypeError("Cannot drain a server that serveHttp() did not make");
}

const drained = new WeakMap<NodeServer, NodeHttpTracker>();

function ofNode(server: NodeServer): Drainable {
  const unsupported = noDescriptors();
  if (unsupported) throw unsupported;
  checkNodeServer(server);
  if (!isHttpServer(server)) {
    throw new TypeError(
      "Cannot drain a server of node:net: drain() is for those of node:http, https and http2; a generation " +
        "drains the others (listenNode)",
    );
  }
  if (server.address() === null) {
    throw new TypeError("Cannot drain a server of node that does not listen");
  }
  using fd = listenerDescriptor(server);
  const tracker = drained.get(server) ??
    new NodeHttpTracker(server, localAddress(fd.raw), new Clients());
  drained.set(server, tracker);
  const identity = identityOf(fd.raw);
  const stopAccepting = () => {
    const registration = denoRegistrations().find(({ tfd }) => identityOf(tfd) === identity);
    if (registration) park(registration);
  };
  return { tracker, stopAccepting };
}
