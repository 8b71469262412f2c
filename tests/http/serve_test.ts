import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { Agent, type IncomingMessage as NodeResponse, request as nodeRequest } from "node:http";
import { type Fd, isOpen } from "../../ffi/fd.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import {
  drain,
  fdListener,
  type HttpHandler,
  listenAndServe,
  listenerHandler,
  receive,
  serveHttp,
} from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { listenerKinds, listening, readAll, standsOn, text } from "../support/foreign.ts";
import { type Answer, Http1Client as Client } from "../support/http1_client.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

// HTTP

/** One request on a connection of its own. */
async function ask(addr: Deno.Addr, path?: string): Promise<Answer> {
  using client = await Client.dial(addr);
  return await client.request(path);
}

/** Says it with a name. */
const saying = (name: string) => () => new Response(name);

/** What a program prints; undefined, and a word about it, when it is not here. */
function printed(program: string, ...args: string[]): string | undefined {
  try {
    const { success, stdout } = new Deno.Command(program, { args, stderr: "null" }).outputSync();
    if (success) return new TextDecoder().decode(stdout);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  console.log(`Tests that need ${program} are skipped: it cannot be run here`);
}

const curl = printed("curl", "--version");
const openssl = printed("openssl", "version");

/** What curl makes of a URL. */
async function curled(...args: string[]): Promise<string> {
  const command = new Deno.Command("curl", { args: ["-sS", "--max-time", "20", ...args] });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  assertEquals([code, decoder.decode(stderr)], [0, ""]);
  return decoder.decode(stdout);
}

for (const kind of listenerKinds) {
  test(`serveHttp() answers, with the real address everywhere: ${kind}`, async () => {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const heard: Deno.Addr[] = [];
    const seen: { remoteAddr: Deno.Addr; body: string; method: string }[] = [];
    const server = serveHttp(fd, { onListen: (addr) => heard.push({ ...addr }) }, async (
      request,
      { remoteAddr },
    ) => {
      seen.push({
        remoteAddr: { ...remoteAddr },
        body: await request.text(),
        method: request.method,
      });
      return new Response("hello", { status: 203, headers: { "x-test": "yes" } });
    });
    assertEquals(fd.owned, false);
    assertEquals({ ...server.addr }, addr);
    assertEquals(heard, [addr]);
    const dialled = kind === "::" ? { ...addr, hostname: "::1" } as Deno.NetAddr : addr;
    using client = await Client.dial(dialled);
    const { status, headers, body } = await client.request("/", "", "a question");
    assertEquals([status, headers.get("x-test"), body], [203, "yes", "hello"]);
    // There is nothing to tell one client of a unix socket from another by: Deno says its own.
    const remoteAddr = "path" in addr ? addr : { ...client.conn.localAddr };
    assertEquals(seen, [{ remoteAddr, body: "a question", method: "POST" }]);
    await server.shutdown();
    await server.finished;
    assert(await client.ended());
    if (kind === "path") assertEquals(directory.names().length, 1);
  });
}

test("serveHttp() answers curl on a unix path", { ignore: !curl }, async () => {
  using directory = new Directory();
  const { fd, addr } = listening("path", directory);
  const server = serveHttp(fd, (request) => new Response(`hello from ${request.method}`));
  const { path } = addr as Deno.UnixAddr;
  assertEquals(await curled("--unix-socket", path, "http://host/"), "hello from GET");
  await server.shutdown();
});

test("serveHttp() gives a request the URL that its Host header says", async () => {
  using directory = new Directory();
  const server = serveHttp(
    listening("127.0.0.1", directory).fd,
    (request) => new Response(request.url),
  );
  assertEquals((await ask(server.addr, "/a?b")).body, "http://test/a?b");
  await server.shutdown();
});

test("two hundred requests come on as few connections as to a native server, with whole bodies", async () => {
  using directory = new Directory();
  const ports = new Set<number>();
  let received = 0;
  const answer: HttpHandler = async (request, { remoteAddr }) => {
    received++;
    ports.add((remoteAddr as Deno.NetAddr).port);
    return new Response(await request.text());
  };
  const native = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, answer);
  const adopted = serveHttp(listening("127.0.0.1", directory).fd, answer);
  const counts = [];
  for (const server of [native, adopted]) {
    ports.clear();
    received = 0;
    const { port } = server.addr as Deno.NetAddr;
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    for (let i = 0; i < 200; i++) {
      const question = `question ${i}`.repeat(i);
      const headers = { connection: i < 199 ? "keep-alive" : "close" };
      assertEquals(await nodeFetch({ agent, port, headers, method: "POST" }, question), question);
    }
    counts.push(ports.size);
    // node:http asks again, silently, when a connection that it uses again is closed.
    assertEquals(received, 200);
    agent.destroy();
    await server.shutdown();
  }
  // One, but for old versions, whose agent keeps no connection.
  assertEquals(counts[1], counts[0]);
});

