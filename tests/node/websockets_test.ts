/**
 * WebSockets of npm:ws on a server of node.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { createServer, type IncomingMessage } from "node:http";
import { createHash } from "node:crypto";
import { connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import * as ws from "ws";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { Http1Client } from "../support/http1_client.ts";
import { begin } from "../support/in_process.ts";
import { portOfNode } from "../support/node_servers.ts";
import { until } from "../support/until.ts";
import { codeOf, opcodes, RawWebSocket, textOf } from "../support/raw_websocket.ts";

/** Starts a generation with a WebSocket server, which `attach` makes. */
async function serving(
  path: string,
  attach: (server: ReturnType<typeof createServer>) => void,
  port = 0,
) {
  const app = await begin(path, { drainTimeout: 200 });
  const server = createServer();
  // As ws documents it: before or after listen().
  if (port === 0) attach(server);
  app.listenNode(server, { hostname: "127.0.0.1", port });
  if (port !== 0) attach(server);
  await app.ready();
  return { app, server, port: portOfNode(server) };
}

/** A socket of npm:ws, whose own types are in another package. */
interface WsSocket {
  on(event: "message", listener: (data: Uint8Array) => void): void;
  send(text: string): void;
}

function echo(server: ReturnType<typeof createServer>): void {
  new ws.WebSocketServer({ server }).on("connection", (socket: WsSocket) => {
    socket.on("message", (data) => socket.send(`echo ${data}`));
  });
}

test("a client of npm:ws gets what was answered, and then the code 1012", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  let current = await serving(path, echo);
  for (let i = 0; i < 2; i++) {
    const client = await RawWebSocket.connect(current.port);
    await client.send("a", "b", "c");
    for (const letter of "abc") assertEquals(textOf((await client.next())!), `echo ${letter}`);
    const next = await serving(path, echo, current.port);
    const frame = (await client.next())!;
    assertEquals([frame.opcode, codeOf(frame)], [opcodes.close, 1012]);
    await client.sendClose(1012);
    await client.ended();
    client[Symbol.dispose]();
    await current.app.finished;
    current = next;
  }
  await current.app.stop();
});

for (const [name, attach] of [["npm:ws", echo], ["another library", bare]] as const) {
  test(`a client that does not answer the Close frame of ${name} is hung up on`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const app = await begin(path, { drainTimeout: 600_000, forceCloseAfter: 600_000 });
    const server = createServer();
    attach(server);
    app.listenNode(server, { hostname: "127.0.0.1", port: 0 });
    await app.ready();
    using client = await RawWebSocket.connect(portOfNode(server));
    const stopped = app.stop();
    assertEquals(codeOf((await client.next())!), 1001);
    await client.ended();
    await stopped;
  });
}

test("at a stop the code is 1001", async () => {
  using directory = new Directory();
  const { app, port } = await serving(directory.join("app.sock"), echo);
  const client = await RawWebSocket.connect(port);
  const stopped = app.stop();
  assertEquals(codeOf((await client.next())!), 1001);
  await client.sendClose(1001);
  await client.ended();
  client[Symbol.dispose]();
  await stopped;
});

/** The head that accepts an upgrade. */
function accepting(request: IncomingMessage): string {
  const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  const accept = createHash("sha1").update(key).digest("base64");
  return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`;
}

/** A WebSocket server without a library, which sends each message back as it is. */
function bare(server: ReturnType<typeof createServer>): void {
  server.on("upgrade", (request: IncomingMessage, socket: Duplex) => {
    socket.write(accepting(request));
    socket.on("data", (chunk) => {
      if ((chunk[0] & 0x0f) === opcodes.close) socket.end();
    });
  });
}

test("the sockets of another library get a Close frame too", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await serving(path, bare);
  const client = await RawWebSocket.connect(old.port);
  const next = await serving(path, bare, old.port);
  assertEquals(codeOf((await client.next())!), 1012);
  await client.sendClose(1012);
  await client.ended();
  client[Symbol.dispose]();
  await old.app.finished;
  await next.app.stop();
});

test("a WebSocket of a server that has listened before gets one Close frame", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { drainTimeout: 200 });
  const server = createServer();
  bare(server);
  for (let i = 0; i < 12; i++) {
    app.listenNode(server, { hostname: "127.0.0.1", port: 0 });
    if (i < 11) await new Promise<void>((resolve) => server.close(() => resolve()));
  }
  await app.ready();
  // More than ten would make node warn of a leak.
  for (const event of server.eventNames()) assert(server.listenerCount(event) <= 2, String(event));
  const client = await RawWebSocket.connect(portOfNode(server));
  const stopped = app.stop();
  assertEquals(codeOf((await client.next())!), 1001);
  await client.sendClose(1001);
  assertEquals(await client.next(), undefined);
  client[Symbol.dispose]();
  await stopped;
});

test("a server whose program has no listener of upgrades any more answers their requests", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const server = createServer((_request, response) => response.end("answered"));
  const upgrade = () => {};
  server.on("upgrade", upgrade);
  app.listenNode(server, { hostname: "127.0.0.1", port: 0 });
  await app.ready();
  assertEquals(server.listenerCount("upgrade"), 2);
  server.off("upgrade", upgrade);
  assertEquals(server.listenerCount("upgrade"), 0);
  using client = await Http1Client.dial({
    transport: "tcp",
    hostname: "127.0.0.1",
    port: portOfNode(server),
  });
  const headers = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
  assertEquals((await client.request("/", headers)).body, "answered");
  server.on("upgrade", upgrade);
  assertEquals(server.listenerCount("upgrade"), 2);
  client.conn.closeWrite();
  await app.stop();
});

test("nothing is written between the parts of a frame that a proxy passes on", async () => {
  using directory = new Directory();
  const upstream = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted = upstream.accept();
  const app = await begin(directory.join("app.sock"), { drainTimeout: 600_000 });
  const proxy = createServer();
  proxy.on("upgrade", (request: IncomingMessage, socket: Socket) => {
    const target = connect((upstream.addr as Deno.NetAddr).port, "127.0.0.1");
    socket.write(accepting(request));
    target.pipe(socket).pipe(target);
    target.on("close", () => socket.destroy());
  });
  app.listenNode(proxy, { hostname: "127.0.0.1", port: 0 });
  await app.ready();
  const client = await RawWebSocket.connect(portOfNode(proxy));
  const target = await accepted;
  // A text frame of four bytes.
  await target.write(Uint8Array.of(0x81, 4, 0x61, 0x62));
  await client.read();
  const stopped = app.stop();
  await until(() => app.draining.aborted);
  await new Promise((resolve) => setTimeout(resolve, 50));
  await target.write(Uint8Array.of(0x63, 0x64));
  assertEquals(textOf((await client.next())!), "abcd");
  target.close();
  await client.ended();
  client[Symbol.dispose]();
  await stopped;
  upstream.close();
});
