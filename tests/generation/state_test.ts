/**
 * What a program keeps for the next generation, what that finds of it, and when it is alone.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import dgram from "node:dgram";
import { once } from "node:events";
import fs from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { Fd, isOpen } from "../../ffi/fd.ts";
import { fileStatus } from "../../ffi/file.ts";
import { socketKind } from "../../ffi/socket.ts";
import {
  connect,
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  type Generation,
  HandoverError,
  type Keepable,
  listen,
  NoDescriptorError,
  TestService,
  type UnixConn,
} from "../../mod.ts";
import { findAny } from "../../lib/native/descriptor.ts";
import { DisposableStack } from "../../lib/disposable_stack.ts";
import { begin, here, portOf, quietly, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

const hostname = "127.0.0.1";

/** What the next generation takes of what one has kept; both are stopped. */
async function handedOver(
  kept: Record<string, Keepable>,
  use: (taken: (name: string) => Fd) => void | Promise<void>,
): Promise<void> {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  for (const [name, value] of Object.entries(kept)) old.keep(name, value);
  assertEquals(old.status().kept, Object.keys(kept));
  await old.ready();
  const next = await begin(path);
  using all = new DisposableStack();
  const taken = Object.keys(kept).map((name) => {
    const fd = next.take(name);
    if (!(fd instanceof Fd)) throw new Error(`${name} is ${fd}`);
    all.use(fd);
    return [name, fd] as const;
  });
  assertEquals(
    Object.keys(kept).map((name) => next.take(name)),
    Object.keys(kept).map(() => undefined),
  );
  await next.ready();
  await old.finished;
  const byName = new Map(taken);
  await use((name) => byName.get(name)!);
  await next.stop();
}

test("listeners and servers of every make are kept, and accept in the next generation", async () => {
  using directory = new Directory();
  using tcp = Deno.listen(here);
  using unix = Deno.listen({ transport: "unix", path: directory.join("unix") });
  const own = listen(directory.join("own"));
  const server = Deno.serve({ ...here, onListen() {} }, saying("old"));
  const nodeNet = net.createServer().listen(directory.join("node"));
  const nodeHttp = http.createServer().listen(0, hostname);
  await Promise.all([nodeNet, nodeHttp].map((server) => once(server, "listening")));
  await handedOver({ tcp, unix, own, server, nodeNet, nodeHttp }, async (taken) => {
    // Of ours, the path is the next generation's: closing it here leaves it where it is.
    own.close();
    const port = (server: net.Server) => (server.address() as net.AddressInfo).port;
    const places: Record<string, Deno.ConnectOptions | Deno.UnixConnectOptions> = {
      tcp: { hostname, port: portOf(tcp) },
      unix: { transport: "unix", path: directory.join("unix") },
      own: { transport: "unix", path: directory.join("own") },
      server: { hostname, port: portOf(server) },
      nodeNet: { transport: "unix", path: directory.join("node") },
      nodeHttp: { hostname, port: port(nodeHttp) },
    };
    for (const [name, place] of Object.entries(places)) {
      assertEquals(socketKind(taken(name).raw)?.listening, true, name);
      using _conn = await Deno.connect(place as Deno.ConnectOptions);
    }
    await Promise.all([server.shutdown(), closed(nodeNet), closed(nodeHttp)]);
  });
});

test("what a generation listens on itself is found also while it does not accept", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const server = old.serve({ path: directory.join("web.sock") }, () => new Response());
  const objects = {
    server,
    listener: old.listen(here),
    datagrams: old.listenDatagram({ path: directory.join("log.sock") }),
  };
  /** Which sockets are found. */
  const found = () =>
    Object.entries(objects).map(([name, object]) => {
      const { fd } = findAny(object);
      const { ino } = fileStatus(fd.raw);
      fd.close();
      return [name, ino];
    });
  const early = found();
  const closed = old.listen(here);
  closed.close();
  assertThrows(() => findAny(closed), NoDescriptorError);
  await old.ready();
  assertEquals(found(), early);
  for (const [name, object] of Object.entries(objects)) old.keep(name, object);
  const next = await begin(path);
  const taken = Object.keys(objects).map((name) => {
    using fd = next.take(name) as Fd;
    return [name, fileStatus(fd.raw).ino];
  });
  assertEquals(taken, early);
  next.serve({ path: directory.join("web.sock") }, () => new Response());
  next.listen(here);
  next.listenDatagram({ path: directory.join("log.sock") });
  // It accepts no more, and answers what it has.
  let late: unknown;
  old.draining.addEventListener("abort", () => late = found());
  await next.ready();
  await old.finished;
  assertEquals(late, early);
  await next.stop();
});

