/**
 * The sockets that a preloaded program makes with Deno's functions.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { activated, hasPython } from "../support/activation.ts";
import { test } from "../support/guard.ts";
import { askOnce } from "../support/http1_client.ts";
import { Load } from "../support/load.ts";
import { answerAt, auto, firstAnswerAt, Preloaded } from "../support/preloaded.ts";
import { soon } from "../support/until.ts";

for (
  const [how, remove] of [
    ["Deno.remove", `await Deno.remove(path).catch(() => {});`],
    ["Deno.removeSync", `try { Deno.removeSync(path); } catch {}`],
    ["node:fs", `(await import("node:fs")).rmSync(path, { force: true });`],
  ]
) {
  test(`a program that removes its path by ${how} before it listens refuses no client`, async () => {
    using directory = new Directory();
    const path = directory.join("admin.sock");
    const source = `const path = ${JSON.stringify(path)};
      ${remove}
      await new Promise((resolve) => setTimeout(resolve, 50));
      Deno.serve({ path, onListen() {} }, () => new Response(String(Deno.pid)));
      globalThis.addEventListener("unload", () => { ${
      how === "Deno.remove" ? "" : `try { Deno.removeSync(path); } catch {}`
    } });
      console.log("listening");`;
    // What a killed process leaves behind.
    Deno.writeTextFileSync(path, "");
    await using service = new Preloaded(directory, source);
    await service.until("listening");
    const load = new Load({ transport: "unix", path });
    for (let i = 0; i < 3; i++) {
      await load.more(20);
      await service.next();
    }
    await load.more(20);
    assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
    const { pid } = await service.status();
    Deno.kill(pid, "SIGTERM");
    const { stderr } = await service.ended();
    assertEquals(stderr, "");
    assertEquals(directory.names(), ["main.ts"]);
  });
}

test("the file of a unix socket has the permissions that bind(2) gives it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const source = `Deno.umask(0o027);
    Deno.serve({ path: ${JSON.stringify(path)}, onListen() {} }, () => new Response("x"));
    console.log("listening");`;
  await using service = new Preloaded(directory, source);
  await service.until("listening");
  assertEquals(Deno.statSync(path).mode! & 0o777, 0o750);
});

test("Deno.serve takes what Deno's own takes: a port in digits, options that it does not know, a signal", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `const stop = new AbortController();
    const server = Deno.serve({ port: "${port}", hostname: "127.0.0.1", signal: stop.signal, colour: "red",
      onListen: ({ hostname, port }) => console.log("at " + hostname + " " + port),
      onError: () => new Response("caught", { status: 500 }),
      handler: ({ url }) => {
        if (url.endsWith("/throw")) throw new Error("thrown");
        if (url.endsWith("/stop")) stop.abort();
        return new Response(server.addr.transport);
      } });
    server.finished.then(() => console.log("finished"));
    try { Deno.serve({ port: 1 }); } catch (error) { console.log(error.name); }
    try { Deno.listen({ port: "x" }); } catch (error) { console.log(error.name); }`;
  await using service = new Preloaded(directory, source);
  await service.until(`at 127.0.0.1 ${port}`);
  await service.until("TypeError");
  await service.until("TypeError");
  const at = (path: string) =>
    askOnce({ transport: "tcp", hostname: "127.0.0.1", port }, path).then(({ body }) => body);
  assertEquals(await at("/"), "tcp");
  assertEquals(await at("/throw"), "caught");
  await service.next();
  assertEquals(await at("/"), "tcp");
  await at("/stop").catch(() => {});
  await service.until("finished");
});

test("Deno.listen, listenTls and listenDatagram are inherited", async () => {
  using directory = new Directory();
  const [tcp, tls, udp] = [freePort(), freePort(), freePort()];
  const data = new URL("../data/", import.meta.url).pathname;
  const source = `
    const hostname = "127.0.0.1";
    const cert = Deno.readTextFileSync("${data}localhost.crt");
    const key = Deno.readTextFileSync("${data}localhost.key");
    const say = async (listener) => {
      for await (const conn of listener) {
        conn.write(new TextEncoder().encode(String(Deno.pid))).finally(() => conn.close());
      }
    };
    say(Deno.listen({ hostname, port: ${tcp} }));
    say(Deno.listenTls({ hostname, port: ${tls}, cert, key }));
    const socket = Deno.listenDatagram({ transport: "udp", hostname, port: ${udp} });
    console.log("listening");
    for await (const [, from] of socket) socket.send(new TextEncoder().encode(String(Deno.pid)), from);`;
  await using service = new Preloaded(directory, source, {
    deno: ["run", "-A", "--unstable-net", "--preload", auto],
  });
  await service.until("listening");
  const pid = await service.next();
  assertEquals((await service.status()).sockets.length, 3);
  using conn = await Deno.connect({ hostname: "127.0.0.1", port: tcp });
  const bytes = new Uint8Array(20);
  const text = (n: number | null) => new TextDecoder().decode(bytes.subarray(0, n ?? 0));
  assertEquals(text(await conn.read(bytes)), String(pid));
  const caCerts = [Deno.readTextFileSync(`${data}localhost.crt`)];
  using secure = await Deno.connectTls({ hostname: "localhost", port: tls, caCerts });
  assertEquals(text(await secure.read(bytes)), String(pid));
  const client = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  await client.send(new Uint8Array(1), { transport: "udp", hostname: "127.0.0.1", port: udp });
  const [answer] = await client.receive();
  client.close();
  assertEquals(new TextDecoder().decode(answer), String(pid));
});

const fetchDefault = `export default { fetch: () => new Response(String(Deno.pid)) };`;

for (
  const [how, source, deno, env] of [
    ["DENO_AUTO_SERVE=1 deno run --preload", fetchDefault, ["run", "-A", "--preload", auto], true],
    ["the first import of deno serve", `import ${JSON.stringify(auto)};\n${fetchDefault}`, [
      "serve",
      "-A",
    ], false],
  ] as const
) {
  test(`export default { fetch } by ${how} is restarted without a lost request`, async () => {
    using directory = new Directory();
    const port = freePort();
    const where = ["--host", "127.0.0.1", "--port", String(port)];
    await using service = new Preloaded(directory, source, {
      deno: [...deno, ...env ? [] : where],
      env: {
        GRACEFUL_LOG: "info",
        ...env && { DENO_AUTO_SERVE: "1", DENO_SERVE_ADDRESS: `tcp:127.0.0.1:${port}` },
      },
    });
    const first = Number(await firstAnswerAt(port));
    const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
    const pids = [first];
    for (let i = 0; i < 3; i++) {
      await load.more(20);
      pids.push(await service.next());
    }
    await load.more(20);
    assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
    assertEquals(Number(await answerAt(port)), pids.at(-1));
    // Deno's own listener of SIGTERM closes connections: the generation drains in its place.
    Deno.kill(pids.at(-1)!, "SIGTERM");
    const { code, stderr } = await service.ended();
    assertEquals(code, 0);
    assertMatch(stderr, /^Stopping on SIGTERM$/m);
    assert(new Set(pids).size === 4);
  });
}

const server = (port: number) =>
  `Deno.serve({ hostname: "127.0.0.1", port: ${port}, onListen() {} }, () => new Response(String(Deno.pid)));`;

/** Starts a program below `cli.ts hold`. */
function held(directory: Directory, source: string): Preloaded {
  const cli = new URL("../../lib/cli.ts", import.meta.url).pathname;
  const command = [Deno.execPath(), "run", "-A", "--preload", auto];
  return new Preloaded(directory, source, {
    deno: ["run", "-A", cli, "hold", directory.join("control.sock"), "--", ...command],
    env: { GRACEFUL_CONTROL: "" },
  });
}

