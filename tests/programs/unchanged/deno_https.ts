Deno.serve({
  hostname: "127.0.0.1",
  port: Number(Deno.env.get("PORT") ?? 8443),
  cert: Deno.readTextFileSync(Deno.env.get("CERT") ?? "cert.pem"),
  key: Deno.readTextFileSync(Deno.env.get("KEY") ?? "key.pem"),
}, async (request) => {
  if (new URL(request.url).pathname === "/slow") {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return new Response(`hello from process ${Deno.pid}\n`);
});
