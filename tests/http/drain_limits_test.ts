/**
 * The limits of a drain: connections that it waits for until `drainTimeout`, answers that it waits for until
 * `forceCloseAfter`, and clients that it does not wait for.
 *
 * These tests run on other versions of Deno as well: see `departure_versions_test.ts`.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { drain, type HttpHandler, serveHttp } from "../../mod.ts";
import { pause } from "../../lib/time.ts";
import { begin, here, portOf, quietly, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { readAll, text } from "../support/foreign.ts";
import { HeldAnswer } from "../support/held_answer.ts";
import { Http1Client } from "../support/http1_client.ts";
import { certificate, dialTls, startHttp2Client } from "../support/tls.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** A wait of this length has failed: milliseconds. */
const tooLong = 20_000;

function serve(handler: HttpHandler, tls?: typeof certificate): Deno.HttpServer {
  return serveHttp(Deno.listen(here), { ...tls }, handler);
}

test("drain() gives an answer under way drainTimeout and then forceCloseAfter, with HTTP/2 and HTTP/1.0", async () => {
  const forceCloseAfter = 100;
  const answers = { http2: new HeldAnswer(), http10: new HeldAnswer() };
  const servers = {
    http2: serve(answers.http2.answer, certificate),
    http10: serve(answers.http10.answer, certificate),
  };
  await using client = await startHttp2Client(portOf(servers.http2));
  await client.tell("ask");
  const conn = await dialTls(portOf(servers.http10));
  // Without a Host header, as HTTP/1.0 allows.
  await conn.write(text.encode("GET / HTTP/1.0\r\n\r\n"));
  await until(() => answers.http2.begun + answers.http10.begun === 2);
  const draining = Object.values(servers).map((server) =>
    drain(server, { drainTimeout: tooLong, forceCloseAfter })
  );
  // Each connection would be closed by now if forceCloseAfter had begun with the drain.
  await pause(10 * forceCloseAfter);
  for (const answer of Object.values(answers)) answer.release();
  assertEquals(await client.line(), `answer: ${HeldAnswer.text}`);
  assert(new TextDecoder().decode(await readAll(conn)).endsWith(`\r\n\r\n${HeldAnswer.text}`));
  conn.close();
  assertEquals(await Promise.all(draining), [0, 0]);
});

test("stop() and drain() give an upload, and an HTTP/2 answer under way, all of forceCloseAfter", async () => {
  using directory = new Directory();
  const forceCloseAfter = 4000;
  const app = await begin(directory.join("app.sock"), { forceCloseAfter });
  let uploads = 0;
  const receiving: HttpHandler = async (request) => {
    uploads++;
    return new Response(`received ${(await request.text()).length}`);
  };
  const stopped = app.serve(quietly, receiving);
  const drained = serve(receiving);
  await app.ready();
  const clients = await Promise.all([stopped, drained].map(({ addr }) => Http1Client.dial(addr)));
  const head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n";
  for (const { conn } of clients) await conn.write(text.encode(`${head}up`));
  const answer = new HeldAnswer();
  const tls = serve(answer.answer, certificate);
  await using client = await startHttp2Client(portOf(tls));
  await client.tell("ask");
  await until(() => uploads === 2 && answer.begun === 1);
  const limits = { drainTimeout: 0, forceCloseAfter };
  const leaving = Promise.all([app.stop(), drain(drained, limits), drain(tls, limits)]);
  await pause(forceCloseAfter * 0.6);
  answer.release();
  assertEquals(await client.line(), `answer: ${HeldAnswer.text}`);
  for (const { conn } of clients) await conn.write(text.encode("on"));
  for (const client of clients) {
    assertEquals((await client.answer()).body, "received 4");
    client.conn.close();
  }
  await leaving;
});

test("stop() does not wait for connections that have sent no request", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { forceCloseAfter: tooLong });
  const tls = app.serve({ ...here, ...certificate }, saying("hello"));
  const plain = app.serve(quietly, saying("hello"));
  await app.ready();
  const silent: Deno.Conn[] = [
    await Deno.connect({ hostname: "127.0.0.1", port: portOf(plain) }),
    await Deno.connect({ hostname: "127.0.0.1", port: portOf(tls) }),
    await Deno.connect({ hostname: "127.0.0.1", port: portOf(tls) }),
  ];
  // The header of a TLS record with a ClientHello.
  await silent[2].write(Uint8Array.of(0x16, 3, 1, 2, 0, 1, 0, 1));
  for (const protocol of ["h2", "http/1.1"]) {
    const conn = await dialTls(portOf(tls), [protocol]);
    await conn.handshake();
    silent.push(conn);
  }
  const began = performance.now();
  await app.stop();
  assert(performance.now() - began < tooLong / 2);
  for (const conn of silent) conn.close();
});

test("drain() neither counts nor awaits a connection that its client has closed while the handler runs", async () => {
  using directory = new Directory();
  const forceCloseAfter = 200;
  const app = await begin(directory.join("app.sock"), { drainTimeout: tooLong, forceCloseAfter });
  const muchLater = Promise.withResolvers<Response>();
  let asked = 0;
  const never = () => {
    asked++;
    return muchLater.promise;
  };
  const server = app.serve(quietly, never);
  const drained = serve(never);
  await app.ready();
  for (const { addr } of [server, drained]) {
    using client = await Http1Client.dial(addr);
    await client.send();
    const before = asked;
    await until(() => asked > before);
  }
  await until(() => app.status().sockets[0].connections === 0);
  const next = await begin(directory.join("app.sock"));
  next.serve(quietly, saying("next"));
  const began = performance.now();
  await next.ready();
  assertEquals(await drain(drained, { drainTimeout: tooLong, forceCloseAfter }), 0);
  await app.finished;
  assert(performance.now() - began < tooLong / 2);
  muchLater.resolve(new Response());
  await Promise.all([server.finished, drained.finished]);
  await next.stop();
});

test("drain() closes the other connections by force when a client has reset one", async () => {
  const muchLater = Promise.withResolvers<Response>();
  let asked = 0;
  const server = serve(() => {
    asked++;
    return muchLater.promise;
  });
  const head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n";
  {
    // 100 Continue arrives and is not read: so close() resets the connection.
    using reset = await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) });
    await reset.write(text.encode(`${head}Expect: 100-continue\r\n\r\n`));
    await until(() => asked === 1);
    await pause(50);
  }
  using client = await Http1Client.dial(server.addr);
  await client.send();
  await until(() => asked === 2);
  assertEquals(await drain(server, { drainTimeout: 0, forceCloseAfter: 0 }), 1);
  assert(await client.ended());
  muchLater.resolve(new Response());
  await server.finished;
});
