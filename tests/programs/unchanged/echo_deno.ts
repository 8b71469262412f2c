const listener = Deno.listen({
  hostname: "127.0.0.1",
  port: Number(Deno.env.get("PORT") ?? 7000),
});

async function echo(conn: Deno.Conn): Promise<void> {
  await conn.write(new TextEncoder().encode(`hello from process ${Deno.pid}\n`));
  await conn.readable.pipeTo(conn.writable);
}

for await (const conn of listener) {
  echo(conn).catch((error) => console.error(error));
}
