/**
 * serveHttp() on listeners of every kind.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { Agent, type IncomingMessage as NodeResponse, request as nodeRequest } from "node:http";
import { isOpen } from "../../ffi/fd.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { fdListener, type HttpHandler, serveHttp } from "../../mod.ts";
import { saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { listenerKinds, listening, standsOn } from "../support/foreign.ts";
import { askOnce, Http1Client } from "../support/http1_client.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** The output of a program; undefined, with a note on the terminal, if it is not installed. */
function outputOf(program: string, ...args: string[]): string | undefined {
  try {
    const { success, stdout } = new Deno.Command(program, { args, stderr: "null" }).outputSync();
    if (success) return new TextDecoder().decode(stdout);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  console.log(`Tests that need ${program} are skipped: it is not installed`);
}

const curlVersion = outputOf("curl", "--version");
const opensslVersion = outputOf("openssl", "version");

/** Runs curl; returns the body of the answer. */
async function curl(...args: string[]): Promise<string> {
  const command = new Deno.Command("curl", { args: ["-sS", "--max-time", "20", ...args] });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  assertEquals([code, decoder.decode(stderr)], [0, ""]);
  return decoder.decode(stdout);
}

for (const kind of listenerKinds) {
  test(`serveHttp() answers on ${kind}; addr, onListen and remoteAddr have the real addresses`, async () => {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const announced: Deno.Addr[] = [];
    const requests: { remoteAddr: Deno.Addr; body: string; method: string }[] = [];
    const server = serveHttp(fd, { onListen: (addr) => announced.push({ ...addr }) }, async (
      request,
      { remoteAddr },
    ) => {
      requests.push({
        remoteAddr: { ...remoteAddr },
        body: await request.text(),
        method: request.method,
      });
      return new Response("hello", { status: 203, headers: { "x-test": "yes" } });
    });
    assertEquals(fd.owned, false);
    assertEquals({ ...server.addr }, addr);
    assertEquals(announced, [addr]);
    const address = kind === "::" ? { ...addr, hostname: "::1" } as Deno.NetAddr : addr;
    using client = await Http1Client.dial(address);
    const { status, headers, body } = await client.request("/", "", "a question");
    assertEquals([status, headers.get("x-test"), body], [203, "yes", "hello"]);
    // Clients of a unix socket have no address: Deno gives the address of the listener.
    const remoteAddr = "path" in addr ? addr : { ...client.conn.localAddr };
    assertEquals(requests, [{ remoteAddr, body: "a question", method: "POST" }]);
    await server.shutdown();
    await server.finished;
    assert(await client.ended());
    if (kind === "path") assertEquals(directory.names().length, 1);
  });
}

test("serveHttp() answers curl on a unix path", { ignore: !curlVersion }, async () => {
  using directory = new Directory();
  const { fd, addr } = listening("path", directory);
  const server = serveHttp(fd, (request) => new Response(`hello from ${request.method}`));
  const { path } = addr as Deno.UnixAddr;
  assertEquals(await curl("--unix-socket", path, "http://host/"), "hello from GET");
  await server.shutdown();
});

test("serveHttp() makes the URL of a request from its Host header", async () => {
  using directory = new Directory();
  const server = serveHttp(
    listening("127.0.0.1", directory).fd,
    (request) => new Response(request.url),
  );
  assertEquals((await askOnce(server.addr, "/a?b")).body, "http://test/a?b");
  await server.shutdown();
});

test("serveHttp() keeps connections alive as Deno.serve does: 200 requests use as few connections", async () => {
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
    // node:http repeats a request silently when a reused connection is closed.
    assertEquals(received, 200);
    agent.destroy();
    await server.shutdown();
  }
  // One connection, except in old versions of Deno, whose agent keeps none.
  assertEquals(counts[1], counts[0]);
});

/** Sends a request by node:http; returns the body of the answer. */
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
  using client = await Http1Client.dial(server.addr);
  const question = "0123456789abcdef".repeat(1 << 16);
  const [answer] = await Promise.all([client.answer(), client.send("/", "", question)]);
  assertEquals(answer.body.length, question.length);
  assert(answer.body === question);
  await server.shutdown();
});

test("serveHttp() without onListen prints nothing", async () => {
  using directory = new Directory();
  const lines: unknown[] = [];
  const originals = [console.log, console.error, console.info] as const;
  console.log = console.error = console.info = (...args) => void lines.push(args);
  let server: Deno.HttpServer;
  try {
    server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
    await askOnce(server.addr);
  } finally {
    [console.log, console.error, console.info] = originals;
  }
  await server.shutdown();
  assertEquals(lines, []);
});

