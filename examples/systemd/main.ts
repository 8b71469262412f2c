/**
 * A web service for the systemd units of this folder; nothing in it is about systemd. `GET /?wait=1500` is
 * answered after 1500 ms, to see that a request under way survives a reload.
 *
 *     CONTROL=/tmp/app.sock deno run -A examples/systemd/main.ts
 *
 * CONTROL is the control socket (/run/app/app.sock), PORT the port (8000), PROBATION how long the previous
 * generation stands by, in milliseconds (5000).
 *
 * @module
 */

import { start } from "../../mod.ts";

if (Deno.args.length > 0) {
  console.log(
    "CONTROL is the control socket (/run/app/app.sock), PORT the port (8000), PROBATION how long the\n" +
      "previous generation stands by, in milliseconds (5000).",
  );
  Deno.exit(Deno.args[0] === "--help" ? 0 : 2);
}

const app = await start(Deno.env.get("CONTROL") ?? "/run/app/app.sock", {
  probation: Number(Deno.env.get("PROBATION") ?? 5000),
});
app.serve({ port: Number(Deno.env.get("PORT") ?? 8000) }, async (request) => {
  const wait = Number(new URL(request.url).searchParams.get("wait"));
  if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
  return new Response(`process ${Deno.pid}, generation ${app.generation}\n`);
});
await app.ready();
await app.finished;
