import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { libc } from "../../ffi/libc.ts";
import { closeAll, closeRaw, Fd, isOpen } from "../../ffi/fd.ts";
import { fileStatus, offsetOf } from "../../ffi/file.ts";
import { IncomingMessage, OutgoingMessage, wouldBlock } from "../../ffi/message.ts";
import { accept, localAddress, peerAddress, socketPair } from "../../ffi/socket.ts";
import { socketCookie, socketKind } from "../../ffi/socket_options.ts";
import { pause } from "../../lib/time.ts";
import type { ConnLike, FileLike, ListenerLike, PacketConnLike } from "../../lib/native/objects.ts";
import { fileDescriptor } from "../../lib/native/file_descriptor.ts";
import { listenerDescriptor, packetConnDescriptor } from "../../lib/native/descriptor.ts";
import {
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  listen,
  NoDescriptorError,
  receiveFrom,
  sendConnTo,
  serveHttp,
  UnixConn,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { until } from "../support/until.ts";
import { connDescriptor, leaveConn } from "../support/conn_descriptor.ts";
import { test } from "../support/guard.ts";

/** Moves the offset, for every descriptor of the same description. */
function seekTo(raw: number, offset: number): void {
  libc().lseek(raw, BigInt(offset), c.SEEK_SET);
}

const localhost = { hostname: "127.0.0.1", port: 0 };
const abstractName = () => `\0descriptor-${crypto.randomUUID()}`;
const outgoing = new OutgoingMessage(1 << 16);
const incoming = new IncomingMessage(1 << 16);

/** Sends one byte through a descriptor, past any object that stands on it. */
function sendByte(raw: number, byte: number): void {
  outgoing.data[0] = byte;
  assertEquals(outgoing.send(raw, 0, 1, 0), 1);
}

/** Writes one byte. */
async function writeByte(conn: Deno.Conn, byte: number): Promise<void> {
  assertEquals(await conn.write(Uint8Array.of(byte)), 1);
}

/** The next byte that a native connection reads; null at the end. */
async function readByte(conn: Deno.Conn): Promise<number | null> {
  const byte = new Uint8Array(1);
  return await conn.read(byte) === null ? null : byte[0];
}

/** Two native connections to each other. */
async function tcpPair(hostname = "127.0.0.1"): Promise<[Deno.TcpConn, Deno.TcpConn]> {
  using listener = Deno.listen({ hostname, port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  return await Promise.all([Deno.connect({ hostname, port }), listener.accept()]);
}

/** Two native connections to each other, both of them used before. */
async function unixPair(): Promise<[Deno.UnixConn, Deno.UnixConn]> {
  const path = abstractName();
  using listener = Deno.listen({ transport: "unix", path });
  const pair = await Promise.all([Deno.connect({ transport: "unix", path }), listener.accept()]);
  await Promise.all(pair.map((conn) => writeByte(conn, 0)));
  await Promise.all(pair.map(readByte));
  return pair;
}

function closeEach(...objects: { close(): void }[]): void {
  for (const object of objects) object.close();
}

/** Fails unless connections that are made with `dial` queue at `fd`. */
async function assertAcceptsOn(fd: Fd, dial: () => Promise<Deno.Conn>): Promise<void> {
  assertEquals(socketKind(fd.raw)?.listening, true);
  using conn = await dial();
  await until(() => {
    const raw = accept(fd.raw, "Cannot accept");
    if (raw < 0) return false;
    sendByte(raw, 42);
    closeRaw(raw);
    return true;
  });
  assertEquals(await readByte(conn), 42);
}

// Listeners and servers

for (const hostname of ["127.0.0.1", "::1", "0.0.0.0", "::"]) {
  test(`a listener's descriptor is the socket that it accepts on: TCP on ${hostname}`, async () => {
    using listener = Deno.listen({ hostname, port: 0 });
    // Others that must not be taken for it, one of them on the same port where that is possible.
    using _other = Deno.listen({ hostname, port: 0 });
    using fd = listenerDescriptor(listener);
    const to = { 0: "127.0.0.1", "::": "::1" }[hostname.replace(/(\.0)+$/, "")] ?? hostname;
    const { port } = listener.addr as Deno.NetAddr;
    await assertAcceptsOn(fd, () => Deno.connect({ hostname: to, port }));
  });
}

test("a listener's descriptor is the socket that it accepts on: a unix path", async () => {
  using directory = new Directory();
  await assertUnix(directory.join("a.sock"));
});

const abstractShown = showsAbstract();

test("a listener's descriptor is the socket that it accepts on: an abstract name", {
  ignore: !abstractShown,
}, () => assertUnix(abstractName()));

/** Whether this Deno says the name of an abstract listener; older ones say null. */
function showsAbstract(): boolean {
  using listener = Deno.listen({ transport: "unix", path: abstractName() });
  if (listener.addr.path) return true;
  console.log("Abstract listeners are skipped: this Deno does not say their name");
  return false;
}

async function assertUnix(path: string): Promise<void> {
  using listener = Deno.listen({ transport: "unix", path });
  using _other = Deno.listen({ transport: "unix", path: `${path}.other` });
  using fd = listenerDescriptor(listener);
  await assertAcceptsOn(fd, () => Deno.connect({ transport: "unix", path }));
}

test("a listener of one address is told from one of another on the same port", () => {
  const hostnames = ["127.0.0.1", "127.0.0.2", "::1"];
  const port = freePort(...hostnames);
  using stack = new DisposableStack();
  for (const listener of hostnames.map((hostname) => stack.use(Deno.listen({ hostname, port })))) {
    using fd = listenerDescriptor(listener);
    assertEquals(localAddress(fd.raw), { ...listener.addr });
  }
});

test("a listener is told from the connections that it accepted", async () => {
  using directory = new Directory();
  for (const options of [localhost, { transport: "unix" as const, path: directory.join("a") }]) {
    using listener = listenAny(options);
    const accepting = listener.accept();
    using _conn = await listener.dial();
    using _accepted = await accepting;
    using fd = listenerDescriptor(listener.native);
    assertEquals(socketKind(fd.raw)?.listening, true);
  }
});

test("a server's descriptor is the socket that it accepts on: TCP and unix", async () => {
  using directory = new Directory();
  const path = directory.join("a.sock");
  const handler = () => new Response();
  const tcp = Deno.serve({ ...localhost, onListen() {} }, handler);
  const unix = Deno.serve({ path, onListen() {} }, handler);
  using tcpFd = listenerDescriptor(tcp);
  using unixFd = listenerDescriptor(unix);
  assertEquals(localAddress(unixFd.raw), { transport: "unix", path });
  // Only when the server has gone do connections stay in the queue.
  const { port } = tcp.addr;
  await Promise.all([tcp.shutdown(), unix.shutdown()]);
  await assertAcceptsOn(tcpFd, () => Deno.connect({ ...localhost, port }));
  // Newer versions of Deno remove the path of a server that ended.
  assertEquals(socketKind(unixFd.raw), { domain: "unix", type: "stream", listening: true });
});

test("a listener that is waiting for a connection gives its descriptor and goes on waiting", async () => {
  using listener = Deno.listen(localhost);
  const accepting = listener.accept();
  using _fd = listenerDescriptor(listener);
  using conn = await Deno.connect({ ...localhost, port: listener.addr.port });
  using accepted = await accepting;
  assertEquals(accepted.remoteAddr, conn.localAddr);
});

test("two listeners that share a port cannot be told apart, and the error says so", () => {
  using first = Deno.listen({ ...localhost, reusePort: true });
  const { port } = first.addr;
  using second = Deno.listen({ ...localhost, port, reusePort: true });
  for (const listener of [first, second]) {
    const error = assertThrows(() => listenerDescriptor(listener), NoDescriptorError);
    assertStringIncludes(error.message, "2 open descriptors");
    assertStringIncludes(error.message, `127.0.0.1:${port}`);
  }
});

test("duplicates of a listener's socket are no ambiguity", () => {
  using listener = Deno.listen(localhost);
  using first = listenerDescriptor(listener);
  using second = listenerDescriptor(listener);
  assertEquals(socketCookie(first.raw), socketCookie(second.raw));
  assertNotEquals(first.raw, second.raw);
});

test("a descriptor outlives the object that it came from", async () => {
  const listener = Deno.listen(localhost);
  const { port } = listener.addr;
  using fd = listenerDescriptor(listener);
  listener.close();
  await assertAcceptsOn(fd, () => Deno.connect({ ...localhost, port }));
});

// Connections

for (const hostname of ["127.0.0.1", "::1"]) {
  test(`a TCP connection's descriptor is its own, at either end: ${hostname}`, async () => {
    const pairs = await Promise.all([tcpPair(hostname), tcpPair(hostname), tcpPair(hostname)]);
    let byte = 0;
    for (const [a, b] of pairs) {
      for (const [conn, peer] of [[a, b], [b, a]]) {
        using fd = connDescriptor(conn);
        assertEquals(localAddress(fd.raw), { ...conn.localAddr as Deno.NetAddr });
        assertEquals(peerAddress(fd.raw), { ...conn.remoteAddr as Deno.NetAddr });
        sendByte(fd.raw, ++byte);
        assertEquals(await readByte(peer), byte);
      }
    }
    closeEach(...pairs.flat());
  });
}

test("a unix connection's descriptor is its own, at either end, among many", async () => {
  const pairs = await Promise.all(Array.from({ length: 8 }, unixPair));
  using _adopted = await fdConn(new Fd(adoptable()));
  let byte = 0;
  const cookies = new Set<bigint>();
  for (const [a, b] of pairs) {
    for (const [conn, peer] of [[a, b], [b, a]]) {
      using fd = connDescriptor(conn);
      cookies.add(socketCookie(fd.raw));
      sendByte(fd.raw, ++byte);
      assertEquals(await readByte(peer), byte);
    }
  }
  assertEquals(cookies.size, 16);
  closeEach(...pairs.flat());
});

/** One end of a socket pair; the other is closed. */
function adoptable(): number {
  const [kept, other] = socketPair();
  closeRaw(other);
  return kept;
}

const listenOptions = [
  ["TCP", () => localhost],
  ["unix", () => ({ transport: "unix" as const, path: abstractName() })],
] as const;

for (const [kind, options] of listenOptions) {
  test(`a connection can be sent in the turn in which it was accepted: ${kind}`, async () => {
    using listener = listenAny(options());
    const [to, from] = socketPair();
    using sender = new UnixConn(new Fd(to));
    using receiver = new UnixConn(new Fd(from));
    const accepting = listener.accept();
    using conn = await listener.dial();
    const accepted = await accepting;
    try {
      await sendConnTo(sender, accepted);
      await receiveFrom(receiver, (fd) => sendByte(fd.raw, 7));
      assertEquals(await readByte(conn), 7);
    } finally {
      closeQuietly(accepted);
    }
  });

  test(`a connection whose write is waiting is found, or refused in words, and loses nothing: ${kind}`, async () => {
    using listener = listenAny(options());
    const accepting = listener.accept();
    const conn = await listener.dial();
    using peer = await accepting;
    const sent = new Uint8Array(1 << 23).fill(9);
    let written = 0;
    const writing = (async () => {
      while (written < sent.length) written += await conn.write(sent.subarray(written));
      await conn.closeWrite();
    })();
    // What fails below is to be told by itself.
    writing.catch(() => {});
    // Nobody reads: it comes to wait.
    await stalls(() => written);
    try {
      using fd = connDescriptor(conn);
      assertEquals(peerAddress(fd.raw), { ...conn.remoteAddr } as Deno.NetAddr);
    } catch (error) {
      if (!(error instanceof NoDescriptorError)) throw error;
      // The addresses of a TCP connection tell which it is, whatever it does.
      assertNotEquals(kind, "TCP");
      assertStringIncludes(error.message, "unix connection");
    }
    let received = 0;
    for await (const chunk of peer.readable) {
      assert(chunk.every((byte) => byte === 9));
      received += chunk.length;
    }
    await writing;
    assertEquals(received, sent.length);
    conn.close();
  });
}

/** A native listener and who connects to it. */
interface Dialled extends Disposable {
  native: Deno.Listener;
  accept(): Promise<Deno.Conn>;
  dial(): Promise<Deno.Conn>;
}

function listenAny(options: typeof localhost | { transport: "unix"; path: string }): Dialled {
  const native: Deno.Listener = "path" in options ? Deno.listen(options) : Deno.listen(options);
  return {
    native,
    accept: () => native.accept(),
    dial: () =>
      "path" in options
        ? Deno.connect(options)
        : Deno.connect({ ...options, port: (native.addr as Deno.NetAddr).port }),
    [Symbol.dispose]: () => native.close(),
  };
}

/** Waits until a number has not changed for many turns of the event loop. */
async function stalls(count: () => number): Promise<void> {
  let before = -1;
  for (let same = 0; same < 20; same = count() === before ? same + 1 : 0) {
    before = count();
    await pause(1);
  }
}

test("looking for a unix connection disturbs no byte of any", async () => {
  const pairs = await Promise.all(Array.from({ length: 4 }, unixPair));
  const sent = Uint8Array.from({ length: 1 << 20 }, (_, i) => i * 7 + (i >> 8));
  const received = pairs.map(async ([a, b]) => {
    const writing = (async () => {
      for (let n = 0; n < sent.length;) n += await a.write(sent.subarray(n, n + 30_000));
      await a.closeWrite();
    })();
    const chunks = await Array.fromAsync(b.readable);
    await writing;
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  });
  const idle = await unixPair();
  let done = false;
  const all = Promise.all(received).finally(() => done = true);
  let found = 0;
  await until(() => {
    for (const conn of idle) {
      using fd = connDescriptor(conn);
      assertEquals(socketKind(fd.raw)?.listening, false);
      found++;
    }
    return done;
  });
  for (const bytes of await all) {
    assertEquals(bytes.length, sent.length);
    assert(bytes.every((byte, i) => byte === sent[i]), "bytes were changed");
  }
  assert(found >= 2);
  closeEach(...pairs.map(([a]) => a), ...idle);
});

test("a unix connection that is waiting to read, or has unread bytes, gives its descriptor", async () => {
  const [a, b] = await unixPair();
  const reading = readByte(a);
  using waiting = connDescriptor(a);
  sendByte(waiting.raw, 1);
  assertEquals(await readByte(b), 1);
  await writeByte(b, 2);
  await writeByte(b, 3);
  assertEquals(await reading, 2);
  using unread = connDescriptor(a);
  assertEquals(socketCookie(unread.raw), socketCookie(waiting.raw));
  assertEquals(await readByte(a), 3);
  closeEach(a, b);
});

test("this library's own listener and connections give their descriptor", async () => {
  using listener = listen(abstractName());
  using _native = await Deno.connect({ transport: "unix", path: listener.addr.path! });
  using conn: UnixConn = await listener.accept();
  using listenerFd = listenerDescriptor(listener);
  using connFd = connDescriptor(conn);
  assertEquals(socketCookie(listenerFd.raw), socketCookie(listener.fd.raw));
  assertEquals(socketCookie(connFd.raw), socketCookie(conn.fd.raw));
  assertNotEquals(connFd.raw, conn.fd.raw);
});

// Datagram sockets

test("a datagram socket's descriptor is the one that receives the datagrams", async () => {
  using directory = new Directory();
  const udp = () =>
    Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 }) as Deno.DatagramConn;
  const unix = (name: string) =>
    Deno.listenDatagram({ transport: "unixpacket", path: directory.join(name) });
  for (const [socket, sender] of [[udp(), udp()], [unix("a"), unix("b")]]) {
    using fd = packetConnDescriptor(socket);
    assertEquals(localAddress(fd.raw), { ...socket.addr } as Deno.NetAddr);
    await sender.send(Uint8Array.of(77), socket.addr);
    await until(() => incoming.receive(fd.raw) !== wouldBlock);
    assertEquals(incoming.data[0], 77);
    closeEach(socket, sender);
  }
});

test("a UDP socket is told from a TCP listener on the same port", () => {
  using tcp = Deno.listen(localhost);
  const { port } = tcp.addr;
  const udp = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port });
  using tcpFd = listenerDescriptor(tcp);
  using udpFd = packetConnDescriptor(udp);
  assertEquals(socketKind(tcpFd.raw)?.type, "stream");
  assertEquals(socketKind(udpFd.raw)?.type, "datagram");
  udp.close();
});

