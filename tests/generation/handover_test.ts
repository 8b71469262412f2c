/**
 * The half of a restart in the old process: it offers, stands by during the probation of its successor, and
 * serves again when the successor fails.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { HandoverError } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { asked, begin, quietly, saying, serving } from "../support/in_process.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";

test("a generation serves on when its successor is stopped before ready()", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const { app: old, port } = await serving(path, "old", { logger: log });
  for (let i = 0; i < 3; i++) {
    const next = await begin(path);
    next.serve(quietly, saying("next"));
    await next.stop();
    await until(() => log.errors.length === i + 1);
    assertMatch(String(log.errors[i][1]), /ended before it was ready/);
    assertEquals(await asked(port), "old");
    assertEquals(old.status().state, "serving");
    assertEquals(directory.names(), ["app.sock"]);
  }
  const { app: next } = await serving(path, "next");
  await old.finished;
  assertEquals(await asked(port), "next");
  await next.stop();
});

test("a generation serves on when its successor is not ready within readyTimeout, and ready() of the successor rejects", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { app: old, port } = await serving(path, "old", { readyTimeout: 20 });
  const next = await begin(path);
  next.serve(quietly, saying("next"));
  await until(() => old.status().state === "serving");
  const error = await assertRejects(() => next.ready(), HandoverError, "was not ready after 20 ms");
  assertEquals(error.code, "ERR_HANDOVER_ROLLED_BACK");
  await assertRejects(() => next.finished, HandoverError);
  for (let i = 0; i < 5; i++) assertEquals(await asked(port), "old");
  assertEquals(directory.names(), ["app.sock"]);
  await old.stop();
});

test("a generation serves again when its successor is killed within the probation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const unix = directory.join("http.sock");
  await using old = new Child("./generation.ts", [path]);
  const [port] = await old.numbers("port");
  await old.until("serving: 1");
  await using next = new Child("./generation.ts", [path, "--probation", "60000"]);
  await next.until("serving: 2");
  assertMatch(await asked(port), /^2 /);
  Deno.kill(next.pid, "SIGKILL");
  await old.until(/^error: The handover failed; this generation goes on: .* before it was healthy/);
  for (let i = 0; i < 5; i++) assertMatch(await asked(port), /^1 /);
  assertEquals(directory.names(), ["app.sock"]);
  // A later generation takes over as usual.
  await using third = new Child("./generation.ts", [path]);
  await third.until("serving: 2");
  await old.until("finished");
  assertEquals((await old.ended()).code, 0);
  assertMatch(await asked(port), /^2 /);
  assert(!directory.names().includes(unix));
});

test("a generation refuses a probation above its limit, and serves on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const { app, port } = await serving(path, "first", { logger: log });
  const next = await begin(path, { probation: 300_001 });
  next.serve(quietly, saying("next"));
  await assertRejects(() => next.ready(), HandoverError, "asks for a probation of 300001 ms");
  await assertRejects(() => next.finished, HandoverError);
  assertEquals(app.status().state, "serving");
  assertEquals(await asked(port), "first");
  // A probation may be longer than that of the predecessor.
  const { app: third } = await serving(path, "third", { probation: 300_000 });
  assertEquals(await asked(port), "third");
  await third.stop();
  await app.finished;
});

test("a generation that is stopped within the probation of its successor logs no failed handover", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log });
  await app.ready();
  const next = await begin(path, { probation: 60_000 });
  await next.ready();
  assertEquals(app.status().state, "standby");
  await app.stop();
  await until(() => next.status().predecessor === undefined);
  await next.stop();
  const phases = log.lines.map(([, line]) => /^Generation 1: (.*) after/.exec(String(line))?.[1]);
  assertEquals(phases.filter((phase) => phase === "rollback" || phase === "stopped"), ["stopped"]);
});

test("a generation accepts a probation as long as its own", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { probation: 1e9 });
  await app.ready();
  const next = await begin(path, { probation: 1e9 });
  await next.ready();
  await next.stop();
  await app.finished;
});
