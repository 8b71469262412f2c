/**
 * Servers of node:http2 in a generation.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { once } from "node:events";
import { connect, createSecureServer, createServer } from "node:http2";
import type { Http2Server, Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { drain, type StartOptions } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { ask, Http2Load } from "../support/http2_load.ts";
import { Http1Client } from "../support/http1_client.ts";
import { begin } from "../support/in_process.ts";
import { portOfNode } from "../support/node_servers.ts";
import { certificate, dialTls } from "../support/tls.ts";
import { until } from "../support/until.ts";

const restarts = 5;

const servers: Record<string, { scheme: string; make: (words: string) => Http2Server }> = {
  "createServer": {
    scheme: "http",
    make: (words) => createServer((_request, response) => response.end(words)),
  },
  "createSecureServer": {
    scheme: "https",
    make: (words) => {
      const { cert, key } = certificate;
      const server = createSecureServer({ cert, key }, (_request, response) => response.end(words));
      return server as unknown as Http2Server;
    },
  },
};

for (const [name, { scheme, make }] of Object.entries(servers)) {
  test(`a client of node:http2's ${name} loses no request, and moves to the next generation`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const started = async (words: string, port = 0) => {
      const app = await begin(path, { drainTimeout: 20_000 });
      const server = app.listenNode(make(words), { hostname: "127.0.0.1", port });
      await app.ready();
      return { app, port: portOfNode(server) };
    };
    let current = await started("0");
    const { port } = current;
    const clients = Array.from({ length: 2 }, () => new Http2Load(`${scheme}://127.0.0.1:${port}`));
    for (let i = 1; i <= restarts; i++) {
      const next = await started(String(i), port);
      await current.app.finished;
      current = next;
    }
    const seen = () => clients.every(({ answers }) => (answers.get(String(restarts)) ?? 0) > 5);
    while (!seen()) await new Promise((resolve) => setTimeout(resolve, 5));
    for (const client of clients) await client.stop();
    await current.app.stop();
    assertEquals(clients.flatMap(({ failures }) => failures), []);
    assert(clients.every(({ count }) => count > 5));
  });
}

/** Starts a generation with a secure server that speaks HTTP/1 too. */
async function serving(
  path: string,
  listener: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
  { port = 0, ...options }: StartOptions & { port?: number } = {},
) {
  const app = await begin(path, options);
  const server = createSecureServer({ ...certificate, allowHTTP1: true }, listener);
  app.listenNode(server, { hostname: "127.0.0.1", port });
  await app.ready();
  return { app, server, port: portOfNode(server) };
}

/** A session, and the last stream of each GOAWAY that it gets. */
async function session(port: number) {
  const client = connect(`https://127.0.0.1:${port}`, { rejectUnauthorized: false });
  const lastStreams: number[] = [];
  client.on("goaway", (_code, lastStream) => lastStreams.push(lastStream));
  await once(client, "remoteSettings");
  return { client, lastStreams };
}

test("a stream that takes longer than drainTimeout is finished, after a GOAWAY that refuses no stream", async () => {
  using directory = new Directory();
  const asked = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  const { app, port } = await serving(
    directory.join("app.sock"),
    async (_request, response) => {
      response.write("first ");
      asked.resolve();
      await released.promise;
      response.end("last");
    },
    { drainTimeout: 20 },
  );
  const { client, lastStreams } = await session(port);
  const answer = ask(client, "/");
  await asked.promise;
  const stopped = app.stop();
  await until(() => lastStreams.length > 0);
  assertEquals(lastStreams[0], 2 ** 31 - 1);
  await new Promise((resolve) => setTimeout(resolve, 100));
  released.resolve();
  assertEquals(await answer, "first last");
  await stopped;
});

test("a session of a rolled back handover is told to leave, and answers what it has sent", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const released = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  const old = await serving(path, async (_request, response) => {
    asked.resolve();
    await released.promise;
    response.end("old");
  }, { probation: 60_000 });
  const { client, lastStreams } = await session(old.port);
  const answer = ask(client, "/");
  await asked.promise;
  await using next = new Child("./generation.ts", [path, "--probation", "60000"]);
  await next.until("serving: 2");
  await until(() => lastStreams.length > 0);
  Deno.kill(next.pid, "SIGKILL");
  await until(() => old.app.status().state === "serving");
  released.resolve();
  assertEquals(await answer, "old");
  const again = await session(old.port);
  assertEquals(await ask(again.client, "/"), "old");
  again.client.close();
  await old.app.stop();
  assertEquals(lastStreams[0], 2 ** 31 - 1);
});

test("a client of HTTP/1 on a server of HTTP/2 is told to leave by its next answer", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await serving(path, (_request, response) => response.end("old"));
  using client = new Http1Client(await dialTls(old.port));
  assertEquals((await client.request()).headers.get("connection"), "keep-alive");
  const next = await serving(path, (_request, response) => response.end("new"), { port: old.port });
  const { body, headers } = await client.request();
  assertEquals([body, headers.get("connection")], ["old", "close"]);
  assertEquals(await client.ended(), true);
  await old.app.finished;
  await next.app.stop();
});

test("drain() drains a server of node:http2 with the sessions that it has", async () => {
  const server = createServer((_request, response) => void setTimeout(() => response.end("x"), 20));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const load = new Http2Load(`http://127.0.0.1:${portOfNode(server)}`, "/", true);
  await until(() => load.count > 0);
  assertEquals(await drain(server), 0);
  await load.stop();
  assertEquals(load.failures, []);
  assertEquals(server.listening, false);
});
