/**
 * How an HTTP server leaves: which clients it waits for, which it hangs up on, and when.
 *
 * These tests, and those of `departure_test.ts`, run on other versions of Deno as well: see
 * `departure_versions_test.ts`.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { drain, type HttpHandler, serveHttp } from "../../mod.ts";
import { pause } from "../../lib/time.ts";
import { begin, here, portOf, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { readAll, text } from "../support/foreign.ts";
import { Http1Client } from "../support/http1_client.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const certificate = {
  cert: Deno.readTextFileSync(new URL("../data/localhost.crt", import.meta.url)),
  key: Deno.readTextFileSync(new URL("../data/localhost.key", import.meta.url)),
};

/** Whether this is the Deno that the project is tested on, or a later one. */
const onNewest = !/^2\.([0-8]\.|9\.[0-5]\b)/.test(Deno.version.deno);

/** So long that a test which waits for it has failed. */
const tooLong = 20_000;

function serve(handler: HttpHandler, tls?: typeof certificate): Deno.HttpServer {
  return serveHttp(Deno.listen(here), { ...tls }, handler);
}

function dialTls(server: Deno.HttpServer, alpnProtocols = ["http/1.1"]): Promise<Deno.TlsConn> {
  const { cert } = certificate;
  return Deno.connectTls({
    hostname: "localhost",
    port: portOf(server),
    caCerts: [cert],
    alpnProtocols,
  });
}

/** A session of HTTP/2 in a process of Node; with `host`, each request has a field of that name. */
async function http2(
  server: Deno.HttpServer,
  { host = false, plain = false }: { host?: boolean; plain?: boolean } = {},
): Promise<Child> {
  const path = new URL("../data/localhost.crt", import.meta.url).pathname;
  const args = [String(portOf(server)), plain ? "-" : path, ...host ? ["host"] : []];
  const client = new Child("./http2_client.mjs", args, { command: "node" });
  assertEquals(await client.line(), "connected");
  return client;
}

/** All that comes on a connection, to its end. */
async function allOf(conn: Deno.Conn): Promise<string> {
  return new TextDecoder().decode(await readAll(conn));
}

/** An answer whose first piece is sent at once, and its second when a test says so. */
class InTwoPieces {
  readonly #go = Promise.withResolvers<void>();
  begun = false;

  readonly answer = (): Response => {
    this.begun = true;
    const go = this.#go.promise;
    async function* pieces(): AsyncGenerator<Uint8Array> {
      yield text.encode("one ");
      await go;
      yield text.encode("two");
    }
    return new Response(ReadableStream.from(pieces()));
  };

  go(): void {
    this.#go.resolve();
  }
}

// The order of leaving

test("an answer under way has the deadline and then the force limit, by HTTP/2 and by HTTP/1.0", async () => {
  const forceCloseAfter = 100;
  const answers = { http2: new InTwoPieces(), http10: new InTwoPieces() };
  const servers = {
    http2: serve(answers.http2.answer, certificate),
    http10: serve(answers.http10.answer, certificate),
  };
  await using client = await http2(servers.http2);
  await client.tell("ask");
  const conn = await dialTls(servers.http10);
  // Without a Host header, as HTTP/1.0 allows.
  await conn.write(text.encode("GET / HTTP/1.0\r\n\r\n"));
  await until(() => answers.http2.begun && answers.http10.begun);
  const draining = Object.values(servers).map((server) =>
    drain(server, { drainTimeout: tooLong, forceCloseAfter })
  );
  // Either is cut within this if the force limit begins at once.
  await pause(10 * forceCloseAfter);
  for (const answer of Object.values(answers)) answer.go();
  assertEquals(await client.line(), "answer: one two");
  assert((await allOf(conn)).endsWith("\r\n\r\none two"));
  conn.close();
  assertEquals(await Promise.all(draining), [0, 0]);
});

test("an upload has the whole force limit, as an answer of HTTP/2 has, at a stop and at the deadline", async () => {
  using directory = new Directory();
  const forceCloseAfter = 4000;
  const app = await begin(directory.join("app.sock"), { forceCloseAfter });
  let uploads = 0;
  const receiving: HttpHandler = async (request) => {
    uploads++;
    return new Response(`received ${(await request.text()).length}`);
  };
  const stopped = app.serve(here, receiving);
  const drained = serve(receiving);
  await app.ready();
  const clients = await Promise.all([stopped, drained].map(({ addr }) => Http1Client.dial(addr)));
  const head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n";
  for (const { conn } of clients) await conn.write(text.encode(`${head}up`));
  const answer = new InTwoPieces();
  const tls = serve(answer.answer, certificate);
  await using client = await http2(tls);
  await client.tell("ask");
  await until(() => uploads === 2 && answer.begun);
  const limits = { drainTimeout: 0, forceCloseAfter };
  const leaving = Promise.all([app.stop(), drain(drained, limits), drain(tls, limits)]);
  await pause(forceCloseAfter * 0.6);
  answer.go();
  assertEquals(await client.line(), "answer: one two");
  for (const { conn } of clients) await conn.write(text.encode("on"));
  for (const client of clients) {
    assertEquals((await client.answer()).body, "received 4");
    client.conn.close();
  }
  await leaving;
});

