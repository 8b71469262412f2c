/**
 * Clients that do not close their connections after `Connection: close`, and are hung up on; and clients that
 * a drain does not hang up on, because they may speak HTTP/2.
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
import { Http1Client } from "../support/http1_client.ts";
import { certificate, dialTls, startHttp2Client } from "../support/tls.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** Whether this is version 2.9.6 of Deno, or a later one. */
const isNewest = !/^2\.([0-8]\.|9\.[0-5]\b)/.test(Deno.version.deno);

/** A wait of this length has failed: milliseconds. */
const tooLong = 20_000;

function serve(handler: HttpHandler, tls?: typeof certificate): Deno.HttpServer {
  return serveHttp(Deno.listen(here), { ...tls }, handler);
}

/** Handlers by path: each kind of answer. */
const handlers: Record<string, () => Response | Promise<Response>> = {
  "at once": () => new Response("answer"),
  "later": () => Promise.resolve(new Response("answer")),
  "empty": () => new Response(null),
  "without a body": () => new Response(null, { status: 204 }),
  "streamed": () => new Response(ReadableStream.from(["ans", "wer"].map((s) => text.encode(s)))),
  "by onError": () => {
    throw new Error("expected");
  },
  "by onError later": () => Promise.reject(new Error("expected")),
  "by Deno, when onError throws": () => Promise.reject(new Error("twice")),
  "by onError, without a Response": () => undefined as unknown as Response,
  "by onError, for a Response that was read": async () => {
    const response = new Response("answer");
    await response.text();
    return response;
  },
};

/** A server with all the handlers. */
function serveHandlers(): Deno.HttpServer {
  return serveHttp(
    Deno.listen(here),
    {
      onError(error) {
        if ((error as Error).message === "twice") throw error;
        return new Response("answer");
      },
    },
    ({ url }) => handlers[decodeURI(new URL(url).pathname.slice(1))](),
  );
}

for (const version of ["1.0", "1.1"]) {
  test(`drain() hangs up on an HTTP/${version} client that waits for the server to close the connection`, async () => {
    for (const kind of Object.keys(handlers)) {
      const server = serveHandlers();
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) });
      const request = text.encode(
        `GET /${encodeURI(kind)} HTTP/${version}\r\nHost: test\r\nConnection: keep-alive\r\n\r\n`,
      );
      const draining = drain(server, { drainTimeout: tooLong });
      const began = performance.now();
      await conn.write(request);
      const received = new TextDecoder().decode(await readAll(conn));
      conn.close();
      assertEquals(await draining, 0, kind);
      assert(performance.now() - began < tooLong / 2, kind);
      if (!kind.startsWith("empty") && kind !== "without a body" && !kind.startsWith("by Deno")) {
        assert(received.replace(/\r\n[36]\r\n/g, "").includes("answer"), `${kind}: ${received}`);
      }
    }
  });
}

test("drain() answers all pipelined requests before it hangs up on their client", async () => {
  const server = serveHandlers();
  using client = await Http1Client.dial(server.addr);
  const draining = drain(server, { drainTimeout: tooLong });
  const requests = Array.from(
    { length: 8 },
    () => "GET /later HTTP/1.1\r\nHost: test\r\n\r\n",
  );
  await client.conn.write(text.encode(requests.join("")));
  const first = await client.answer();
  assertEquals([first.body, first.headers.get("connection")], ["answer", "close"]);
  // Up to 2.8.2 Deno closes the connection after the first answer with Connection: close.
  if (!/^2\.([0-7]|8\.[0-2]\b)/.test(Deno.version.deno)) {
    for (let i = 1; i < requests.length; i++) assertEquals((await client.answer()).body, "answer");
  }
  await readAll(client.conn);
  assertEquals(await draining, 0);
});

