/**
 * Datagram sockets at unix paths that are removed or led elsewhere while the service runs.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { pathStatus } from "../../ffi/file.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { begin } from "../support/in_process.ts";
import { MessageLog } from "../support/kept_log.ts";
import { linkedReleases, modeOf, soon } from "../support/unix_paths.ts";
import { until } from "../support/until.ts";

const { AddrInUse } = Deno.errors;

/** A client with a unix datagram socket, which sends to the path `to`. */
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

/** Receives the text of a datagram. */
async function received(socket: Deno.DatagramConn): Promise<string> {
  const [bytes] = await socket.receive();
  return new TextDecoder().decode(bytes);
}

test("a removed datagram path is bound anew by the predecessor before its offer, and by the successor after it", async () => {
  using directory = new Directory();
  const at = directory.join("log.sock");
  const control = directory.join("app.sock");
  using sender = senderIn(directory, at);
  const logs = [new MessageLog(), new MessageLog()];
  const old = await begin(control, { logger: logs[0] });
  const first = old.listenDatagram({ path: at, mode: 0o620 });
  await old.ready();
  const early = received(first);
  Deno.removeSync(at);
  const next = await begin(control, { logger: logs[1] });
  await sender.send("one");
  assertEquals(await early, "one", "receive() has not moved to the new socket");
  assertEquals(modeOf(at), 0o620);
  // After the offer.
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

test("a generation binds its datagram path again when the successor that had bound it anew is rolled back", async () => {
  using directory = new Directory();
  const at = directory.join("log.sock");
  const control = directory.join("app.sock");
  using sender = senderIn(directory, at);
  const old = await begin(control);
  const socket = old.listenDatagram({ path: at });
  await old.ready();
  // The predecessor refuses a probation above its limit.
  const next = await begin(control, { probation: 300_001 });
  Deno.removeSync(at);
  next.listenDatagram({ path: at });
  // `finished` rejects with the same reason.
  await next.ready().catch(() => {});
  await assertRejects(() => next.finished);
  await soon(() => sender.send("back").then(() => true, () => false));
  assertEquals(await received(socket), "back");
  await old.stop();
  assertEquals(directory.names(), ["sender"]);
});

test("listenDatagram() at a path of another process throws, and leaves the socket file and its mode alone", async () => {
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

test("a datagram path behind a symbolic link leads to the same socket and its queue after the link has changed", async () => {
  using directory = new Directory();
  const { releases, current, change } = linkedReleases(directory);
  const at = `${current}/log.sock`;
  const control = directory.join("app.sock");
  using sender = senderIn(directory, at);
  const logs = [new MessageLog(), new MessageLog()];
  const old = await begin(control, { logger: logs[0] });
  old.listenDatagram({ path: at, name: "log" });
  await old.ready();
  await sender.send("one");
  const { ino } = pathStatus(at)!;
  // The predecessor binds the path before the handover; the successor does after the offer.
  change(releases[1]);
  const next = await begin(control, { logger: logs[1] });
  await sender.send("two");
  change(releases[2]);
  const socket = next.listenDatagram({ path: at, name: "log" });
  await sender.send("three");
  assertEquals(pathStatus(at)!.ino, ino, "the path leads to another socket");
  await next.ready();
  for (const words of ["one", "two", "three"]) assertEquals(await received(socket), words);
  // The link leads to the first release again.
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
