/**
 * How a generation drains: the answers that it sends to the end, the connections that it closes, and stop().
 *
 * These tests, and those of `rollback_test.ts`, run on other versions of Deno as well: see
 * `departure_versions_test.ts`.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { Generation } from "../../mod.ts";
import { pause } from "../../lib/time.ts";
import { asked, begin, here, portOf, quietly, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { HeldAnswer } from "../support/held_answer.ts";
import { certificate, dialTls, startHttp2Client } from "../support/tls.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** Longer than the time after which a connection is idle: milliseconds. */
const longerThanIdle = 250;

test("a generation that is stopped or replaced sends the answers under way to the end", async () => {
  using directory = new Directory();
  for (const [name, how] of [["a", "stopped"], ["b", "replaced"]]) {
    const path = directory.join(name);
    const streamed = new HeldAnswer();
    const old = await begin(path, { drainTimeout: 0, forceCloseAfter: 60_000 });
    const server = old.serve(quietly, streamed.answer);
    const tls = old.serve({ ...here, ...certificate }, streamed.answer);
    await old.ready();
    await using client = await startHttp2Client(portOf(tls));
    const answer = asked(portOf(server));
    await client.tell("ask");
    await until(() => streamed.begun === 2);
    let next: Generation | undefined;
    if (how === "stopped") void old.stop();
    else {
      next = await begin(path);
      next.serve(quietly, saying("next"));
      next.serve({ ...here, ...certificate }, saying("next"));
      await next.ready();
      await until(() => old.status().state === "draining");
    }
    // The connections are polled several times, and are idle meanwhile.
    await pause(longerThanIdle);
    streamed.release();
    assertEquals(await answer, HeldAnswer.text, how);
    assertEquals(await client.line(), `answer: ${HeldAnswer.text}`, how);
    assertEquals(await client.line(), "goaway", how);
    await old.finished;
    await next?.stop();
  }
});

test("stop() closes connections by force after forceCloseAfter, and does not wait for their handlers", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { drainTimeout: 0, forceCloseAfter: 100 });
  let asks = 0;
  const muchLater = Promise.withResolvers<Response>();
  const never = app.serve(quietly, () => {
    asks++;
    return muchLater.promise;
  });
  const endless = new HeldAnswer();
  const stream = app.serve(quietly, endless.answer);
  await app.ready();
  const failing = [never, stream].map((server) => assertRejects(() => asked(portOf(server))));
  await until(() => asks + endless.begun === 2);
  await app.stop();
  await Promise.all(failing);
  // Deno closes its sockets when the handlers return.
  muchLater.resolve(new Response());
  endless.release();
  await never.finished;
});

test("stop() closes connections of another protocol by force after drainTimeout and forceCloseAfter", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { drainTimeout: 50, forceCloseAfter: 50 });
  const listener = app.listen(here);
  await app.ready();
  using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(listener) });
  using conn = await listener.accept();
  await app.stop();
  assertEquals(await conn.read(new Uint8Array(1)), null);
  assertEquals(await client.read(new Uint8Array(1)), null);
});

test("a draining generation sends GOAWAY to idle HTTP/2 clients at once, and waits for idle HTTP/1 clients", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 600_000 });
  const server = old.serve({ ...here, ...certificate }, saying("old"));
  await old.ready();
  await using client = await startHttp2Client(portOf(server));
  await client.tell("ask");
  assertEquals(await client.line(), "answer: old");
  const next = await begin(path);
  next.serve({ ...here, ...certificate }, saying("next"));
  await next.ready();
  assertEquals(await client.line(), "goaway");
  await old.finished;
  // An idle HTTP/1 client is told to close its connection by its next answer alone.
  const idle = await dialTls(portOf(server));
  await idle.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await idle.read(new Uint8Array(1000));
  const last = await begin(path);
  last.serve({ ...here, ...certificate }, saying("last"));
  await last.ready();
  await until(() => next.status().state === "draining");
  let isFinished = false;
  next.finished.then(() => isFinished = true);
  await pause(longerThanIdle);
  assertEquals(isFinished, false);
  idle.close();
  await next.finished;
  await last.stop();
});

/** Connects, sends one request and reads the answer; the connection stays open. */
async function dialIdle(port: number): Promise<Deno.Conn> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await conn.read(new Uint8Array(1000));
  return conn;
}

test("a draining generation does not wait for idle clients when it, or its successor, is stopped", async () => {
  using directory = new Directory();
  for (const which of ["the draining one", "the successor"]) {
    const path = directory.join(which);
    const old = await begin(path, { drainTimeout: 600_000 });
    const port = portOf(old.serve(quietly, saying("old")));
    await old.ready();
    using _idle = await dialIdle(port);
    const next = await begin(path);
    next.serve(quietly, saying("next"));
    await next.ready();
    await until(() => old.status().state === "draining");
    if (which === "the draining one") await old.stop();
    await next.stop();
    await old.finished;
  }
});

test("stop() closes WebSockets with 1012 if the next generation is ready", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 500 });
  const server = old.serve(quietly, (request) => {
    return old.upgradeWebSocket(request).response;
  });
  await old.ready();
  const socket = new WebSocket(`ws://127.0.0.1:${portOf(server)}`);
  await new Promise((resolve) => socket.onopen = resolve);
  const closed = new Promise<CloseEvent>((resolve) => socket.onclose = resolve);
  const next = await begin(path, { probation: 60_000 });
  next.serve(quietly, saying("next"));
  await next.ready();
  await old.stop();
  assertEquals((await closed).code, 1012);
  assertEquals(await asked(portOf(server)), "next");
  await next.stop();
});

test("a WebSocket that is opened while its generation drains is closed with 1012, too", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 2000 });
  const server = old.serve(quietly, (request) => {
    return request.headers.has("upgrade")
      ? old.upgradeWebSocket(request).response
      : new Response("old");
  });
  await old.ready();
  using conn = await dialIdle(portOf(server));
  const next = await begin(path);
  next.serve(quietly, saying("next"));
  await next.ready();
  await until(() => old.status().state === "draining");
  await conn.write(
    new TextEncoder().encode(
      "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n" +
        "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ),
  );
  const received: number[] = [];
  const chunk = new Uint8Array(1000);
  // A Close frame: two bytes of code, and the reason (RFC 6455, 5.5.1).
  const code = () => received.findIndex((byte, i) => byte === 0x88 && received[i + 1] === 17);
  while (code() < 0) received.push(...chunk.subarray(0, await conn.read(chunk) ?? 0));
  assertEquals((received[code() + 2] << 8) + received[code() + 3], 1012);
  await old.stop();
  await next.stop();
});

test("stop() and SIGTERM end a generation that is not ready", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  app.serve(quietly, saying("never"));
  await app.stop();
  await app.ready();
  await app.finished;
  await using child = new Child("./generation.ts", [directory.join("b.sock"), "--say", "wait"]);
  assertMatch(await child.line(), /^port: /);
  Deno.kill(child.pid, "SIGTERM");
  assertEquals((await child.ended()).code, 0);
  assertEquals(directory.names(), []);
});
