/**
 * Upgrades a request to a WebSocket and answers it with something else; prints "closed" when leaving
 * does not wait for that socket. Deno, which ends the server then, keeps the connection since 2.8.3: so
 * this is a process of its own.
 *
 * @module
 */

import { WebSockets } from "../../lib/http/websockets.ts";
import { RawWebSocket } from "../support/raw_websocket.ts";

const sockets = new WebSockets();
const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
  sockets.upgrade(request);
  return new Response("changed its mind");
});
await RawWebSocket.begin(server.addr.port);
await server.finished;
const hurry = new AbortController().signal;
sockets.closeAll({ spread: 1000, code: 1012, reason: "", forceCloseAfter: 0, hurry });
console.log(sockets.isClosing ? "waiting" : "closed");
Deno.exit();
