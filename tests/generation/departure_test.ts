/**
 * How a generation leaves: what it answers to the end, what it cuts, and what becomes of the other one.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { connect, type Generation, HandoverError, listen, type Logger } from "../../mod.ts";
import { Channel } from "../../lib/generation/channel.ts";
import type { OfferedItem } from "../../lib/generation/protocol.ts";
import { asked, begin, here, portOf, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { Http1Client } from "../support/http1_client.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** An answer of three pieces: one at once, the others when they are let go. */
class Streamed {
  readonly #go = Promise.withResolvers<void>();
  begun = 0;

  readonly answer = (): Response => {
    this.begun++;
    let left = 3;
    return new Response(
      new ReadableStream({
        pull: async (controller) => {
          if (left < 3) await this.#go.promise;
          controller.enqueue(new TextEncoder().encode("piece "));
          if (--left === 0) controller.close();
        },
      }),
    );
  };

  go(): void {
    this.#go.resolve();
  }
}

const certificate = {
  cert: Deno.readTextFileSync(new URL("../data/localhost.crt", import.meta.url)),
  key: Deno.readTextFileSync(new URL("../data/localhost.key", import.meta.url)),
};

/** A session of HTTP/2 in a process of Node: Deno's own client of it is not what is tested here. */
async function http2At(port: number): Promise<Child> {
  const path = new URL("../data/localhost.crt", import.meta.url).pathname;
  const client = new Child("./http2_client.mjs", [String(port), path], { command: "node" });
  assertEquals(await client.line(), "connected");
  return client;
}

/** Longer than what counts as idle. */
const longerThanQuiet = 250;

test("an answer that is under way is given to its end, whether it is stopped or replaced", async () => {
  using directory = new Directory();
  for (const [name, how] of [["a", "stopped"], ["b", "replaced"]]) {
    const path = directory.join(name);
    const streamed = new Streamed();
    const old = await begin(path, { drainTimeout: 0, forceCloseAfter: 60_000 });
    const server = old.serve(here, streamed.answer);
    const tls = old.serve({ ...here, ...certificate }, streamed.answer);
    await old.ready();
    await using client = await http2At(portOf(tls));
    const answer = asked(portOf(server));
    await client.tell("ask");
    await until(() => streamed.begun === 2);
    let next: Generation | undefined;
    if (how === "stopped") void old.stop();
    else {
      next = await begin(path);
      next.serve(here, saying("next"));
      next.serve({ ...here, ...certificate }, saying("next"));
      await next.ready();
      await until(() => old.status().state === "leaving");
    }
    // Its clients are looked at twice, and nothing happens on their connections.
    await new Promise((resolve) => setTimeout(resolve, longerThanQuiet));
    streamed.go();
    assertEquals(await answer, "piece piece piece ", how);
    assertEquals(await client.line(), "answer: piece piece piece ", how);
    assertEquals(await client.line(), "goaway", how);
    await old.finished;
    await next?.stop();
  }
});

test("what does not end is cut at the force limit, and its handler is not waited for", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { drainTimeout: 0, forceCloseAfter: 100 });
  let asks = 0;
  const muchLater = Promise.withResolvers<Response>();
  const never = app.serve(here, () => {
    asks++;
    return muchLater.promise;
  });
  const endless = new Streamed();
  const stream = app.serve(here, endless.answer);
  await app.ready();
  const cut = [never, stream].map((server) => assertRejects(() => asked(portOf(server))));
  await until(() => asks + endless.begun === 2);
  await app.stop();
  await Promise.all(cut);
  // Deno lets go of the connections when their handlers do.
  muchLater.resolve(new Response());
  endless.go();
  await never.finished;
});

test("connections of another protocol are cut after deadline and force limit", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"), { drainTimeout: 50, forceCloseAfter: 50 });
  const listener = app.listen(here);
  await app.ready();
  using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(listener) });
  using conn = await listener.accept();
  await app.stop();
  assertEquals(await conn.read(new Uint8Array(1)), null);
  assertEquals(await client.read(new Uint8Array(1)), null);
});