/** A request of node:http's; gives the body. */
function nodeFetch(
  options: { agent: Agent; port: number; headers: Record<string, string>; method: string },
  body: string,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const sending = nodeRequest({ hostname: "127.0.0.1", ...options }, (response: NodeResponse) => {
      let whole = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => whole += chunk);
      response.on("end", () => resolve(whole));
      response.on("error", reject);
    });
    sending.on("error", reject);
    sending.end(body);
  });
}

test("serveHttp() carries a megabyte each way", async () => {
  using directory = new Directory();
  const server = serveHttp(
    listening("127.0.0.1", directory).fd,
    (request) => new Response(request.body),
  );
  using client = await Client.dial(server.addr);
  const question = "0123456789abcdef".repeat(1 << 16);
  const [answer] = await Promise.all([client.answer(), client.send("/", "", question)]);
  assertEquals(answer.body.length, question.length);
  assert(answer.body === question);
  await server.shutdown();
});

test("serveHttp() prints nothing when nobody asks for the address", async () => {
  using directory = new Directory();
  const lines: unknown[] = [];
  const originals = [console.log, console.error, console.info] as const;
  console.log = console.error = console.info = (...args) => void lines.push(args);
  let server: Deno.HttpServer;
  try {
    server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
    await ask(server.addr);
  } finally {
    [console.log, console.error, console.info] = originals;
  }
  await server.shutdown();
  assertEquals(lines, []);
});

test("onListen that throws leaves no server, and the descriptor with its owner", async () => {
  using directory = new Directory();
  const { fd, addr, dial } = listening("127.0.0.1", directory);
  const failure = new Error("not ready");
  const thrown = assertThrows(() =>
    serveHttp(fd, {
      onListen() {
        throw failure;
      },
    }, saying("zombie"))
  );
  assertStrictEquals(thrown, failure);
  assert(fd.owned && isOpen(fd.raw));
  await until(() => standsOn(fd.raw) === 1);
  using listener = fdListener(fd);
  assertEquals({ ...listener.addr }, addr);
  for (let i = 0; i < 20; i++) {
    const accepting = listener.accept();
    using conn = await dial();
    using accepted = await accepting;
    assertEquals(accepted.remoteAddr, conn.localAddr);
  }
});

test("a connection that comes right after onListen threw is left to the owner", async () => {
  using directory = new Directory();
  const { fd, dial } = listening("127.0.0.1", directory);
  assertThrows(() =>
    serveHttp(fd, {
      onListen() {
        throw new Error("not ready");
      },
    }, saying("zombie"))
  );
  // In the same turn: the server has not ended yet.
  const dialling = dial();
  using listener = fdListener(fd);
  const accepting = listener.accept();
  using conn = await dialling;
  using accepted = await accepting;
  assertEquals(accepted.remoteAddr, conn.localAddr);
});

test("options that Deno refuses leave the descriptor with its owner, and adopting as it was", async () => {
  using directory = new Directory();
  const { fd, dial } = listening("127.0.0.1", directory);
  assertThrows(() => serveHttp(fd, { cert: "no", key: "no" }, saying("hello")));
  assert(fd.owned);
  using listener = fdListener(fd);
  const accepting = listener.accept();
  using _conn = await dial();
  (await accepting).close();
});

test("aborting the signal ends the server and its descriptor", async () => {
  using directory = new Directory();
  const controller = new AbortController();
  const { signal } = controller;
  const { fd, addr, dial } = listening("127.0.0.1", directory);
  const server = serveHttp(fd, { signal }, saying("hello"));
  assertEquals((await ask(addr)).body, "hello");
  controller.abort();
  await server.finished;
  await until(() => dial().then((conn) => conn.close()).then(() => false, () => true));
});