// Files

test("a file's descriptor shares its offset", async () => {
  using directory = new Directory();
  const path = directory.join("a");
  await Deno.writeTextFile(path, "0123456789");
  using file = await Deno.open(path);
  using fd = fileDescriptor(file);
  await file.seek(4, Deno.SeekMode.Start);
  assertEquals(offsetOf(fd.raw), 4);
  seekTo(fd.raw, 7);
  assertEquals(await file.seek(0, Deno.SeekMode.Current), 7);
});

test("a file opened several times gives the descriptor of the very same opening", async () => {
  using directory = new Directory();
  const path = directory.join("a");
  await Deno.writeTextFile(path, "0123456789");
  using _elsewhere = await Deno.open(directory.path);
  const files = Array.from({ length: 4 }, () => Deno.openSync(path));
  files.forEach((file, i) => file.seekSync(i, Deno.SeekMode.Start));
  for (const [i, file] of files.entries()) {
    using fd = fileDescriptor(file);
    assertEquals(offsetOf(fd.raw), i);
    seekTo(fd.raw, i + 5);
    assertEquals(file.seekSync(0, Deno.SeekMode.Current), i + 5);
  }
  // None was disturbed by the search for another.
  const text = new TextDecoder();
  for (const [i, file] of files.entries()) {
    const byte = new Uint8Array(1);
    file.readSync(byte);
    assertEquals(text.decode(byte), String(i + 5));
  }
  closeEach(...files);
});

