/**
 * A Hono application that is restarted without losing a request. Three lines are added to a plain
 * application, and one is changed: they are marked.
 *
 *     deno run -A examples/hono/main.ts &
 *     deno run -A examples/hono/main.ts     the next generation: it takes over from the first
 *
 * CONTROL is the control socket (/tmp/hono.sock), PORT the port (8000).
 *
 * @module
 */

import { Hono } from "hono";
import { start } from "../../mod.ts"; // added

if (Deno.args.length > 0) {
  console.log("CONTROL is the control socket (/tmp/hono.sock), PORT the port (8000).");
  Deno.exit(Deno.args[0] === "--help" ? 0 : 2);
}

const app = new Hono();
app.get("/", (c) => c.text(`Hello, I am process ${Deno.pid}\n`));
app.get("/notes/:id", (c) => c.json({ id: c.req.param("id"), pid: Deno.pid }));
app.post("/notes", async (c) => c.json({ stored: await c.req.json() }, 201));

const service = await start(Deno.env.get("CONTROL") ?? "/tmp/hono.sock"); // added
const port = Number(Deno.env.get("PORT") ?? 8000);
service.serve({ hostname: "127.0.0.1", port, onListen: announce }, app.fetch); // changed: Deno.serve
await service.ready(); // added

function announce(addr: Deno.Addr): void {
  const { hostname, port } = addr as Deno.NetAddr;
  console.log(`process ${Deno.pid} at http://${hostname}:${port}`);
}
