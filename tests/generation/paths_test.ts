/**
 * Paths that lead elsewhere while a service runs: removed, taken by another process, or behind a symbolic link
 * that was changed.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { closeAll } from "../../ffi/fd.ts";
import { pathStatus } from "../../ffi/file.ts";
import { isRunning } from "../../ffi/proc.ts";
import { connectUnix } from "../../ffi/socket.ts";
import {
  type Generation,
  listen,
  listenAndServe,
  listenerHandler,
  type Logger,
  serve,
} from "../../mod.ts";
import { begin, here, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Http1Client } from "../support/http1_client.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const { AddrInUse } = Deno.errors;

/** What answers at a unix path. */
async function askedAt(path: string): Promise<string> {
  using client = await Http1Client.dial({ transport: "unix", path });
  return (await client.request("/", "Connection: close\r\n")).body;
}

/** The same, or the name of the error. */
async function answerAt(path: string): Promise<string> {
  return await askedAt(path).catch((error) => (error as Error).name);
}

function modeOf(path: string): number {
  return Deno.statSync(path).mode! & 0o777;
}

class Log implements Logger {
  readonly warnings: string[] = [];
  readonly errors: string[] = [];

  warn(message: string): void {
    this.warnings.push(message);
  }

  error(message: string): void {
    this.errors.push(message);
  }
}

for (const mode of [undefined, 0o660]) {
  const title = mode ? `with mode ${mode.toString(8)}` : "without a mode";
  test(`a path that was removed leads to the listener again at a handover, ${title}`, async () => {
    using directory = new Directory();
    const web = directory.join("web.sock");
    const control = directory.join("app.sock");
    const log = new Log();
    const old = await begin(control, { logger: log });
    old.serve({ path: web, mode }, saying("old"));
    await old.ready();
    const early = await Http1Client.dial({ transport: "unix", path: web });
    assertEquals((await early.request()).body, "old");
    Deno.removeSync(web);
    const next = await begin(control);
    assertEquals(await askedAt(web), "old", "the one that runs puts it back");
    assertEquals(modeOf(web), mode ?? 0o600, "its mode is another one");
    assertEquals(log.warnings.length, 1);
    assertMatch(log.warnings[0], /socket file "[^"]+web\.sock" was removed.* bound anew; keep /);
    // A client that came in at the old socket is one of this server's.
    const { connections } = old.status().sockets[0];
    assertEquals(connections, 1);
    next.serve({ path: web, mode }, saying("next"));
    await next.ready();
    assertEquals(await askedAt(web), "next");
    assertEquals(modeOf(web), mode ?? 0o600);
    // It is told to leave, and answered.
    const last = await early.request();
    assertEquals([last.body, last.headers.get("connection")], ["old", "close"]);
    early[Symbol.dispose]();
    await old.finished;
    assertEquals(await askedAt(web), "next");
    await next.stop();
    assertEquals(directory.names(), []);
  });

  test(`a path that is removed after the offer is bound by the next generation, ${title}`, async () => {
    using directory = new Directory();
    const web = directory.join("web.sock");
    const control = directory.join("app.sock");
    const old = await begin(control);
    old.serve({ path: web, mode }, saying("old"));
    await old.ready();
    const next = await begin(control);
    Deno.removeSync(web);
    next.serve({ path: web, mode }, saying("next"));
    assertEquals(modeOf(web), mode ?? 0o600, "it is not there before ready()");
    await next.ready();
    assertEquals(await askedAt(web), "next");
    await old.finished;
    assertEquals(await askedAt(web), "next");
    const third = await begin(control);
    third.serve({ path: web, mode }, saying("third"));
    await third.ready();
    assertEquals(await askedAt(web), "third");
    await third.stop();
    await next.finished;
    assertEquals(directory.names(), []);
  });
}

