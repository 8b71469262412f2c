import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Agent, type IncomingMessage as NodeResponse, request as nodeRequest } from "node:http";
import { c, structs } from "../ffi/abi.ts";
import { check } from "../ffi/errno.ts";
import { closeRaw, Fd, isOpen, setNonblocking } from "../ffi/fd.ts";
import { offsetOf } from "../ffi/file.ts";
import { libc } from "../ffi/libc.ts";
import { OutgoingMessage, wouldBlock } from "../ffi/message.ts";
import { createEpoll, pause } from "../ffi/poll.ts";
import { describeDescriptor, openDescriptors, registrations } from "../ffi/proc.ts";
import { packUnix } from "../ffi/sockaddr.ts";
import { listenUnix, localAddress, socketPair } from "../ffi/socket.ts";
import { connDescriptor, fileDescriptor, listenerDescriptor } from "../lib/descriptor.ts";
import {
  drain,
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  type HttpHandler,
  serveHttp,
  WrongDescriptorError,
} from "../mod.ts";
import { Directory } from "./fixtures/directory.ts";
import { until } from "./fixtures/until.ts";
import { leaveConn } from "./fixtures/leave.ts";
import { test as guardedTest, type TestFunction } from "./guard.ts";

/** A guarded test that fails where a wrong adoption would wait for ever. */
function test(name: string, fn: TestFunction): void;
function test(name: string, options: { ignore?: boolean }, fn: TestFunction): void;
function test(
  name: string,
  optionsOrFn: { ignore?: boolean } | TestFunction,
  maybeFn?: TestFunction,
): void {
  const [options, fn] = typeof optionsOrFn === "function"
    ? [{}, optionsOrFn]
    : [optionsOrFn, maybeFn!];
  guardedTest(name, options, async (t) => {
    const ended = new AbortController();
    const tooLong = pause(20_000, ended.signal).then(() => {
      throw new Error("It is still waiting for something");
    });
    try {
      await Promise.race([fn(t), tooLong]);
    } finally {
      ended.abort();
    }
  });
}

const text = new TextEncoder();
const attempt = "Cannot make what the test needs";
const abstractName = () => `\0adopt-${crypto.randomUUID()}`;

// Descriptors, made through libc: what arrives from another process has no Deno object.

const families = { "127.0.0.1": c.AF_INET, "::1": c.AF_INET6, "::": c.AF_INET6 };
type Hostname = keyof typeof families;

/** A socket in its blocking state, as most other programs hand them over. */
function rawSocket(family: number, type: number, protocol = 0): Fd {
  return new Fd(check(libc().socket(family, type | c.SOCK_CLOEXEC, protocol), attempt));
}

/** The `sockaddr` of an IP address. */
function packInet(hostname: Hostname, port: number): Uint8Array<ArrayBuffer> {
  if (hostname === "127.0.0.1") {
    return structs.sockaddr_in.pack({
      sin_family: c.AF_INET,
      sin_port: port,
      sin_addr: { s_addr: c.INADDR_LOOPBACK },
    });
  }
  const address = new Uint8Array(16);
  if (hostname === "::1") address[15] = 1;
  return structs.sockaddr_in6.pack({
    sin6_family: c.AF_INET6,
    sin6_port: port,
    sin6_addr: address,
  });
}

function bind(fd: Fd, address: Uint8Array<ArrayBuffer>): Fd {
  check(libc().bind(fd.raw, address, address.length), attempt);
  return fd;
}

function listenOn(fd: Fd): Fd {
  check(libc().listen(fd.raw, 128), attempt);
  return fd;
}

const boundInet = (type: number, hostname: Hostname = "127.0.0.1") =>
  bind(rawSocket(families[hostname], type), packInet(hostname, 0));
const boundUnix = (type: number, path: string) =>
  bind(rawSocket(c.AF_UNIX, type), packUnix(path, attempt));

/** The two ends of a blocking pipe; pipe(2) is in no library here. */
function pipe(): [Fd, Fd] {
  const library = Deno.dlopen("libc.so.6", {
    pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  });
  const ends = new Int32Array(2);
  const result = library.symbols.pipe2(new Uint8Array(ends.buffer), c.O_CLOEXEC);
  library.close();
  check(result, attempt);
  return [new Fd(ends[0]), new Fd(ends[1])];
}

function openRaw(path: string): Fd {
  const name = text.encode(`${path}\0`);
  return new Fd(check(libc().open(name, c.O_RDONLY | c.O_CLOEXEC, 0), attempt));
}

function pairOf(type: "stream" | "datagram" = "stream"): [Fd, Fd] {
  const [a, b] = socketPair(type);
  return [new Fd(a), new Fd(b)];
}

/** Listening sockets of every kind, and who connects to them. */
interface Listening {
  fd: Fd;
  addr: Deno.Addr;
  dial: () => Promise<Deno.Conn>;
}

function listening(kind: Hostname | "path" | "abstract", directory: Directory): Listening {
  if (kind === "path" || kind === "abstract") {
    const path = kind === "path" ? directory.join(`${crypto.randomUUID()}.sock`) : abstractName();
    const transport = "unix";
    return {
      fd: listenOn(boundUnix(c.SOCK_STREAM, path)),
      addr: { transport, path },
      dial: () => Deno.connect({ transport, path }),
    };
  }
  const fd = listenOn(boundInet(c.SOCK_STREAM, kind));
  const addr = { ...localAddress(fd.raw) as Deno.NetAddr };
  const hostname = kind === "::" ? "::1" : kind;
  return { fd, addr, dial: () => Deno.connect({ hostname, port: addr.port }) };
}

const listenerKinds = ["127.0.0.1", "::1", "::", "path", "abstract"] as const;

async function readByte(conn: Deno.Conn): Promise<number | null> {
  const byte = new Uint8Array(1);
  return await conn.read(byte) === null ? null : byte[0];
}

async function writeByte(conn: Deno.Conn, byte: number): Promise<void> {
  assertEquals(await conn.write(Uint8Array.of(byte)), 1);
}

function isNonblocking(raw: number): boolean {
  return (libc().fcntl(raw, c.F_GETFL, 0) & c.O_NONBLOCK) !== 0;
}

// Listeners

