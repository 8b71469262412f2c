/**
 * Upgrades a request to a WebSocket, and answers with another response; prints "closed" if WebSockets does not
 * wait for that socket. A process of its own: Deno shuts the server down then, and keeps the connection open
 * (2.8.3 and later).
 *
 * @module
 */

import { WebSockets } from "../../lib/http/websockets.ts";
import { RawWebSocket } from "../support/raw_websocket.ts";

const sockets = new WebSockets();
const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
  sockets.upgrade(request);
  return new Response("not an upgrade");
});
await RawWebSocket.begin(server.addr.port);
await server.finished;
const hurry = new AbortController().signal;
sockets.closeAll({ spread: 1000, code: 1012, reason: "", forceCloseAfter: 0, hurry });
console.log(sockets.isClosing ? "waiting" : "closed");
Deno.exit();