test("clients that wait at a socket whose path was removed are served before those that come later", async () => {
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

test("a generation whose successor had bound its path anew is reachable again when that is killed", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const old = await begin(control, { peerTimeout: 1000 });
  old.serve({ path: web }, saying("old"));
  await old.ready();
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
  const next = await begin(control);
  next.serve({ path: web }, saying("next"));
  await next.ready();
  assertEquals(await askedAt(web), "next");
  await next.stop();
  await old.finished;
  assertEquals(directory.names(), []);
});

test("a generation whose successor had bound its path anew is reachable again when that is rolled back", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const old = await begin(control);
  old.serve({ path: web }, saying("old"));
  await old.ready();
  // Longer than any that the old one grants.
  const next = await begin(control, { probation: 300_001 });
  Deno.removeSync(web);
  next.serve({ path: web }, saying("next"));
  await next.ready().catch(() => {});
  await assertRejects(() => next.finished);
  await soon(async () => await answerAt(web) === "old");
  await old.stop();
  assertEquals(directory.names(), []);
});

test("a path through a symbolic link leads to the service wherever the link is put", async () => {
  using directory = new Directory();
  const releases = [1, 2, 3].map((i) => directory.join(String(i)));
  for (const release of releases) Deno.mkdirSync(release);
  const current = directory.join("current");
  const change = (release: string) => {
    Deno.symlinkSync(release, `${current}.new`);
    Deno.renameSync(`${current}.new`, current);
  };
  change(releases[0]);
  const web = `${current}/web.sock`;
  // The control socket is behind the link as well.
  const control = `${current}/app.sock`;
  const old = await begin(control);
  old.serve({ path: web }, saying("one"));
  await old.ready();
  // Before the handover: the generation that runs sees to it, as at a restart.
  change(releases[1]);
  assertEquals(await answerAt(web), "NotFound");
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
  // And during it: the next generation does.
  change(releases[2]);
  next!.serve({ path: web }, saying("two"));
  assertEquals(pathStatus(web)!.ino, ino, "it is the same socket");
  await next!.ready();
  assertEquals(await askedAt(web), "two");
  // Clients that come by way of an earlier release find it too.
  assertEquals(await askedAt(`${releases[0]}/web.sock`), "two");
  await old.finished;
  await until(() => pathStatus(control) !== undefined);
  assertEquals(await askedAt(web), "two");
  await next!.stop();
  assertEquals(pathStatus(web), undefined);
  assertEquals(pathStatus(control), undefined);
});

/** A unix datagram socket of a client, and what it sends to a path. */
function senderIn(directory: Directory, to: string) {
  const address = { transport: "unixpacket", path: to } as const;
  const socket = Deno.listenDatagram({
    transport: "unixpacket",
    path: directory.join("sender"),
  });
  return {
    send: (words: string) => socket.send(new TextEncoder().encode(words), address),
    [Symbol.dispose]: () => {
      socket.close();
      Deno.removeSync(directory.join("sender"));
    },
  };
}

async function received(socket: Deno.DatagramConn): Promise<string> {
  const [bytes] = await socket.receive();
  return new TextDecoder().decode(bytes);
}

test("a datagram path that was removed leads to the socket again, in the generation that runs and in the next", async () => {
  using directory = new Directory();
  const at = directory.join("log.sock");
  const control = directory.join("app.sock");
  using sender = senderIn(directory, at);
  const logs = [new Log(), new Log()];
  const old = await begin(control, { logger: logs[0] });
  const first = old.listenDatagram({ path: at, mode: 0o620 });
  await old.ready();
  const early = received(first);
  Deno.removeSync(at);
  const next = await begin(control, { logger: logs[1] });
  await sender.send("one");
  assertEquals(await early, "one", "who waits on the old socket waits on the new one");
  assertEquals(modeOf(at), 0o620);
  // And after the offer.
  Deno.removeSync(at);
  const second = next.listenDatagram({ path: at, mode: 0o620 });
  assertEquals(modeOf(at), 0o620);
  await sender.send("two");
  await next.ready();
  assertEquals(await received(second), "two");
  await old.finished;
  await sender.send("three");
  assertEquals(await received(second), "three");
  await until(() => next.inherited.length === 0);
  for (const { warnings, errors } of logs) {
    assertEquals([warnings.length, errors], [1, []]);
    assertMatch(warnings[0], /socket file "[^"]+log\.sock" was removed.* bound anew; keep /);
  }
  await next.stop();
  assertEquals(directory.names(), ["sender"]);
});