test("two hard links of a file are the same file, opened twice", async () => {
  using directory = new Directory();
  await Deno.writeTextFile(directory.join("a"), "0123456789");
  await Deno.link(directory.join("a"), directory.join("b"));
  using a = await Deno.open(directory.join("a"));
  using b = await Deno.open(directory.join("b"));
  await a.seek(3, Deno.SeekMode.Start);
  using aFd = fileDescriptor(a);
  using bFd = fileDescriptor(b);
  assertEquals([offsetOf(aFd.raw), offsetOf(bFd.raw)], [3, 0]);
});

test("the ends of a named pipe, which have one inode, give each their own descriptor", () => {
  using directory = new Directory();
  const path = directory.join("fifo");
  makeFifo(path);
  // Linux lets one process open both ends at once, so that opening the others does not wait.
  using both = Deno.openSync(path, { read: true, write: true });
  using reader = Deno.openSync(path);
  using writer = Deno.openSync(path, { write: true });
  using bothFd = fileDescriptor(both);
  using readerFd = fileDescriptor(reader);
  using writerFd = fileDescriptor(writer);
  const writable = [bothFd, readerFd, writerFd].map(({ raw }) => canWrite(raw));
  assertEquals(writable, [true, false, true]);
  assertEquals(fileStatus(readerFd.raw).kind, "pipe");
});