test("what accepts by itself leaves to the listener that was kept when it is closed", async () => {
  const tcp = Deno.listen(here);
  await handedOver({ tcp }, async (taken) => {
    tcp.close();
    using listener = fdListener(taken("tcp"));
    using conn = await Deno.connect({ hostname, port: portOf(listener) });
    using accepted = await listener.accept();
    assertEquals(accepted.remoteAddr, conn.localAddr);
  });
});

test("connections of every make are kept, and go on in the next generation though they are closed here", async () => {
  using directory = new Directory();
  const path = directory.join("unix");
  using tcp = Deno.listen(here);
  using unix = Deno.listen({ transport: "unix", path });
  const port = portOf(tcp);
  const peers: Record<string, Deno.Conn> = {};
  const conns: Record<string, Deno.Conn | net.Socket | UnixConn> = {};
  const put = async (name: string, conn: Deno.Conn | net.Socket | UnixConn, at: Deno.Listener) => {
    conns[name] = conn;
    peers[name] = await at.accept();
  };
  await put("tcp", await Deno.connect({ hostname, port }), tcp);
  await put("unix", await Deno.connect({ transport: "unix", path }), unix);
  await put("own", await connect(path), unix);
  const nodeTcp = net.connect(port, hostname);
  await put("nodeTcp", nodeTcp, tcp);
  const nodeUnix = net.connect(path);
  await put("nodeUnix", nodeUnix, unix);
  // One that is kept in the very turn in which it was accepted.
  const far = await Deno.connect({ transport: "unix", path });
  const fresh = await unix.accept();
  conns.fresh = fresh;
  peers.fresh = far;
  await handedOver(conns, async (taken) => {
    for (const conn of Object.values(conns)) "destroy" in conn ? conn.destroy() : conn.close();
    for (const [name, peer] of Object.entries(peers)) {
      using moved = await fdConn(taken(name));
      await moved.write(new TextEncoder().encode(name));
      const read = new Uint8Array(100);
      const n = await peer.read(read);
      assertEquals(new TextDecoder().decode(read.subarray(0, n!)), name);
      peer.close();
    }
  });
});

test("datagram sockets and files of every make are kept", async () => {
  using directory = new Directory();
  const udp = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const unix = Deno.listenDatagram({ transport: "unixpacket", path: directory.join("d") });
  const node = dgram.createSocket("udp4");
  node.bind(0, hostname);
  await once(node, "listening");
  using file = Deno.openSync(directory.join("file"), { create: true, write: true });
  const handle = await fs.open(directory.join("handle"), "w");
  // While a file is written it is busy, and found when it is not any more.
  const writing = file.write(new Uint8Array(8_000_000));
  const kept = { udp, unix, node, file, handle, number: 2, fd: new Fd(2).dup() };
  await handedOver(kept, async (taken) => {
    assertEquals(await writing, 8_000_000);
    for (const name of ["udp", "unix", "node"]) {
      const socket = fdPacketConn(taken(name));
      assertEquals(
        socket.addr,
        {
          udp: udp.addr,
          unix: unix.addr,
          node: { transport: "udp", hostname, port: node.address().port },
        }[name],
      );
      socket.close();
    }
    using again = fdFile(taken("file"));
    assertEquals(again.seekSync(0, Deno.SeekMode.Current), 8_000_000);
    const { ino } = Deno.statSync(directory.join("handle"));
    assertEquals(fileStatus(taken("handle").raw).ino, BigInt(ino!));
    assert(isOpen(taken("number").raw));
    taken("fd");
  });
  kept.fd.close();
  udp.close();
  unix.close();
  node.close();
  await once(node, "close");
  await handle.close();
});