test("a generation has its datagram path back from a successor that had bound it anew", async () => {
  using directory = new Directory();
  const at = directory.join("log.sock");
  const control = directory.join("app.sock");
  using sender = senderIn(directory, at);
  const old = await begin(control);
  const socket = old.listenDatagram({ path: at });
  await old.ready();
  // Longer than any that the old one grants.
  const next = await begin(control, { probation: 300_001 });
  Deno.removeSync(at);
  next.listenDatagram({ path: at });
  await next.ready().catch(() => {});
  await assertRejects(() => next.finished);
  await soon(() => sender.send("back").then(() => true, () => false));
  assertEquals(await received(socket), "back");
  await old.stop();
  assertEquals(directory.names(), ["sender"]);
});

test("a datagram path that another process has is left to it, with its mode", async () => {
  using directory = new Directory();
  const at = directory.join("log.sock");
  const control = directory.join("app.sock");
  const old = await begin(control);
  old.listenDatagram({ path: at, mode: 0o666 });
  await old.ready();
  Deno.removeSync(at);
  const other = Deno.listenDatagram({ transport: "unixpacket", path: at });
  Deno.chmodSync(at, 0o640);
  const next = await begin(control);
  assertThrows(
    () => next.listenDatagram({ path: at, mode: 0o600 }),
    AddrInUse,
    `"${at}": another socket is bound there`,
  );
  assertEquals(modeOf(at), 0o640);
  await next.stop();
  await old.stop();
  assertEquals(directory.names(), ["log.sock"]);
  other.close();
});

test("a datagram path through a symbolic link that is put elsewhere leads to the same socket, and what waits there", async () => {
  using directory = new Directory();
  const releases = [1, 2, 3].map((i) => directory.join(String(i)));
  for (const release of releases) Deno.mkdirSync(release);
  const current = directory.join("current");
  const change = (release: string) => {
    Deno.symlinkSync(release, `${current}.new`);
    Deno.renameSync(`${current}.new`, current);
  };
  change(releases[0]);
  const at = `${current}/log.sock`;
  const control = directory.join("app.sock");
  using sender = senderIn(directory, at);
  const logs = [new Log(), new Log()];
  const old = await begin(control, { logger: logs[0] });
  old.listenDatagram({ path: at, name: "log" });
  await old.ready();
  await sender.send("one");
  const { ino } = pathStatus(at)!;
  // Before the handover the generation that runs sees to it; after the offer, the next one does.
  change(releases[1]);
  const next = await begin(control, { logger: logs[1] });
  await sender.send("two");
  change(releases[2]);
  const socket = next.listenDatagram({ path: at, name: "log" });
  await sender.send("three");
  assertEquals(pathStatus(at)!.ino, ino, "it is the same socket");
  await next.ready();
  for (const words of ["one", "two", "three"]) assertEquals(await received(socket), words);
  // Back again.
  await old.finished;
  change(releases[0]);
  await sender.send("four");
  assertEquals(await received(socket), "four");
  await until(() => next.inherited.length === 0);
  for (const { warnings, errors } of logs) assertEquals([warnings, errors], [[], []]);
  change(releases[2]);
  await next.stop();
  assertEquals(pathStatus(at), undefined);
});

test("a listener keeps its `backlog` when its path is bound anew while it runs", async () => {
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
  // The kernel has room for one more than it is told (net/unix/af_unix.c, `unix_recvq_full`), and one is accepted.
  assert(waiting.length <= 4, `${waiting.length} wait`);
  await app.stop();
});

