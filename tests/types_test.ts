/**
 * The types of a generation are those of Deno: a text written for `Deno.serve` and `Deno.listen` passes, or fails, the
 * type check just the same with `app.serve` and `app.listen`.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Directory } from "./support/directory.ts";
import { test } from "./support/guard.ts";

/** Texts that pass the type check; `$` is "Deno." or "app.". */
const valid = [
  `$serve(() => new Response());`,
  `$serve(async (request) => new Response(await request.text()));`,
  `$serve((_request, info) => new Response(info.remoteAddr.hostname + info.remoteAddr.port));`,
  `$serve({ port: 1 }, (_request, info) => new Response(info.remoteAddr.hostname));`,
  `$serve({ port: 1, hostname: "::1", reusePort: true }, () => new Response());`,
  `$serve({ port: 1, onListen({ port, hostname }) { console.log(hostname, port.toFixed()); } }, () => new Response());`,
  `$serve({ port: 1, onListen: (addr) => console.log(addr.transport) }, () => new Response());`,
  `$serve({ port: 1, onError: (error) => new Response(String(error), { status: 500 }) }, () => new Response());`,
  `$serve({ port: 1, signal: new AbortController().signal }, () => new Response());`,
  `$serve({ port: 1, cert: "c", key: "k" }, (_request, info) => new Response(info.remoteAddr.hostname));`,
  `$serve({ port: 1, handler: () => new Response() });`,
  `$serve({ port: 1, handler: (_request, info) => new Response(info.remoteAddr.hostname) });`,
  `$serve({ port: 1, cert: "c", key: "k", handler: async () => { await 0; return new Response(); } });`,
  `$serve({ path: "/s" }, (_request, info) => new Response(info.remoteAddr.path));`,
  `$serve({ path: "/s", transport: "unix", onListen: ({ path }) => console.log(path) }, () => new Response());`,
  `$serve({ path: "/s", handler: (_request, info) => new Response(info.remoteAddr.path) });`,
  `const a: Deno.HttpServer<Deno.NetAddr> = $serve({ port: 1 }, () => new Response()); a.addr.port.toFixed();`,
  `const b: Deno.HttpServer = $serve({ port: 1 }, () => new Response()); void b;`,
  `const c: Deno.HttpServer<Deno.UnixAddr> = $serve({ path: "/s" }, () => new Response()); c.addr.path.length;`,
  `$serve({ port: 1 }, () => new Response()).addr.port.toFixed();`,
  `$serve({ port: 1 }, () => new Response()).finished.then(() => console.log("over"));`,
  `$serve({ port: 1 }, () => new Response()).unref();`,
  `await using d = $serve({ port: 1 }, () => new Response()); await d.shutdown();`,
  `const e: Deno.ServeHandler<Deno.NetAddr> = (_request, info) => new Response(info.remoteAddr.hostname); $serve({ port: 1 }, e);`,
  `const f: Deno.ServeHandler = () => new Response(); $serve(f); $serve({ port: 1 }, f); $serve({ path: "/s" }, f);`,
  `const g: Deno.ServeTcpOptions = { port: 1 }; $serve(g, () => new Response());`,
  `const h: Deno.ServeUnixOptions = { path: "/s" }; $serve(h, () => new Response());`,
  `const i: Deno.ServeTcpOptions & Deno.ServeInit<Deno.NetAddr> = { port: 1, handler: () => new Response() }; $serve(i);`,
  `const j: Deno.ServeTcpOptions & Deno.TlsCertifiedKeyPem = { port: 1, cert: "c", key: "k" }; $serve(j, () => new Response());`,
  `const k = { port: 1 }; $serve({ ...k, hostname: "h" }, () => new Response());`,
  `const l = Math.random() > 0.5 ? { cert: "c", key: "k" } : {}; $serve({ port: 1, ...l }, () => new Response());`,
  `const m = { fetch: () => new Response() } satisfies Deno.ServeDefaultExport; $serve(m.fetch); $serve({ port: 1 }, m.fetch);`,
  `const n = { fetch(request: Request): Response | Promise<Response> { return new Response(request.url); } }; $serve(n.fetch);`,
  `$listen({ port: 1 }).addr.port.toFixed();`,
  `const o: Deno.TcpListener = $listen({ port: 1, hostname: "::1", transport: "tcp" }); o.close();`,
  `const p: Deno.UnixListener = $listen({ path: "/s", transport: "unix" }); p.addr.path.length;`,
  `const q: Deno.Listener = $listen({ port: 1 }); for await (const conn of q) conn.close();`,
  `for await (const conn of $listen({ port: 1 })) { conn.setNoDelay(); conn.remoteAddr.hostname.length; }`,
  `const r: Deno.TcpListenOptions = { port: 1 }; $listen(r);`,
  `const s: Deno.TlsListener = $listenTls({ port: 1, cert: "c", key: "k", alpnProtocols: ["h2"] }); s.addr.port.toFixed();`,
  `const t: Deno.ListenTlsOptions & Deno.TlsCertifiedKeyPem = { port: 1, cert: "c", key: "k" }; $listenTls(t);`,
  `const u: Deno.DatagramConn = $listenDatagram({ port: 1, transport: "udp" }); for await (const [bytes] of u) bytes.length;`,
  `const v: Deno.UdpListenOptions = { port: 1, reuseAddress: true }; $listenDatagram({ ...v, transport: "udp" });`,
  `$listenDatagram({ path: "/s", transport: "unixpacket" }).close();`,
];

/** Texts that fail it. */
const invalid = [
  `$serve();`,
  `$serve({ port: 1 });`,
  `$serve({ port: true }, () => new Response());`,
  `$serve({ port: 1 }, () => "text");`,
  `$serve({ port: 1 }, (_request, info) => new Response(info.remoteAddr.path));`,
  `$serve({ path: "/s" }, (_request, info) => new Response(info.remoteAddr.hostname));`,
  `$serve({ prot: 1 }, () => new Response());`,
  `$serve({ port: 1, onListen: ({ path }) => console.log(path) }, () => new Response());`,
  `const w: Deno.HttpServer<Deno.UnixAddr> = $serve({ port: 1 }, () => new Response()); void w;`,
  `$listen({ port: "one" });`,
  `$listen({ port: 1 }).addr.path;`,
  `$listenTls({ port: 1 });`,
];

/** The texts that fail the type check, with "Deno." or "app." in place of `$`. */
async function failing(texts: string[], prefix: string): Promise<string[]> {
  using directory = new Directory();
  const file = directory.join("main.ts");
  const mod = new URL("../mod.ts", import.meta.url).href;
  const head = [`import { start } from "${mod}";`, `const app = await start("/s"); void app;`];
  const lines = texts.map((text) => `{ ${text.replaceAll("$", prefix)} }`);
  Deno.writeTextFileSync(file, [...head, ...lines].join("\n"));
  const { stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["check", "--no-config", "--no-lock", "--unstable-net", file],
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  const found = new TextDecoder().decode(stderr).matchAll(/main\.ts:(\d+):\d+/g);
  const numbers = new Set(Array.from(found, ([, number]) => Number(number) - head.length - 1));
  return texts.filter((_, i) => numbers.has(i));
}

for (const prefix of ["Deno.", "app."]) {
  test(`a text written for Deno passes the type check with ${prefix}`, async () => {
    assertEquals(await failing(valid, prefix), []);
  });

  test(`a mistake fails the type check with ${prefix}`, async () => {
    assertEquals(await failing(invalid, prefix), invalid);
  });
}
