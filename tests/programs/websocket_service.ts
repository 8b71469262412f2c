/**
 * A generation that echoes over WebSockets, with its number before; says how many messages of each
 * connection it has answered when that is closed.
 *
 *     websocket_service.ts PATH [plain | alone]
 *
 * With "plain" the sockets are Deno's, closed as the library does it but for how; with "alone" it is not
 * told to stop, and ends when nothing keeps the process.
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path, how] = Deno.args;
const plain = how === "plain";
// Deno's timer for clients that say nothing keeps the process for half of that.
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
