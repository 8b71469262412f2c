/**
 * Serves with `Deno.serve` ("Deno") or with `app.serve` of a generation ("app"), at several addresses, and ends: what
 * the two print is the same.
 *
 * @module
 */

import { start } from "../../mod.ts";

const [whose, directory, cert, key] = Deno.args;
const app = await start(`${directory}/app.sock`);
const { serve } = whose === "app" ? { serve: app.serve.bind(app) } : Deno;
const answer = () => new Response();
const port = 0;
const servers = [
  serve({ port, hostname: "127.0.0.1" }, answer),
  serve({ port, hostname: "::1" }, answer),
  serve({ port }, answer),
  serve({ port, hostname: "127.0.0.1", cert, key }, answer),
  serve({ path: `${directory}/${whose}.http.sock` }, answer),
  serve({ port, hostname: "127.0.0.1", onListen() {} }, answer),
];
await app.ready();
for (const server of servers) await server.shutdown();
await app.stop();
