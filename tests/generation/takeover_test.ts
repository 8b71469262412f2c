/**
 * The half of a restart in the new process: start() waits for its predecessor, takes over, or is the first.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Channel } from "../../lib/generation/channel.ts";
import { encodeFrame } from "../../lib/generation/frame.ts";
import { type Frame, protocolVersion } from "../../lib/generation/protocol.ts";
import { fdHandler, type Generation, HandoverError, listen, listenAndServe } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { begin } from "../support/in_process.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";

test("start() takes over the control path of a killed generation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (let i = 0; i < 3; i++) {
    await using child = new Child("./generation.ts", [path]);
    await child.until("serving: 1");
    Deno.kill(child.pid, "SIGKILL");
    await child.ended();
    assertEquals(directory.names(), ["app.sock"]);
  }
});

test("of several processes that start at once, one is the first generation, and the others take over in turn", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using all = new AsyncDisposableStack();
  const children = Array.from(
    { length: 4 },
    () => all.use(new Child("./generation.ts", [path, "--probation", "1"])),
  );
  const generations: string[] = [];
  await Promise.all(children.map(async (child) => {
    generations.push(await child.until(/^serving: /));
  }));
  assertEquals(generations.sort(), [1, 2, 3, 4].map((n) => `serving: ${n}`));
  let finished = 0;
  for (const child of children) {
    // The last generation never finishes: the end of the test kills it.
    void child.until("finished").then(() => finished++).catch(() => {});
  }
  await until(() => finished === 3);
});

test("start() waits while another handover is under way, and rejects with the reason of its signal", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  await old.ready();
  const second = await begin(path);
  const log = new KeptLog();
  let third: Generation | undefined;
  const starting = begin(path, { logger: log }).then((app) => third = app);
  await until(() => log.lines.some(([, line]) => /another handover is under way/.test(`${line}`)));
  assertEquals(third, undefined);
  await second.ready();
  await starting;
  assertEquals(third!.generation, 3);
  await third!.ready();
  await old.finished;
  await second.finished;
  const fourth = await begin(path);
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  assertEquals(await begin(path, { signal }).catch((error) => error), reason);
  const waiting = new AbortController();
  const given = begin(path, { signal: waiting.signal }).catch((error) => error);
  waiting.abort(reason);
  assertEquals(await given, reason);
  await fourth.stop();
  await until(() => third!.status().state === "serving");
  await third!.stop();
});

test("start() logs an error while it waits for a generation of its own process that is not ready", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const first = await begin(path);
  const log = new KeptLog();
  const second = begin(path, { logger: log });
  await until(() => log.errors.length > 0);
  assertMatch(
    String(log.errors[0][0]),
    /this process has started a generation there that is not ready/,
  );
  await first.stop();
  await (await second).stop();
  assertEquals(log.errors.length, 1);
});

test("start() logs how long it has waited, and for which process", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  const log = new KeptLog();
  const end = new AbortController();
  const waiting = begin(path, { logger: log, peerTimeout: 100, signal: end.signal });
  const refused = assertRejects(() => waiting, Error, "enough");
  // The first error names a generation of this process.
  await until(() => log.errors.length > 1);
  end.abort(new Error("enough"));
  await refused;
  assertMatch(
    String(log.errors[1][0]),
    /^Waiting for \d+ s to take over at ".*": the generation there, process \d+, has not called ready\(\) yet$/,
  );
  await app.stop();
});

test("start() rejects when the peer speaks another version or another protocol, or sends nothing", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const listener = listen(path);
  const other = (async () => {
    using conn = await listener.accept();
    const channel = new Channel(conn);
    await channel.receive();
    await channel.send({ type: "refused", code: "version", reason: "I speak 9" });
  })();
  const error = await assertRejects(() => begin(path), HandoverError, "I speak 9");
  assertEquals(error.code, "ERR_HANDOVER_VERSION");
  await other;
  // A server of the plain protocol sends a record in place of a frame.
  const plain = listenAndServe(directory.join("plain.sock"), fdHandler(0));
  const strange = await assertRejects(() => begin(plain.addr.path!), HandoverError);
  assertEquals(strange.code, "ERR_HANDOVER_PROTOCOL");
  await plain.shutdown();
  // The backlog of the listener accepts the connection, and nothing answers.
  const silent = await assertRejects(() => begin(path, { peerTimeout: 20 }), HandoverError);
  assertEquals(silent.code, "ERR_HANDOVER_TIMEOUT");
  listener.close();
});

test("start() becomes the first generation when its predecessor dies during the offer", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const listener = listen(path);
  const items = [{ kind: "control", key: "" }, { kind: "state", key: "a", bytes: 9 }] as const;
  const offer: Frame = {
    type: "offer",
    version: protocolVersion,
    generation: 1,
    pid: 1,
    items: [...items],
  };
  const dying = (async () => {
    // Before the offer, in the middle of it, and before the state that it announces.
    for (const most of [0, 7, Infinity]) {
      using conn = await listener.accept();
      await new Channel(conn).receive();
      await conn.write(encodeFrame(offer).subarray(0, most));
    }
    listener.close();
  })();
  const app = await begin(path);
  assertEquals(app.generation, 1);
  await dying;
  await app.stop();
});