for (const kind of listenerKinds) {
  test(`fdListener() gives a listener with the real address that accepts: ${kind}`, async () => {
    using directory = new Directory();
    const { fd, addr, dial } = listening(kind, directory);
    using holder = fd.dup();
    using listener = fdListener(fd);
    assertEquals({ ...listener.addr }, addr);
    assertEquals(fd.owned, false, "an Fd is taken");
    // Accepting on a blocking one would not fail, but stop everything.
    assert(isNonblocking(holder.raw));
    // More than once: each accept has to ask for the next event.
    for (let i = 1; i < 4; i++) {
      const accepting = listener.accept();
      using conn = await dial();
      using accepted = await accepting;
      assertEquals({ ...accepted.localAddr }, { ...conn.remoteAddr, transport: addr.transport });
      assertEquals({ ...accepted.remoteAddr }, { ...conn.localAddr });
      await writeByte(conn, i);
      assertEquals(await readByte(accepted), i);
      await writeByte(accepted, i + 10);
      assertEquals(await readByte(conn), i + 10);
    }
  });

  test(`fdListener() accepts what queued before, and after the original is closed: ${kind}`, async () => {
    using directory = new Directory();
    const { fd, dial } = listening(kind, directory);
    using before = await dial();
    const copy = fd.dup();
    using listener = fdListener(copy);
    fd.close();
    using after = await dial();
    await writeByte(before, 1);
    await writeByte(after, 2);
    for (const expected of [1, 2]) {
      using accepted = await listener.accept();
      assertEquals(await readByte(accepted), expected);
    }
  });

  test(`two adopted at once accept each from its own queue: ${kind}`, async () => {
    using directory = new Directory();
    const [first, second] = [listening(kind, directory), listening(kind, directory)];
    using firstListener = fdListener(first.fd);
    using secondListener = fdListener(second.fd);
    const accepting = [firstListener.accept(), secondListener.accept()];
    using toSecond = await second.dial();
    using toFirst = await first.dial();
    await writeByte(toFirst, 1);
    await writeByte(toSecond, 2);
    for (const [i, conn] of (await Promise.all(accepting)).entries()) {
      assertEquals(await readByte(conn), i + 1);
      conn.close();
    }
  });
}

test("a dual-stack listener accepts IPv4, too, as a native one shows it", async () => {
  using directory = new Directory();
  using native = Deno.listen({ hostname: "::", port: 0 });
  const { fd, addr } = listening("::", directory);
  using listener = fdListener(fd);
  const shown = [];
  for (
    const [one, { port }] of [[native, native.addr], [listener, addr as Deno.NetAddr]] as const
  ) {
    const accepting = one.accept();
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    using accepted = await accepting;
    const [local, remote] = [accepted.localAddr, accepted.remoteAddr] as Deno.NetAddr[];
    assertEquals([local.port, remote.port], [port, (conn.localAddr as Deno.NetAddr).port]);
    shown.push([local.hostname, remote.hostname]);
  }
  assertEquals(shown[1], shown[0]);
});

test("closing an adopted unix listener leaves the path, and whoever else listens there", async () => {
  using directory = new Directory();
  const path = directory.join("a.sock");
  using other = new Fd(listenUnix(path, attempt));
  fdListener(other.dup()).close();
  assertEquals(directory.names(), ["a.sock"]);
  using listener = fdListener(other.dup());
  using _conn = await Deno.connect({ transport: "unix", path });
  (await listener.accept()).close();
});

/** Each kind: what makes a descriptor for it, and what adopts that. */
interface Kind {
  name: string;
  /** The one to adopt comes first. */
  make: () => Fd[];
  adopt: (fd: Fd | number) => { close(): void } | Promise<{ close(): void }>;
}

const http = (fd: Fd | number) => {
  const server = serveHttp(fd, () => new Response("hello"));
  return { server, close: () => void server.shutdown() };
};

const kinds: Kind[] = [
  { name: "a TCP listener", make: () => [listenOn(boundInet(c.SOCK_STREAM))], adopt: fdListener },
  {
    name: "a unix listener",
    make: () => [listenOn(boundUnix(c.SOCK_STREAM, abstractName()))],
    adopt: fdListener,
  },
  { name: "a TCP connection", make: tcpEnds, adopt: fdConn },
  { name: "a unix connection", make: () => pairOf(), adopt: fdConn },
  { name: "a UDP socket", make: () => [boundInet(c.SOCK_DGRAM)], adopt: fdPacketConn },
  { name: "a unix datagram socket", make: () => pairOf("datagram"), adopt: fdPacketConn },
  { name: "a file", make: () => [openRaw("/proc/self/status")], adopt: fdFile },
  { name: "a pipe", make: pipe, adopt: fdFile },
  {
    name: "an HTTP server on TCP",
    make: () => [listenOn(boundInet(c.SOCK_STREAM))],
    adopt: http,
  },
  {
    name: "an HTTP server on unix",
    make: () => [listenOn(boundUnix(c.SOCK_STREAM, abstractName()))],
    adopt: http,
  },
];

/** Two connected TCP sockets, and no listener any more. */
function tcpEnds(hostname: Hostname = "127.0.0.1"): [Fd, Fd] {
  using listener = listenOn(boundInet(c.SOCK_STREAM, hostname));
  const { port } = localAddress(listener.raw) as Deno.NetAddr;
  const client = rawSocket(families[hostname], c.SOCK_STREAM);
  const to = packInet(hostname, port);
  check(libc().connect(client.raw, to, to.length), attempt);
  const nothing = new Uint8Array(0);
  return [client, new Fd(check(libc().accept4(listener.raw, nothing, nothing, 0), attempt))];
}

function closeFds(fds: Fd[]): void {
  for (const fd of fds) fd[Symbol.dispose]();
}

for (const { name, make, adopt } of kinds) {
  test(`adopting takes an Fd, and consumes a number: ${name}`, async () => {
    for (const form of ["Fd", "number"]) {
      const fds = make();
      const { raw } = fds[0];
      const before = describeDescriptor(raw);
      const object = await adopt(form === "Fd" ? fds[0] : fds[0].take());
      assertEquals(fds[0].owned, false);
      assertNotEquals(describeDescriptor(raw), before, "the number was left open");
      object.close();
      closeFds(fds);
    }
  });

  test(`a thousand adopted and closed leave nothing behind: ${name}`, async () => {
    const fds = make();
    const { raw } = fds[0];
    const holders = standsOn(raw);
    // What the first one opens for good is not counted.
    (await adopt(fds[0].dup())).close();
    await until(() => standsOn(raw) === holders);
    const before = watched();
    for (let i = 0; i < 1000; i++) (await adopt(fds[0].dup())).close();
    await until(() => standsOn(raw) === holders);
    // This holder is still here: what the runtime did not take out of its epoll would show.
    for (let tries = 0; tries < 100 && watched() > before; tries++) await pause(10);
    assert(watched() <= before, `${watched()} descriptors are watched, ${before} were before`);
    closeFds(fds);
  });
}

/** How many numbers are open on the same as `raw`. */
function standsOn(raw: number): number {
  const name = describeDescriptor(raw);
  return openDescriptors().filter((other) => describeDescriptor(other) === name).length;
}

/** How many descriptors are watched by every epoll of the process. */
function watched(): number {
  return openDescriptors()
    .filter((raw) => describeDescriptor(raw) === "anon_inode:[eventpoll]")
    .reduce((sum, raw) => sum + registrations(raw).length, 0);
}

// What is of another kind

const boundStream = () => boundInet(c.SOCK_STREAM);
const listeningTcp = () => listenOn(boundStream());
const epoll = () => new Fd(createEpoll());
const netlink = () => rawSocket(16, 3);

interface Wrong {
  what: string;
  make: () => Fd | Fd[];
  /** What the message calls it. */
  called: RegExp;
}