/** mkfifo(3) is in no library here. */
function makeFifo(path: string): void {
  const libc = Deno.dlopen("libc.so.6", {
    mkfifo: { parameters: ["buffer", "u32"], result: "i32" },
  });
  try {
    assertEquals(libc.symbols.mkfifo(new TextEncoder().encode(`${path}\0`), 0o600), 0);
  } finally {
    libc.close();
  }
}

/** Whether the description was opened for writing. */
function canWrite(raw: number): boolean {
  const [, flags] = /^flags:\s*([0-7]+)/m.exec(
    Deno.readTextFileSync(`/proc/self/fdinfo/${raw}`),
  )!;
  return (parseInt(flags, 8) & 3) !== 0;
}

// What needs no search

test("a number and an Fd give a duplicate, and stay open", () => {
  const [a, b] = socketPair();
  using fd = new Fd(a);
  for (
    const descriptorOf of [listenerDescriptor, connDescriptor, packetConnDescriptor, fileDescriptor]
  ) {
    using ofFd = descriptorOf(fd);
    using ofNumber = descriptorOf(b);
    assertEquals(socketCookie(ofFd.raw), socketCookie(a));
    assertEquals(socketCookie(ofNumber.raw), socketCookie(b));
    assert(ofFd.raw !== a && ofNumber.raw !== b);
  }
  assert(fd.owned && isOpen(b));
  closeRaw(b);
});

