/**
 * How WebSockets of a generation are closed: each with a Close frame, after all that was sent.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Generation } from "../../mod.ts";
import { pause } from "../../lib/time.ts";
import { begin, here, portOf, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { codeOf, opcodes, RawWebSocket, textOf } from "../support/raw_websocket.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";
import { talkThroughRestarts } from "../system/websockets.ts";

test("clients that talk all the time all get Close 1012 and every answer, restart after restart", async () => {
  const { connections, answers, failures } = await talkThroughRestarts({
    clients: 40,
    restarts: 3,
  });
  assertEquals(failures, []);
  assertEquals(connections, 120);
  assert(answers > connections, `${answers} messages were answered`);
});

test("the same clients notice when WebSocket.close() of Deno drops a connection", async () => {
  const { failures } = await talkThroughRestarts({ clients: 40, restarts: 3, plain: true });
  assertStringIncludes(failures.join("\n"), "the connection ended without a Close frame");
});

/** Makes a next generation take over. */
async function replaced(old: Generation, path: string): Promise<Generation> {
  const next = await begin(path);
  next.serve(here, saying("next"));
  await next.ready();
  await until(() => old.status().state !== "handing over");
  return next;
}

test("a socket that the program closes while more messages wait gets its Close frame", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const heard: string[] = [];
  const server = app.serve(here, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => {
      heard.push(data);
      socket.send(`heard ${data}`);
      socket.close(4000, "enough");
      // A second one changes nothing.
      socket.close(4001);
    };
    return response;
  });
  await app.ready();
  using client = await RawWebSocket.connect(portOf(server));
  await client.send("a", "b", "c", "d");
  assertEquals(await client.rest(), { texts: ["heard a"], code: 4000 });
  // Those that come later are read, and not delivered.
  await client.send("e");
  await client.sendClose(4000);
  await client.ended();
  assertEquals(heard, ["a"]);
  await app.stop();
});

test("a client that reads late and talks on gets all that was sent, and the Close frame", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const big = "x".repeat(1 << 20);
  const count = 16;
  for (const how of ["stopped", "replaced"]) {
    // A timer of Deno's is over at once when it is longer than 2^31 ms.
    const forceCloseAfter = how === "stopped" ? Infinity : 60_000;
    const old = await begin(path, { drainTimeout: 10, forceCloseAfter });
    let opened: WebSocket | undefined;
    const server = old.serve(here, (request) => {
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

test("clients that do not answer the Close frame are not waited for until the force limit", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { forceCloseAfter: 600_000 });
  const server = app.serve(here, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  await app.ready();
  using silent = await RawWebSocket.connect(portOf(server));
  using talker = await RawWebSocket.connect(portOf(server));
  const stopped = app.stop();
  assertEquals((await silent.rest()).code, 1001);
  assertEquals((await talker.rest()).code, 1001);
  let talks = true;
  const talking = (async () => {
    while (talks) await talker.send("on and on").then(() => until(() => true));
  })().catch(() => {});
  await stopped;
  talks = false;
  await talking;
  await silent.ended();
  await talker.ended();
});

test("clients that talk on after the Close frame do not keep the process of their generation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using old = new Child("./websocket_service.ts", [path, "alone"]);
  const port = Number((await old.line()).slice("port: ".length));
  const gone = new AbortController();
  const clients = await Promise.all(Array.from({ length: 10 }, () => RawWebSocket.connect(port)));
  // Each to the end of its connection.
  const talking = Promise.allSettled(clients.map(async (client) => {
    for (; !gone.signal.aborted; await pause(1)) await client.send("on and on");
  }));
  const closed = clients.map(async (client) => (await client.rest()).code);
  await using next = new Child("./websocket_service.ts", [path]);
  await next.line();
  assertEquals(await Promise.all(closed), clients.map(() => 1012));
  const ended = old.ended().finally(() => gone.abort());
  // It is a matter of some seconds, or else of half an hour.
  await Promise.race([ended, pause(60_000, gone.signal).catch(() => {})]);
  assert(gone.signal.aborted, "the process of the old generation stays");
  assertEquals((await ended).code, 0);
  await talking;
  for (const client of clients) client[Symbol.dispose]();
});

test("a generation that is to hurry closes its WebSockets now, with 1012", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 600_000, forceCloseAfter: 500 });
  const server = old.serve(here, (request) => old.upgradeWebSocket(request).response);
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

test("a WebSocket whose handshake is under way when its generation leaves is closed, too", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 100, forceCloseAfter: 60_000 });
  const go = Promise.withResolvers<void>();
  let asked = false;
  const server = old.serve(here, async (request) => {
    const { response } = old.upgradeWebSocket(request);
    asked = true;
    await go.promise;
    return response;
  });
  await old.ready();
  using client = await RawWebSocket.begin(portOf(server));
  await until(() => asked);
  const next = await replaced(old, path);
  go.resolve();
  await client.opened();
  assertEquals(await client.rest(), { texts: [], code: 1012 });
  await client.sendClose(1012);
  await client.ended();
  await old.finished;
  await next.stop();
});

test("exceptions in the listeners of some sockets do not keep the others from being closed", async () => {
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
    const server = old.serve(here, (request) => {
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

test("a handshake that has failed is not waited for", async () => {
  await using child = new Child("./failed_upgrade.ts");
  assertEquals(await child.line(), "closed");
});

test("a socket that the program closes before its handshake is closed after that", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const server = app.serve(here, (request) => {
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

test("the reason of a Close frame is checked when close() is called, before the handshake as well", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const thrown: string[] = [];
  const server = app.serve(here, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    try {
      socket.close(4000, "x".repeat(124));
    } catch (error) {
      thrown.push((error as Error).name);
    }
    // It was not closed by that.
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

test("a client that does not answer the Close frame and talks on is dropped after a while", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const server = app.serve(here, (request) => {
    const { socket, response } = app.upgradeWebSocket(request);
    socket.onmessage = () => socket.close(4000);
    return response;
  });
  await app.ready();
  using client = await RawWebSocket.connect(portOf(server));
  await client.send("a");
  assertEquals((await client.rest()).code, 4000);
  let hasEnded = false;
  const ended = client.ended().catch(() => {}).finally(() => hasEnded = true);
  await until(async () => {
    // Its end may come between two messages.
    if (!hasEnded) await client.send("and on").catch(() => {});
    return hasEnded;
  });
  await ended;
  await app.stop();
});

test("frames of every length are read as they were sent", async () => {
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
