/**
 * A service on a TCP, a UDP and a unix socket, which tells on a line what it warns of, and which of them are of
 * another network namespace.
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path, port = "0", predecessor] = Deno.args;
const warnings: string[] = [];
const app = await start(path, {
  inheritFrom: predecessor,
  probation: 100,
  drainTimeout: 1000,
  logger: { warn: (message) => warnings.push(message), error: console.error },
});
const hostname = "127.0.0.1";
app.serve({ hostname, port: Number(port) }, () => new Response("here"));
if (port === "0") {
  app.listenDatagram({ hostname, port: 0 });
  app.listen({ path: path.replace("app.sock", "web.sock") });
}
await app.ready();
const elsewhere = app.status().sockets.map(({ kind, elsewhere }) => [kind, elsewhere]);
const isAny = elsewhere.some(([, elsewhere]) => elsewhere);
console.log(JSON.stringify({
  generation: app.generation,
  warnings,
  elsewhere: isAny ? elsewhere : [],
}));
for await (const line of told()) if (line === "stop") break;
await app.stop();
