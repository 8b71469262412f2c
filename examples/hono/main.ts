/**
 * A Hono application that is restarted without losing a request. Beside a plain one, three lines
 * differ: they are marked.
 *
 *     deno run -A examples/hono/main.ts &
 *     deno run -A examples/hono/main.ts     the next generation: it takes over from the first
 *
 * CONTROL is the control socket (/tmp/hono.sock), PORT the port (8000).
 *
 * @module
 */

import { Hono } from "hono";
import { start } from "../../mod.ts"; // 1: a plain one does not need it

const app = new Hono();
app.get("/", (c) => c.text(`Hello, I am process ${Deno.pid}\n`));
app.get("/notes/:id", (c) => c.json({ id: c.req.param("id"), pid: Deno.pid }));
app.post("/notes", async (c) => c.json({ stored: await c.req.json() }, 201));

const service = await start(Deno.env.get("CONTROL") ?? "/tmp/hono.sock"); // 2
const port = Number(Deno.env.get("PORT") ?? 8000);
service.serve({ hostname: "127.0.0.1", port, onListen: announce }, app.fetch); // Deno.serve(...)
await service.ready(); // 3

function announce(addr: Deno.Addr): void {
  const { hostname, port } = addr as Deno.NetAddr;
  console.log(`generation ${service.generation} at http://${hostname}:${port}`);
}
