/**
 * Listeners, sockets, files, state and connections that the next generation gets from its predecessor.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { type Fd, fdConn } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { begin, here, portOf } from "../support/in_process.ts";
import { KeptLog } from "../support/kept_log.ts";
import { Sockets } from "../support/raw.ts";
import { until } from "../support/until.ts";

test("listeners are inherited by address: a new address is bound, and a listener that is not asked for is closed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [one, two] = [directory.join("one.sock"), directory.join("two.sock")];
  const old = await begin(path);
  const both = [1, 2].map(() => old.listen({ ...here, reusePort: true }));
  const tcp = old.listen(here);
  const unix = old.listen({ path: one, mode: 0o660 });
  old.listen({ path: two });
  const gone = old.listen({ hostname: "127.0.0.2", port: 0 });
  await old.ready();
  assertEquals(Deno.statSync(one).mode! & 0o777, 0o660);

  const log = new KeptLog();
  const next = await begin(path, { logger: log });
  const again = [1, 2].map(() => next.listen({ ...here, reusePort: true }));
  assertEquals(again.map(portOf), both.map(portOf), "two of one address stay two, in order");
  assertEquals(portOf(next.listen(here)), portOf(tcp));
  const unixAgain = next.listen({ path: one, mode: 0o660 });
  assertEquals(unixAgain.addr, unix.addr);
  const fresh = next.listen({ hostname: "127.0.0.3", port: 0 });
  assert(portOf(fresh) > 0);
  await next.ready();
  await old.finished;
  const [swapped] = log.warnings.splice(0, 1);
  assertStringIncludes(String(swapped[0]), "2 listeners at 127.0.0.1:0");
  await until(() => log.warnings.length > 0);
  const named = `: the listener at "${two}", the listener at 127.0.0.2:${portOf(gone)}. `;
  assertStringIncludes(String(log.warnings[0][0]), named);
  assertEquals(directory.names(), ["app.sock", "one.sock"]);
  await assertRejects(
    () => Deno.connect({ hostname: "127.0.0.2", port: portOf(gone) }),
    Deno.errors.ConnectionRefused,
  );
  const accepting = unixAgain.accept();
  using _client = await Deno.connect({ transport: "unix", path: one });
  (await accepting).close();
  await next.stop();
  assertEquals(directory.names(), []);
});

test("datagram sockets, files, descriptors and state are handed over", async () => {
  using directory = new Directory();
  using sockets = new Sockets(1);
  const path = directory.join("app.sock");
  const old = await begin(path);
  const udp = old.listenDatagram(here);
  const file = old.open(directory.join("log"), { create: true, append: true });
  await file.write(new TextEncoder().encode("old "));
  let count = 1;
  old.keep("count", () => Uint8Array.of(count));
  old.keep("fixed", Uint8Array.of(7, 7));
  old.keep("socket", sockets.raws[0]);
  old.keep("replaced", new Uint8Array(1));
  old.keep("replaced", new Uint8Array(0));
  await old.ready();
  assertEquals(old.status().kept, [
    "count",
    "fixed",
    "socket",
    "replaced",
    directory.join("log"),
  ]);
  count = 2;

  const next = await begin(path);
  assertEquals(next.take("count"), Uint8Array.of(2), "state is that of the handover");
  assertEquals(next.take("count"), undefined, "once");
  assertEquals(next.take("fixed"), Uint8Array.of(7, 7));
  assertEquals(next.take("replaced"), new Uint8Array(0));
  assertEquals(next.take("nothing"), undefined);
  using socket = next.take("socket") as Fd;
  assertEquals(Sockets.cookie(socket.raw), sockets.cookies[0]);
  const udpAgain = next.listenDatagram(here);
  assertEquals(udpAgain.addr, udp.addr);
  using fileAgain = next.open(directory.join("log"), { create: true, append: true });
  await fileAgain.write(new TextEncoder().encode("next"));
  assertEquals(Deno.readTextFileSync(directory.join("log")), "old next");
  await next.ready();
  const receiving = udpAgain.receive();
  await udpAgain.send(Uint8Array.of(5), udpAgain.addr);
  assertEquals([...(await receiving)[0]], [5]);
  await old.finished;
  file.close();
  await next.stop();
});

test("an inherited file is the same open file: both generations share its offset", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const name = directory.join("data");
  Deno.writeTextFileSync(name, "one two");
  const old = await begin(path);
  using file = old.open(name, { read: true });
  await file.read(new Uint8Array(4));
  await old.ready();
  const next = await begin(path);
  using again = next.open(name, { read: true });
  const rest = new Uint8Array(10);
  assertEquals(await again.read(rest), 3);
  await next.ready();
  await old.finished;
  await next.stop();
});

/** Starts a generation that has accepted a connection of `client`. */
async function connected(path: string) {
  const old = await begin(path);
  const listener = old.listen(here);
  await old.ready();
  const accepting = listener.accept();
  const client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(listener) });
  return { old, conn: await accepting, client };
}

test("move() hands over a connection with its state, and the next generation reads the bytes that are left", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { old, conn, client } = await connected(path);
  using _client = client;
  await client.write(new TextEncoder().encode("hello"));
  assertEquals(await conn.read(new Uint8Array(2)), 2);
  const reading = conn.read(new Uint8Array(2));
  await reading;
  const moved = Promise.withResolvers<boolean>();
  old.draining.addEventListener("abort", () => {
    moved.resolve(old.move("greeting", conn, Uint8Array.of(1, 2)));
  });
  assertEquals(await old.move("too early", conn), false);

  const next = await begin(path);
  next.listen(here);
  await next.ready();
  const names: string[] = [];
  for await (const { name, fd, state } of next.arrivals()) {
    names.push(name);
    assertEquals(state, Uint8Array.of(1, 2));
    const again = await fdConn(fd);
    const rest = new Uint8Array(10);
    assertEquals(await again.read(rest), 1);
    assertEquals(rest[0], "o".charCodeAt(0));
    await again.write(new TextEncoder().encode("!"));
    again.close();
  }
  assertEquals(names, ["greeting"]);
  assertEquals(await moved.promise, true);
  assertEquals(await client.read(new Uint8Array(2)), 1);
  await old.finished;
  await next.stop();
});

test("a moved connection is closed when the program does not call arrivals()", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { old, conn, client } = await connected(path);
  using _client = client;
  old.draining.addEventListener("abort", () => void old.move("unwanted", conn));
  const next = await begin(path);
  next.listen(here);
  await next.ready();
  await old.finished;
  await next.stop();
  assertEquals(await client.read(new Uint8Array(1)), null);
});
