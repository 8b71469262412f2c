/**
 * The clients at the other ends of connections.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { EventEmitter } from "node:events";
import { Clients } from "../../lib/node/clients.ts";
import type { HttpSocket } from "../../lib/node/node_objects.ts";
import { test } from "../support/guard.ts";

/** A socket with a peer, or of a unix path. */
function socket(remotePort?: number): HttpSocket {
  const peer = remotePort === undefined ? {} : { remoteAddress: "10.0.0.1", remotePort };
  return Object.assign(new EventEmitter(), peer) as unknown as HttpSocket;
}

const close = (socket: HttpSocket) => (socket as unknown as EventEmitter).emit("close");

test("a client is known until its connection is closed, even if the next one has the same port", () => {
  const clients = new Clients();
  const first = socket(1);
  clients.add(first);
  clients.add(socket());
  assertEquals([clients.has("10.0.0.1 1"), clients.has("10.0.0.1 2")], [true, false]);
  const second = socket(1);
  clients.add(second);
  close(first);
  assertEquals(clients.has("10.0.0.1 1"), true);
  close(second);
  assertEquals(clients.has("10.0.0.1 1"), false);
});
