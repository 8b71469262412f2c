const port = Number(Deno.env.get("PORT") ?? 8000);
const hello = () => new Response(`hello from process ${Deno.pid}\n`);
Deno.serve({ hostname: "127.0.0.1", port }, hello);
