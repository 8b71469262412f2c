/**
 * drain(): stops accepting, announces the close, and waits for the clients.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import type { Fd } from "../../ffi/fd.ts";
import { drain, listenAndServe, listenerHandler, receive, serveHttp } from "../../mod.ts";
import { saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { listening, readAll, text } from "../support/foreign.ts";
import { type Answer, askOnce, Http1Client } from "../support/http1_client.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** A server on a duplicate of a listener. */
function serveOn(fd: Fd, name: string): Deno.HttpServer {
  return serveHttp(fd.dup(), saying(name));
}

test("drain() stops accepting: every new connection goes to another holder of the listener", async () => {
  for (const kind of ["127.0.0.1", "path"] as const) {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const old = serveOn(fd, "old");
    using idle = await Http1Client.dial(addr);
    assertEquals((await idle.request()).body, "old");
    const next = serveOn(fd, "next");
    let drained = false;
    const draining = drain(old).finally(() => drained = true);
    for (let i = 0; i < 40; i++) assertEquals((await askOnce(addr)).body, "next");
    assertEquals(drained, false, "the connection of the idle client is open");
    assertEquals((await idle.request()).body, "old");
    idle.conn.closeWrite();
    assertEquals(await draining, 0);
    await old.finished;
    assertEquals((await askOnce(addr)).body, "next");
    await next.shutdown();
    fd.close();
  }
});

test("drain() leaves the queued connections to another holder of the listener", async () => {
  for (const kind of ["127.0.0.1", "path"] as const) {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const old = serveOn(fd, "old");
    const idle = await Promise.all(Array.from({ length: 8 }, () => Http1Client.dial(addr)));
    for (const client of idle) await client.request();
    const draining = drain(old);
    using early = await Http1Client.dial(addr);
    await early.send();
    let answered = false;
    const answering = early.answer().finally(() => answered = true);
    answering.catch(() => {});
    // The old server could accept in each of these turns of the event loop.
    for (const client of idle) assertEquals((await client.request()).body, "old");
    assertEquals(answered, false);
    const next = serveOn(fd, "next");
    assertEquals((await answering).body, "next");
    for (const { conn } of idle) conn.close();
    await early.conn.closeWrite();
    assertEquals(await draining, 0);
    await next.shutdown();
    fd.close();
  }
});

test("serveHttp() answers 500 for a handler that throws, even if console.error throws, too", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    throw new Error("expected");
  });
  const client = await Http1Client.dial(server.addr);
  const { error } = console;
  console.error = () => {
    throw new Error("No space left on device");
  };
  try {
    assertEquals((await client.request()).status, 500);
    const draining = drain(server);
    const { status, headers } = await client.request();
    assertEquals([status, headers.get("connection")], [500, "close"]);
    client.conn.close();
    await draining;
  } finally {
    console.error = error;
  }
});

test("drain() adds Connection: close to every kind of answer", async () => {
  using directory = new Directory();
  const upstream = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => new Response("from upstream", { headers: { "x-upstream": "yes" } }),
  );
  const url = `http://127.0.0.1:${upstream.addr.port}/`;
  const answers: Record<string, () => Response | Promise<Response>> = {
    "/text": () => new Response("text"),
    "/empty": () => new Response(null, { status: 204 }),
    "/redirect": () => Response.redirect("http://elsewhere/", 307),
    "/proxied": () => fetch(url),
    "/stream": () =>
      new Response(ReadableStream.from(["a", "b"]).pipeThrough(new TextEncoderStream())),
    "/keep-alive": () => new Response("keep-alive", { headers: { connection: "keep-alive" } }),
    "/thrown": () => {
      throw new Error("thrown");
    },
    "/rejected": () => Promise.reject(new Error("rejected")),
  };
  const server = serveHttp(listening("127.0.0.1", directory).fd, {
    onError: () => new Response("sorry", { status: 500 }),
  }, (request) => answers[new URL(request.url).pathname]());
  const paths = Object.keys(answers);
  const clients = await Promise.all(paths.map(() => Http1Client.dial(server.addr)));
  const connectionOf = (answer: Answer) => answer.headers.get("connection");
  for (const client of clients) assertEquals(connectionOf(await client.request("/text")), null);
  const draining = drain(server);
  const closing: string[] = [];
  for (const [i, path] of paths.entries()) {
    const answer = await clients[i].request(path);
    if (connectionOf(answer) === "close") closing.push(path);
    if (path === "/redirect") {
      assertEquals([answer.status, answer.headers.get("location")], [307, "http://elsewhere/"]);
    }
    if (path === "/proxied") {
      assertEquals([answer.body, answer.headers.get("x-upstream")], ["from upstream", "yes"]);
    }
    if (path === "/stream") assertEquals(answer.body, "ab");
    clients[i].conn.close();
  }
  assertEquals(await draining, 0);
  await upstream.shutdown();
  assertEquals(closing, paths);
});