test("drain() loses no request of an HTTP/1.0 client that keeps its connection alive", async () => {
  const server = serve(saying("answer"));
  const elsewhere = serve(saying("answer"));
  let draining: Promise<number> | undefined;
  const request = text.encode("GET / HTTP/1.0\r\nHost: test\r\nConnection: Keep-Alive\r\n\r\n");
  async function client(): Promise<number> {
    let [answered, at] = [0, server];
    let conn = await Deno.connect({ hostname: "127.0.0.1", port: portOf(at) });
    while (at === server || answered < 500) {
      await conn.write(request);
      let received = "";
      const chunk = new Uint8Array(4096);
      const isWhole = () =>
        /content-length: 6\r\n/.test(received) && received.endsWith("\r\n\r\nanswer");
      let n: number | null = 0;
      while (!isWhole() && (n = await conn.read(chunk)) !== null) {
        received += new TextDecoder().decode(chunk.subarray(0, n));
      }
      assert(received.endsWith("\r\n\r\nanswer"), `after ${answered} answers: "${received}"`);
      answered++;
      if (answered === 100) draining ??= drain(server, { drainTimeout: 2000 });
      if (n !== null) continue;
      // The answer ended with its connection.
      conn.close();
      at = elsewhere;
      conn = await Deno.connect({ hostname: "127.0.0.1", port: portOf(at) });
    }
    conn.close();
    return answered;
  }
  await Promise.all(Array.from({ length: 8 }, client));
  assertEquals(await draining, 0);
  await elsewhere.shutdown();
});

test("stop() hangs up on an upload that was answered unread, whose answer has one Connection: close", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { forceCloseAfter: tooLong });
  let refused = 0;
  const server = app.serve(quietly, async () => {
    refused++;
    await until(() => app.draining.aborted);
    return new Response("too large", { status: 413 });
  });
  await app.ready();
  using client = await Http1Client.dial(server.addr);
  const head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n";
  await client.conn.write(text.encode(`${head}and so on`));
  await until(() => refused === 1);
  const began = performance.now();
  const stopping = app.stop();
  const { status, headers } = await client.answer();
  // Before 2.9.6 Deno adds a second one.
  const connection = headers.get("connection");
  const expected = isNewest ? ["close"] : ["close", "close, close"];
  assertEquals([status, expected.includes(connection!)], [413, true], `${connection}`);
  await stopping;
  assert(performance.now() - began < tooLong / 2);
});

for (const isPlain of [false, true]) {
  const over = isPlain ? "TCP" : "TLS";
  test(`drain() sends GOAWAY to an HTTP/2 client over ${over} that sends a Host field, and answers it`, async () => {
    const server = serve(saying("hello"), isPlain ? undefined : certificate);
    await using client = await startHttp2Client(portOf(server), { host: true, isPlain });
    const draining = drain(server, { drainTimeout: tooLong });
    await client.tell("ask");
    // Not hung up on: a request may be on its way. Where both frames arrive at once, node emits "goaway" first.
    const lines = [await client.line(), await client.line()];
    const began = performance.now();
    assertEquals(lines.sort(), ["answer: hello", "goaway"]);
    assertEquals(await draining, 0);
    assert(performance.now() - began < tooLong / 2);
  });
}

test("drain() waits for a TLS client that may speak HTTP/1 or HTTP/2", async () => {
  const server = serve(saying("hello"), certificate);
  const conn = await dialTls(portOf(server));
  using client = new Http1Client(conn);
  const ask = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
  await conn.write(text.encode(ask));
  assertEquals((await client.answer()).body, "hello");
  let isDrained = false;
  const draining = drain(server, { drainTimeout: tooLong, forceCloseAfter: 100 })
    .finally(() => isDrained = true);
  // Longer than an HTTP/2 connection would be waited for.
  await pause(1000);
  assertEquals(isDrained, false);
  await conn.write(text.encode(ask));
  const { body, headers } = await client.answer();
  assertEquals([body, headers.get("connection")], ["hello", "close"]);
  assertEquals(await draining, 0);
});
