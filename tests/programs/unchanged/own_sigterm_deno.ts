const port = Number(Deno.env.get("PORT") ?? 8000);

const server = Deno.serve({ hostname: "127.0.0.1", port }, async (request) => {
  if (new URL(request.url).pathname === "/slow") {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return new Response(`hello from process ${Deno.pid}\n`);
});

Deno.addSignalListener("SIGTERM", async () => {
  await server.shutdown();
  console.log(`process ${Deno.pid} is closed`);
  Deno.exit(0);
});