test("clients that nobody accepts at the old socket are looked for by one timer, however often the path is removed", async () => {
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

test("a socket whose file was renamed stays reachable by its new name, and gets the old one again", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const moved = directory.join("moved.sock");
  const control = directory.join("app.sock");
  const old = await begin(control);
  old.serve({ path: web }, saying("old"));
  await old.ready();
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

test("a first start whose unix path is in use says that the control path may have been removed", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const app = await begin(control);
  app.serve({ path: web }, saying("here"));
  await app.ready();
  Deno.removeSync(control);
  const other = await begin(control);
  const again = () => other.serve({ path: web }, saying("no"));
  assertThrows(again, AddrInUse, `nothing listened at the control path "${control}"`);
  await other.stop();
  assertEquals(await askedAt(web), "here");
  await app.stop();
});

test("a path that another service has is left to it, with its mode, and serve() says what to do", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const log = new Log();
  const old = await begin(control, { logger: log });
  old.serve({ path: web, mode: 0o666 }, saying("old"));
  await old.ready();
  Deno.removeSync(web);
  const other = listen(web, { mode: 0o600 });
  const { ino } = pathStatus(web)!;
  const next = await begin(control);
  assertThrows(
    () => next.serve({ path: web, mode: 0o666 }, saying("next")),
    AddrInUse,
    `Cannot listen on "${web}": another instance is serving there; stop it, or listen on another path`,
  );
  assertEquals([modeOf(web), pathStatus(web)!.ino], [0o600, ino]);
  await next.stop();
  await until(() => log.errors.some((line) => line.includes("trying again: Cannot listen on")));
  assertEquals([modeOf(web), pathStatus(web)!.ino], [0o600, ino]);
  // When the other one has gone the path is the service's again.
  other.close();
  await until(async () => await answerAt(web) === "old");
  assertEquals(log.errors.filter((line) => line.includes("trying again")).length, 1);
  await old.stop();
});

test("a listener is found by another name of its path", async () => {
  using directory = new Directory();
  Deno.mkdirSync(directory.join("run"));
  Deno.symlinkSync(directory.join("run"), directory.join("link"));
  const control = directory.join("app.sock");
  const web = directory.join("run/web.sock");
  const names = [
    web,
    directory.join("link/web.sock"),
    relative(web),
    directory.join("./run/web.sock"),
  ];
  let app = await begin(control);
  app.serve({ path: web }, saying("0"));
  await app.ready();
  const { ino } = pathStatus(web)!;
  for (const [i, name] of names.entries()) {
    const old = app;
    app = await begin(control);
    app.serve({ path: name }, saying(String(i)));
    await app.ready();
    await old.finished;
    assertEquals(await askedAt(web), String(i));
    assertEquals(pathStatus(web)!.ino, ino, `the socket is another one when it is called ${name}`);
  }
  await app.stop();
  assertEquals(pathStatus(web), undefined);
});

test("a listener of a plain server is found at its path, which its socket was not bound to", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  // Bound beside it, and renamed.
  const listener = listen(web, { replace: true });
  const { ino } = pathStatus(web)!;
  const predecessor = directory.join("plain.sock");
  const server = listenAndServe(predecessor, listenerHandler(listener));
  const app = await begin(directory.join("app.sock"), { inheritFrom: predecessor });
  app.serve({ path: web }, saying("here"));
  await app.ready();
  await server.shutdown();
  listener.close();
  assertEquals(pathStatus(web)!.ino, ino);
  assertEquals(await askedAt(web), "here");
  await app.stop();
});

test("a listener of a plain server whose path another service has by now is not taken for it", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  using listener = listen(web);
  const predecessor = directory.join("plain.sock");
  await using _server = listenAndServe(predecessor, listenerHandler(listener));
  using _other = listen(web, { replace: true, mode: 0o600 });
  const app = await begin(directory.join("app.sock"), { inheritFrom: predecessor });
  assertThrows(() => app.serve({ path: web, mode: 0o666 }, saying("no")), AddrInUse, "another");
  assertEquals(modeOf(web), 0o600);
  await app.stop();
});

