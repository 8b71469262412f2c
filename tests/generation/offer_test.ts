/**
 * The offer of a generation: items that cannot be kept, and peers that do not read it or fail after it.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { connect, HandoverError } from "../../mod.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { pause } from "../../lib/time.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

test("a peer that does not read the offer does not hold up the next generation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const old = await begin(path, { peerTimeout: 100, logger: log });
  old.keep("much", () => new Uint8Array(8 << 20));
  await old.ready();
  using channel = new Channel(await connect(path));
  await channel.send({ type: "hello", version: 2, pid: 1 });
  await until(() => log.errors.length > 0);
  assertMatch(String(log.errors[0][1]), /has read nothing for 100 ms/);
  const next = await begin(path);
  assertEquals(next.generation, 2);
  await next.ready();
  await next.stop();
});

test("a peer that fails after the offer does not end the process that restart() has started", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { command: { program: "sleep", args: ["600"] } });
  await app.ready();
  let hasFailed = false;
  const restarting = app.restart().catch((error) => {
    hasFailed = true;
    return error;
  });
  {
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: 2, pid: 1 });
    assertEquals((await channel.receive())?.type, "offer");
  }
  await until(() => app.status().state === "serving");
  // Longer than the generation waits for the exit code of a successor that has closed its connection.
  await pause(1200);
  assertEquals(hasFailed, false);
  await app.stop();
  assertMatch(String(await restarting), /was stopped meanwhile/);
});

test("keep() throws for a closed file; a function that throws is the reason in the error of the next start()", async () => {
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

test("a third generation waits until the second is ready, although the first was killed", async () => {
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