test("idle clients of HTTP/2 are moved at once, and those of HTTP/1 are waited for", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 600_000 });
  const server = old.serve({ ...here, ...certificate }, saying("old"));
  await old.ready();
  await using client = await http2At(portOf(server));
  await client.tell("ask");
  assertEquals(await client.line(), "answer: old");
  const next = await begin(path);
  next.serve({ ...here, ...certificate }, saying("next"));
  await next.ready();
  assertEquals(await client.line(), "goaway");
  await old.finished;
  // Now an idle one of HTTP/1, which nothing but its next request moves.
  const idle = await Deno.connectTls({
    hostname: "localhost",
    port: portOf(server),
    caCerts: [certificate.cert],
  });
  await idle.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await idle.read(new Uint8Array(1000));
  const last = await begin(path);
  last.serve({ ...here, ...certificate }, saying("last"));
  await last.ready();
  await until(() => next.status().state === "leaving");
  let finished = false;
  next.finished.then(() => finished = true);
  await new Promise((resolve) => setTimeout(resolve, longerThanQuiet));
  assertEquals(finished, false);
  idle.close();
  await next.finished;
  await last.stop();
});

/** Connects a client that stays, and has been answered. */
async function idleAt(port: number): Promise<Deno.Conn> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await conn.read(new Uint8Array(1000));
  return conn;
}

test("one that is leaving does not wait for idle clients when it, or its successor, is stopped", async () => {
  using directory = new Directory();
  for (const which of ["itself", "its successor"]) {
    const path = directory.join(which);
    const old = await begin(path, { drainTimeout: 600_000 });
    const port = portOf(old.serve(here, saying("old")));
    await old.ready();
    using _idle = await idleAt(port);
    const next = await begin(path);
    next.serve(here, saying("next"));
    await next.ready();
    await until(() => old.status().state === "leaving");
    if (which === "itself") await old.stop();
    await next.stop();
    await old.finished;
  }
});

test("one that is stopped when the next is ready leaves its clients to that", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 500 });
  const server = old.serve(here, (request) => {
    return old.upgradeWebSocket(request).response;
  });
  await old.ready();
  const socket = new WebSocket(`ws://127.0.0.1:${portOf(server)}`);
  await new Promise((resolve) => socket.onopen = resolve);
  const closed = new Promise<CloseEvent>((resolve) => socket.onclose = resolve);
  const next = await begin(path, { probation: 60_000 });
  next.serve(here, saying("next"));
  await next.ready();
  await old.stop();
  assertEquals((await closed).code, 1012);
  assertEquals(await asked(portOf(server)), "next");
  await next.stop();
});

test("a WebSocket that comes while its generation leaves is closed with 1012, too", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { drainTimeout: 2000 });
  const server = old.serve(here, (request) => {
    return request.headers.has("upgrade")
      ? old.upgradeWebSocket(request).response
      : new Response("old");
  });
  await old.ready();
  using conn = await idleAt(portOf(server));
  const next = await begin(path);
  next.serve(here, saying("next"));
  await next.ready();
  await until(() => old.status().state === "leaving");
  await conn.write(
    new TextEncoder().encode(
      "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n" +
        "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ),
  );
  const received: number[] = [];
  const chunk = new Uint8Array(1000);
  // A close frame of two bytes of code and the reason: RFC 6455, 5.5.1.
  const code = () => received.findIndex((byte, i) => byte === 0x88 && received[i + 1] === 17);
  while (code() < 0) received.push(...chunk.subarray(0, await conn.read(chunk) ?? 0));
  assertEquals((received[code() + 2] << 8) + received[code() + 3], 1012);
  await old.stop();
  await next.stop();
});

test("stop() ends a restart that is on its way, and a successor that is not ready", async () => {
  using directory = new Directory();
  const command = { program: "sleep", args: ["600"] };
  const app = await begin(directory.join("app.sock"), { command });
  await app.ready();
  const restarting = assertRejects(() => app.restart(), HandoverError, "was stopped meanwhile");
  await app.stop();
  await restarting;

  const path = directory.join("other.sock");
  const old = await begin(path);
  const port = portOf(old.serve(here, saying("old")));
  await old.ready();
  const next = await begin(path);
  next.serve(here, saying("next"));
  await old.stop();
  const error = await assertRejects(() => next.ready(), HandoverError, "was stopped");
  assertEquals(error.code, "ERR_HANDOVER_ROLLED_BACK");
  await assertRejects(() => asked(port));
  await next.stop();
  assertEquals(directory.names(), []);
});