const udp: Wrong = {
  what: "a UDP socket",
  make: () => boundInet(c.SOCK_DGRAM),
  called: /an unconnected UDP socket \(127\.0\.0\.1:\d+\)/,
};
const connection: Wrong = {
  what: "a connection",
  make: () => tcpEnds(),
  called: /a connected TCP socket \(127\.0\.0\.1:\d+ to 127\.0\.0\.1:\d+\)/,
};
const connection6: Wrong = {
  what: "an IPv6 connection",
  make: () => tcpEnds("::1"),
  called: /a connected TCP socket \(\[::1\]:\d+ to \[::1\]:\d+\)/,
};
const unixConnection: Wrong = {
  what: "a unix connection",
  make: () => pairOf(),
  called: /a connected unix stream socket/,
};
const unixDatagrams: Wrong = {
  what: "a unix datagram socket",
  make: () => boundUnix(c.SOCK_DGRAM, `\0wrong-${crypto.randomUUID()}`),
  called: /an unconnected unix datagram socket \("@wrong-/,
};
const listener: Wrong = {
  what: "a listener",
  make: listeningTcp,
  called: /a listening TCP socket \(127\.0\.0\.1:\d+\)/,
};
const unixListener: Wrong = {
  what: "a unix listener",
  make: () => listenOn(boundUnix(c.SOCK_STREAM, `\0wrong-${crypto.randomUUID()}`)),
  called: /a listening unix stream socket \("@wrong-/,
};
const notListening: Wrong = {
  what: "a TCP socket that is bound and does not listen",
  make: boundStream,
  called: /an unconnected TCP socket \(127\.0\.0\.1:\d+\)/,
};
const unconnected: Wrong = {
  what: "an unconnected unix socket",
  make: () => rawSocket(c.AF_UNIX, c.SOCK_STREAM),
  called: /an unconnected unix stream socket/,
};
const seqpacket: Wrong = {
  what: "a seqpacket listener",
  make: () => listenOn(boundUnix(c.SOCK_SEQPACKET, abstractName())),
  called: /a listening unix seqpacket socket/,
};
const otherFamily: Wrong = {
  what: "a socket of another family",
  make: netlink,
  called: /a socket of another family/,
};
const aPipe: Wrong = { what: "a pipe", make: pipe, called: /a pipe/ };
const regular: Wrong = {
  what: "a regular file",
  make: () => openRaw("/proc/self/status"),
  called: /a regular file/,
};
const directory: Wrong = { what: "a directory", make: () => openRaw("/"), called: /a directory/ };
const device: Wrong = {
  what: "a device",
  make: () => openRaw("/dev/null"),
  called: /a character device/,
};
const anonymous: Wrong = { what: "an epoll", make: epoll, called: /epoll|eventpoll/ };

const refusals: [string, (fd: Fd | number) => unknown, RegExp, Wrong[]][] = [
  ["fdListener()", fdListener, /not a listening TCP or unix socket/, [
    udp,
    connection,
    unixConnection,
    unixDatagrams,
    notListening,
    unconnected,
    seqpacket,
    otherFamily,
    aPipe,
    regular,
    directory,
    device,
    anonymous,
  ]],
  ["serveHttp()", http, /not a listening TCP or unix socket/, [
    udp,
    connection,
    notListening,
    aPipe,
    regular,
  ]],
  ["fdConn()", fdConn, /not a connected TCP or unix stream socket/, [
    udp,
    unixDatagrams,
    listener,
    unixListener,
    notListening,
    unconnected,
    seqpacket,
    otherFamily,
    aPipe,
    regular,
    anonymous,
  ]],
  ["fdPacketConn()", fdPacketConn, /not a datagram socket/, [
    connection,
    unixConnection,
    listener,
    unixListener,
    seqpacket,
    otherFamily,
    aPipe,
    regular,
  ]],
  ["fdFile()", fdFile, /not a file/, [
    udp,
    connection6,
    unixConnection,
    listener,
    otherFamily,
    directory,
    anonymous,
  ]],
];

for (const [name, adopt, wanted, wrongs] of refusals) {
  for (const { what, make, called } of wrongs) {
    test(`${name} refuses ${what}, and leaves it as it is, with its owner`, async () => {
      const made = [make()].flat();
      const [fd] = made;
      const status = () => [
        describeDescriptor(fd.raw),
        libc().fcntl(fd.raw, c.F_GETFL, 0),
        fd.owned,
      ];
      const before = status();
      for (const form of [fd, fd.raw]) {
        const error = await refusal(adopt, form);
        assertInstanceOf(error, WrongDescriptorError);
        assert(error.message.startsWith(`Descriptor ${fd.raw} is `), error.message);
        assertMatch(error.message, called);
        assertMatch(error.message, wanted);
        assertEquals(status(), before);
      }
      closeFds(made);
    });
  }

  test(`${name} refuses a number that is not open, and an Fd that was taken`, async () => {
    const [a, b] = pairOf();
    const raw = a.take();
    closeRaw(raw);
    assertStringIncludes((await refusal(adopt, raw)).message, `descriptor ${raw}`);
    assertInstanceOf(await refusal(adopt, raw), Deno.errors.BadResource);
    assertInstanceOf(await refusal(adopt, 9999), Deno.errors.BadResource);
    assertInstanceOf(await refusal(adopt, a), Deno.errors.BadResource);
    b.close();
  });
}

test("what no descriptor number can be is refused by name", async () => {
  for (const [, adopt] of refusals) {
    // C's int would be -1, 0, 1 and 0: somebody else's.
    for (const junk of [-1, NaN, 1.5, 2 ** 32]) {
      assertStringIncludes((await refusal(adopt, junk)).message, String(junk));
    }
  }
});

/** How an adoption fails; a hang is a failure of another kind. */
async function refusal(adopt: (fd: Fd | number) => unknown, fd: Fd | number): Promise<Error> {
  const failed = new AbortController();
  try {
    const error = await Promise.race([
      Promise.resolve().then(() => adopt(fd)).then(() => "adopted", (error) => error),
      pause(5000, failed.signal).then(() => "still waiting", () => "over"),
    ]);
    assertInstanceOf(error, Error, `not refused: ${error}`);
    return error;
  } finally {
    failed.abort();
  }
}

test("a connection that was closed while it was being adopted leaves nothing behind", async () => {
  const [a, b] = pairOf();
  const adopting = fdConn(a);
  // As receive() does when its callback returns without waiting.
  a.close();
  await assertRejects(() => adopting, Deno.errors.BadResource);
  b.close();
});

// Connections

const connections: [string, (directory: Directory) => Promise<[Deno.Conn, Deno.Conn]>][] = [
  ["TCP", () => nativePair({ hostname: "127.0.0.1", port: 0 })],
  ["TCP over IPv6", () => nativePair({ hostname: "::1", port: 0 })],
  [
    "unix",
    (directory) => nativePair({ transport: "unix", path: directory.join(crypto.randomUUID()) }),
  ],
];

async function nativePair(
  options: Deno.TcpListenOptions | Deno.UnixListenOptions & { transport: "unix" },
): Promise<[Deno.Conn, Deno.Conn]> {
  using listener: Deno.Listener = "path" in options ? Deno.listen(options) : Deno.listen(options);
  const accepting = listener.accept();
  const conn = "path" in options
    ? await Deno.connect(options)
    : await Deno.connect({ ...options, port: (listener.addr as Deno.NetAddr).port });
  return [conn, await accepting];
}

/** Moves a connection from its object to a new one. */
async function moved(conn: Deno.Conn): Promise<Deno.Conn> {
  // A unix connection is found when the event loop has heard of it.
  await pause(0);
  const fd = connDescriptor(conn);
  leaveConn(conn);
  // Blocking, as others hand it over.
  setNonblocking(fd.raw, false);
  using holder = fd.dup();
  const adopted = await fdConn(fd);
  assert(isNonblocking(holder.raw));
  return adopted;
}

const megabyte = Uint8Array.from({ length: 1 << 20 }, (_, i) => i * 31 + (i >> 8) * 7);

/** Sends a megabyte and the end, and takes what the other end sends. */
async function exchange(conn: Deno.Conn): Promise<Uint8Array> {
  const received = readAll(conn);
  for (let n = 0; n < megabyte.length;) n += await conn.write(megabyte.subarray(n));
  await conn.closeWrite();
  return await received;
}

/** What comes until the end; the connection stays open. */
async function readAll(conn: Deno.Conn): Promise<Uint8Array> {
  const whole = new Uint8Array(2 * megabyte.length);
  let length = 0;
  for (;;) {
    const n = await conn.read(whole.subarray(length));
    if (n === null) return whole.subarray(0, length);
    length += n;
  }
}

function assertMegabyte(bytes: Uint8Array): void {
  assertEquals(bytes.length, megabyte.length);
  assert(bytes.every((byte, i) => byte === megabyte[i]), "bytes were changed");
}

for (const [kind, pair] of connections) {
  test(`fdConn() gives a connection with both addresses: ${kind}`, async () => {
    using directory = new Directory();
    const ends = await pair(directory);
    for (const [i, conn] of ends.entries()) {
      const expected = [{ ...conn.localAddr }, { ...conn.remoteAddr }];
      using adopted = await moved(conn);
      assertEquals([{ ...adopted.localAddr }, { ...adopted.remoteAddr }], expected);
      assertEquals("setNoDelay" in adopted, kind !== "unix");
      if (i === 0) {
        await writeByte(adopted, 1);
        assertEquals(await readByte(ends[1]), 1);
      }
    }
  });

  test(`an adopted connection carries a megabyte each way: ${kind}`, async () => {
    using directory = new Directory();
    const [conn, peer] = await pair(directory);
    using adopted = await moved(conn);
    for (const bytes of await Promise.all([exchange(adopted), exchange(peer)])) {
      assertMegabyte(bytes);
    }
    peer.close();
  });

  test(`an adopted connection's half ends one at a time: ${kind}`, async () => {
    using directory = new Directory();
    for (const first of ["adopted", "peer"]) {
      const [conn, peer] = await pair(directory);
      using adopted = await moved(conn);
      const [closer, other] = first === "adopted" ? [adopted, peer] : [peer, adopted];
      const reading = readByte(other);
      await closer.closeWrite();
      assertEquals(await reading, null);
      await writeByte(other, 5);
      assertEquals(await readByte(closer), 5);
      await other.closeWrite();
      assertEquals(await readByte(closer), null);
      peer.close();
    }
  });

  test(`a conversation goes on where it was, with bytes that nobody has read: ${kind}`, async () => {
    using directory = new Directory();
    const [conn, peer] = await pair(directory);
    await peer.write(text.encode("GET / HTTP"));
    assertEquals(await readByte(conn), "G".charCodeAt(0));
    using adopted = await moved(conn);
    await peer.write(text.encode("/1.1"));
    await peer.closeWrite();
    assertEquals(new TextDecoder().decode(await readAll(adopted)), "ET / HTTP/1.1");
    peer.close();
  });

  test(`a connection whose peer has gone reads what it sent, and the end: ${kind}`, async () => {
    using directory = new Directory();
    const [conn, peer] = await pair(directory);
    await peer.write(text.encode("last words"));
    peer.close();
    using adopted = await moved(conn);
    assertEquals(new TextDecoder().decode(await readAll(adopted)), "last words");
  });

  test(`a connection that has no room to write is adopted, and its peer reads all: ${kind}`, async () => {
    using directory = new Directory();
    const [conn, peer] = await pair(directory);
    await pause(0);
    const fd = connDescriptor(conn);
    leaveConn(conn);
    const message = new OutgoingMessage(1 << 16);
    let sent = 0;
    for (let n = 0; n !== wouldBlock;) {
      sent += n;
      n = message.send(fd.raw, 0, message.data.length, 0);
    }
    using adopted = await fdConn(fd);
    const writing = adopted.write(Uint8Array.of(1)).then(() => adopted.closeWrite());
    let received = 0;
    const chunk = new Uint8Array(1 << 20);
    for (let n = await peer.read(chunk); n !== null; n = await peer.read(chunk)) received += n;
    assertEquals(received, sent + 1);
    await writing;
    peer.close();
  });
}

test("both ends of a socket pair are adopted and carry a megabyte each way", async () => {
  const [a, b] = pairOf();
  setNonblocking(a.raw, false);
  using aConn = await fdConn(a);
  using bConn = await fdConn(b.take());
  for (const { localAddr, remoteAddr } of [aConn, bConn]) {
    const unnamed: Deno.Addr = { transport: "unix", path: null as unknown as string };
    assertEquals([{ ...localAddr }, { ...remoteAddr }], [unnamed, unnamed]);
  }
  for (const bytes of await Promise.all([exchange(aConn), exchange(bConn)])) assertMegabyte(bytes);
});

test("many connections are adopted at once and keep apart", async () => {
  const pairs = Array.from({ length: 50 }, () => pairOf());
  const conns = await Promise.all(pairs.flat().map((fd) => fdConn(fd)));
  await Promise.all(conns.map((conn, i) => writeByte(conn, i)));
  const bytes = await Promise.all(conns.map(readByte));
  assertEquals(bytes, conns.map((_, i) => i ^ 1));
  for (const conn of conns) conn.close();
});

test("a connection that was reset reads what came before, and then the reset", async () => {
  const [a, b] = pairOf();
  const message = new OutgoingMessage(1);
  message.send(b.raw, 0, 1, 0);
  message.send(a.raw, 0, 1, 0);
  // Closing with unread bytes is a reset, in unix sockets, too.
  b.close();
  using conn = await fdConn(a);
  assertEquals(await readByte(conn), 0);
  await assertRejects(() => readByte(conn), Deno.errors.ConnectionReset);
});

// Datagram sockets

for (const hostname of ["127.0.0.1", "::1"] as const) {
  test(`fdPacketConn() gives a socket with the real address that sends and receives: UDP on ${hostname}`, async () => {
    const fd = boundInet(c.SOCK_DGRAM, hostname);
    const { port } = localAddress(fd.raw) as Deno.NetAddr;
    const socket = fdPacketConn(fd);
    assertEquals({ ...socket.addr }, { transport: "udp", hostname, port });
    const peer = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
    await converse(socket, peer);
  });
}

test("fdPacketConn() gives a socket with the real address that sends and receives: unix", async () => {
  using directory = new Directory();
  const path = directory.join("a");
  const socket = fdPacketConn(boundUnix(c.SOCK_DGRAM, path));
  assertEquals({ ...socket.addr }, { transport: "unixpacket", path });
  const peer = Deno.listenDatagram({ transport: "unixpacket", path: directory.join("b") });
  await converse(socket, peer);
});

/** Each sends to the other, more than once, and then they close. */
async function converse(a: Deno.DatagramConn, b: Deno.DatagramConn): Promise<void> {
  for (let i = 0; i < 3; i++) {
    for (const [from, to] of [[a, b], [b, a]]) {
      const receiving = to.receive();
      assertEquals(await from.send(text.encode(`packet ${i}`), to.addr), 8);
      const [packet, sender] = await receiving;
      assertEquals(new TextDecoder().decode(packet), `packet ${i}`);
      assertEquals({ ...sender }, { ...from.addr });
    }
  }
  a.close();
  b.close();
}

test("one end of a datagram socket pair receives whole packets", async () => {
  const [a, b] = pairOf("datagram");
  const message = new OutgoingMessage(2);
  message.data.set(text.encode("ab"));
  message.send(b.raw, 0, 1, 0);
  message.send(b.raw, 0, 2, 0);
  const socket = fdPacketConn(a);
  const packets = [];
  for (let i = 0; i < 2; i++) packets.push(new TextDecoder().decode((await socket.receive())[0]));
  assertEquals(packets, ["a", "ab"]);
  socket.close();
  b.close();
});

// Files

test("fdFile() gives a file whose offset is shared with the other holder", async () => {
  using directory = new Directory();
  const path = directory.join("a");
  await Deno.writeTextFile(path, "0123456789");
  using native = await Deno.open(path, { read: true, write: true });
  await native.seek(3, Deno.SeekMode.Start);
  using holder = fileDescriptor(native);
  using file = fdFile(holder.dup());
  const bytes = new Uint8Array(2);
  await file.read(bytes);
  assertEquals(new TextDecoder().decode(bytes), "34");
  assertEquals(await native.seek(0, Deno.SeekMode.Current), 5);
  await native.write(text.encode("x"));
  await file.write(text.encode("y"));
  assertEquals(offsetOf(holder.raw), 7);
  assertEquals(await Deno.readTextFile(path), "01234xy789");
  assertEquals((await file.stat()).ino, (await Deno.stat(path)).ino);
});

test("a file that was opened to append is written to at its end, wherever the offset is", async () => {
  using directory = new Directory();
  const path = directory.join("a");
  await Deno.writeTextFile(path, "one\n");
  using native = await Deno.open(path, { append: true });
  using file = fdFile(fileDescriptor(native));
  await Deno.writeTextFile(path, "two\n", { append: true });
  await file.seek(0, Deno.SeekMode.Start);
  await file.write(text.encode("three\n"));
  assertEquals(await Deno.readTextFile(path), "one\ntwo\nthree\n");
});

test("both ends of a pipe are adopted; the reader waits, and sees the end", async () => {
  const [readEnd, writeEnd] = pipe();
  // Node and others have them non-blocking; Deno's threads wait in read(2).
  setNonblocking(readEnd.raw, true);
  const reader = fdFile(readEnd);
  const writer = fdFile(writeEnd);
  const reading = reader.read(new Uint8Array(10));
  await writer.write(text.encode("hello"));
  assertEquals(await reading, 5);
  writer.writeSync(text.encode("more"));
  writer.close();
  assertEquals(await new Response(reader.readable).text(), "more");
});

test("fdFile() gives a device as it is", () => {
  using file = fdFile(openRaw("/dev/zero"));
  const bytes = new Uint8Array(4).fill(1);
  assertEquals(file.readSync(bytes), 4);
  assertEquals([...bytes], [0, 0, 0, 0]);
  assert(file.statSync().isCharDevice !== false);
});

// The event loop

test("what arrives blocking is adopted non-blocking, and timers run while it waits", async () => {
  using directory = new Directory();
  const { fd, dial } = listening("127.0.0.1", directory);
  const [connFd, peerFd] = tcpEnds();
  const udpFd = boundInet(c.SOCK_DGRAM);
  const all = [fd.dup(), connFd.dup(), udpFd.dup()];
  for (const { raw } of all) setNonblocking(raw, false);
  using listener = fdListener(fd);
  using conn = await fdConn(connFd);
  const socket = fdPacketConn(udpFd);
  // First this: a blocking one would not fail what follows, but stop it for ever.
  assertEquals(all.map(({ raw }) => isNonblocking(raw)), [true, true, true]);
  const first = listener.accept();
  using _conn = await dial();
  (await first).close();
  // The second accept() asks the kernel at once, for the first found something.
  const second = listener.accept();
  const reading = readByte(conn);
  const receiving = socket.receive();
  for (let i = 0; i < 5; i++) await pause(1);
  using _second = await dial();
  (await second).close();
  peerFd.close();
  assertEquals(await reading, null);
  await socket.send(text.encode("x"), socket.addr);
  assertEquals((await receiving)[0].length, 1);
  socket.close();
  closeFds(all);
});

// HTTP

/** What a server said. */
interface Answer {
  status: number;
  headers: Headers;
  body: string;
}

/** An HTTP client with one connection, that leaves when it is told to and not before. */
class Client implements Disposable {
  readonly conn: Deno.Conn;
  #received = "";

  constructor(conn: Deno.Conn) {
    this.conn = conn;
  }

  /** Connects to where a server says that it listens. */
  static async dial(addr: Deno.Addr): Promise<Client> {
    if ("path" in addr) {
      return new Client(await Deno.connect({ transport: "unix", path: addr.path }));
    }
    const { hostname, port } = addr as Deno.NetAddr;
    return new Client(await Deno.connect({ hostname, port }));
  }

  async send(path = "/", headers = "", body = ""): Promise<void> {
    const head = `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: ${body.length}\r\n`;
    const bytes = text.encode(`${head}${headers}\r\n${body}`);
    for (let n = 0; n < bytes.length;) n += await this.conn.write(bytes.subarray(n));
  }

  async request(path?: string, headers?: string, body?: string): Promise<Answer> {
    await this.send(path, headers, body);
    return await this.answer();
  }

  async answer(): Promise<Answer> {
    const [status, ...lines] = (await this.#until("\r\n\r\n")).split("\r\n");
    const headers = new Headers(
      lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]),
    );
    return { status: Number(status.split(" ")[1]), headers, body: await this.#body(headers) };
  }

  /** Waits for the end of the connection; gives whether nothing came before it. */
  async ended(): Promise<boolean> {
    const rest = await readAll(this.conn);
    return rest.length === 0 && this.#received === "";
  }

  [Symbol.dispose](): void {
    this.conn.close();
  }

  async #body(headers: Headers): Promise<string> {
    if (headers.get("transfer-encoding") !== "chunked") {
      return await this.#take(Number(headers.get("content-length") ?? 0));
    }
    let body = "";
    for (;;) {
      const chunk = await this.#take(parseInt(await this.#until("\r\n"), 16));
      await this.#until("\r\n");
      if (!chunk) return body;
      body += chunk;
    }
  }

  async #until(mark: string): Promise<string> {
    while (!this.#received.includes(mark)) await this.#read();
    const end = this.#received.indexOf(mark);
    return (await this.#take(end + mark.length)).slice(0, end);
  }

  async #take(length: number): Promise<string> {
    while (this.#received.length < length) await this.#read();
    const taken = this.#received.slice(0, length);
    this.#received = this.#received.slice(length);
    return taken;
  }

  async #read(): Promise<void> {
    const chunk = new Uint8Array(1 << 16);
    const n = await this.conn.read(chunk);
    if (n === null) throw new Error(`The connection ended after ${JSON.stringify(this.#received)}`);
    // Bodies here are ASCII: a byte is a character.
    this.#received += new TextDecoder().decode(chunk.subarray(0, n));
  }
}

/** One request on a connection of its own. */
async function ask(addr: Deno.Addr, path?: string): Promise<Answer> {
  using client = await Client.dial(addr);
  return await client.request(path);
}

/** Says it with a name. */
const saying = (name: string) => () => new Response(name);

/** What a program prints; undefined, and a word about it, when it is not here. */
function printed(program: string, ...args: string[]): string | undefined {
  try {
    const { success, stdout } = new Deno.Command(program, { args, stderr: "null" }).outputSync();
    if (success) return new TextDecoder().decode(stdout);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  console.log(`Tests that need ${program} are skipped: it cannot be run here`);
}

const curl = printed("curl", "--version");
const openssl = printed("openssl", "version");

/** What curl makes of a URL. */
async function curled(...args: string[]): Promise<string> {
  const command = new Deno.Command("curl", { args: ["-sS", "--max-time", "20", ...args] });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  assertEquals([code, decoder.decode(stderr)], [0, ""]);
  return decoder.decode(stdout);
}

for (const kind of listenerKinds) {
  test(`serveHttp() answers, with the real address everywhere: ${kind}`, async () => {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const heard: Deno.Addr[] = [];
    const seen: { remoteAddr: Deno.Addr; body: string; method: string }[] = [];
    const server = serveHttp(fd, { onListen: (addr) => heard.push({ ...addr }) }, async (
      request,
      { remoteAddr },
    ) => {
      seen.push({
        remoteAddr: { ...remoteAddr },
        body: await request.text(),
        method: request.method,
      });
      return new Response("hello", { status: 203, headers: { "x-test": "yes" } });
    });
    assertEquals(fd.owned, false);
    assertEquals({ ...server.addr }, addr);
    assertEquals(heard, [addr]);
    const dialled = kind === "::" ? { ...addr, hostname: "::1" } as Deno.NetAddr : addr;
    using client = await Client.dial(dialled);
    const { status, headers, body } = await client.request("/", "", "a question");
    assertEquals([status, headers.get("x-test"), body], [203, "yes", "hello"]);
    // There is nothing to tell one client of a unix socket from another by: Deno says its own.
    const remoteAddr = "path" in addr ? addr : { ...client.conn.localAddr };
    assertEquals(seen, [{ remoteAddr, body: "a question", method: "POST" }]);
    await server.shutdown();
    await server.finished;
    assert(await client.ended());
    if (kind === "path") assertEquals(directory.names().length, 1);
  });
}

test("serveHttp() answers curl on a unix path", { ignore: !curl }, async () => {
  using directory = new Directory();
  const { fd, addr } = listening("path", directory);
  const server = serveHttp(fd, (request) => new Response(`hello from ${request.method}`));
  const { path } = addr as Deno.UnixAddr;
  assertEquals(await curled("--unix-socket", path, "http://host/"), "hello from GET");
  await server.shutdown();
});

test("serveHttp() gives a request the URL that its Host header says", async () => {
  using directory = new Directory();
  const server = serveHttp(
    listening("127.0.0.1", directory).fd,
    (request) => new Response(request.url),
  );
  assertEquals((await ask(server.addr, "/a?b")).body, "http://test/a?b");
  await server.shutdown();
});

test("two hundred requests come on as few connections as to a native server, with whole bodies", async () => {
  using directory = new Directory();
  const ports = new Set<number>();
  const answer: HttpHandler = async (request, { remoteAddr }) => {
    ports.add((remoteAddr as Deno.NetAddr).port);
    return new Response(await request.text());
  };
  const native = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, answer);
  const adopted = serveHttp(listening("127.0.0.1", directory).fd, answer);
  const counts = [];
  for (const server of [native, adopted]) {
    ports.clear();
    const { port } = server.addr as Deno.NetAddr;
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    for (let i = 0; i < 200; i++) {
      const question = `question ${i}`.repeat(i);
      const headers = { connection: i < 199 ? "keep-alive" : "close" };
      assertEquals(await nodeFetch({ agent, port, headers, method: "POST" }, question), question);
    }
    counts.push(ports.size);
    agent.destroy();
    await server.shutdown();
  }
  // One, but for old versions, whose agent keeps no connection.
  assertEquals(counts[1], counts[0]);
});

/** A request of node:http's; gives the body. */
function nodeFetch(
  options: { agent: Agent; port: number; headers: Record<string, string>; method: string },
  body: string,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const sending = nodeRequest({ hostname: "127.0.0.1", ...options }, (response: NodeResponse) => {
      let whole = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => whole += chunk);
      response.on("end", () => resolve(whole));
      response.on("error", reject);
    });
    sending.on("error", reject);
    sending.end(body);
  });
}