test("drain() adds Connection: close to the answer of a request that came before it", async () => {
  using directory = new Directory();
  const { promise, resolve } = Promise.withResolvers<Response>();
  let asked = false;
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    asked = true;
    return promise;
  });
  using client = await Http1Client.dial(server.addr);
  await client.send();
  await until(() => asked);
  const draining = drain(server);
  resolve(new Response("slow"));
  const { body, headers } = await client.answer();
  client.conn.closeWrite();
  assertEquals(await draining, 0);
  assertEquals([body, headers.get("connection")], ["slow", "close"]);
});

test("drain() resolves at once if the server has no connections", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  assertEquals(await drain(server), 0);
  await server.finished;
});

test("drain() does not wait for the connections of another server", async () => {
  using directory = new Directory();
  for (const kind of ["127.0.0.1", "path", "abstract"] as const) {
    const other = serveHttp(listening(kind, directory).fd, saying("other"));
    using client = await Http1Client.dial(other.addr);
    await client.request();
    const server = serveHttp(listening(kind, directory).fd, saying("hello"));
    assertEquals(await drain(server), 0);
    await other.shutdown();
  }
});

test("drain() waits until the last idle client has closed its connection, and answers until then", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  const clients = await Promise.all([1, 2, 3].map(() => Http1Client.dial(server.addr)));
  for (const client of clients) await client.request();
  let drained = false;
  const draining = drain(server).finally(() => drained = true);
  for (const client of clients) {
    // The drain waits while the connection is open, and the client is answered.
    assertEquals((await client.request()).body, "hello");
    assertEquals(drained, false);
    client.conn.close();
  }
  assertEquals(await draining, 0);
});

test("drain() closes the connections that are open after drainTimeout, and resolves to their number", async () => {
  using directory = new Directory();
  for (const kind of ["127.0.0.1", "::1", "path"] as const) {
    const server = serveHttp(listening(kind, directory).fd, saying("hello"));
    const clients = await Promise.all([1, 2, 3].map(() => Http1Client.dial(server.addr)));
    for (const client of clients) await client.request();
    assertEquals(await drain(server, { drainTimeout: 1 }), 3);
    await server.finished;
    for (const client of clients) {
      assert(await client.ended());
      client.conn.close();
    }
  }
});

test("drain() waits for an answer that is under way after drainTimeout", async () => {
  using directory = new Directory();
  const { promise, resolve } = Promise.withResolvers<Response>();
  let asked = false;
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    asked = true;
    return promise;
  });
  using client = await Http1Client.dial(server.addr);
  await client.send();
  await until(() => asked);
  const draining = drain(server, { drainTimeout: 0 });
  resolve(new Response("slow"));
  assertEquals((await client.answer()).body, "slow");
  assertEquals(await draining, 1);
});

test("drain() rejects a server that serveHttp() did not make", async () => {
  const foreign = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, saying("foreign"));
  await assertRejects(() => drain(foreign), TypeError, "serveHttp()");
  assertEquals((await askOnce(foreign.addr)).body, "foreign");
  await foreign.shutdown();
  for (const junk of [null, undefined, {}, "x"]) {
    await assertRejects(() => drain(junk as unknown as Deno.HttpServer), TypeError, "serveHttp()");
  }
});