test("what has no descriptor that can be sent is refused at keep(), and what was kept under the name stays", async () => {
  using directory = new Directory();
  const text = (name: string) => Deno.readTextFileSync(new URL(`../data/${name}`, import.meta.url));
  const cert = text("localhost.crt");
  using listener = Deno.listenTls({ ...here, cert, key: text("localhost.key") });
  const [tls, accepted] = await Promise.all([
    Deno.connectTls({ hostname: "localhost", port: portOf(listener), caCerts: [cert] }),
    listener.accept().then(async (conn) => {
      await conn.handshake();
      return conn;
    }),
  ]);
  const app = await begin(directory.join("app.sock"));
  app.keep("it", Buffer.from("state"));
  const refused = (value: unknown, words: string) =>
    assertThrows(() => app.keep("it", value as Keepable), NoDescriptorError, words);
  refused(tls, "A TLS connection cannot be passed on");
  refused(accepted, "A TLS connection cannot be passed on");
  for (const value of [null, undefined, "text", true]) {
    assertThrows(() => app.keep("it", value as unknown as Keepable), TypeError, "can be kept");
  }
  for (const value of [{}, [], new Date(), new Map()]) refused(value, "No listener");
  const later = () =>
    app.keep("it", (async () => await Promise.resolve(new Uint8Array())) as unknown as Keepable);
  assertThrows(later, TypeError, 'Cannot keep "it": its function is async');
  const closed = Deno.listen(here);
  closed.close();
  refused(closed, "it was closed");
  refused(net.createServer(), "This server does not listen");
  const file = Deno.openSync(directory.join("file"), { create: true, write: true });
  file.close();
  refused(file, "is it open?");
  assertThrows(() => app.keep("x".repeat(1 << 21), new Uint8Array()), RangeError, "characters");
  // Its keys are in this process, and a listener has none.
  app.keep("tls", listener);
  await app.ready();
  const next = await begin(directory.join("app.sock"));
  assertEquals(new TextDecoder().decode(next.take("it") as Uint8Array), "state");
  (next.take("tls") as Fd).close();
  await next.ready();
  await next.stop();
  tls.close();
  accepted.close();
});

test("a unix connection that turns out to be closed is logged, and hinders no handover", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = Deno.listen({ transport: "unix", path: directory.join("unix") });
  const peer = await Deno.connect({ transport: "unix", path: directory.join("unix") });
  const conn = await listener.accept();
  conn.close();
  peer.close();
  const errors: string[] = [];
  const old = await begin(path, { logger: { error: (message) => errors.push(message) } });
  old.keep("gone", conn);
  await old.ready();
  const next = await begin(path);
  assertEquals(errors, [`Cannot keep "gone"; the next generation does not get it`]);
  assertEquals([next.take("gone"), old.status().kept], [undefined, []]);
  await next.ready();
  await next.stop();
});

test("what was inherited and not asked for is listed, until it is asked for or closed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [web, log] = [directory.join("web.sock"), directory.join("log")];
  const old = await begin(path);
  assertEquals(old.inherited, []);
  const named = old.listen({ ...here, name: "customer 1" });
  old.listen({ path: web });
  const datagrams = old.listenDatagram({ hostname: "127.0.0.2", port: 0 });
  using _file = old.open(log, { create: true, append: true });
  old.keep("pipe", 2);
  old.keep("state", new Uint8Array(3));
  await old.ready();
  const next = await begin(path);
  const all = next.inherited;
  assertEquals(all, [
    { kind: "listener", name: "customer 1", address: `127.0.0.1:${portOf(named)}` },
    { kind: "listener", address: JSON.stringify(web) },
    { kind: "datagram", address: `127.0.0.2:${portOf(datagrams)}` },
    { kind: "file", name: log },
    { kind: "kept", name: "pipe" },
    { kind: "state", name: "state" },
  ]);
  // What is found there can be asked for.
  const [{ name }] = all;
  assertEquals(portOf(next.listen({ ...here, name })), portOf(named));
  (next.take("pipe") as Fd).close();
  next.take("state");
  assertEquals(next.inherited, all.slice(1, 4));
  await next.ready();
  await old.finished;
  await until(() => next.inherited.length === 0);
  assertEquals(next.status().sockets.length, 1);
  await next.stop();
});

