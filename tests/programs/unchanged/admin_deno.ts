const port = Number(Deno.env.get("PORT") ?? 8000);
const path = Deno.env.get("ADMIN") ?? "admin.sock";
let requests = 0;

Deno.serve({ hostname: "127.0.0.1", port }, async (request) => {
  requests++;
  if (new URL(request.url).pathname === "/slow") {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return new Response(`hello from process ${Deno.pid}\n`);
});

// A path that a killed process has left cannot be bound again.
await Deno.remove(path).catch(() => {});
Deno.serve({ path }, () => new Response(`process ${Deno.pid}: ${requests} requests\n`));
