/**
 * Two services in one process; prints each step on a line. Stops the first at the line "stop". Their answers wait for the
 * body of the request.
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const apps = await Promise.all(Deno.args.map(async (path) => await start(path)));
for (const app of apps) {
  app.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, answer);
  await app.ready();
}
const ports = apps.map((app) => app.status().sockets[0].address.split(":")[1]);
console.log(`ports: ${ports.join(" ")}`);
console.log(`serving: 1 ${Deno.pid}`);
for await (const line of told()) {
  if (line !== "stop") continue;
  await apps.shift()!.stop();
  console.log(`stopped: ${apps.length} are left`);
}

async function answer(request: Request): Promise<Response> {
  return new Response(await request.text());
}
