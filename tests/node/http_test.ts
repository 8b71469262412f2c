/**
 * Servers of node:http and https in a generation: what they drain, and what they cost.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:http";
import { closingHead } from "../../lib/node/closing_head.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { drain, fdListener, listenAndServe, listenerHandler, receive } from "../../mod.ts";
import { freePort } from "../support/free_port.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { askOnce, Http1Client } from "../support/http1_client.ts";
import { begin } from "../support/in_process.ts";
import { nodeServing, portOfNode } from "../support/node_servers.ts";
import { answerAt, firstAnswerAt, Preloaded } from "../support/preloaded.ts";
import { soon, until } from "../support/until.ts";

assertEquals(noDescriptors(), undefined);

const says = (words: string) => (_request: IncomingMessage, response: ServerResponse) => {
  response.end(words);
};

const at = (port: number): Deno.NetAddr => ({ transport: "tcp", hostname: "127.0.0.1", port });

test("a keep-alive client is told to leave by the next answer, and the next generation has it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await nodeServing(path, says("old"), { probation: 0 });
  using client = await Http1Client.dial(at(old.port));
  const before = await client.request();
  assertEquals([before.body, before.headers.get("connection")], ["old", "keep-alive"]);
  const next = await nodeServing(path, says("new"), { port: old.port });
  assertEquals(next.port, old.port);
  const last = await client.request();
  assertEquals([last.body, last.headers.get("connection")], ["old", "close"]);
  assertEquals(last.headers.get("keep-alive"), null);
  client.conn.closeWrite();
  await old.app.finished;
  using other = await Http1Client.dial(at(old.port));
  assertEquals((await other.request()).body, "new");
  other.conn.closeWrite();
  await next.app.stop();
});

test("pipelined requests are all answered, the first with Connection: close", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const slow = (request: IncomingMessage, response: ServerResponse) =>
    void setTimeout(() => response.end(request.url), 20);
  const old = await nodeServing(path, slow);
  using client = await Http1Client.dial(at(old.port));
  await client.request("/0");
  const next = await nodeServing(path, says("new"), { port: old.port });
  for (let i = 1; i <= 5; i++) await client.send(`/${i}`);
  const answers = [];
  for (let i = 1; i <= 5; i++) answers.push(await client.answer());
  assertEquals(answers.map(({ body }) => body), ["/1", "/2", "/3", "/4", "/5"]);
  assertEquals(answers.map(({ headers }) => headers.get("connection")), Array(5).fill("close"));
  client.conn.closeWrite();
  await old.app.finished;
  await next.app.stop();
});

test("an upload, a streamed answer and a request under way are finished by the old generation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const released = Promise.withResolvers<void>();
  let begun = 0;
  const old = await nodeServing(path, async (request, response) => {
    begun++;
    if (request.url === "/stream") response.write("first ");
    let length = 0;
    for await (const chunk of request) length += chunk.length;
    await released.promise;
    response.end(`old ${length}`);
  });
  const clients = await Promise.all(
    Array.from({ length: 3 }, () => Http1Client.dial(at(old.port))),
  );
  const [upload, stream, slow] = clients;
  const head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n";
  await upload.conn.write(new TextEncoder().encode(head));
  await stream.send("/stream");
  await slow.send("/slow");
  await until(() => begun === 3);
  const next = await nodeServing(path, says("new"), { port: old.port });
  released.resolve();
  assertEquals((await upload.answer()).status, 100);
  await upload.conn.write(new TextEncoder().encode("12345678"));
  const answers = [await upload.answer(), await stream.answer(), await slow.answer()];
  assertEquals(answers.map(({ body }) => body), ["old 8", "first old 0", "old 0"]);
  assertEquals(answers.map(({ headers }) => headers.get("connection")), [
    "close",
    // Its head was sent before.
    "keep-alive",
    "close",
  ]);
  for (const client of clients) client.conn.closeWrite();
  await old.app.finished;
  for (const client of clients) client[Symbol.dispose]();
  await next.app.stop();
});

test("a client that was told to close and does not is hung up on when it is idle", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await nodeServing(path, says("old"), { drainTimeout: 60_000 });
  using client = await Http1Client.dial(at(old.port));
  await client.request();
  const next = await nodeServing(path, says("new"), { port: old.port });
  await client.request();
  assert(await client.ended());
  await old.app.finished;
  await next.app.stop();
});

test("a next generation that dies in its probation gives the clients back", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `import { createServer } from "node:http";
    createServer((request, response) => {
      if (request.url === "/exit") process.exit(1);
      response.end(String(process.pid));
    }).listen(${port}, "127.0.0.1");
    import process from "node:process";`;
  await using service = new Preloaded(directory, source, { env: { GRACEFUL_PROBATION: "60000" } });
  const first = await firstAnswerAt(port);
  using client = await Http1Client.dial(at(port));
  assertEquals((await client.request()).headers.get("connection"), "keep-alive");
  const restarted = service.restart();
  await soon(async () => await answerAt(port) !== first);
  // The old one answers its client, until it says that it leaves: it does not accept then.
  await soon(async () => {
    const { body, headers } = await client.request();
    assertEquals(body, first);
    return headers.get("connection") === "close";
  });
  // fetch() of Deno 2.8 sends it again when the connection ends, to the old generation then.
  await askOnce(at(port), "/exit").catch(() => {});
  assertEquals((await restarted).code, 1);
  await soon(async () => await answerAt(port) === first);
  using again = await Http1Client.dial(at(port));
  const { body, headers } = await again.request();
  assertEquals([body, headers.get("connection")], [first, "keep-alive"]);
});

test("stop() answers what is under way, and leaves no connection", async () => {
  using directory = new Directory();
  const released = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  const { app, port } = await nodeServing(
    directory.join("app.sock"),
    async (_request, response) => {
      asked.resolve();
      await released.promise;
      response.end("answered");
    },
  );
  using client = await Http1Client.dial(at(port));
  await client.send();
  await asked.promise;
  const stopped = app.stop();
  released.resolve();
  const { body, headers } = await client.answer();
  assertEquals([body, headers.get("connection")], ["answered", "close"]);
  await stopped;
});

test("a server of node on a unix path says its path, and leaves it to the next generation", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  const start = async (words: string) => {
    const app = await begin(directory.join("app.sock"));
    const server = app.listenNode(createServer(says(words)), { path });
    await app.ready();
    return { app, server };
  };
  const old = await start("old");
  assertEquals(old.server.address(), path);
  const next = await start("new");
  await old.app.finished;
  using client = await Http1Client.dial({ transport: "unix", path });
  assertEquals((await client.request()).body, "new");
  client.conn.closeWrite();
  await next.app.stop();
  assertEquals(directory.names(), []);
});

test("stop() closes idle connections of a unix socket, and answers what is under way", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  const released = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  const app = await begin(directory.join("app.sock"), { forceCloseAfter: 600_000 });
  const server = createServer(async (request, response) => {
    if (request.url === "/slow") {
      asked.resolve();
      await released.promise;
    }
    response.end("answered");
  });
  server.keepAliveTimeout = 600_000;
  app.listenNode(server, { path });
  await app.ready();
  using silent = await Http1Client.dial({ transport: "unix", path });
  using idle = await Http1Client.dial({ transport: "unix", path });
  await idle.request();
  using slow = await Http1Client.dial({ transport: "unix", path });
  await slow.send("/slow");
  await asked.promise;
  const stopped = app.stop();
  assert(await silent.ended());
  assert(await idle.ended());
  released.resolve();
  assertEquals((await slow.answer()).body, "answered");
  await stopped;
});

test("listenNode() throws for an object that is no server of node, and for a server that listens already", async () => {
  using directory = new Directory();
  await using app = await begin(directory.join("app.sock"));
  const server = createServer();
  for (const junk of [{}, null, "x", { address() {} }]) {
    assertThrows(() => app.listenNode(junk as unknown as typeof server, { port: 0 }), TypeError);
  }
  app.listenNode(server, { hostname: "127.0.0.1", port: 0 });
  assertThrows(
    () => app.listenNode(server, { hostname: "127.0.0.1", port: 0 }),
    TypeError,
    "listens already",
  );
  assertThrows(
    () => app.listenNode(createServer(), { hostname: "127.0.0.1", port: portOfNode(server) }),
    Deno.errors.AddrInUse,
  );
});

test("a request costs nothing until the generation has a successor: no listener is added", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await nodeServing(path, says("old"));
  assertEquals(old.server.listenerCount("request"), 1);
  const next = await nodeServing(path, says("new"), { port: old.port });
  assertEquals(next.server.listenerCount("request"), 1);
  await old.app.finished;
  await next.app.stop();
});

test("drain() drains a server of node that no generation has made", async () => {
  const server = createServer(says("old"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  using client = await Http1Client.dial(at(portOfNode(server)));
  await client.request();
  const drained = drain(server);
  const { body, headers } = await client.request();
  assertEquals([body, headers.get("connection")], ["old", "close"]);
  client.conn.closeWrite();
  assertEquals(await drained, 0);
  assertEquals(server.listening, false);
  await assertRejects(() => drain(server), TypeError, "does not listen");
});

test("the listener of a server of node is sent to another process, and kept", async () => {
  using directory = new Directory();
  const server = createServer(says("node"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const path = directory.join("go.sock");
  let received: Deno.Listener | undefined;
  {
    await using _server = listenAndServe(path, listenerHandler(server));
    await receive(path, (fd) => {
      received = fdListener(fd);
    });
  }
  assertEquals((received!.addr as Deno.NetAddr).port, portOfNode(server));
  received!.close();
  const app = await begin(directory.join("app.sock"));
  app.keep("http", server);
  await app.ready();
  const next = await begin(directory.join("app.sock"));
  const fd = next.take("http") as Parameters<typeof fdListener>[0];
  const kept = fdListener(fd);
  assertEquals((kept.addr as Deno.NetAddr).port, portOfNode(server));
  await next.ready();
  kept.close();
  await app.finished;
  await next.stop();
  await new Promise<void>((resolve) => server.close(() => resolve()));
});

test("an answer that its client reads slowly is sent as a whole after drainTimeout", async () => {
  using directory = new Directory();
  const asked = Promise.withResolvers<void>();
  const body = "x".repeat(8 << 20);
  const { app, port } = await nodeServing(directory.join("app.sock"), (_request, response) => {
    asked.resolve();
    response.setHeader("content-length", body.length);
    response.end(body);
  }, { drainTimeout: 10 });
  using client = await Http1Client.dial(at(port));
  await client.send();
  await asked.promise;
  const stopped = app.stop();
  await new Promise((resolve) => setTimeout(resolve, 200));
  assertEquals((await client.answer()).body.length, body.length);
  assert(await client.ended());
  await stopped;
});

test("answers without a body, of HTTP/1.0, with a connection header of their own, and to Expect", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const listener = (request: IncomingMessage, response: ServerResponse) => {
    if (request.url === "/304") response.writeHead(304);
    if (request.url === "/own") response.setHeader("Connection", "keep-alive, x-other");
    if (request.url === "/raw") response.writeHead(200, ["connection", "keep-alive", "a", "b"]);
    if (request.url === "/hints") response.writeEarlyHints({ link: "</a>; rel=preload" });
    response.end(request.method === "HEAD" || request.url === "/304" ? undefined : "old");
  };
  const old = await nodeServing(path, listener);
  old.server.on("checkContinue", (_request, response) => response.writeContinue());
  old.server.on("checkContinue", listener);
  const lines = [
    "HEAD / HTTP/1.1",
    "GET /304 HTTP/1.1",
    "GET /own HTTP/1.1",
    "GET /raw HTTP/1.1",
    "GET /hints HTTP/1.1",
    "GET / HTTP/1.0",
    "GET / HTTP/1.0\r\nConnection: keep-alive",
    "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0",
  ];
  const clients = await Promise.all(lines.map(() => Http1Client.dial(at(old.port))));
  const ask = async (client: Http1Client, line: string) => {
    await client.conn.write(new TextEncoder().encode(`${line}\r\nHost: a\r\n\r\n`));
    let head = "";
    while (!/(^|\r\n\r\n)HTTP\/1.1 [2-5][^]*\r\n\r\n/.test(head)) {
      const bytes = new Uint8Array(4096);
      const n = await client.conn.read(bytes);
      if (n === null) throw new Error(`${line}: the connection ended after ${head}`);
      head += new TextDecoder().decode(bytes.subarray(0, n));
    }
    return [line, ...(head.match(/^connection: .*$/gim) ?? [])];
  };
  // Each connection is open before the handover, and has a request before it.
  for (const client of clients) await client.request();
  const next = await nodeServing(path, says("new"), { port: old.port });
  const answers = await Promise.all(lines.map((line, i) => ask(clients[i], line)));
  assertEquals(answers, lines.map((line) => [line, "Connection: close"]));
  for (const client of clients) client.conn.closeWrite();
  await old.app.finished;
  for (const client of clients) client[Symbol.dispose]();
  await next.app.stop();
});

test("an upgrade that the listener of requests answers keeps its Connection header", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await nodeServing(path, (_request, response) => {
    response.writeHead(101, { connection: "Upgrade", upgrade: "other" });
    response.end();
  });
  using client = await Http1Client.dial(at(old.port));
  const next = await nodeServing(path, says("new"), { port: old.port });
  const { status, headers } = await client.request("/");
  assertEquals([status, headers.get("connection")], [101, "Upgrade"]);
  client.conn.closeWrite();
  await old.app.finished;
  await next.app.stop();
});

test("the head of an answer is changed in nothing else", () => {
  const head =
    "HTTP/1.1 200 OK\r\nX-Connection: a\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n" +
    "Content-Length: 2\r\n\r\n";
  assertEquals(
    closingHead(head),
    "HTTP/1.1 200 OK\r\nX-Connection: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
  );
  assertEquals(
    closingHead("HTTP/1.1 304 Not Modified\r\n\r\n"),
    "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n",
  );
});