test("serveHttp() carries a megabyte each way", async () => {
  using directory = new Directory();
  const server = serveHttp(
    listening("127.0.0.1", directory).fd,
    (request) => new Response(request.body),
  );
  using client = await Client.dial(server.addr);
  const question = "0123456789abcdef".repeat(1 << 16);
  const [answer] = await Promise.all([client.answer(), client.send("/", "", question)]);
  assertEquals(answer.body.length, question.length);
  assert(answer.body === question);
  await server.shutdown();
});

test("serveHttp() prints nothing when nobody asks for the address", async () => {
  using directory = new Directory();
  const lines: unknown[] = [];
  const originals = [console.log, console.error, console.info] as const;
  console.log = console.error = console.info = (...args) => void lines.push(args);
  let server: Deno.HttpServer;
  try {
    server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
    await ask(server.addr);
  } finally {
    [console.log, console.error, console.info] = originals;
  }
  await server.shutdown();
  assertEquals(lines, []);
});

test("onListen that throws leaves no server, and the descriptor with its owner", async () => {
  using directory = new Directory();
  const { fd, addr, dial } = listening("127.0.0.1", directory);
  const failure = new Error("not ready");
  const thrown = assertThrows(() =>
    serveHttp(fd, {
      onListen() {
        throw failure;
      },
    }, saying("zombie"))
  );
  assertStrictEquals(thrown, failure);
  assert(fd.owned && isOpen(fd.raw));
  await until(() => standsOn(fd.raw) === 1);
  using listener = fdListener(fd);
  assertEquals({ ...listener.addr }, addr);
  for (let i = 0; i < 20; i++) {
    const accepting = listener.accept();
    using conn = await dial();
    using accepted = await accepting;
    assertEquals(accepted.remoteAddr, conn.localAddr);
  }
});