test("adopted objects give the descriptor that they stand on, however many look like it", async () => {
  // Two sockets on one address: only what was noted at the adoption tells them apart.
  using first = Deno.listen({ ...localhost, reusePort: true });
  using firstFd = listenerDescriptor(first);
  const firstCookie = socketCookie(firstFd.raw);
  using second = Deno.listen({ ...localhost, port: first.addr.port, reusePort: true });
  using adopted = fdListener(firstFd);
  using found = listenerDescriptor(adopted);
  assertEquals(socketCookie(found.raw), firstCookie);
  assertThrows(() => listenerDescriptor(second), NoDescriptorError);

  const [a, b] = socketPair();
  const [aCookie, bCookie] = [socketCookie(a), socketCookie(b)];
  using aConn = await fdConn(a);
  using bConn = await fdConn(b);
  using aFd = connDescriptor(aConn);
  using bFd = connDescriptor(bConn);
  assertEquals([socketCookie(aFd.raw), socketCookie(bFd.raw)], [aCookie, bCookie]);

  const [c, d] = socketPair("datagram");
  const [cCookie, dCookie] = [socketCookie(c), socketCookie(d)];
  // Neither has a name to be found by.
  const [cConn, dConn] = [fdPacketConn(c), fdPacketConn(d)];
  using cFd = packetConnDescriptor(cConn);
  using dFd = packetConnDescriptor(dConn);
  assertEquals([socketCookie(cFd.raw), socketCookie(dFd.raw)], [cCookie, dCookie]);
  closeEach(cConn, dConn);
});