test("one that is stopped before it is ready ends well, by call and by signal", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  app.serve(here, saying("never"));
  await app.stop();
  await app.ready();
  await app.finished;
  await using child = new Child("./generation.ts", [directory.join("b.sock"), "--say", "wait"]);
  assertMatch(await child.line(), /^port: /);
  Deno.kill(child.pid, "SIGTERM");
  assertEquals((await child.ended()).code, 0);
  assertEquals(directory.names(), []);
});

test("one that does not read what it is offered does not hold up the next", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const old = await begin(path, { peerTimeout: 100, logger: log });
  old.keep("much", () => new Uint8Array(8 << 20));
  await old.ready();
  using channel = new Channel(await connect(path));
  await channel.send({ type: "hello", version: 1, pid: 1 });
  await until(() => log.errors.length > 0);
  assertMatch(String(log.errors[0][1]), /has read nothing for 100 ms/);
  const next = await begin(path);
  assertEquals(next.generation, 2);
  await next.ready();
  await next.stop();
});

test("a stranger that fails does not end the process that restart() has started", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { command: { program: "sleep", args: ["600"] } });
  await app.ready();
  let failed = false;
  const restarting = app.restart().catch((error) => {
    failed = true;
    return error;
  });
  {
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: 1, pid: 1 });
    assertEquals((await channel.receive())?.type, "offer");
  }
  await until(() => app.status().state === "serving");
  // Longer than it waits for the last words of one that has died.
  await new Promise((resolve) => setTimeout(resolve, 1200));
  assertEquals(failed, false);
  await app.stop();
  assertMatch(String(await restarting), /was stopped meanwhile/);
});

test("a signal that is none is refused, and nothing runs", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const restartOn = ["SIGHUB"] as unknown as Deno.Signal[];
  await assertRejects(() => begin(path, { stopOn: ["SIGUSR2"], restartOn }), TypeError, "SIGHUB");
  assertEquals(directory.names(), []);
  const app = await begin(path);
  await app.ready();
  await assertRejects(() => begin(path, { restartOn }), TypeError, "SIGHUB");
  const next = await begin(path);
  await next.ready();
  await next.stop();
});

test("durations may be fractions, or without end where that means something", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await assertRejects(() => begin(path, { probation: Infinity }), RangeError);
  await assertRejects(() => begin(path, { drainTimeout: NaN }), RangeError, "drainTimeout");
  const endless = { readyTimeout: Infinity, peerTimeout: Infinity, forceCloseAfter: Infinity };
  const old = await begin(path, endless);
  await old.ready();
  const next = await begin(path, { ...endless, probation: 1.5 });
  await next.ready();
  await old.finished;
  const command = { program: "sh", args: ["-c", "exit 3"] };
  await assertRejects(() => next.restart(command), HandoverError, "ended with code 3");
  await next.stop();
});

test("a logger that throws is nothing to fail for", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const fail = () => {
    throw new Error("the disk is full");
  };
  const logger: Logger = { debug: fail, info: fail, error: fail };
  const { error } = console;
  let said = 0;
  console.error = () => said++;
  try {
    const old = await begin(path, { logger });
    await old.ready();
    using garbage = await connect(path);
    await garbage.write(Uint8Array.of(255, 255, 255, 255));
    assertEquals(await garbage.read(new Uint8Array(1)), null);
    const next = await begin(path, { logger });
    await next.ready();
    await old.finished;
    await next.stop();
  } finally {
    console.error = error;
  }
  assert(said > 5);
});