test("onError answers for a handler that throws", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, {
    onError: (error) => new Response(`sorry: ${(error as Error).message}`, { status: 418 }),
  }, (request) => {
    if (request.url.endsWith("/later")) return Promise.reject(new Error("later"));
    throw new Error("at once");
  });
  for (const [path, message] of [["/", "at once"], ["/later", "later"]]) {
    const { status, body } = await ask(server.addr, path);
    assertEquals([status, body], [418, `sorry: ${message}`]);
  }
  await server.shutdown();
});

test("serveHttp() of a Deno.Listener serves on it, and closes it when the server has finished", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = serveHttp(listener, saying("hello"));
  assertEquals(server.addr, listener.addr);
  for (let i = 0; i < 3; i++) assertEquals((await ask(listener.addr)).body, "hello");
  await server.shutdown();
  await assertRejects(() => listener.accept(), Deno.errors.BadResource);
});

test("serveHttp() of a Deno.Listener lets its owner close it before", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = serveHttp(listener, saying("hello"));
  listener.close();
  assertEquals((await ask(server.addr)).body, "hello");
  await server.shutdown();
  await server.finished;
});

test("serveHttp() of a Deno.Listener that fails leaves the listener open", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  assertThrows(
    () =>
      serveHttp(listener, {
        onListen() {
          throw new Error("not ready");
        },
      }, saying("zombie")),
    Error,
    "not ready",
  );
  const accepting = listener.accept();
  using _conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  (await accepting).close();
});

/** A certificate that nobody signed. */
function certificate(directory: Directory): { cert: string; key: string } {
  const [key, cert] = [directory.join("key.pem"), directory.join("cert.pem")];
  // deno-fmt-ignore
  const args = [
    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
    "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
  ];
  const { success } = new Deno.Command("openssl", { args, stderr: "null" }).outputSync();
  assert(success);
  return { cert: Deno.readTextFileSync(cert), key: Deno.readTextFileSync(key) };
}

test(
  "serveHttp() answers HTTPS, by HTTP/1.1 and HTTP/2",
  { ignore: !curl || !openssl },
  async () => {
    using directory = new Directory();
    const tls = certificate(directory);
    using listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...tls });
    const both = [listening("127.0.0.1", directory).fd, listenerDescriptor(listener)];
    for (const fd of both) {
      const server = serveHttp(fd, tls, (request, { remoteAddr }) => {
        assertEquals((remoteAddr as Deno.NetAddr).hostname, "127.0.0.1");
        return new Response(`hello from ${new URL(request.url).protocol}`);
      });
      const url = `https://127.0.0.1:${(server.addr as Deno.NetAddr).port}/`;
      const versions: [string, string][] = [["--http1.1", "1.1"]];
      if (/\bHTTP2\b/.test(curl!)) versions.push(["--http2", "2"]);
      else console.log("HTTP/2 is skipped: this curl does not speak it");
      for (const [option, version] of versions) {
        const said = await curled("-k", option, "-w", " by %{http_version}", url);
        assertEquals(said, `hello from https: by ${version}`);
      }
      await server.shutdown();
    }
  },
);

// Draining

/** A server on a listener that another holder keeps. */
function serving(name: string, fd: Fd): Deno.HttpServer {
  return serveHttp(fd.dup(), saying(name));
}

test("drain() stops accepting: another holder of the listener gets every new connection", async () => {
  for (const kind of ["127.0.0.1", "path"] as const) {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const old = serving("old", fd);
    using idle = await Client.dial(addr);
    assertEquals((await idle.request()).body, "old");
    const next = serving("next", fd);
    let drained = false;
    const draining = drain(old).finally(() => drained = true);
    for (let i = 0; i < 40; i++) assertEquals((await ask(addr)).body, "next");
    assertEquals(drained, false, "the idle client has not left");
    assertEquals((await idle.request()).body, "old");
    idle.conn.closeWrite();
    assertEquals(await draining, 0);
    await old.finished;
    assertEquals((await ask(addr)).body, "next");
    await next.shutdown();
    fd.close();
  }
});

test("what queues while drain() waits is left to the other holder", async () => {
  for (const kind of ["127.0.0.1", "path"] as const) {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const old = serving("old", fd);
    const idle = await Promise.all(Array.from({ length: 8 }, () => Client.dial(addr)));
    for (const client of idle) await client.request();
    const draining = drain(old);
    using early = await Client.dial(addr);
    await early.send();
    let answered = false;
    const answering = early.answer().finally(() => answered = true);
    answering.catch(() => {});
    // Each of these is a turn in which the old one could have accepted.
    for (const client of idle) assertEquals((await client.request()).body, "old");
    assertEquals(answered, false);
    const next = serving("next", fd);
    assertEquals((await answering).body, "next");
    for (const { conn } of idle) conn.close();
    await early.conn.closeWrite();
    assertEquals(await draining, 0);
    await next.shutdown();
    fd.close();
  }
});