test("adopted files and servers give the descriptor that they stand on", async () => {
  using directory = new Directory();
  const path = directory.join("a");
  await Deno.writeTextFile(path, "0123456789");
  const files = [1, 2, 3].map((offset) => {
    using native = Deno.openSync(path);
    native.seekSync(offset, Deno.SeekMode.Start);
    return fdFile(fileDescriptor(native));
  });
  const offsets = files.map((file) => {
    using fd = fileDescriptor(file);
    return offsetOf(fd.raw);
  });
  assertEquals(offsets, [1, 2, 3]);
  closeEach(...files);

  using listener = Deno.listen(localhost);
  using fd = listenerDescriptor(listener);
  const cookie = socketCookie(fd.raw);
  const server = serveHttp(fd, () => new Response());
  using found = listenerDescriptor(server);
  assertEquals(socketCookie(found.raw), cookie);
  await server.shutdown();
});

// What has none

/** Asserts that there is none, in words that tell why. */
function assertNone(search: () => Fd, ...words: string[]): void {
  const error = assertThrows(
    () => {
      using fd = search();
      return fd.raw;
    },
    NoDescriptorError,
  );
  for (const word of words) assertStringIncludes(error.message, word);
}

test("closed objects have none", async () => {
  using directory = new Directory();
  const path = directory.join("a.sock");
  const listener = Deno.listen(localhost);
  const unixListener = Deno.listen({ transport: "unix", path });
  const server = Deno.serve({ ...localhost, onListen() {} }, () => new Response());
  const [a, b] = await tcpPair();
  const [c, d] = await unixPair();
  const udp = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const file = Deno.openSync("/dev/null");
  // Others of the kind stay open, and must not be taken for the closed ones.
  using _null = Deno.openSync("/dev/null");
  closeEach(listener, unixListener, a, c, udp, file);
  await server.shutdown();
  assertNone(() => listenerDescriptor(listener), `127.0.0.1:${listener.addr.port}`);
  assertNone(() => listenerDescriptor(unixListener), path);
  assertNone(() => listenerDescriptor(server), `127.0.0.1:${server.addr.port}`);
  assertNone(() => connDescriptor(a), `127.0.0.1:${(a.localAddr as Deno.NetAddr).port}`);
  assertNone(() => connDescriptor(c), "connection");
  assertNone(() => packetConnDescriptor(udp), "127.0.0.1");
  assertNone(() => fileDescriptor(file), "file");
  closeEach(b, d);
});

