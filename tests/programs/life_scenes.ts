/**
 * Scenes from the life of a generation, which are the same on every system: plays the scene of its argument,
 * and prints what the program and its clients observe.
 *
 * @module
 */

import "./fake_system.ts";
import { type Generation, start, type StartOptions } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { Http1Client } from "../support/http1_client.ts";

const here = { hostname: "127.0.0.1", port: 0 };
const data = new URL("../data/", import.meta.url);
const [cert, key] = ["localhost.crt", "localhost.key"].map((name) =>
  Deno.readTextFileSync(new URL(name, data))
);
const encode = (words: string) => new TextEncoder().encode(words);
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
/** 100 ms, within which an event that must not happen would. */
const moment = () => new Promise((resolve) => setTimeout(resolve, 100));

using directory = new Directory();
Deno.unrefTimer(setTimeout(() => {
  console.log("no end");
  Deno.exit(1);
}, 20_000));

function begin(options: StartOptions = {}): Promise<Generation> {
  const endless = { drainTimeout: Infinity, forceCloseAfter: Infinity };
  return start(directory.join("app.sock"), { ...endless, ...options });
}

/** Prints a response. */
async function said(client: Http1Client, name: string): Promise<void> {
  const { status, headers, body } = await client.answer();
  // For an upload, Deno 2.8.3 to 2.9.3 adds a `connection: close` of its own.
  const connection = headers.get("connection")?.split(",")[0];
  console.log(`${name}: ${status} ${body}, connection: ${connection}`);
}

/** Reads what the server sends; null at the end. */
async function heard(conn: Deno.Conn): Promise<string | null> {
  const into = new Uint8Array(100);
  const n = await conn.read(into);
  return n === null ? null : decode(into.subarray(0, n));
}

/** Reads until `words` have arrived. */
async function until(conn: Deno.Conn, words: string): Promise<void> {
  for (let read = ""; !read.includes(words);) {
    const next = await heard(conn);
    if (next === null) throw new Error(`The connection ended after ${read}`);
    read += next;
  }
}

/** Connects to a TCP listener. */
function dial({ addr }: { addr: Deno.Addr }): Promise<Deno.TcpConn> {
  const { hostname, port } = addr as Deno.NetAddr;
  return Deno.connect({ hostname, port });
}

async function refused(addr: Deno.Addr): Promise<boolean> {
  try {
    (await dial({ addr })).close();
    return false;
  } catch (error) {
    return error instanceof Deno.errors.ConnectionRefused;
  }
}

/** Serves, and prints the events in their order; the scenes differ in the address alone. */
async function serving(app: Generation, server: Deno.HttpServer): Promise<void> {
  const eager = await Http1Client.dial(server.addr);
  await eager.send("/eager");
  await moment();
  console.log(app.status().state);
  await app.ready();
  await said(eager, "eager");
  const [slow, uploading, stream] = [
    await Http1Client.dial(server.addr),
    await Http1Client.dial(server.addr),
    await Http1Client.dial(server.addr),
  ];
  await slow.send("/slow");
  await isAsked("/slow");
  const head = "POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc";
  await uploading.conn.write(encode(head));
  await isAsked("/upload");
  await stream.send("/stream");
  await until(stream.conn, "until ");
  const whenRead = Promise.withResolvers<void>();
  app.draining.addEventListener("abort", async () => {
    console.log("draining");
    await eager.send("/again");
    await said(eager, "eager");
    // Longer than a stopping server waits for idle clients.
    for (let i = 0; i < 4; i++) await moment();
    await uploading.conn.write(encode("def"));
    await said(uploading, "uploading");
    answerSlow();
    await said(slow, "slow");
    await until(stream.conn, "draining");
    console.log("the stream is answered to its end");
    for (const client of [eager, slow, uploading, stream]) client[Symbol.dispose]();
    whenRead.resolve();
  });
  const stopped = app.stop();
  console.log(app.status().state);
  await stopped;
  // All is answered, but the clients of this process may not have read it yet.
  await whenRead.promise;
  const { addr } = server;
  console.log(app.status().state, "path" in addr || await refused(addr));
}

let answerSlow = () => {};

const asked = new Map<string, PromiseWithResolvers<void>>();

/** Resolved by the first request for a path. */
function whenAsked(path: string): PromiseWithResolvers<void> {
  const known = asked.get(path) ?? Promise.withResolvers<void>();
  asked.set(path, known);
  return known;
}

function isAsked(path: string): Promise<void> {
  return whenAsked(path).promise;
}

function handlerOf(app: Generation): (request: Request) => Promise<Response> {
  return async (request) => {
    const { pathname } = new URL(request.url);
    console.log(`${pathname} is asked for, ${app.status().state}`);
    whenAsked(pathname).resolve();
    if (pathname === "/slow") await new Promise<void>((resolve) => answerSlow = resolve);
    if (pathname === "/stream") {
      return new Response(
        new ReadableStream({
          start(controller) {
            controller.enqueue(encode("until "));
            app.draining.addEventListener("abort", () => {
              controller.enqueue(encode("draining"));
              controller.close();
            });
          },
        }),
      );
    }
    return new Response(`${pathname} ${await request.text()}`);
  };
}