test("a generation is alone at once, or when the one before it has answered its clients", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  await old.alone;
  const answer = Promise.withResolvers<Response>();
  const asks = Promise.withResolvers<void>();
  const server = old.serve(quietly, () => {
    asks.resolve();
    return answer.promise;
  });
  await old.ready();
  const port = portOf(server);
  using client = await Deno.connect({ hostname, port });
  await client.write(new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"));
  await asks.promise;
  const next = await begin(path);
  next.serve(quietly, saying("next"));
  let isAlone = false;
  const alone = next.alone.then(() => isAlone = true);
  await next.ready();
  await until(() => old.status().state === "draining");
  assertEquals([isAlone, next.status().predecessor?.generation], [false, 1]);
  answer.resolve(new Response("late"));
  await alone;
  assertEquals(next.status().predecessor, undefined);
  await next.stop();
});

test("a generation that is rolled back, or leaves before its predecessor, is never alone", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { readyTimeout: 50 });
  await old.ready();
  const late = await begin(path);
  assertEquals(
    (await assertRejects(() => late.alone, HandoverError)).code,
    "ERR_HANDOVER_ROLLED_BACK",
  );
  await late.stop();
  const stopped = await begin(path);
  const alone = assertRejects(() => stopped.alone, HandoverError, "ended before");
  await stopped.stop();
  await alone;
  await old.stop();
});

test("each state is in memory of its own", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const lengths = [1, 5, 70_000, 2, 0];
  for (const length of lengths) old.keep(`${length}`, new Uint8Array(length).fill(length));
  await old.ready();
  const next = await begin(path);
  const states = lengths.map((length) => next.take(`${length}`) as Uint8Array);
  assertEquals(states, lengths.map((length) => new Uint8Array(length).fill(length)));
  assertEquals(states.map(({ buffer }) => buffer.byteLength), lengths);
  await next.ready();
  await next.stop();
});

const name = (i: number) => `session-${i}-${"x".repeat(20)}`;

/** Hands `n` states over in this process; gives the milliseconds that taking `take` of them took. */
async function takeOf(n: number, take: number, look?: (app: Generation) => Promise<void>) {
  let took = 0;
  async function main(app: Generation): Promise<void> {
    if (app.generation > 1) {
      const began = performance.now();
      for (let i = 0; i < take; i++) assert(app.take(name(i)) instanceof Uint8Array);
      took = performance.now() - began;
      assertEquals(app.inherited.length, n - take);
    } else {
      for (let i = 0; i < n; i++) app.keep(name(i), new Uint8Array(16));
    }
    await app.ready();
    await app.finished;
  }
  await using service = new TestService(main, { logger: {}, peerTimeout: 60_000 });
  await look?.(await service.next());
  if (!look) await service.next();
  await service.next();
  return took;
}

test("take() costs the same whatever else was kept", async () => {
  const few: number[] = [], many: number[] = [];
  // Side by side, for the noise of the machine.
  for (let i = 0; i < 3; i++) {
    few.push(await takeOf(5000, 5000));
    many.push(await takeOf(40_000, 40_000));
  }
  const [least, most] = [few, many].map((times) => Math.min(...times));
  // 8 times as many take some 10 times as long; where each looks through all that is left, 300 times.
  assert(most < 64 * Math.max(least, 1), `${least} and ${most} ms`);
});

test("300,000 states are handed over, and the status tells how many there are", async () => {
  await takeOf(300_000, 1, async (app) => {
    assertEquals(app.status().kept.length, 300_000);
    const cli = new URL("../../lib/cli.ts", import.meta.url).pathname;
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", cli, "status", "--timeout", "60", app.path],
    }).output();
    const words = new TextDecoder().decode(stdout);
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    const lines = words.trim().split("\n").filter((line) => line.startsWith("keeps"));
    const rest = Number(/^keeps +(\d+) more$/.exec(lines.pop()!)?.[1]);
    assertEquals(lines.length + rest, 300_000);
    assertEquals(lines[0], `keeps       ${JSON.stringify(name(0))}`);
  });
});

/** Waits until something is so. */
async function until(is: () => boolean): Promise<void> {
  while (!is()) await new Promise((resolve) => setTimeout(resolve, 5));
}

function closed(server: net.Server): Promise<unknown> {
  const over = once(server, "close");
  server.close();
  return over;
}