test("a handler's failure that cannot be printed is answered like any other", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    throw new Error("on purpose");
  });
  const client = await Client.dial(server.addr);
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

test("while it drains, every kind of answer says Connection: close", async () => {
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
    "/said": () => new Response("said", { headers: { connection: "keep-alive" } }),
    "/thrown": () => {
      throw new Error("thrown");
    },
    "/rejected": () => Promise.reject(new Error("rejected")),
  };
  const server = serveHttp(listening("127.0.0.1", directory).fd, {
    onError: () => new Response("sorry", { status: 500 }),
  }, (request) => answers[new URL(request.url).pathname]());
  const paths = Object.keys(answers);
  const clients = await Promise.all(paths.map(() => Client.dial(server.addr)));
  const said = (answer: Answer) => answer.headers.get("connection");
  for (const client of clients) assertEquals(said(await client.request("/text")), null);
  const draining = drain(server);
  const closing: string[] = [];
  for (const [i, path] of paths.entries()) {
    const answer = await clients[i].request(path);
    if (said(answer) === "close") closing.push(path);
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

test("an answer to a request from before the drain says Connection: close, too", async () => {
  using directory = new Directory();
  const { promise, resolve } = Promise.withResolvers<Response>();
  let asked = false;
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    asked = true;
    return promise;
  });
  using client = await Client.dial(server.addr);
  await client.send();
  await until(() => asked);
  const draining = drain(server);
  resolve(new Response("slow"));
  const { body, headers } = await client.answer();
  client.conn.closeWrite();
  assertEquals(await draining, 0);
  assertEquals([body, headers.get("connection")], ["slow", "close"]);
});

test("an upgrade to a WebSocket is left alone while it drains", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, (request) => {
    if (request.headers.get("upgrade") !== "websocket") return new Response("no");
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(`${data}!`);
    return response;
  });
  const client = await Client.dial(server.addr);
  await client.request();
  const draining = drain(server);
  await client.conn.write(text.encode(
    "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
  ));
  const { status, headers } = await client.answer();
  assertEquals([status, headers.get("connection")?.toLowerCase()], [101, "upgrade"]);
  // One masked frame with the text "hi", its mask all zeros; and what is to come back.
  await client.conn.write(Uint8Array.of(0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69));
  const frame = new Uint8Array(5);
  for (let n = 0; n < frame.length;) n += (await client.conn.read(frame.subarray(n)))!;
  assertEquals([...frame], [0x81, 3, 0x68, 0x69, 0x21]);
  // A masked close frame with code 1000.
  await client.conn.write(Uint8Array.of(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8));
  await readAll(client.conn);
  client.conn.close();
  assertEquals(await draining, 0);
});

test("drain() of a server without clients ends at once", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  assertEquals(await drain(server), 0);
  await server.finished;
});

test("drain() does not wait for the clients of another server", async () => {
  using directory = new Directory();
  for (const kind of ["127.0.0.1", "path", "abstract"] as const) {
    const other = serveHttp(listening(kind, directory).fd, saying("other"));
    using client = await Client.dial(other.addr);
    await client.request();
    const server = serveHttp(listening(kind, directory).fd, saying("hello"));
    assertEquals(await drain(server), 0);
    await other.shutdown();
  }
});

test("drain() waits until the last idle client has left", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  const clients = await Promise.all([1, 2, 3].map(() => Client.dial(server.addr)));
  for (const client of clients) await client.request();
  let drained = false;
  const draining = drain(server).finally(() => drained = true);
  for (const client of clients) {
    // A client that is there is answered; no drain has ended with its connection open.
    assertEquals((await client.request()).body, "hello");
    assertEquals(drained, false);
    client.conn.close();
  }
  assertEquals(await draining, 0);
});

test("at the deadline the clients that stayed are closed, and counted", async () => {
  using directory = new Directory();
  for (const kind of ["127.0.0.1", "::1", "path"] as const) {
    const server = serveHttp(listening(kind, directory).fd, saying("hello"));
    const clients = await Promise.all([1, 2, 3].map(() => Client.dial(server.addr)));
    for (const client of clients) await client.request();
    assertEquals(await drain(server, { drainTimeout: 1 }), 3);
    await server.finished;
    for (const client of clients) {
      assert(await client.ended());
      client.conn.close();
    }
  }
});

