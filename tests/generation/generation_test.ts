/**
 * A generation from start() to stop(): its states, its servers, its permissions, status().
 *
 * @module
 */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { HandoverError, listen } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { asked, begin, portOf, quietly, saying, serving } from "../support/in_process.ts";
import { until } from "../support/until.ts";

test("the first generation accepts from ready() on, and stop() leaves no file behind", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  assertEquals(app.generation, 1);
  const server = app.serve(quietly, saying("first"));
  const early = asked(portOf(server));
  let answered = false;
  early.finally(() => answered = true);
  assertEquals(app.status().state, "starting");
  await new Promise((resolve) => setTimeout(resolve, 20));
  assertEquals(answered, false, "it accepts before it is ready");
  await app.ready();
  assertEquals(await early, "first");
  assertEquals(app.status().state, "serving");
  assertEquals(directory.names(), ["app.sock"]);
  await app.stop();
  await app.finished;
  assertEquals(app.status().state, "stopped");
  assertEquals(directory.names(), []);
  await assertRejects(() => asked(portOf(server)));
  // A second stop() changes nothing.
  await app.stop();
});

test("the next generation takes over the listener, and its predecessor finishes", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { app: old, port } = await serving(path, "old");
  const next = await begin(path);
  assertEquals(next.generation, 2);
  const server = next.serve(quietly, saying("next"));
  assertEquals(portOf(server), port);
  // A generation accepts nothing before ready().
  for (let i = 0; i < 10; i++) assertEquals(await asked(port), "old");
  await next.ready();
  for (let i = 0; i < 10; i++) assertEquals(await asked(port), "next");
  await old.finished;
  for (let i = 0; i < 10; i++) assertEquals(await asked(port), "next");
  await next.stop();
  assertEquals(directory.names(), []);
});

test("a generation that serves HTTP over TCP needs --allow-ffi and --allow-net for a new port of 127.0.0.1", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const deno = ["run", "--no-prompt", "--allow-ffi", "--allow-net=127.0.0.1:0"];
  await using first = new Child("./generation.ts", [path], { deno });
  await first.until("serving: 1");
  // restart() starts a process: that needs one more permission.
  await first.tell("restart");
  await first.until(/^failed: .*--allow-run/);
  const running = [...deno, "--allow-run=/bin/sh"];
  await using second = new Child("./generation.ts", [path], { deno: running });
  const [port] = await second.numbers("port");
  await second.until("serving: 2");
  await first.until("finished");
  await second.tell("restart");
  await second.until("restarted: 3");
  Deno.kill(Number((await asked(port)).split(" ")[1]), "SIGTERM");
  assertEquals((await second.ended()).code, 0);
});

test("status() reports the generation, its sockets and their connections", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  const server = app.serve(quietly, saying("hello"));
  const unix = app.listen({ path: directory.join("http.sock") });
  await app.ready();
  using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) });
  await client.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await client.read(new Uint8Array(1000));
  const { generation, pid, since, state, sockets, kept } = app.status();
  assertEquals([generation, pid, state, kept], [1, Deno.pid, "serving", []]);
  assertEquals(since, app.since.getTime());
  assertEquals(sockets, [
    { kind: "listener", address: `127.0.0.1:${portOf(server)}`, connections: 1 },
    { kind: "listener", address: JSON.stringify(directory.join("http.sock")), connections: 0 },
  ]);
  client.close();
  unix.close();
  await until(() => app.status().sockets.length === 1);
  await app.stop();
});

test("serve() without a handler, a second ready(), restart() after stop() and negative durations throw", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  assertThrows(() => app.serve({} as unknown as () => Response), TypeError, "without a handler");
  await app.ready();
  await assertRejects(() => app.ready(), TypeError, "this generation is serving");
  await app.stop();
  await assertRejects(() => app.restart(), HandoverError, "this generation is stopped");
  for (
    const name of ["probation", "readyTimeout", "drainTimeout", "peerTimeout", "forceCloseAfter"]
  ) {
    await assertRejects(
      () => begin(directory.join("app.sock"), { [name]: -1 }),
      RangeError,
      `${name} is a number of milliseconds, not -1`,
    );
  }
});

test("serve() at a path that is in use throws, and closes the socket that it made", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  using _other = listen(path);
  const app = await begin(directory.join("app.sock"));
  assertThrows(() => app.serve({ path }, saying("no")), Deno.errors.AddrInUse, "another instance");
  await app.stop();
});

test("a replaced generation closes its WebSockets with code 1012", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const options = { drainTimeout: 200 };
  const old = await begin(path, options);
  const server = old.serve(quietly, (request) => {
    const { socket, response } = old.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  await old.ready();
  const codes: number[] = [];
  const sockets = await Promise.all(Array.from({ length: 5 }, async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${portOf(server)}`);
    socket.onclose = ({ code }) => codes.push(code);
    await new Promise((resolve) => socket.onopen = resolve);
    return socket;
  }));
  const { app: next } = await serving(path, "next", options);
  await old.finished;
  await until(() => codes.length === sockets.length);
  assertEquals(codes, sockets.map(() => 1012));
  await next.stop();
});