test("closed objects of this library have none, and an Fd that was taken neither", () => {
  const listener = listen(abstractName());
  const [a, b] = socketPair();
  const conn = new UnixConn(new Fd(a));
  const fd = new Fd(b);
  closeEach(listener, conn, fd);
  const errors = [NoDescriptorError, Deno.errors.BadResource];
  for (
    const search of [
      () => listenerDescriptor(listener),
      () => connDescriptor(conn),
      () => connDescriptor(fd),
    ]
  ) {
    const error = assertThrows(search, Error);
    assert(errors.some((kind) => error instanceof kind), String(error));
  }
});

test("closed adopted objects have none, even when their number is in use again", async () => {
  using directory = new Directory();
  const path = directory.join("a");
  await Deno.writeTextFile(path, "0123456789");
  using native = Deno.openSync(path);
  const file = fdFile(fileDescriptor(native));
  const [a, b] = socketPair();
  const conn = await fdConn(a);
  closeEach(file, conn);
  // The same file and sockets of the same kind, under the numbers that are free now.
  const files = Array.from({ length: 8 }, () => Deno.openSync(path));
  const sockets = Array.from({ length: 4 }, () => socketPair()).flat();
  assertNone(() => connDescriptor(conn), "connection");
  try {
    assertNone(() => fileDescriptor(file), "file");
  } finally {
    closeEach(...files);
    closeAll([...sockets, b]);
  }
});

test("a TLS connection has none: its keys cannot move", async () => {
  using listener = Deno.listen(localhost);
  const [tls, accepted] = await Promise.all([
    Deno.connectTls({ ...localhost, port: listener.addr.port }),
    listener.accept(),
  ]);
  const handshake = tls.handshake().catch(() => {});
  assertNone(() => connDescriptor(tls), "TLS");
  const error = assertThrows(() => leaveConn(tls), NoDescriptorError);
  assertStringIncludes(error.message, "TLS");
  closeEach(tls, accepted);
  await handshake;
});

test("an object of another kind throws a TypeError that names the kinds", () => {
  using listener = Deno.listen(localhost);
  using file = Deno.openSync("/dev/null");
  const searches: [string, (junk: unknown) => Fd][] = [
    ["listener", (junk) => listenerDescriptor(junk as ListenerLike)],
    ["connection", (junk) => connDescriptor(junk as ConnLike)],
    ["datagram socket", (junk) => packetConnDescriptor(junk as PacketConnLike)],
    ["file", (junk) => fileDescriptor(junk as FileLike)],
  ];
  const objects = { listener, file } as Record<string, unknown>;
  for (const [kind, search] of searches) {
    for (const junk of [null, undefined, "x", true, {}, [], Symbol("s"), () => {}, 7n]) {
      assertNone(() => search(junk), kind);
    }
    for (const other of Object.keys(objects)) {
      if (other !== kind) assertNone(() => search(objects[other]), kind);
    }
  }
});

test("a number that is no open descriptor is refused with the number", () => {
  const [a, b] = socketPair();
  closeAll([a, b]);
  for (
    const descriptorOf of [listenerDescriptor, connDescriptor, packetConnDescriptor, fileDescriptor]
  ) {
    const error = assertThrows(() => descriptorOf(a), Deno.errors.BadResource);
    assertStringIncludes(error.message, String(a));
  }
});