test("a request that is being answered at the deadline is answered to its end", async () => {
  using directory = new Directory();
  const { promise, resolve } = Promise.withResolvers<Response>();
  let asked = false;
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    asked = true;
    return promise;
  });
  using client = await Client.dial(server.addr);
  await client.send();
  await until(() => asked);
  const draining = drain(server, { drainTimeout: 0 });
  resolve(new Response("slow"));
  assertEquals((await client.answer()).body, "slow");
  assertEquals(await draining, 1);
});

test("drain() rejects a server that is not its own", async () => {
  const foreign = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, saying("foreign"));
  await assertRejects(() => drain(foreign), TypeError, "serveHttp()");
  assertEquals((await ask(foreign.addr)).body, "foreign");
  await foreign.shutdown();
  for (const junk of [null, undefined, {}, "x"]) {
    await assertRejects(() => drain(junk as unknown as Deno.HttpServer), TypeError, "serveHttp()");
  }
});

test("aborting ends the wait with the signal's reason; the server still answers its clients", async () => {
  using directory = new Directory();
  const { fd, addr } = listening("127.0.0.1", directory);
  const old = serving("old", fd);
  using client = await Client.dial(addr);
  await client.request();
  const next = serving("next", fd);
  const controller = new AbortController();
  const draining = drain(old, { signal: controller.signal });
  const reason = { enough: true };
  controller.abort(reason);
  assertStrictEquals(await draining.catch((error) => error), reason);
  assertEquals((await client.request()).body, "old");
  for (let i = 0; i < 20; i++) assertEquals((await ask(addr)).body, "next");
  // The other holder's connections are this process's here, and may still be closing.
  assert(await drain(old, { drainTimeout: 0 }) >= 1);
  await next.shutdown();
  fd.close();
});

test("a signal that is aborted already rejects, and the server goes on accepting", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  const reason = new Error("before");
  const error = await drain(server, { signal: AbortSignal.abort(reason) }).catch((error) => error);
  assertStrictEquals(error, reason);
  const { body, headers } = await ask(server.addr);
  assertEquals([body, headers.get("connection")], ["hello", null]);
  await server.shutdown();
});

test("drain() may be called twice, at once or later", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  using client = await Client.dial(server.addr);
  await client.request();
  const both = [drain(server), drain(server)];
  client.conn.closeWrite();
  assertEquals(await Promise.all(both), [0, 0]);
  assertEquals(await drain(server), 0);
});

test("drain() of a server that was shut down touches nobody else's descriptor", async () => {
  using directory = new Directory();
  for (const how of ["shutdown", "signal"]) {
    const controller = new AbortController();
    const { signal } = controller;
    const server = serveHttp(listening("127.0.0.1", directory).fd, { signal }, saying("hello"));
    if (how === "shutdown") await server.shutdown();
    else controller.abort();
    await server.finished;
    // These take the numbers that are free now.
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

test("a unix path that was handed over stays when the old server has drained", async () => {
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
  assertEquals((await ask({ transport: "unix", path })).body, "next");
  await next!.shutdown();
  // One that nobody has any more goes, as Deno's own does.
  const alone = directory.join("alone.sock");
  await serveHttp(Deno.listen({ transport: "unix", path: alone }), saying("alone")).shutdown();
  await until(() => !directory.names().includes("alone.sock"));
  assertEquals(directory.names(), ["web.sock"]);
});

test("a signal ends a drain that an answer without end holds up", async () => {
  const server = serveHttp(
    Deno.listen({ hostname: "127.0.0.1", port: 0 }),
    () => new Response(new ReadableStream({ start: (stream) => stream.enqueue(text.encode("a")) })),
  );
  const client = await Client.dial(server.addr);
  await client.send();
  assertEquals(await client.conn.read(new Uint8Array(1)), 1);
  const controller = new AbortController();
  const draining = drain(server, { drainTimeout: 0, signal: controller.signal });
  const reason = new Error("enough");
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => draining), reason);
  // The limit of force ends it for good.
  assertEquals(await drain(server, { drainTimeout: 0, forceCloseAfter: 0 }), 1);
  await readAll(client.conn);
  client.conn.close();
  await server.finished;
});