test("a dead socket of another user that may not be replaced is said so", {
  ignore: Deno.uid() !== 0,
}, async () => {
  using directory = new Directory();
  const nobody = 65534;
  Deno.chmodSync(directory.path, 0o1777);
  const web = directory.join("web.sock");
  const dead = listen(web, { mode: 0o666 });
  dead.keepPath();
  dead.close();
  await using child = new Child("./serve_unix_path.ts", [
    directory.join("app.sock"),
    web,
    String(nobody),
  ]);
  assertEquals(await child.line(), "started: 1");
  for (const [command, attempt] of [["serve", "listen on"], ["receive", "receive datagrams at"]]) {
    await child.tell(command);
    assertEquals(
      await child.line(),
      `failed: Cannot ${attempt} "${web}": a socket file is there whose process has ended, and which this user ` +
        "may not replace; remove it as its owner, or choose a directory of the service's own",
    );
  }
  await child.tell("stop");
  await until(() => directory.names().join() === "web.sock");
});

const noOverlay = await withoutOverlay();
if (noOverlay) console.log(`paths_test.ts: overlayfs is not tested: ${noOverlay}`);

test("what a socket is bound to is known where stat(2) shows another device than the kernel's", {
  ignore: noOverlay !== undefined,
}, async () => {
  using directory = new Directory();
  const { code, stdout, stderr } = await onOverlay(
    directory.path,
    `"$0" run -A --no-config --no-check "$1" "$DIRECTORY/merged"`,
    Deno.execPath(),
    new URL("../programs/print_bound_paths.ts", import.meta.url).pathname,
  );
  assertEquals([code, stderr], [0, ""]);
  const { known, isOther } = JSON.parse(stdout);
  assert(isOther, "the devices are the same: nothing was tested");
  assertEquals(known, [[true, false], [false, true], [false, false]]);
});

test("a control path that was removed is put back at a restart by signal, and the next one takes over", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  await using first = new Child("./generation.ts", [control, "--restartOn", "SIGHUP"]);
  let pid = 0;
  const serving = async () => {
    for (;;) if (await first.line() === "serving: 1") return;
  };
  await serving();
  Deno.removeSync(control);
  Deno.kill(first.pid, "SIGHUP");
  const rest = first.ended();
  await until(() => pathStatus(control) !== undefined);
  await until(async () => {
    const app = await begin(control, { probation: 10 }).catch(() => undefined);
    if (!app) return false;
    pid = app.generation;
    await app.ready();
    await app.stop();
    return true;
  });
  // The one that was started by the signal, and this one, or this one before it.
  assert(pid >= 2, `generation ${pid}`);
  await until(() => !isRunning(first.pid));
  await rest;
});

test("a control path that was removed is put back now and then, with a warning, and its mode", async () => {
  using directory = new Directory();
  const control = directory.join("run/app.sock");
  Deno.mkdirSync(directory.join("run"));
  const log = new Log();
  const app = await begin(control, { logger: log });
  await app.ready();
  Deno.chmodSync(control, 0o666);
  using waiting = await Deno.connect({ transport: "unix", path: control });
  // The mode is seen at the look after this one.
  await until(async () => (await restored(app), true));
  Deno.removeSync(control);
  // It is looked at by a timer.
  await until(() => pathStatus(control) !== undefined);
  assertEquals(modeOf(control), 0o666);
  assertMatch(log.warnings.join(), /^The control path "[^"]+" was removed: it was bound anew/);
  const next = await begin(control);
  assertEquals(next.generation, 2);
  await next.ready();
  await app.finished;
  waiting.close();
  await next.stop();
  assertEquals(directory.names(), ["run"]);
  assertEquals([...Deno.readDirSync(directory.join("run"))], []);
});

