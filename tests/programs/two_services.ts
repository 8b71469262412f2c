/**
 * Two services in one process.
 *
 *     two_services.ts PATH PATH [PORT PORT]
 *
 * Prints each step on a line. Stops the first at the line "stop". Their answers wait for the
 * body of the request, and have the place of the service in the list.
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [first, second, ...given] = Deno.args;
const apps = await Promise.all([first, second].map(async (path) => await start(path)));
for (const [i, app] of apps.entries()) {
  app.serve(
    { hostname: "127.0.0.1", port: Number(given[i] ?? 0), onListen() {} },
    (request) => answer(request, i),
  );
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

async function answer(request: Request, place: number): Promise<Response> {
  await request.arrayBuffer();
  return new Response(String(place));
}
