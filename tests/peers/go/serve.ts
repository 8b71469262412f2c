/**
 * Serves HTTP until it reads "drain". A timer ticks meanwhile; for "ticks" it prints how often.
 *
 *     serve.ts receive PATH  on the listener that it receives from PATH
 *     serve.ts give PATH     on a listener of its own, which it sends to every client at PATH
 *
 * @module
 */

import { drain, listenAndServe, listenerHandler, receive, serveHttp } from "../../../mod.ts";
import { told } from "../../support/child.ts";

const [role, path] = Deno.args;
const answer = () => new Response("Deno");

let ticks = 0;
setInterval(() => ticks++, 1);

let server: Deno.HttpServer | undefined;
if (role === "receive") {
  await receive(path, (fd) => {
    server = serveHttp(fd, answer);
  });
} else {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  server = serveHttp(listener, answer);
  listenAndServe(path, listenerHandler(listener));
}
console.log((server!.addr as Deno.NetAddr).port);
for await (const line of told()) {
  if (line === "drain") break;
  console.log(ticks);
}
await drain(server!);
console.log("drained");
Deno.exit();