test("a connection that comes right after onListen threw is left to the owner", async () => {
  using directory = new Directory();
  const { fd, dial } = listening("127.0.0.1", directory);
  assertThrows(() =>
    serveHttp(fd, {
      onListen() {
        throw new Error("not ready");
      },
    }, saying("zombie"))
  );
  // In the same turn: the server has not ended yet.
  const dialling = dial();
  using listener = fdListener(fd);
  const accepting = listener.accept();
  using conn = await dialling;
  using accepted = await accepting;
  assertEquals(accepted.remoteAddr, conn.localAddr);
});

test("options that Deno refuses leave the descriptor with its owner, and adopting as it was", async () => {
  using directory = new Directory();
  const { fd, dial } = listening("127.0.0.1", directory);
  assertThrows(() => serveHttp(fd, { cert: "no", key: "no" }, saying("hello")));
  assert(fd.owned);
  using listener = fdListener(fd);
  const accepting = listener.accept();
  using _conn = await dial();
  (await accepting).close();
});

test("aborting the signal ends the server and its descriptor", async () => {
  using directory = new Directory();
  const controller = new AbortController();
  const { signal } = controller;
  const { fd, addr, dial } = listening("127.0.0.1", directory);
  const server = serveHttp(fd, { signal }, saying("hello"));
  assertEquals((await ask(addr)).body, "hello");
  controller.abort();
  await server.finished;
  await until(() => dial().then((conn) => conn.close()).then(() => false, () => true));
});