test("serveHttp() shuts the server down, and leaves the descriptor to its owner, when onListen throws", async () => {
  using directory = new Directory();
  const { fd, addr, dial } = listening("127.0.0.1", directory);
  const failure = new Error("not ready");
  const thrown = assertThrows(() =>
    serveHttp(fd, {
      onListen() {
        throw failure;
      },
    }, saying("from a server that should be shut down"))
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

test("serveHttp() accepts no connection after onListen has thrown", async () => {
  using directory = new Directory();
  const { fd, dial } = listening("127.0.0.1", directory);
  assertThrows(() =>
    serveHttp(fd, {
      onListen() {
        throw new Error("not ready");
      },
    }, saying("from a server that should be shut down"))
  );
  // In the same turn: the server has not finished yet.
  const dialling = dial();
  using listener = fdListener(fd);
  const accepting = listener.accept();
  using conn = await dialling;
  using accepted = await accepting;
  assertEquals(accepted.remoteAddr, conn.localAddr);
});

test("serveHttp() leaves the descriptor to its owner, who can adopt it, when Deno refuses an option", async () => {
  using directory = new Directory();
  const { fd, dial } = listening("127.0.0.1", directory);
  assertThrows(() => serveHttp(fd, { cert: "no", key: "no" }, saying("hello")));
  assert(fd.owned);
  using listener = fdListener(fd);
  const accepting = listener.accept();
  using _conn = await dial();
  (await accepting).close();
});

test("serveHttp() shuts the server down and closes the descriptor when the signal is aborted", async () => {
  using directory = new Directory();
  const controller = new AbortController();
  const { signal } = controller;
  const { fd, addr, dial } = listening("127.0.0.1", directory);
  const server = serveHttp(fd, { signal }, saying("hello"));
  assertEquals((await askOnce(addr)).body, "hello");
  controller.abort();
  await server.finished;
  await until(() => dial().then((conn) => conn.close()).then(() => false, () => true));
});

test("serveHttp() answers with onError for a handler that throws or rejects", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, {
    onError: (error) => new Response(`sorry: ${(error as Error).message}`, { status: 418 }),
  }, (request) => {
    if (request.url.endsWith("/later")) return Promise.reject(new Error("later"));
    throw new Error("at once");
  });
  for (const [path, message] of [["/", "at once"], ["/later", "later"]]) {
    const { status, body } = await askOnce(server.addr, path);
    assertEquals([status, body], [418, `sorry: ${message}`]);
  }
  await server.shutdown();
});

test("serveHttp() serves on a Deno.Listener, and closes it when the server has finished", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = serveHttp(listener, saying("hello"));
  assertEquals(server.addr, listener.addr);
  for (let i = 0; i < 3; i++) assertEquals((await askOnce(listener.addr)).body, "hello");
  await server.shutdown();
  await assertRejects(() => listener.accept(), Deno.errors.BadResource);
});

test("serveHttp() serves on after the owner of a Deno.Listener has closed it", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = serveHttp(listener, saying("hello"));
  listener.close();
  assertEquals((await askOnce(server.addr)).body, "hello");
  await server.shutdown();
  await server.finished;
});

test("serveHttp() leaves a Deno.Listener open when onListen throws", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  assertThrows(
    () =>
      serveHttp(listener, {
        onListen() {
          throw new Error("not ready");
        },
      }, saying("from a server that should be shut down")),
    Error,
    "not ready",
  );
  const accepting = listener.accept();
  using _conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  (await accepting).close();
});

/** Makes a self-signed certificate. */
function makeCertificate(directory: Directory): { cert: string; key: string } {
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
  "serveHttp() with a certificate answers HTTPS requests of HTTP/1.1 and HTTP/2",
  { ignore: !curlVersion || !opensslVersion },
  async () => {
    using directory = new Directory();
    const tls = makeCertificate(directory);
    using listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...tls });
    const both = [listening("127.0.0.1", directory).fd, listenerDescriptor(listener)];
    for (const fd of both) {
      const server = serveHttp(fd, tls, (request, { remoteAddr }) => {
        assertEquals((remoteAddr as Deno.NetAddr).hostname, "127.0.0.1");
        return new Response(`hello from ${new URL(request.url).protocol}`);
      });
      const url = `https://127.0.0.1:${(server.addr as Deno.NetAddr).port}/`;
      const versions: [string, string][] = [["--http1.1", "1.1"]];
      if (/\bHTTP2\b/.test(curlVersion!)) versions.push(["--http2", "2"]);
      else console.log("HTTP/2 is skipped: this curl does not support it");
      for (const [option, version] of versions) {
        const output = await curl("-k", option, "-w", " by %{http_version}", url);
        assertEquals(output, `hello from https: by ${version}`);
      }
      await server.shutdown();
    }
  },
);