test("a connection without a request is not waited for when its server is stopped", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { forceCloseAfter: tooLong });
  const tls = app.serve({ ...here, ...certificate }, saying("hello"));
  const plain = app.serve(here, saying("hello"));
  await app.ready();
  const silent: Deno.Conn[] = [
    await Deno.connect({ hostname: "127.0.0.1", port: portOf(plain) }),
    await Deno.connect({ hostname: "127.0.0.1", port: portOf(tls) }),
    await Deno.connect({ hostname: "127.0.0.1", port: portOf(tls) }),
  ];
  // The head of a record of TLS that announces a ClientHello.
  await silent[2].write(Uint8Array.of(0x16, 3, 1, 2, 0, 1, 0, 1));
  for (const protocol of ["h2", "http/1.1"]) {
    const conn = await dialTls(tls, [protocol]);
    await conn.handshake();
    silent.push(conn);
  }
  const began = performance.now();
  await app.stop();
  assert(performance.now() - began < tooLong / 2);
  for (const conn of silent) conn.close();
});

// Connections that are to close

const kinds: Record<string, () => Response | Promise<Response>> = {
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
  "by onError, for one that was read": async () => {
    const response = new Response("answer");
    await response.text();
    return response;
  },
};

/** A server that answers in every way, by path. */
function serveKinds(tls?: typeof certificate): Deno.HttpServer {
  return serveHttp(
    Deno.listen(here),
    {
      ...tls,
      onError(error) {
        if ((error as Error).message === "twice") throw error;
        return new Response("answer");
      },
    },
    ({ url }) => kinds[decodeURI(new URL(url).pathname.slice(1))](),
  );
}

for (const version of ["1.0", "1.1"]) {
  test(`a client of HTTP/${version} that waits for the server to close does not hold up a drain`, async () => {
    for (const kind of Object.keys(kinds)) {
      const server = serveKinds();
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) });
      const request = text.encode(
        `GET /${encodeURI(kind)} HTTP/${version}\r\nHost: test\r\nConnection: keep-alive\r\n\r\n`,
      );
      const draining = drain(server, { drainTimeout: tooLong });
      const began = performance.now();
      await conn.write(request);
      const said = await allOf(conn);
      conn.close();
      assertEquals(await draining, 0, kind);
      assert(performance.now() - began < tooLong / 2, kind);
      if (!kind.startsWith("empty") && kind !== "without a body" && !kind.startsWith("by Deno")) {
        assert(said.replace(/\r\n[36]\r\n/g, "").includes("answer"), `${kind}: ${said}`);
      }
    }
  });
}

test("requests that follow one another without a pause are all answered before their connection is closed", async () => {
  const server = serveKinds();
  using client = await Http1Client.dial(server.addr);
  const draining = drain(server, { drainTimeout: tooLong });
  const requests = Array.from(
    { length: 8 },
    () => "GET /later HTTP/1.1\r\nHost: test\r\n\r\n",
  );
  await client.conn.write(text.encode(requests.join("")));
  const first = await client.answer();
  assertEquals([first.body, first.headers.get("connection")], ["answer", "close"]);
  // Up to 2.8.2 Deno closes behind the first answer that says so.
  if (!/^2\.([0-7]|8\.[0-2]\b)/.test(Deno.version.deno)) {
    for (let i = 1; i < requests.length; i++) assertEquals((await client.answer()).body, "answer");
  }
  await readAll(client.conn);
  assertEquals(await draining, 0);
});