test("onError answers for a handler that throws", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, {
    onError: (error) => new Response(`sorry: ${(error as Error).message}`, { status: 418 }),
  }, (request) => {
    if (request.url.endsWith("/later")) return Promise.reject(new Error("later"));
    throw new Error("at once");
  });
  for (const [path, message] of [["/", "at once"], ["/later", "later"]]) {
    const { status, body } = await ask(server.addr, path);
    assertEquals([status, body], [418, `sorry: ${message}`]);
  }
  await server.shutdown();
});

test("serveHttp() of a Deno.Listener serves on it, and closes it when the server has finished", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = serveHttp(listener, saying("hello"));
  assertEquals(server.addr, listener.addr);
  for (let i = 0; i < 3; i++) assertEquals((await ask(listener.addr)).body, "hello");
  await server.shutdown();
  await assertRejects(() => listener.accept(), Deno.errors.BadResource);
});

test("serveHttp() of a Deno.Listener lets its owner close it before", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = serveHttp(listener, saying("hello"));
  listener.close();
  assertEquals((await ask(server.addr)).body, "hello");
  await server.shutdown();
  await server.finished;
});

test("serveHttp() of a Deno.Listener that fails leaves the listener open", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  assertThrows(
    () =>
      serveHttp(listener, {
        onListen() {
          throw new Error("not ready");
        },
      }, saying("zombie")),
    Error,
    "not ready",
  );
  const accepting = listener.accept();
  using _conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  (await accepting).close();
});

