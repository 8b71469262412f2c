/**
 * A web service behind HAProxy. /health is what HAProxy asks: from SIGTERM on it fails, and the process goes on
 * accepting for a while, until HAProxy has noticed.
 *
 * CONTROL is the control socket (/tmp/one.control), PORT the port (8001), STOP_DELAY that of `start()` (5000).
 *
 * @module
 */

import { start } from "../../mod.ts";

if (Deno.args.length > 0) {
  console.log(
    "CONTROL is the control socket (/tmp/one.control), PORT the port (8001), STOP_DELAY how many " +
      "milliseconds it goes on accepting after SIGTERM (5000).",
  );
  Deno.exit(Deno.args[0] === "--help" ? 0 : 2);
}

const app = await start(Deno.env.get("CONTROL") ?? "/tmp/one.control", {
  // More than HAProxy takes to notice: `inter` times `fall`, of haproxy.cfg.
  stopDelay: Number(Deno.env.get("STOP_DELAY") ?? 5000),
  probation: 500,
});
const port = Number(Deno.env.get("PORT") ?? 8001);
app.serve({ hostname: "127.0.0.1", port, onListen() {} }, ({ url }) => {
  if (new URL(url).pathname === "/health") return app.health();
  return new Response(`Hello, I am process ${Deno.pid}\n`);
});
await app.ready();
console.log(`generation ${app.generation} at http://127.0.0.1:${port}`);