test("a program below cli.ts hold has hold's control path, and is restarted by it", async () => {
  using directory = new Directory();
  const port = freePort();
  await using hold = held(directory, server(port));
  const first = await firstAnswerAt(port);
  const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
  Deno.kill(hold.pid, "SIGHUP");
  await soon(async () => await answerAt(port) !== first);
  await load.more(20);
  assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
  Deno.kill(hold.pid, "SIGTERM");
  assertEquals((await hold.ended()).code, 0);
});

test("a service manager is told that a program is ready when it listens, and not before", async () => {
  using directory = new Directory();
  const port = freePort();
  const go = directory.join("go");
  const source = `
    console.log("started");
    while (!await Deno.stat(${JSON.stringify(go)}).catch(() => {})) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    ${server(port)}`;
  await using hold = held(directory, source);
  await soon(async () => (await hold.status().catch(() => undefined))?.state === "starting");
  Deno.writeTextFileSync(go, "");
  await firstAnswerAt(port);
  await soon(async () => (await hold.status()).state === "serving");
  Deno.kill(hold.pid, "SIGTERM");
  assertEquals((await hold.ended()).code, 0);
});

test("a program has the listeners of a socket unit, and loses no client that came before it", {
  ignore: !hasPython,
}, async () => {
  using directory = new Directory();
  const port = freePort();
  const through = activated(`tcp:127.0.0.1:${port}`);
  const source = `await new Promise((resolve) => setTimeout(resolve, 200)); ${server(port)}`;
  await using service = new Preloaded(directory, source, { through });
  assertEquals(await firstAnswerAt(port), String(service.pid));
  const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
  await service.next();
  await load.more(20);
  assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
});

test("a server of node is inherited where another preload module has loaded node before", async () => {
  using directory = new Directory();
  const port = freePort();
  const before = directory.join("before.ts");
  Deno.writeTextFileSync(before, `import "node:http";`);
  const source = `import { createServer } from "node:http";
    createServer((_request, response) => response.end(String(Deno.pid))).listen(${port}, "127.0.0.1");`;
  await using service = new Preloaded(directory, source, {
    deno: ["run", "-A", "--preload", before, "--preload", auto],
  });
  await firstAnswerAt(port);
  const pid = await service.next();
  assertEquals(await answerAt(port), String(pid));
});
