/**
 * Unix paths of a service that are removed, renamed or led elsewhere while it runs: a generation binds them
 * anew.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { closeAll } from "../../ffi/fd.ts";
import { pathStatus } from "../../ffi/file.ts";
import { connectUnix } from "../../ffi/socket.ts";
import type { Generation } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { Http1Client } from "../support/http1_client.ts";
import { begin, saying } from "../support/in_process.ts";
import { MessageLog } from "../support/kept_log.ts";
import {
  answerAt,
  askedAt,
  linkedReleases,
  modeOf,
  restored,
  servingAt,
  soon,
} from "../support/unix_paths.ts";
import { until } from "../support/until.ts";

for (const mode of [undefined, 0o660]) {
  const title = mode ? `with mode ${mode.toString(8)}` : "without a mode";
  test(`a generation binds a removed path anew at a handover, ${title}`, async () => {
    using directory = new Directory();
    const web = directory.join("web.sock");
    const control = directory.join("app.sock");
    const log = new MessageLog();
    const old = await servingAt(control, { path: web, mode }, "old", { logger: log });
    const early = await Http1Client.dial({ transport: "unix", path: web });
    assertEquals((await early.request()).body, "old");
    Deno.removeSync(web);
    const next = await begin(control);
    assertEquals(
      await askedAt(web),
      "old",
      "the predecessor has not bound the path anew before its offer",
    );
    assertEquals(modeOf(web), mode ?? 0o600, "the mode has changed");
    assertEquals(log.warnings.length, 1);
    assertMatch(log.warnings[0], /socket file "[^"]+web\.sock" was removed.* bound anew; keep /);
    // The server still counts a client of the old socket.
    const { connections } = old.status().sockets[0];
    assertEquals(connections, 1);
    next.serve({ path: web, mode }, saying("next"));
    await next.ready();
    assertEquals(await askedAt(web), "next");
    assertEquals(modeOf(web), mode ?? 0o600);
    // The draining server answers it with `connection: close`.
    const last = await early.request();
    assertEquals([last.body, last.headers.get("connection")], ["old", "close"]);
    early[Symbol.dispose]();
    await old.finished;
    assertEquals(await askedAt(web), "next");
    await next.stop();
    assertEquals(directory.names(), []);
  });

  test(`a successor binds a path that was removed after the offer, ${title}`, async () => {
    using directory = new Directory();
    const web = directory.join("web.sock");
    const control = directory.join("app.sock");
    const old = await servingAt(control, { path: web, mode }, "old");
    const next = await begin(control);
    Deno.removeSync(web);
    next.serve({ path: web, mode }, saying("next"));
    assertEquals(modeOf(web), mode ?? 0o600, "the path is not bound before ready()");
    await next.ready();
    assertEquals(await askedAt(web), "next");
    await old.finished;
    assertEquals(await askedAt(web), "next");
    const third = await servingAt(control, { path: web, mode }, "third");
    assertEquals(await askedAt(web), "third");
    await third.stop();
    await next.finished;
    assertEquals(directory.names(), []);
  });
}

test("accept() returns the clients of a removed path before those of the path that was bound anew", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const old = await begin(control);
  old.listen({ path: web });
  await old.ready();
  using first = await Deno.connect({ transport: "unix", path: web });
  await first.write(Uint8Array.of(1));
  const next = await begin(control);
  Deno.removeSync(web);
  const listener = next.listen({ path: web });
  using second = await Deno.connect({ transport: "unix", path: web });
  await second.write(Uint8Array.of(2));
  await next.ready();
  for (const expected of [1, 2]) {
    using conn = await listener.accept();
    const byte = new Uint8Array(1);
    await conn.read(byte);
    assertEquals(byte[0], expected);
  }
  await old.finished;
  await next.stop();
  assertEquals(directory.names(), []);
});

test("a generation binds its path again when the successor that had bound it anew is killed", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const old = await servingAt(control, { path: web }, "old", { peerTimeout: 1000 });
  {
    await using next = new Child("./serve_unix_path.ts", [control, web]);
    assertEquals(await next.line(), "started: 2");
    Deno.removeSync(web);
    await next.tell("serve");
    assertMatch(await next.line(), /^warning: The socket file/);
    assertEquals(await next.line(), "ready");
    assertEquals(await askedAt(web), `process ${next.pid}`);
  }
  await soon(async () => await answerAt(web) === "old");
  const next = await servingAt(control, { path: web }, "next");
  assertEquals(await askedAt(web), "next");
  await next.stop();
  await old.finished;
  assertEquals(directory.names(), []);
});

test("a generation binds its path again when the successor that had bound it anew is rolled back", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const old = await servingAt(control, { path: web }, "old");
  // The predecessor refuses a probation above its limit.
  const next = await begin(control, { probation: 300_001 });
  Deno.removeSync(web);
  next.serve({ path: web }, saying("next"));
  // `finished` rejects with the same reason.
  await next.ready().catch(() => {});
  await assertRejects(() => next.finished);
  await soon(async () => await answerAt(web) === "old");
  await old.stop();
  assertEquals(directory.names(), []);
});

test("a path behind a symbolic link leads to the service after the link has changed before and during a handover", async () => {
  using directory = new Directory();
  const { releases, current, change } = linkedReleases(directory);
  const web = `${current}/web.sock`;
  // The control socket is behind the link as well.
  const control = `${current}/app.sock`;
  const old = await servingAt(control, { path: web }, "one");
  // Before the handover: the predecessor binds the path at a restart.
  change(releases[1]);
  assertEquals(await answerAt(web), "NotFound");
  // This restart fails: its command does not take over.
  void old.restart({ program: "true", args: [] }).catch(() => {});
  await until(async () => await answerAt(web) === "one");
  await until(() => old.status().state === "serving" && pathStatus(control) !== undefined);
  const { ino } = pathStatus(web)!;
  let next: Generation | undefined;
  await until(async () => {
    next = await begin(control).catch(() => undefined);
    return next !== undefined;
  });
  assertEquals(next!.generation, 2);
  // During the handover: the successor binds the path.
  change(releases[2]);
  next!.serve({ path: web }, saying("two"));
  assertEquals(pathStatus(web)!.ino, ino, "the path leads to another socket");
  await next!.ready();
  assertEquals(await askedAt(web), "two");
  // The path of an earlier release still leads to the service.
  assertEquals(await askedAt(`${releases[0]}/web.sock`), "two");
  await old.finished;
  await until(() => pathStatus(control) !== undefined);
  assertEquals(await askedAt(web), "two");
  await next!.stop();
  assertEquals(pathStatus(web), undefined);
  assertEquals(pathStatus(control), undefined);
});

test("a listener keeps its `backlog` when its path is bound anew", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const app = await begin(directory.join("app.sock"));
  app.listen({ path: web, backlog: 2 });
  await app.ready();
  Deno.removeSync(web);
  await restored(app);
  const waiting: number[] = [];
  for (let raw; waiting.length < 100 && (raw = connectUnix(web, "Cannot connect")) >= 0;) {
    waiting.push(raw);
  }
  closeAll(waiting);
  // The kernel queues one more than the backlog (net/unix/af_unix.c, `unix_recvq_full`), and one is accepted.
  assert(waiting.length <= 4, `${waiting.length} wait`);
  await app.stop();
});

test("one timer checks the old socket for clients, however often the path is removed", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const app = await begin(directory.join("app.sock"));
  app.listen({ path: web });
  await app.ready();
  using _client = await Deno.connect({ transport: "unix", path: web });
  const pending = new Map<unknown, number | undefined>();
  const { setTimeout: set, clearTimeout: clear } = globalThis;
  const count = () => [...pending.values()].filter((delay) => delay === 20).length;
  try {
    globalThis.setTimeout = ((callback: () => void, delay?: number) => {
      const id = set(() => {
        pending.delete(id);
        callback();
      }, delay);
      pending.set(id, delay);
      return id;
    }) as typeof setTimeout;
    globalThis.clearTimeout = (id) => {
      pending.delete(id);
      clear(id);
    };
    Deno.removeSync(web);
    for (let i = 0; i < 5; i++) {
      await restored(app);
      assertEquals(count(), 1);
    }
  } finally {
    globalThis.setTimeout = set;
    globalThis.clearTimeout = clear;
  }
  await app.stop();
});

test("a service whose socket file was renamed is reachable at the new path and at the old one", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const moved = directory.join("moved.sock");
  const control = directory.join("app.sock");
  const old = await servingAt(control, { path: web }, "old");
  Deno.renameSync(web, moved);
  const next = await begin(control);
  assertEquals([await askedAt(web), await askedAt(moved)], ["old", "old"]);
  assertEquals(pathStatus(web)!.ino, pathStatus(moved)!.ino);
  next.serve({ path: web }, saying("next"));
  await next.ready();
  await old.finished;
  assertEquals([await askedAt(web), await askedAt(moved)], ["next", "next"]);
  await next.stop();
  assertEquals(pathStatus(web), undefined);
});
