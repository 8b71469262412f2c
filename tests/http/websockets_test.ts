/**
 * app.upgradeWebSocket(): each socket is closed with a Close frame, which follows all messages that were sent.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Generation } from "../../mod.ts";
import { pause } from "../../lib/time.ts";
import { begin, here, portOf, quietly, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { codeOf, opcodes, RawWebSocket, textOf } from "../support/raw_websocket.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";
import { talkThroughRestarts } from "../system/websockets.ts";

test("a restart sends Close 1012 and every answer to WebSocket clients that send all the time", async () => {
  const { connections, answers, failures } = await talkThroughRestarts({
    clients: 40,
    restarts: 3,
  });
  assertEquals(failures, []);
  assertEquals(connections, 120);
  assert(answers > connections, `${answers} messages were answered`);
});

test("the same clients detect that WebSocket.close() of Deno drops connections", async () => {
  const { failures } = await talkThroughRestarts({ clients: 40, restarts: 3, plain: true });
  assertStringIncludes(failures.join("\n"), "the connection ended without a Close frame");
});

/** Starts the next generation, which takes over. */
async function replaced(old: Generation, path: string): Promise<Generation> {
  const next = await begin(path);
  next.serve(quietly, saying("next"));
  await next.ready();
  await until(() => old.status().state !== "standby");
  return next;
}

test("close() of a socket sends the Close frame while more messages are queued", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const received: string[] = [];
  const server = app.serve(quietly, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => {
      received.push(data);
      socket.send(`received ${data}`);
      socket.close(4000, "enough");
      // A second close() changes nothing.
      socket.close(4001);
    };
    return response;
  });
  await app.ready();
  using client = await RawWebSocket.connect(portOf(server));
  await client.send("a", "b", "c", "d");
  assertEquals(await client.rest(), { texts: ["received a"], code: 4000 });
  // Later messages are read, and not delivered.
  await client.send("e");
  await client.sendClose(4000);
  await client.ended();
  assertEquals(received, ["a"]);
  await app.stop();
});

test("stop() and a restart send all messages and the Close frame to a client that reads late and sends on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const big = "x".repeat(1 << 20);
  const count = 16;
  for (const how of ["stopped", "replaced"]) {
    // A timer of Deno fires at once when its delay is longer than 2^31 ms.
    const forceCloseAfter = how === "stopped" ? Infinity : 60_000;
    const old = await begin(path, { drainTimeout: 10, forceCloseAfter });
    let opened: WebSocket | undefined;
    const server = old.serve(quietly, (request) => {
      const { socket, response } = old.upgradeWebSocket(request);
      socket.onopen = () => {
        for (let i = 0; i < count; i++) socket.send(big);
        opened = socket;
      };
      return response;
    });
    await old.ready();
    using client = await RawWebSocket.connect(portOf(server));
    await until(() => opened !== undefined);
    const next = how === "replaced" ? await replaced(old, path) : undefined;
    const stopped = next ? old.finished : old.stop();
    await until(() => opened!.readyState === WebSocket.CLOSING);
    await client.send("not", "answered");
    const { texts, code } = await client.rest();
    assertEquals(texts.map((text) => text.length), Array(count).fill(big.length), how);
    assertEquals(code, next ? 1012 : 1001);
    await client.sendClose(1000);
    await client.ended();
    await stopped;
    await next?.stop();
  }
});

test("stop() does not wait until forceCloseAfter for clients that do not answer the Close frame", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { forceCloseAfter: 600_000 });
  const server = app.serve(quietly, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  await app.ready();
  using silent = await RawWebSocket.connect(portOf(server));
  using sender = await RawWebSocket.connect(portOf(server));
  const stopped = app.stop();
  assertEquals((await silent.rest()).code, 1001);
  assertEquals((await sender.rest()).code, 1001);
  let isSending = true;
  // Sending fails when the server has closed the connection.
  const sending = (async () => {
    while (isSending) await sender.send("on and on").then(() => until(() => true));
  })().catch(() => {});
  await stopped;
  isSending = false;
  await sending;
  await silent.ended();
  await sender.ended();
});

test("clients that send on after the Close frame do not keep the process of a generation alive", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using old = new Child("./websocket_service.ts", [path, "alone"]);
  const port = Number((await old.line()).slice("port: ".length));
  const exited = new AbortController();
  const clients = await Promise.all(Array.from({ length: 10 }, () => RawWebSocket.connect(port)));
  // A send() rejects at the end of the connection.
  const sending = Promise.allSettled(clients.map(async (client) => {
    for (; !exited.signal.aborted; await pause(1)) await client.send("on and on");
  }));
  const closed = clients.map(async (client) => (await client.rest()).code);
  await using next = new Child("./websocket_service.ts", [path]);
  await next.line();
  assertEquals(await Promise.all(closed), clients.map(() => 1012));
  const ended = old.ended().finally(() => exited.abort());
  // It exits within seconds, or after half an hour: the idle timeout. pause() rejects when it has exited.
  await Promise.race([ended, pause(60_000, exited.signal).catch(() => {})]);
  assert(exited.signal.aborted, "the process of the old generation does not exit");
  assertEquals((await ended).code, 0);
  await sending;
  for (const client of clients) client[Symbol.dispose]();
});