const scenes: Record<string, () => Promise<void>> = {
  async "a server"() {
    const app = await begin();
    const onListen = (addr: Deno.Addr) => console.log("listening", (addr as Deno.NetAddr).hostname);
    const server = app.serve({ ...here, onListen }, handlerOf(app));
    console.log(app.status().sockets.map(({ kind }) => kind));
    await serving(app, server);
  },

  async "a server at a unix path"() {
    const app = await begin();
    const path = directory.join("web.sock");
    const server = app.serve({ path }, handlerOf(app));
    console.log((Deno.statSync(path).mode! & 0o777).toString(8));
    await serving(app, server);
    console.log(directory.names().includes("web.sock"));
  },

  async "a TLS server"() {
    const app = await begin();
    const server = app.serve({ ...here, cert, key }, () => new Response("hello"));
    await app.ready();
    const { port } = server.addr as Deno.NetAddr;
    const client = Deno.createHttpClient({ caCerts: [cert] });
    const answer = await fetch(`https://localhost:${port}`, { client });
    console.log(await answer.text());
    client.close();
    await app.stop();
    console.log(await refused(server.addr));
  },

  async "stop() before ready()"() {
    const app = await begin();
    const server = app.serve(here, () => {
      console.log("the handler was called");
      return new Response("too early");
    });
    const listener = app.listen(here);
    using client = await Http1Client.dial(server.addr);
    await client.send();
    using _waiting = await dial(listener);
    const accepting = listener.accept().catch((error) => console.log(error.name));
    await moment();
    await app.stop();
    await accepting;
    console.log(await client.ended().catch(({ name }) => name === "ConnectionReset"));
    console.log(app.status().state, await refused(server.addr), await refused(listener.addr));
  },

  async "endless event streams"() {
    const app = await begin({ drainTimeout: 100, forceCloseAfter: 500 });
    const server = app.serve(here, () =>
      new Response(
        new ReadableStream({
          start: (controller) => controller.enqueue(encode("data: 1\n\n")),
        }),
      ));
    await app.ready();
    using client = await Http1Client.dial(server.addr);
    await client.send();
    await until(client.conn, "data: 1\n");
    await app.stop();
    while (await heard(client.conn) !== null);
    console.log("cut");
  },

  async "servers that the program shuts down"() {
    const app = await begin();
    const server = app.serve(here, () => new Response("hello"));
    const signal = AbortSignal.timeout(200);
    const other = app.serve({ ...here, signal }, () => new Response("hello"));
    await app.ready();
    await server.shutdown();
    await other.finished;
    console.log(await refused(server.addr), await refused(other.addr), app.status().sockets);
    await app.stop();
  },

  async "serve() that throws"() {
    const app = await begin();
    const held = app.listen(here);
    const { port } = held.addr as Deno.NetAddr;
    const onListen = () => {
      throw new RangeError("onListen");
    };
    const path = directory.join("web.sock");
    const tries = [
      () => app.serve({ ...here, port }, () => new Response()),
      () => app.serve({ ...here, cert: "no", key: "no" }, () => new Response()),
      () => app.serve({ path, onListen }, () => new Response()),
      // deno-lint-ignore no-explicit-any -- without a handler
      () => app.serve({ ...here } as any, undefined as any),
    ];
    for (const make of tries) {
      try {
        make();
        console.log("made");
      } catch (error) {
        console.log((error as Error).name);
      }
    }
    console.log(app.status().sockets.length);
    await moment();
    console.log(directory.names().includes("web.sock"));
    await app.ready();
    await app.stop();
    try {
      app.listen(here);
    } catch (error) {
      console.log((error as Error).message);
    }
  },

  async "more clients than the generation remembers"() {
    const app = await begin();
    const server = app.serve(here, () => new Response("hello"));
    await app.ready();
    let answered = 0;
    for (let i = 0; i < 1100; i++) {
      using client = await Http1Client.dial(server.addr);
      const { status, body } = await client.request();
      if (status === 200 && body === "hello") answered++;
    }
    console.log(answered);
    await app.stop();
  },

  async "WebSockets"() {
    const app = await begin();
    const server = app.serve(here, (request) => {
      const { socket, response } = app.upgradeWebSocket(request);
      socket.onmessage = ({ data }) => socket.send(`${data}!`);
      return response;
    });
    await app.ready();
    const socket = new WebSocket(`ws://127.0.0.1:${(server.addr as Deno.NetAddr).port}`);
    const closed = new Promise<CloseEvent>((resolve) => socket.onclose = resolve);
    await new Promise((resolve) => {
      socket.onopen = () => socket.send("hello");
      socket.onmessage = ({ data }) => resolve(console.log(data));
    });
    await app.stop();
    const { code, reason } = await closed;
    console.log(code, reason);
  },

  async "listeners"() {
    const app = await begin();
    const path = directory.join("echo.sock");
    const listeners = [
      app.listen(here),
      app.listen({ path, mode: 0o640 }),
      app.listenTls({ ...here, cert, key }),
    ];
    console.log((Deno.statSync(path).mode! & 0o777).toString(8));
    const loops = listeners.map(async (listener) => {
      for await (const conn of listener) {
        console.log("accepted", app.status().state);
        conn.readable.pipeTo(conn.writable).catch(() => {});
      }
      console.log("the loop has ended");
    });
    const [tcp, _unix, tls] = listeners.map(({ addr }) => addr as Deno.NetAddr);
    const eager = await dial({ addr: tcp });
    await eager.write(encode("eager"));
    await moment();
    await app.ready();
    console.log(await heard(eager));
    const { port } = tls;
    const others = [
      await Deno.connect({ transport: "unix", path }),
      await Deno.connectTls({ hostname: "localhost", port, caCerts: [cert] }),
    ];
    for (const conn of others) {
      await conn.write(encode("hello"));
      console.log(await heard(conn));
    }
    // Closing them ends the streams at the server.
    for (const conn of others) conn.close();
    app.draining.addEventListener("abort", async () => {
      await Promise.all(loops.slice(1));
      await eager.write(encode("still there"));
      console.log(await heard(eager), await refused(tcp));
      eager.close();
    });
    await app.stop();
    await Promise.all(loops);
    console.log(app.status().sockets, directory.names().includes("echo.sock"));
  },

  async "a listener that the program closes during stop()"() {
    const app = await begin();
    const listener = app.listen(here);
    const other = app.listen(here);
    await app.ready();
    const client = await dial(listener);
    const conn = await listener.accept();
    const accepting = listener.accept().catch(({ name }) => console.log(name));
    const stopped = app.stop();
    await moment();
    listener.close();
    await accepting;
    await conn.write(encode("bye"));
    console.log(await heard(client));
    conn.close();
    client.close();
    await stopped;
    try {
      other.close();
    } catch (error) {
      console.log((error as Error).name);
    }
  },

  async "a connection that is never closed"() {
    const app = await begin({ drainTimeout: 100, forceCloseAfter: 100 });
    const listener = app.listen(here);
    await app.ready();
    using client = await dial(listener);
    await listener.accept();
    console.log(app.status().sockets.map(({ connections }) => connections));
    await app.stop();
    console.log(await client.read(new Uint8Array(1)));
  },

  async "datagrams"() {
    const app = await begin();
    const socket = app.listenDatagram(here);
    const sender = Deno.listenDatagram({ ...here, transport: "udp" });
    await sender.send(encode("early"), socket.addr);
    const isLate = Promise.withResolvers<void>();
    const receiving = (async () => {
      for await (const [bytes] of socket) {
        console.log(decode(bytes));
        if (decode(bytes) === "late") isLate.resolve();
      }
      console.log("no more");
    })();
    await moment();
    console.log(app.status().state);
    await app.ready();
    await sender.send(encode("late"), socket.addr);
    await isLate.promise;
    await app.stop();
    await receiving;
    sender.close();
  },

  async "files and state"() {
    const app = await begin();
    const path = directory.join("log");
    using file = app.open(path, { append: true, create: true });
    file.writeSync(encode("one line"));
    app.keep("bytes", Uint8Array.of(1));
    app.keep("function", () => Uint8Array.of(2));
    console.log(app.status().kept.map((name) => name.replace(directory.path, "")));
    console.log(app.take("bytes"), Deno.readTextFileSync(path));
    app.open(path, { read: true });
    app.open(path, { read: true }).close();
    console.log(app.status().kept.length);
    const listener = app.listen(here);
    await app.ready();
    for await (const _arrival of app.arrivals()) console.log("arrived");
    using client = await dial(listener);
    const conn = await listener.accept();
    app.draining.addEventListener("abort", async () => {
      console.log(await app.move("conn", conn));
      conn.close();
    });
    console.log(await app.move("conn", conn));
    await app.stop();
    console.log(await heard(client));
    file.writeSync(encode(", another"));
  },

  async "a generation alone"() {
    const app = await begin({ stopOn: [] });
    await app.ready();
    // An unrefed timer does not keep the process after the module has been evaluated.
    Deno.unrefTimer(setTimeout(() => app.stop(), 300));
    app.finished.then(() => console.log("finished"));
  },

  async "an idle client that sends when stop() begins"() {
    const app = await begin();
    const server = app.serve(here, () => new Response("hello"));
    await app.ready();
    using client = await Http1Client.dial(server.addr);
    await client.send();
    await said(client, "first");
    app.draining.addEventListener("abort", () => void client.send());
    await app.stop();
    await said(client, "last");
  },

  async "a generation that waits for a signal"() {
    const app = await begin({ exitTimeout: false });
    await app.ready();
    console.log("ready");
    await app.finished;
    console.log("finished");
  },

  async "a signal before ready()"() {
    const app = await begin();
    app.serve(here, () => new Response());
    console.log("starting");
    await new Promise(() => {});
  },
};

await scenes[Deno.args[0]]();
console.log("the end");
