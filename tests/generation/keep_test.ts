/**
 * The listeners, connections, datagram sockets and files that a program keeps for the next generation.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import dgram from "node:dgram";
import { once } from "node:events";
import fs from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { Fd, isOpen } from "../../ffi/fd.ts";
import { fileStatus } from "../../ffi/file.ts";
import { socketKind } from "../../ffi/socket_options.ts";
import {
  connect,
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  type Keepable,
  listen,
  NoDescriptorError,
  type UnixConn,
} from "../../mod.ts";
import { findAny } from "../../lib/native/descriptor.ts";
import { DisposableStack } from "../../lib/disposable_stack.ts";
import { begin, here, portOf, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

const hostname = "127.0.0.1";

/** Keeps values, and takes them in the next generation; then stops both. */
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

test("keep() takes listeners and servers of Deno, Node and this library, and they accept in the next generation", async () => {
  using directory = new Directory();
  using tcp = Deno.listen(here);
  using unix = Deno.listen({ transport: "unix", path: directory.join("unix") });
  const own = listen(directory.join("own"));
  const server = Deno.serve({ ...here, onListen() {} }, saying("old"));
  const nodeNet = net.createServer().listen(directory.join("node"));
  const nodeHttp = http.createServer().listen(0, hostname);
  await Promise.all([nodeNet, nodeHttp].map((server) => once(server, "listening")));
  await handedOver({ tcp, unix, own, server, nodeNet, nodeHttp }, async (taken) => {
    // The path of a listener of this library belongs to the next generation now: close() does not remove it.
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

test("keep() finds the descriptors of the generation's own sockets, also while they do not accept", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const server = old.serve({ path: directory.join("web.sock") }, () => new Response());
  const objects = {
    server,
    listener: old.listen(here),
    datagrams: old.listenDatagram({ path: directory.join("log.sock") }),
  };
  /** The inode of each socket that is found. */
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
  // While the old generation drains.
  let late: unknown;
  old.draining.addEventListener("abort", () => late = found());
  await next.ready();
  await old.finished;
  assertEquals(late, early);
  await next.stop();
});

test("a Deno listener that is closed after keep() accepts no connection that the next generation should get", async () => {
  const tcp = Deno.listen(here);
  await handedOver({ tcp }, async (taken) => {
    tcp.close();
    using listener = fdListener(taken("tcp"));
    using conn = await Deno.connect({ hostname, port: portOf(listener) });
    using accepted = await listener.accept();
    assertEquals(accepted.remoteAddr, conn.localAddr);
  });
});

test("keep() takes connections of Deno, Node and this library, and close() here does not end them in the next generation", async () => {
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
  // A connection that is kept in the same turn in which it was accepted.
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

test("keep() takes datagram sockets and files of Deno and Node", async () => {
  using directory = new Directory();
  const udp = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const unix = Deno.listenDatagram({ transport: "unixpacket", path: directory.join("d") });
  const node = dgram.createSocket("udp4");
  node.bind(0, hostname);
  await once(node, "listening");
  using file = Deno.openSync(directory.join("file"), { create: true, write: true });
  const handle = await fs.open(directory.join("handle"), "w");
  // A file that is being written is busy: its descriptor is found afterwards.
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

test("keep() refuses values without a descriptor that can be sent, and the value kept under the name before stays", async () => {
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
  // A TLS listener is accepted: unlike a connection it has no session keys.
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

test("keep() logs a unix connection that was closed meanwhile, and the handover goes on without it", async () => {
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

function closed(server: net.Server): Promise<unknown> {
  const over = once(server, "close");
  server.close();
  return over;
}