test("stop() of a draining generation closes its WebSockets at once, with 1012", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 600_000, forceCloseAfter: 500 });
  const server = old.serve(quietly, (request) => old.upgradeWebSocket(request).response);
  await old.ready();
  const clients = [];
  for (let i = 0; i < 10; i++) clients.push(await RawWebSocket.connect(portOf(server)));
  const next = await replaced(old, path);
  const stopped = old.stop();
  for (const client of clients) {
    using _client = client;
    assertEquals((await client.rest()).code, 1012);
    await client.sendClose(1012);
    await client.ended();
  }
  await stopped;
  await next.stop();
});

test("a WebSocket whose handshake ends while its generation drains is closed, too", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 100, forceCloseAfter: 60_000 });
  const release = Promise.withResolvers<void>();
  let isAsked = false;
  const server = old.serve(quietly, async (request) => {
    const { response } = old.upgradeWebSocket(request);
    isAsked = true;
    await release.promise;
    return response;
  });
  await old.ready();
  using client = await RawWebSocket.begin(portOf(server));
  await until(() => isAsked);
  const next = await replaced(old, path);
  release.resolve();
  await client.opened();
  assertEquals(await client.rest(), { texts: [], code: 1012 });
  await client.sendClose(1012);
  await client.ended();
  await old.finished;
  await next.stop();
});

test("every socket is closed although the listeners of the program throw", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 100 });
  const thrown: string[] = [];
  const report = (event: ErrorEvent) => {
    event.preventDefault();
    thrown.push(event.error.message);
  };
  globalThis.addEventListener("error", report);
  try {
    const server = old.serve(quietly, (request) => {
      const { socket, response } = old.upgradeWebSocket(request);
      for (const type of ["message", "close"]) {
        socket.addEventListener(type, () => {
          throw new Error(type);
        });
      }
      return response;
    });
    await old.ready();
    const clients = [];
    for (let i = 0; i < 5; i++) clients.push(await RawWebSocket.connect(portOf(server)));
    for (const client of clients) await client.send("one", "two");
    await until(() => thrown.length === 2 * clients.length);
    const next = await replaced(old, path);
    for (const client of clients) {
      using _client = client;
      assertEquals((await client.rest()).code, 1012);
      await client.sendClose(1012);
      await client.ended();
    }
    await until(() => thrown.filter((message) => message === "close").length === clients.length);
    await old.finished;
    await next.stop();
  } finally {
    globalThis.removeEventListener("error", report);
  }
});

test("WebSockets does not wait for a socket whose handshake has failed", async () => {
  await using child = new Child("./failed_upgrade.ts");
  assertEquals(await child.line(), "closed");
});

test("close() before the handshake closes the socket after it", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const server = app.serve(quietly, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    socket.onopen = () => socket.send("hello");
    socket.close(4000);
    return response;
  });
  await app.ready();
  using client = await RawWebSocket.connect(portOf(server));
  assertEquals(await client.rest(), { texts: ["hello"], code: 4000 });
  await client.sendClose(4000);
  await client.ended();
  await app.stop();
});

test("close() throws for a reason that is too long, before the handshake as well", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const thrown: string[] = [];
  const server = app.serve(quietly, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    try {
      socket.close(4000, "x".repeat(124));
    } catch (error) {
      thrown.push((error as Error).name);
    }
    // The socket is still open.
    socket.onopen = () => socket.close(4001, "x".repeat(123));
    return response;
  });
  await app.ready();
  using client = await RawWebSocket.connect(portOf(server));
  assertEquals((await client.rest()).code, 4001);
  assertEquals(thrown, ["SyntaxError"]);
  await client.sendClose(4001);
  await client.ended();
  await app.stop();
});

test("a client that does not answer the Close frame, and sends on, is disconnected after a second", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const server = app.serve(quietly, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    socket.onmessage = () => socket.close(4000);
    return response;
  });
  await app.ready();
  using client = await RawWebSocket.connect(portOf(server));
  await client.send("a");
  assertEquals((await client.rest()).code, 4000);
  let hasEnded = false;
  // A reset connection has ended, too.
  const ended = client.ended().catch(() => {}).finally(() => hasEnded = true);
  await until(async () => {
    // The connection may end between two messages: then the next one is not sent.
    if (!hasEnded) await client.send("and on").catch(() => {});
    return hasEnded;
  });
  await ended;
  await app.stop();
});

test("RawWebSocket reads frames of every length", async () => {
  const lengths = [0, 125, 126, 65535, 65536];
  const server = Deno.serve({ ...here, onListen: () => {} }, (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onopen = () => lengths.forEach((length) => socket.send("y".repeat(length)));
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  using client = await RawWebSocket.connect(portOf(server));
  for (const length of lengths) {
    const frame = await client.next();
    assertEquals(textOf(frame!), "y".repeat(length));
  }
  await client.send("text");
  assertEquals(textOf((await client.next())!), "text");
  await client.sendClose(4321);
  const close = await client.next();
  assertEquals([close!.opcode, codeOf(close!)], [opcodes.close, 4321]);
  await client.ended();
  await server.shutdown();
});
