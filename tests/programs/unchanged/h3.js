// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
import { H3, serve } from "npm:h3@2.0.8";

const app = new H3();

app.get("/", () => `hello from process ${Deno.pid}\n`);
app.get("/slow", async () => {
  await new Promise((resolve) => setTimeout(resolve, 200));
  return `hello from process ${Deno.pid}\n`;
});

serve(app, { hostname: "127.0.0.1", port: Number(Deno.env.get("PORT") ?? 3000) });
