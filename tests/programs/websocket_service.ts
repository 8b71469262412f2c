/**
 * A generation that answers each WebSocket message with "GENERATION MESSAGE"; prints how many messages of a
 * connection it has answered ("answered: ID COUNT") when the connection is closed.
 *
 *     websocket_service.ts PATH [plain | alone]
 *
 * With "plain" the sockets are those of Deno.upgradeWebSocket(), closed at the same times as the library does;
 * with "alone" the process reads no lines, and ends when nothing keeps its event loop alive.
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path, how] = Deno.args;
const plain = how === "plain";
// Deno's timer for idle clients keeps the process alive for half of this time, in seconds.
const options = { idleTimeout: 3600 };
const drainTimeout = 1000;
const app = await start(path, { logger: {}, probation: 50, drainTimeout, forceCloseAfter: 5000 });
const server = app.serve({ hostname: "127.0.0.1", port: 0 }, (request) => {
  const { socket, response } = plain
    ? Deno.upgradeWebSocket(request, options)
    : app.upgradeWebSocket(request, options);
  if (plain) {
    app.draining.addEventListener("abort", () => {
      setTimeout(() => socket.close(1012, "service restart"), Math.random() * drainTimeout / 2);
    });
  }
  const id = new URL(request.url).searchParams.get("id");
  let answered = 0;
  socket.onmessage = ({ data }) => {
    socket.send(`${app.generation} ${data}`);
    answered++;
  };
  socket.onclose = () => console.log(`answered: ${id} ${answered}`);
  return response;
});
await app.ready();
console.log(`port: ${(server.addr as Deno.NetAddr).port}`);
if (how !== "alone") {
  void app.finished.then(() => Deno.exit());
  for await (const _line of told()) await app.stop();
}
