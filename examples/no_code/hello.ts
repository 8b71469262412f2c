// Three lines that know nothing of a restart:
//
//   deno run -A lib/cli.ts run examples/no_code/hello.ts
//   kill -HUP PID
Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT") ?? 8000) }, () => {
  return new Response(`hello from process ${Deno.pid}\n`);
});