/** A certificate that nobody signed. */
function certificate(directory: Directory): { cert: string; key: string } {
  const [key, cert] = [directory.join("key.pem"), directory.join("cert.pem")];
  // deno-fmt-ignore
  const args = [
    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
    "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
  ];
  const { success } = new Deno.Command("openssl", { args, stderr: "null" }).outputSync();
  assert(success);
  return { cert: Deno.readTextFileSync(cert), key: Deno.readTextFileSync(key) };
}

test(
  "serveHttp() answers HTTPS, by HTTP/1.1 and HTTP/2",
  { ignore: !curl || !openssl },
  async () => {
    using directory = new Directory();
    const tls = certificate(directory);
    using listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...tls });
    const both = [listening("127.0.0.1", directory).fd, listenerDescriptor(listener)];
    for (const fd of both) {
      const server = serveHttp(fd, tls, (request, { remoteAddr }) => {
        assertEquals((remoteAddr as Deno.NetAddr).hostname, "127.0.0.1");
        return new Response(`hello from ${new URL(request.url).protocol}`);
      });
      const url = `https://127.0.0.1:${(server.addr as Deno.NetAddr).port}/`;
      const versions: [string, string][] = [["--http1.1", "1.1"]];
      if (/\bHTTP2\b/.test(curl!)) versions.push(["--http2", "2"]);
      else console.log("HTTP/2 is skipped: this curl does not speak it");
      for (const [option, version] of versions) {
        const said = await curled("-k", option, "-w", " by %{http_version}", url);
        assertEquals(said, `hello from https: by ${version}`);
      }
      await server.shutdown();
    }
  },
);

// Draining

/** A server on a listener that another holder keeps. */
function serving(name: string, fd: Fd): Deno.HttpServer {
  return serveHttp(fd.dup(), saying(name));
}

test("drain() stops accepting: another holder of the listener gets every new connection", async () => {
  for (const kind of ["127.0.0.1", "path"] as const) {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const old = serving("old", fd);
    using idle = await Client.dial(addr);
    assertEquals((await idle.request()).body, "old");
    const next = serving("next", fd);
    let drained = false;
    const draining = drain(old).finally(() => drained = true);
    for (let i = 0; i < 40; i++) assertEquals((await ask(addr)).body, "next");
    assertEquals(drained, false, "the idle client has not left");
    assertEquals((await idle.request()).body, "old");
    idle.conn.closeWrite();
    assertEquals(await draining, 0);
    await old.finished;
    assertEquals((await ask(addr)).body, "next");
    await next.shutdown();
    fd.close();
  }
});

test("what queues while drain() waits is left to the other holder", async () => {
  for (const kind of ["127.0.0.1", "path"] as const) {
    using directory = new Directory();
    const { fd, addr } = listening(kind, directory);
    const old = serving("old", fd);
    const idle = await Promise.all(Array.from({ length: 8 }, () => Client.dial(addr)));
    for (const client of idle) await client.request();
    const draining = drain(old);
    using early = await Client.dial(addr);
    await early.send();
    let answered = false;
    const answering = early.answer().finally(() => answered = true);
    answering.catch(() => {});
    // Each of these is a turn in which the old one could have accepted.
    for (const client of idle) assertEquals((await client.request()).body, "old");
    assertEquals(answered, false);
    const next = serving("next", fd);
    assertEquals((await answering).body, "next");
    for (const { conn } of idle) conn.close();
    await early.conn.closeWrite();
    assertEquals(await draining, 0);
    await next.shutdown();
    fd.close();
  }
});

test("while it drains, every kind of answer says Connection: close", async () => {
  using directory = new Directory();
  const upstream = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => new Response("from upstream", { headers: { "x-upstream": "yes" } }),
  );
  const url = `http://127.0.0.1:${upstream.addr.port}/`;
  const answers: Record<string, () => Response | Promise<Response>> = {
    "/text": () => new Response("text"),
    "/empty": () => new Response(null, { status: 204 }),
    "/redirect": () => Response.redirect("http://elsewhere/", 307),
    "/proxied": () => fetch(url),
    "/stream": () =>
      new Response(ReadableStream.from(["a", "b"]).pipeThrough(new TextEncoderStream())),
    "/said": () => new Response("said", { headers: { connection: "keep-alive" } }),
    "/thrown": () => {
      throw new Error("thrown");
    },
    "/rejected": () => Promise.reject(new Error("rejected")),
  };
  const server = serveHttp(listening("127.0.0.1", directory).fd, {
    onError: () => new Response("sorry", { status: 500 }),
  }, (request) => answers[new URL(request.url).pathname]());
  const paths = Object.keys(answers);
  const clients = await Promise.all(paths.map(() => Client.dial(server.addr)));
  const said = (answer: Answer) => answer.headers.get("connection");
  for (const client of clients) assertEquals(said(await client.request("/text")), null);
  const draining = drain(server);
  const closing: string[] = [];
  for (const [i, path] of paths.entries()) {
    const answer = await clients[i].request(path);
    if (said(answer) === "close") closing.push(path);
    if (path === "/redirect") {
      assertEquals([answer.status, answer.headers.get("location")], [307, "http://elsewhere/"]);
    }
    if (path === "/proxied") {
      assertEquals([answer.body, answer.headers.get("x-upstream")], ["from upstream", "yes"]);
    }
    if (path === "/stream") assertEquals(answer.body, "ab");
    clients[i].conn.close();
  }
  assertEquals(await draining, 0);
  await upstream.shutdown();
  assertEquals(closing, paths);
});

