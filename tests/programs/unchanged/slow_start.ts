/** Stands for a connection to a database, and what is read from it. */
await new Promise((resolve) => setTimeout(resolve, 800));

const port = Number(Deno.env.get("PORT") ?? 8000);
Deno.serve({ hostname: "127.0.0.1", port }, async (request) => {
  if (new URL(request.url).pathname === "/slow") {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return new Response(`hello from process ${Deno.pid}\n`);
});
