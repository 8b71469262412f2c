import { assert, assertEquals, assertThrows } from "@std/assert";
import { type Fd, fdListener, fdPacketConn, NoDescriptorError, serveHttp } from "../../mod.ts";
import { closeRaw } from "../../ffi/fd.ts";
import { connectUnix } from "../../ffi/socket.ts";
import { Gate } from "../../lib/native/accept_switch.ts";
import { listenerDescriptor, packetConnDescriptor } from "../../lib/native/descriptor.ts";
import { trackerOf } from "../../lib/http/serve.ts";
import { test } from "../support/guard.ts";

const here = { hostname: "127.0.0.1", port: 0 };

/** A listening socket without an object. */
function listening(): { fd: Fd; port: number } {
  using native = Deno.listen(here);
  return { fd: listenerDescriptor(native), port: native.addr.port };
}

test("a listener that is off its socket accepts nothing, and accepts the queued connections when it is on again", async () => {
  const { fd, port } = listening();
  using other = fd.dup();
  using listener = fdListener(fd);
  using gate = new Gate(listener, other.dup());
  gate.shut();
  let accepted = 0;
  const accepting = listener.accept().then((conn) => {
    accepted++;
    return conn;
  });
  using client = await Deno.connect({ hostname: "127.0.0.1", port });
  using beside = fdListener(other.dup());
  using first = await beside.accept();
  assertEquals(accepted, 0, "another holder of the socket gets what comes");
  using second = await Deno.connect({ hostname: "127.0.0.1", port });
  gate.open();
  using conn = await accepting;
  assertEquals((conn.remoteAddr as Deno.NetAddr).port, (second.localAddr as Deno.NetAddr).port);
  assertEquals((first.remoteAddr as Deno.NetAddr).port, (client.localAddr as Deno.NetAddr).port);
  // Any number of times, and twice does no harm.
  for (let i = 0; i < 20; i++) {
    gate.shut();
    gate.shut();
    gate.open();
    gate.open();
    const waiting = listener.accept();
    using _client = await Deno.connect({ hostname: "127.0.0.1", port });
    (await waiting).close();
  }
});

/** The names of listening unix sockets of this network namespace (proc(5), "/proc/net/unix"). */
function unixNames(): Set<string> {
  const lines = Deno.readTextFileSync("/proc/net/unix").split("\n").slice(1);
  return new Set(lines.map((line) => line.split(" ").at(-1)!.replace(/^@/, "\0")));
}

test("no process can connect to the socket that a native object is put on", async () => {
  const before = unixNames();
  const { fd, port } = listening();
  using other = fd.dup();
  const server = serveHttp(fd, () => new Response("hello"));
  using gate = new Gate(server, other.dup());
  gate.shut();
  // What has appeared since is this test's, or another process's of this very turn.
  for (const name of unixNames().difference(before)) {
    if (!name.includes("graceful-")) continue;
    assertThrows(() => closeRaw(connectUnix(name, "Cannot connect")), Error, "Cannot connect");
  }
  gate.open();
  const answer = await fetch(`http://127.0.0.1:${port}`, { headers: { connection: "close" } });
  assertEquals(await answer.text(), "hello");
  await server.shutdown();
});

test("a server that is switched off in the turn in which it was made accepts no connection before", async () => {
  for (let i = 0; i < 10; i++) {
    const { fd, port } = listening();
    using other = fd.dup();
    using _client = await Deno.connect({ hostname: "127.0.0.1", port });
    const server = serveHttp(fd, () => new Response("early"));
    using gate = new Gate(server, other.dup());
    gate.shut();
    await new Promise((resolve) => setTimeout(resolve, 5));
    // It is still in the queue, for whoever accepts.
    using beside = fdListener(other.dup());
    (await beside.accept()).close();
    gate.open();
    assertEquals(await (await fetch(`http://127.0.0.1:${port}`)).text(), "early");
    assert(trackerOf(server));
    await server.shutdown();
  }
});

test("a datagram socket that is switched off receives nothing, and receives the queued datagrams when it is on again", async () => {
  const native = Deno.listenDatagram({ transport: "udp", ...here });
  const fd = packetConnDescriptor(native);
  const address = native.addr as Deno.NetAddr;
  native.close();
  const socket = fdPacketConn(fd.dup());
  using gate = new Gate(socket, fd);
  gate.shut();
  let received = false;
  const receiving = socket.receive().finally(() => received = true);
  const sender = Deno.listenDatagram({ transport: "udp", ...here });
  await sender.send(Uint8Array.of(1, 2, 3), { ...address, transport: "udp" });
  await new Promise((resolve) => setTimeout(resolve, 5));
  assertEquals(received, false);
  gate.open();
  const [bytes] = await receiving;
  assertEquals([...bytes], [1, 2, 3]);
  sender.close();
  socket.close();
});

test("the switch of a closed object does not touch the number's new descriptor", async () => {
  const { fd } = listening();
  const listener = fdListener(fd.dup());
  using gate = new Gate(listener, fd);
  assertEquals(gate.closed, false);
  listener.close();
  assertEquals(gate.closed, true);
  // One of these has the number now.
  const others = Array.from({ length: 8 }, () => Deno.listen(here));
  gate.shut();
  gate.open();
  for (const other of others) {
    const accepting = other.accept();
    using _client = await Deno.connect({ hostname: "127.0.0.1", port: other.addr.port });
    (await accepting).close();
    other.close();
  }
});

test("only an adopted object can be switched off", () => {
  using native = Deno.listen(here);
  using fd = listenerDescriptor(native);
  assertThrows(() => new Gate(native, fd), NoDescriptorError);
});