test("an answer to a request from before the drain says Connection: close, too", async () => {
  using directory = new Directory();
  const { promise, resolve } = Promise.withResolvers<Response>();
  let asked = false;
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    asked = true;
    return promise;
  });
  using client = await Client.dial(server.addr);
  await client.send();
  await until(() => asked);
  const draining = drain(server);
  resolve(new Response("slow"));
  const { body, headers } = await client.answer();
  client.conn.closeWrite();
  assertEquals(await draining, 0);
  assertEquals([body, headers.get("connection")], ["slow", "close"]);
});

test("an upgrade to a WebSocket is left alone while it drains", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, (request) => {
    if (request.headers.get("upgrade") !== "websocket") return new Response("no");
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(`${data}!`);
    return response;
  });
  const client = await Client.dial(server.addr);
  await client.request();
  const draining = drain(server);
  await client.conn.write(text.encode(
    "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
  ));
  const { status, headers } = await client.answer();
  assertEquals([status, headers.get("connection")?.toLowerCase()], [101, "upgrade"]);
  // One masked frame with the text "hi", its mask all zeros; and what is to come back.
  await client.conn.write(Uint8Array.of(0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69));
  const frame = new Uint8Array(5);
  for (let n = 0; n < frame.length;) n += (await client.conn.read(frame.subarray(n)))!;
  assertEquals([...frame], [0x81, 3, 0x68, 0x69, 0x21]);
  // A masked close frame with code 1000.
  await client.conn.write(Uint8Array.of(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8));
  await readAll(client.conn);
  client.conn.close();
  assertEquals(await draining, 0);
});

test("drain() of a server without clients ends at once", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  assertEquals(await drain(server), 0);
  await server.finished;
});

test("drain() does not wait for the clients of another server", async () => {
  using directory = new Directory();
  for (const kind of ["127.0.0.1", "path", "abstract"] as const) {
    const other = serveHttp(listening(kind, directory).fd, saying("other"));
    using client = await Client.dial(other.addr);
    await client.request();
    const server = serveHttp(listening(kind, directory).fd, saying("hello"));
    assertEquals(await drain(server), 0);
    await other.shutdown();
  }
});

test("drain() waits until the last idle client has left", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  const clients = await Promise.all([1, 2, 3].map(() => Client.dial(server.addr)));
  for (const client of clients) await client.request();
  let drained = false;
  const draining = drain(server).finally(() => drained = true);
  for (const client of clients) {
    // A client that is there is answered; no drain has ended with its connection open.
    assertEquals((await client.request()).body, "hello");
    assertEquals(drained, false);
    client.conn.close();
  }
  assertEquals(await draining, 0);
});

test("at the deadline the clients that stayed are closed, and counted", async () => {
  using directory = new Directory();
  for (const kind of ["127.0.0.1", "::1", "path"] as const) {
    const server = serveHttp(listening(kind, directory).fd, saying("hello"));
    const clients = await Promise.all([1, 2, 3].map(() => Client.dial(server.addr)));
    for (const client of clients) await client.request();
    assertEquals(await drain(server, { deadline: 1 }), 3);
    await server.finished;
    for (const client of clients) {
      assert(await client.ended());
      client.conn.close();
    }
  }
});

test("a request that is being answered at the deadline is answered to its end", async () => {
  using directory = new Directory();
  const { promise, resolve } = Promise.withResolvers<Response>();
  let asked = false;
  const server = serveHttp(listening("127.0.0.1", directory).fd, () => {
    asked = true;
    return promise;
  });
  using client = await Client.dial(server.addr);
  await client.send();
  await until(() => asked);
  const draining = drain(server, { deadline: 0 });
  resolve(new Response("slow"));
  assertEquals((await client.answer()).body, "slow");
  assertEquals(await draining, 1);
});

test("drain() rejects a server that is not its own", async () => {
  const foreign = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, saying("foreign"));
  await assertRejects(() => drain(foreign), TypeError, "serveHttp()");
  assertEquals((await ask(foreign.addr)).body, "foreign");
  await foreign.shutdown();
  for (const junk of [null, undefined, {}, "x"]) {
    await assertRejects(() => drain(junk as unknown as Deno.HttpServer), TypeError, "serveHttp()");
  }
});

test("aborting ends the wait with the signal's reason; the server still answers its clients", async () => {
  using directory = new Directory();
  const { fd, addr } = listening("127.0.0.1", directory);
  const old = serving("old", fd);
  using client = await Client.dial(addr);
  await client.request();
  const next = serving("next", fd);
  const controller = new AbortController();
  const draining = drain(old, { signal: controller.signal });
  const reason = { enough: true };
  controller.abort(reason);
  assertStrictEquals(await draining.catch((error) => error), reason);
  assertEquals((await client.request()).body, "old");
  for (let i = 0; i < 20; i++) assertEquals((await ask(addr)).body, "next");
  // The other holder's connections are this process's here, and may still be closing.
  assert(await drain(old, { deadline: 0 }) >= 1);
  await next.shutdown();
  fd.close();
});

test("a signal that is aborted already rejects, and the server goes on accepting", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  const reason = new Error("before");
  const error = await drain(server, { signal: AbortSignal.abort(reason) }).catch((error) => error);
  assertStrictEquals(error, reason);
  const { body, headers } = await ask(server.addr);
  assertEquals([body, headers.get("connection")], ["hello", null]);
  await server.shutdown();
});

test("drain() may be called twice, at once or later", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, saying("hello"));
  using client = await Client.dial(server.addr);
  await client.request();
  const both = [drain(server), drain(server)];
  client.conn.closeWrite();
  assertEquals(await Promise.all(both), [0, 0]);
  assertEquals(await drain(server), 0);
});

test("drain() of a server that was shut down touches nobody else's descriptor", async () => {
  using directory = new Directory();
  for (const how of ["shutdown", "signal"]) {
    const controller = new AbortController();
    const { signal } = controller;
    const server = serveHttp(listening("127.0.0.1", directory).fd, { signal }, saying("hello"));
    if (how === "shutdown") await server.shutdown();
    else controller.abort();
    await server.finished;
    // These take the numbers that are free now.
    const others = Array.from(
      { length: 8 },
      () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
    );
    try {
      assertEquals(await drain(server), 0);
      for (const other of others) {
        const accepting = other.accept();
        accepting.catch(() => {});
        using _conn = await Deno.connect({ hostname: "127.0.0.1", port: other.addr.port });
        (await accepting).close();
      }
    } finally {
      for (const other of others) other.close();
    }
  }
});