test("drain() rejects with the reason of its signal; the server still answers its clients", async () => {
  using directory = new Directory();
  const { fd, addr } = listening("127.0.0.1", directory);
  const old = serveOn(fd, "old");
  using client = await Http1Client.dial(addr);
  await client.request();
  const next = serveOn(fd, "next");
  const controller = new AbortController();
  const draining = drain(old, { signal: controller.signal });
  const reason = { enough: true };
  controller.abort(reason);
  assertStrictEquals(await draining.catch((error) => error), reason);
  assertEquals((await client.request()).body, "old");
  for (let i = 0; i < 20; i++) assertEquals((await askOnce(addr)).body, "next");
  // The connections of the next server are in this process, too, and may still be open.
  assert(await drain(old, { drainTimeout: 0 }) >= 1);
  await next.shutdown();
  fd.close();
});

test("drain() with an aborted signal rejects, and the server accepts as before", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  const reason = new Error("before");
  const error = await drain(server, { signal: AbortSignal.abort(reason) }).catch((error) => error);
  assertStrictEquals(error, reason);
  const { body, headers } = await askOnce(server.addr);
  assertEquals([body, headers.get("connection")], ["hello", null]);
  await server.shutdown();
});

test("drain() may be called twice, at the same time or later", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  using client = await Http1Client.dial(server.addr);
  await client.request();
  const both = [drain(server), drain(server)];
  client.conn.closeWrite();
  assertEquals(await Promise.all(both), [0, 0]);
  assertEquals(await drain(server), 0);
});

test("drain() of a server that was shut down leaves alone the listeners that reuse its descriptor", async () => {
  using directory = new Directory();
  for (const how of ["shutdown", "signal"]) {
    const controller = new AbortController();
    const { signal } = controller;
    const server = serveHttp(listening("127.0.0.1", directory).fd, { signal }, saying("hello"));
    if (how === "shutdown") await server.shutdown();
    else controller.abort();
    await server.finished;
    // One of these listeners reuses the number of the closed descriptor.
    const others = Array.from(
      { length: 8 },
      () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
    );
    try {
      assertEquals(await drain(server), 0);
      for (const other of others) {
        const accepting = other.accept();
        accepting.catch(() => {});
        using _conn = await Deno.connect({ hostname: "127.0.0.1", port: other.addr.port });
        (await accepting).close();
      }
    } finally {
      for (const other of others) other.close();
    }
  }
});

test("drain() keeps the unix path of a listener that was passed on", async () => {
  using directory = new Directory();
  const path = directory.join("web.sock");
  const old = serveHttp(Deno.listen({ transport: "unix", path }), saying("old"));
  const control = listenAndServe(directory.join("control.sock"), listenerHandler(old));
  let next: Deno.HttpServer | undefined;
  await receive(control.addr.path!, (fd) => {
    next = serveHttp(fd, saying("next"));
  });
  await drain(old);
  await control.shutdown();
  assertEquals((await askOnce({ transport: "unix", path })).body, "next");
  await next!.shutdown();
  // The path of a listener that was not passed on is removed, as by Deno.serve.
  const alone = directory.join("alone.sock");
  await serveHttp(Deno.listen({ transport: "unix", path: alone }), saying("alone")).shutdown();
  await until(() => !directory.names().includes("alone.sock"));
  assertEquals(directory.names(), ["web.sock"]);
});

test("drain() rejects with the reason of its signal while it waits for an endless answer", async () => {
  const server = serveHttp(
    Deno.listen({ hostname: "127.0.0.1", port: 0 }),
    () => new Response(new ReadableStream({ start: (stream) => stream.enqueue(text.encode("a")) })),
  );
  const client = await Http1Client.dial(server.addr);
  await client.send();
  assertEquals(await client.conn.read(new Uint8Array(1)), 1);
  const controller = new AbortController();
  const draining = drain(server, { drainTimeout: 0, signal: controller.signal });
  const reason = new Error("enough");
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => draining), reason);
  // After forceCloseAfter the connection is closed.
  assertEquals(await drain(server, { drainTimeout: 0, forceCloseAfter: 0 }), 1);
  await readAll(client.conn);
  client.conn.close();
  await server.finished;
});
