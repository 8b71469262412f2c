// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
import { serve } from "npm:@hono/node-server@2.1.9";
import { Hono } from "npm:hono@4.13.19";
import process from "node:process";

const app = new Hono();

app.get("/", (c) => c.text(`hello from process ${process.pid}\n`));
app.get("/slow", async (c) => {
  await new Promise((resolve) => setTimeout(resolve, 200));
  return c.text(`hello from process ${process.pid}\n`);
});

serve(
  { fetch: app.fetch, hostname: "127.0.0.1", port: Number(process.env.PORT ?? 3000) },
  (info) => console.log(`Listening on http://127.0.0.1:${info.port}`),
);