test("a value that is no descriptor number is named in the error", () => {
  for (
    const descriptorOf of [listenerDescriptor, connDescriptor, packetConnDescriptor, fileDescriptor]
  ) {
    // C's int would be -1, 0, 1 and 0: somebody else's.
    for (const junk of [-1, NaN, 1.5, 2 ** 32]) {
      assertThrows(() => descriptorOf(junk), Error, String(junk));
    }
  }
});

// Leaving

for (const [kind, makePair] of [["TCP", tcpPair], ["unix", unixPair]] as const) {
  test(`leaveConn() leaves the connection to another holder: ${kind}`, async () => {
    const [conn, peer] = await makePair();
    using holder = connDescriptor(conn);
    const reading = readByte(peer);
    leaveConn(conn);
    // Read by a wait that was there all the time: neither an end nor a reset came before.
    sendByte(holder.raw, 5);
    assertEquals(await reading, 5);
    await writeByte(peer, 6);
    await until(() => incoming.receive(holder.raw) === 1);
    assertEquals(incoming.data[0], 6);
    assertThrows(() => conn.close(), Deno.errors.BadResource);
    peer.close();
  });

  // Why there is a leaveConn().
  test(`close() ends the connection for another holder too: ${kind}`, async () => {
    const [conn, peer] = await makePair();
    using holder = connDescriptor(conn);
    const reading = readByte(peer);
    conn.close();
    assertEquals(await reading, null);
    assertThrows(() => outgoing.send(holder.raw, 0, 1, 0), Deno.errors.BrokenPipe);
    peer.close();
  });

  test(`leaveConn() while the connection reads does not end it for another holder: ${kind}`, async () => {
    const [conn, peer] = await makePair();
    using holder = connDescriptor(conn);
    // Not every version ends a read when its connection is closed.
    readByte(conn).catch(() => {});
    leaveConn(conn);
    const reading = readByte(peer);
    sendByte(holder.raw, 5);
    assertEquals(await reading, 5);
    peer.close();
  });

  test(`leaveConn() leaves bytes that were not read to the next holder: ${kind}`, async () => {
    const [conn, peer] = await makePair();
    await writeByte(peer, 1);
    await writeByte(peer, 2);
    assertEquals(await readByte(conn), 1);
    const holder = connDescriptor(conn);
    leaveConn(conn);
    using next = await fdConn(holder);
    assertEquals(await readByte(next), 2);
    await writeByte(next, 3);
    assertEquals(await readByte(peer), 3);
    peer.close();
  });

  test(`leaveConn() of one of two objects on a connection leaves the other alone: ${kind}`, async () => {
    const [conn, peer] = await makePair();
    const adopted = await fdConn(connDescriptor(conn));
    leaveConn(adopted);
    try {
      await writeByte(conn, 4);
      assertEquals(await readByte(peer), 4);
      const again = await fdConn(connDescriptor(conn));
      leaveConn(conn);
      await writeByte(again, 5);
      assertEquals(await readByte(peer), 5);
      again.close();
    } finally {
      closeQuietly(conn);
      peer.close();
    }
  });
}

/** Closes what a test that works has closed already. */
function closeQuietly(conn: Deno.Conn): void {
  try {
    conn.close();
  } catch (error) {
    assertInstanceOf(error, Deno.errors.BadResource);
  }
}

test("leaveConn() of a closed connection is refused in words", async () => {
  const [conn, peer] = await tcpPair();
  closeEach(conn, peer);
  assertThrows(() => leaveConn(conn), NoDescriptorError);
});

test("a probe that fails half-way leaves no socket open", async () => {
  using directory = new Directory();
  await using child = new Child("./probe_beyond_limit.ts", [directory.join("app.sock")]);
  const { error, left } = JSON.parse(await child.line());
  assertMatch(error, /^BadResource: Cannot put descriptor \d+ in the place of \d+/);
  assertEquals(left, []);
});