test("what cannot be kept is an error at once, or the reason that the next generation gets", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log });
  const file = Deno.openSync("/dev/null");
  app.keep("file", file);
  file.close();
  assertThrows(() => app.keep("file", file));
  app.keep("state", () => {
    throw new Error("it is a secret");
  });
  await app.ready();
  const error = await assertRejects(() => begin(path), HandoverError);
  assertMatch(error.message, /"state" cannot be handed over: it is a secret$/);
  app.keep("state", Uint8Array.of(1));
  const next = await begin(path);
  using _file = next.take("file") as Disposable;
  assertEquals(next.take("state"), Uint8Array.of(1));
  await next.ready();
  await next.stop();
});

test("a third one waits for one that is not ready and whose predecessor has gone", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using old = new Child("./generation.ts", [path]);
  while (!(await old.line()).startsWith("serving"));
  const next = await begin(path);
  Deno.kill(old.pid, "SIGKILL");
  await old.ended();
  const log = new KeptLog();
  const third = begin(path, { logger: log });
  await until(() => log.lines.some(([, line]) => /has not called ready\(\) yet/.test(`${line}`)));
  await next.ready();
  assertEquals((await third).generation, 3);
  await (await third).ready();
  await next.finished;
  await (await third).stop();
});

test("one that is rolled back answers what it has before ready() rejects", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const answer = Promise.withResolvers<Response>();
  const asks = Promise.withResolvers<void>();
  const before = (async () => {
    using channel = new Channel(await listener.accept());
    await channel.receive();
    const items: OfferedItem[] = [{ kind: "control", key: "" }];
    const offer = { type: "offer", version: 1, generation: 1, pid: Deno.pid, items } as const;
    await channel.send(offer, { descriptors: [{ fd: listener.fd }] });
    assertEquals((await channel.receive())?.type, "ready");
    await asks.promise;
    await channel.send({ type: "rollback", reason: "on second thoughts" });
    assertEquals(await channel.receive(), undefined);
  })();
  const app = await begin(path);
  const server = app.serve(here, () => {
    asks.resolve();
    return answer.promise;
  });
  let rejected = false;
  const ready = assertRejects(() => app.ready().finally(() => rejected = true), HandoverError);
  const asking = asked(portOf(server));
  await until(() => app.status().state === "leaving");
  await new Promise((resolve) => setTimeout(resolve, longerThanQuiet));
  assertEquals(rejected, false);
  answer.resolve(new Response("in time"));
  assertEquals(await asking, "in time");
  assertMatch((await ready).message, /goes on: on second thoughts$/);
  await before;
});

test("a handover that is taken back leaves its clients as they were, but for those that were told to leave", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, {
    drainTimeout: 60_000,
    forceCloseAfter: 60_000,
    peerTimeout: 20_000,
  });
  // One without a body may be the answer to any number of requests.
  const nothing = new Response(null, { status: 204 });
  const streamed = new Streamed();
  const server = app.serve(here, ({ url }) => {
    return new URL(url).pathname === "/streamed" ? streamed.answer() : nothing;
  });
  await app.ready();
  using told = await Http1Client.dial(server.addr);
  using noted = await Http1Client.dial(server.addr);
  {
    // A next generation by hand.
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: 1, pid: Deno.pid });
    const offer = await channel.receive() as { items: OfferedItem[] };
    for (const { fd } of await channel.receiveDescriptors(offer.items.length)) fd.close();
    // It is answered while the handover is under way, and before it is told to leave.
    assertEquals((await noted.request("/", "Connection: keep-alive\r\n")).status, 204);
    await channel.send({ type: "ready", probation: 20_000 });
    assertEquals((await channel.receive())?.type, "draining");
    const { headers } = await told.request();
    assertEquals(headers.get("connection"), "close");
    // The probation lasts longer than this test; the client waits for the server to close.
    assert(await told.ended());
    assertEquals(app.status().state, "handing over");
  }
  await until(() => app.status().state === "serving");
  assertEquals((await noted.request()).headers.get("connection"), null);
  // What it spoke then is no reason to take an answer that is streamed now for the end.
  await noted.send("/streamed");
  await until(() => streamed.begun === 1);
  const stopping = app.stop();
  await new Promise((resolve) => setTimeout(resolve, 2 * longerThanQuiet));
  streamed.go();
  assertEquals((await noted.answer()).body, "piece piece piece ");
  await stopping;
});
