// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
import { Hono } from "npm:hono@4.13.19";

const app = new Hono();

app.get("/", (c) => c.text(`hello from process ${Deno.pid}\n`));
app.get("/slow", async (c) => {
  await new Promise((resolve) => setTimeout(resolve, 200));
  return c.text(`hello from process ${Deno.pid}\n`);
});

Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT") ?? 8000) }, app.fetch);