test("a client of HTTP/1.0 that keeps its connection loses no request while its server leaves", async () => {
  const server = serve(saying("answer"));
  const elsewhere = serve(saying("answer"));
  let draining: Promise<number> | undefined;
  const request = text.encode("GET / HTTP/1.0\r\nHost: test\r\nConnection: Keep-Alive\r\n\r\n");
  async function client(): Promise<number> {
    let [answered, at] = [0, server];
    let conn = await Deno.connect({ hostname: "127.0.0.1", port: portOf(at) });
    while (at === server || answered < 500) {
      await conn.write(request);
      let said = "";
      const chunk = new Uint8Array(4096);
      const isWhole = () => /content-length: 6\r\n/.test(said) && said.endsWith("\r\n\r\nanswer");
      let n: number | null = 0;
      while (!isWhole() && (n = await conn.read(chunk)) !== null) {
        said += new TextDecoder().decode(chunk.subarray(0, n));
      }
      assert(said.endsWith("\r\n\r\nanswer"), `after ${answered} answers: "${said}"`);
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

test("an upload that was refused unread does not hold up a stop, and is told once to leave", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { forceCloseAfter: tooLong });
  let refused = 0;
  const server = app.serve(here, async () => {
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
  // Before 2.9.6 Deno says so beside the library.
  const said = headers.get("connection")?.replace(/^close, close$/, onNewest ? "twice" : "close");
  assertEquals([status, said], [413, "close"]);
  await stopping;
  assert(performance.now() - began < tooLong / 2);
});

// Clients that have left, and those of HTTP/2

test("a client that has left is not waited for, and not counted, while its handler goes on", async () => {
  using directory = new Directory();
  const forceCloseAfter = 200;
  const app = await begin(directory.join("app.sock"), { drainTimeout: tooLong, forceCloseAfter });
  const muchLater = Promise.withResolvers<Response>();
  let asked = 0;
  const never = () => {
    asked++;
    return muchLater.promise;
  };
  const server = app.serve(here, never);
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
  next.serve(here, saying("next"));
  const began = performance.now();
  await next.ready();
  assertEquals(await drain(drained, { drainTimeout: tooLong, forceCloseAfter }), 0);
  await app.finished;
  assert(performance.now() - began < tooLong / 2);
  muchLater.resolve(new Response());
  await Promise.all([server.finished, drained.finished]);
  await next.stop();
});

for (const plain of [false, true]) {
  const over = plain ? "TCP" : "TLS";
  test(`a client of HTTP/2 over ${over} that sends a Host field is moved when it was answered`, async () => {
    const server = serve(saying("hello"), plain ? undefined : certificate);
    await using client = await http2(server, { host: true, plain });
    const draining = drain(server, { drainTimeout: tooLong });
    await client.tell("ask");
    assertEquals(await client.line(), "answer: hello");
    const began = performance.now();
    // It is not hung up on: a request may be on its way.
    assertEquals(await client.line(), "goaway");
    assertEquals(await draining, 0);
    assert(performance.now() - began < tooLong / 2);
  });
}

test("a client that has reset its connection does not keep others from being cut", async () => {
  const muchLater = Promise.withResolvers<Response>();
  let asked = 0;
  const server = serve(() => {
    asked++;
    return muchLater.promise;
  });
  const head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n";
  {
    // What it is sent and does not read, 100 Continue, has its close() reset the connection.
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

test("a client over TLS of which the version of HTTP is not certain is waited for", async () => {
  const server = serve(saying("hello"), certificate);
  const conn = await dialTls(server);
  using client = new Http1Client(conn);
  const ask = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
  await conn.write(text.encode(ask));
  assertEquals((await client.answer()).body, "hello");
  let isDrained = false;
  const draining = drain(server, { drainTimeout: tooLong, forceCloseAfter: 100 })
    .finally(() => isDrained = true);
  // Longer than an idle connection of HTTP/2 would be left alone.
  await pause(1000);
  assertEquals(isDrained, false);
  await conn.write(text.encode(ask));
  const { body, headers } = await client.answer();
  assertEquals([body, headers.get("connection")], ["hello", "close"]);
  assertEquals(await draining, 0);
});

// WebSockets

const upgrade = "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

for (const tls of [undefined, certificate]) {
  test(`an async handler may upgrade before it waits, over ${tls ? "TLS" : "TCP"}`, async () => {
    const server = serve(async (request) => {
      if (request.headers.get("upgrade") !== "websocket") return new Response("http");
      const { socket, response } = Deno.upgradeWebSocket(request);
      socket.onmessage = ({ data }) => socket.send(`${data}!`);
      await Promise.resolve();
      return response;
    }, tls);
    let hasFinished = false;
    server.finished.then(() => hasFinished = true);
    const dial = async () =>
      new Http1Client(
        tls
          ? await dialTls(server)
          : await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) }),
      );
    using client = await dial();
    await client.conn.write(text.encode(upgrade));
    assertEquals((await client.answer()).status, 101);
    // One masked frame with the text "hi", its mask all zeros; and what is to come back.
    await client.conn.write(Uint8Array.of(0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69));
    const frame = new Uint8Array(5);
    for (let n = 0; n < frame.length;) n += (await client.conn.read(frame.subarray(n)))!;
    assertEquals([...frame], [0x81, 3, 0x68, 0x69, 0x21]);
    using other = await dial();
    assertEquals((await other.request()).body, "http");
    assertEquals(hasFinished, false);
    // A masked close frame with code 1000.
    await client.conn.write(Uint8Array.of(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8));
    await readAll(client.conn);
    await server.shutdown();
  });
}

test("a handler that throws after it has upgraded does not end its server", async () => {
  // In a process of its own: Deno 2.9.6 keeps the listener of such a server for ever.
  await using child = new Child("./upgrade_fails.ts");
  const port = Number(await child.line());
  for (const path of ["/at-once", "/later"]) {
    using client = await Http1Client.dial({ transport: "tcp", hostname: "127.0.0.1", port });
    await client.conn.write(text.encode(upgrade.replace("/", path)));
    assertEquals((await client.answer()).status, 500);
    assertEquals(await child.line(), `error: ${path}`);
    assertEquals((await client.request()).body, "http");
  }
});