test("a control path whose directory is gone is put back when there is one again, and that is said once", async () => {
  using directory = new Directory();
  const control = directory.join("run/app.sock");
  Deno.mkdirSync(directory.join("run"));
  const log = new Log();
  const app = await begin(control, { logger: log });
  await app.ready();
  Deno.removeSync(directory.join("run"), { recursive: true });
  await restored(app);
  await until(() => log.errors.some((line) => /no directory for the control socket/.test(line)));
  Deno.mkdirSync(directory.join("run"));
  await until(() => pathStatus(control) !== undefined);
  assertEquals(log.errors.filter((line) => /no directory/.test(line)).length, 1);
  await app.stop();
});

test("a control path that another process has bound meanwhile is left to it, and that is said", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  const log = new Log();
  const app = await begin(control, { logger: log });
  await app.ready();
  Deno.removeSync(control);
  const other = await begin(control);
  assertEquals(other.generation, 1);
  const { ino } = pathStatus(control)!;
  await restored(app);
  await until(() => log.errors.some((line) => line.includes("another instance is serving there")));
  assertEquals(pathStatus(control)!.ino, ino);
  await other.stop();
  await until(() => pathStatus(control) !== undefined);
  assert(pathStatus(control)!.ino !== undefined);
  await app.stop();
  assertEquals(directory.names(), []);
});

test("a first start whose address is in use says that the control path may have been removed", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  const port = freePort();
  const app = await begin(control);
  app.serve({ ...here, port }, saying("here"));
  await app.ready();
  Deno.removeSync(control);
  const other = await begin(control);
  const error = assertThrows(() => other.serve({ ...here, port }, saying("no")), AddrInUse);
  assertMatch(
    error.message,
    new RegExp(
      `^Cannot listen on 127.0.0.1:${port}: .*; nothing listened at the control ` +
        `path "${control}"\\. If that was removed from under a generation of this service, it puts it back`,
    ),
  );
  await other.stop();
  await app.stop();
});

test("listen() of the library closes and leaves the files of others alone, whatever was at the path first", async () => {
  using directory = new Directory();
  const path = directory.join("a.sock");
  const native = Deno.listen({ transport: "unix", path });
  Deno.removeSync(path);
  // Its file has gone when the server takes it.
  const server = listenAndServeOn(native);
  using _other = listen(path);
  const { ino } = pathStatus(path)!;
  await server.shutdown();
  assertEquals(pathStatus(path)?.ino, ino);
});

function listenAndServeOn(listener: Deno.Listener) {
  return serve(listener, () => {}, { logger: {} });
}

/** Waits for what is to come to pass long before a generation looks at its paths by itself, every 10 s. */
async function soon(condition: () => Promise<boolean>): Promise<void> {
  const began = performance.now();
  await until(condition);
  assert(performance.now() - began < 6000, "it was seen by chance");
}

/** Has a generation look at its paths, as it does at each restart. */
async function restored(app: Generation): Promise<void> {
  await app.restart({ program: "true", args: [] }).catch(() => {});
}

/** The path from the working directory. */
function relative(path: string): string {
  return `${Deno.cwd().split("/").slice(1).map(() => "..").join("/")}${path}`;
}

/** Runs a script where "$DIRECTORY/merged" is of an overlayfs, whose two layers are on two file systems. */
async function onOverlay(directory: string, script: string, ...args: string[]) {
  const mount =
    `set -e; mount -t tmpfs none "$DIRECTORY"; cd "$DIRECTORY"; mkdir lower upper work merged
mount -t tmpfs none lower
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,xino=off merged`;
  const output = await new Deno.Command("unshare", {
    args: ["-m", "sh", "-c", `${mount}\n${script}`, ...args],
    env: { DIRECTORY: directory, NO_COLOR: "1" },
  }).output();
  const [stdout, stderr] = [output.stdout, output.stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  return { code: output.code, stdout, stderr };
}

/** Why no overlayfs can be mounted, if so. */
async function withoutOverlay(): Promise<string | undefined> {
  using directory = new Directory();
  try {
    const { code, stderr } = await onOverlay(directory.path, ":");
    return code === 0 ? undefined : stderr.trim();
  } catch (error) {
    return (error as Error).message;
  }
}
