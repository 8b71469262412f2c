/**
 * Servers of node:net and node:tls in a generation, and what all servers of node have in common.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { acceptQueueLength } from "../../ffi/socket_options.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { drain, type ListenAddress, type StartOptions } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { begin } from "../support/in_process.ts";
import { portOfNode } from "../support/node_servers.ts";
import { certificate, dialTls } from "../support/tls.ts";

const here = { hostname: "127.0.0.1", port: 0 };

/** A server that greets each client, and sends back what it sends. */
const greeting = (words: string) => (socket: Socket) => {
  socket.on("error", () => {});
  socket.write(words);
  socket.pipe(socket);
};

/** Starts a generation with a server, and waits until it is ready. */
async function serving(
  path: string,
  server: Server,
  address: ListenAddress = here,
  options: StartOptions = {},
) {
  const app = await begin(path, options);
  app.listenNode(server, address);
  await app.ready();
  return app;
}

/** Reads up to 16 characters; "" at the end of the connection. */
async function read(conn: Deno.Conn): Promise<string> {
  const bytes = new Uint8Array(16);
  return new TextDecoder().decode(bytes.subarray(0, await conn.read(bytes) ?? 0));
}

test("a client of node:net keeps its connection until it closes it, and the next one is the next generation's", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const server = createServer(greeting("old"));
  const old = await serving(path, server);
  const port = portOfNode(server);
  const client = await Deno.connect({ port });
  assertEquals(await read(client), "old");
  const next = await serving(path, createServer(greeting("new")), { ...here, port });
  using other = await Deno.connect({ port });
  assertEquals(await read(other), "new");
  await client.write(Uint8Array.of(120));
  assertEquals(await read(client), "x");
  client.close();
  await old.finished;
  other.closeWrite();
  await next.stop();
});

test("a client of node:net that stays is cut off after drainTimeout and forceCloseAfter", async () => {
  using directory = new Directory();
  const server = createServer(greeting("old"));
  const limits = { drainTimeout: 50, forceCloseAfter: 50 };
  const app = await serving(directory.join("app.sock"), server, here, limits);
  using client = await Deno.connect({ port: portOfNode(server) });
  assertEquals(await read(client), "old");
  await app.stop();
  assertEquals(await read(client), "");
});

test("a server of node:tls, and one of node:net on a unix path, are handed over", async () => {
  using directory = new Directory();
  const unix = directory.join("net.sock");
  const start = async (words: string, port = 0) => {
    const tls = createTlsServer(certificate, greeting(words));
    const app = await begin(directory.join("app.sock"));
    app.listenNode(tls, { ...here, port });
    const net = app.listenNode(createServer(greeting(words)), { path: unix });
    await app.ready();
    assertEquals(net.address(), unix);
    return { app, port: portOfNode(tls) };
  };
  const ask = async (port: number) => {
    using secure = await dialTls(port);
    using plain = await Deno.connect({ transport: "unix", path: unix });
    return [await read(secure), await read(plain)];
  };
  const old = await start("old");
  assertEquals(await ask(old.port), ["old", "old"]);
  const next = await start("new", old.port);
  assertEquals(await ask(old.port), ["new", "new"]);
  await old.app.finished;
  await next.app.stop();
});

test("a server accepts from ready() on, and emits listening before", async () => {
  using directory = new Directory();
  let accepted = 0;
  const server = createServer((socket) => {
    accepted++;
    socket.end();
  });
  const listening = new Promise<void>((resolve) => server.once("listening", resolve));
  const app = await begin(directory.join("app.sock"));
  app.listenNode(server, here);
  await listening;
  using client = await Deno.connect({ port: portOfNode(server) });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assertEquals(accepted, 0);
  await app.ready();
  assertEquals(await read(client), "");
  assertEquals(accepted, 1);
  client.closeWrite();
  await app.stop();
});

test("the accept queue of a listener is never made shorter, but by `backlog`", async () => {
  using directory = new Directory();
  const queueOf = (server: Server) => {
    using fd = listenerDescriptor(server);
    return acceptQueueLength(fd.raw);
  };
  const path = directory.join("app.sock");
  const lengths = [];
  let port = 0;
  for (const backlog of [undefined, 1000, undefined, 20]) {
    const server = createServer(greeting(""));
    const app = await serving(path, server, { ...here, port, backlog });
    port = portOfNode(server);
    lengths.push(queueOf(server));
    if (lengths.length === 4) await app.stop();
  }
  assertEquals(lengths, [511, 1000, 1000, 20]);
});

test("drain() refuses servers of node:net, and generations drain them", async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  await assertRejects(() => drain(server), TypeError, "drain() is for those of node:http");
  await new Promise<void>((resolve) => server.close(() => resolve()));
  await assertRejects(() => drain({} as unknown as Server), TypeError);
});
