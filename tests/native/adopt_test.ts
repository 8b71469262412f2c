import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { check } from "../../ffi/errno.ts";
import { closeRaw, Fd, setNonblocking } from "../../ffi/fd.ts";
import { offsetOf } from "../../ffi/file.ts";
import { libc } from "../../ffi/libc.ts";
import { OutgoingMessage, wouldBlock } from "../../ffi/message.ts";
import { createEpoll } from "../../ffi/epoll.ts";
import { describeDescriptor, openDescriptors, registrations } from "../../ffi/proc.ts";
import { listenUnix, localAddress } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { fileDescriptor } from "../../lib/native/file_descriptor.ts";
import {
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  serveHttp,
  WrongDescriptorError,
} from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import {
  abstractName,
  attempt,
  boundInet,
  boundUnix,
  families,
  type Hostname,
  listenerKinds,
  listening,
  listenOn,
  megabyte,
  openRaw,
  packInet,
  pairOf,
  pipe,
  rawSocket,
  readAll,
  readByte,
  standsOn,
  text,
  writeByte,
} from "../support/foreign.ts";
import { connDescriptor, leaveConn } from "../support/conn_descriptor.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

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

  test(`fdListener() accepts connections that were queued before, also after the original was closed: ${kind}`, async () => {
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

test("closing an adopted unix listener leaves the path, and the other listeners there", async () => {
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

const [cert, key] = ["crt", "key"].map((ending) =>
  Deno.readTextFileSync(new URL(`../data/localhost.${ending}`, import.meta.url))
);
const localhost = { cert, key };

const kinds: Kind[] = [
  { name: "a TCP listener", make: () => [listenOn(boundInet(c.SOCK_STREAM))], adopt: fdListener },
  {
    name: "a unix listener",
    make: () => [listenOn(boundUnix(c.SOCK_STREAM, abstractName()))],
    adopt: fdListener,
  },
  {
    name: "a TLS listener",
    make: () => [listenOn(boundInet(c.SOCK_STREAM))],
    adopt: (fd) => fdListener(fd, localhost),
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
    test(`${name} throws for ${what}, and leaves the descriptor unchanged with the caller`, async () => {
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

test("a value that is no descriptor number is named in the error", async () => {
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

test("a connection that is closed at any moment of its adoption is not shut down for its other holders", async () => {
  const failures = new Set<number>();
  for (let turns = 0; turns < 30; turns++) {
    const [a, b] = tcpEnds();
    using holder = a.dup();
    using peer = b;
    const adopting = fdConn(a);
    for (let i = 0; i < turns; i++) await Promise.resolve();
    if (a.owned) a.close();
    const conn = await adopting.catch((error) => {
      assertInstanceOf(error, Deno.errors.BadResource);
      failures.add(turns);
    });
    conn?.close();
    if (conn) continue;
    const message = new OutgoingMessage(1);
    assertEquals(message.send(holder.raw, 0, 1, 0), 1);
    assertEquals(libc().read(peer.raw, new Uint8Array(9), 9n), 1n);
  }
  assert(failures.has(0) && failures.has(29), `failed after ${[...failures]} turns`);
});

test("a TCP connection that is reset at any moment of its adoption is adopted, or stays with its owner", async () => {
  for (let turns = 0; turns < 30; turns++) {
    const [a, b] = tcpEnds();
    const message = new OutgoingMessage(1);
    message.send(a.raw, 0, 1, 0);
    const adopting = fdConn(a);
    for (let i = 0; i < turns; i++) await Promise.resolve();
    // Closing with unread bytes is a reset.
    b.close();
    try {
      using conn = await adopting;
      await assertRejects(() => readByte(conn), Deno.errors.ConnectionReset);
    } catch (error) {
      const { ConnectionReset, NotConnected } = Deno.errors;
      const refused = [ConnectionReset, NotConnected, WrongDescriptorError];
      assert(refused.some((each) => error instanceof each), String(error));
      assert(a.owned);
      a.close();
    }
  }
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

/** Sends a megabyte and the end, and takes what the other end sends. */
async function exchange(conn: Deno.Conn): Promise<Uint8Array> {
  const received = readAll(conn);
  for (let n = 0; n < megabyte.length;) n += await conn.write(megabyte.subarray(n));
  await conn.closeWrite();
  return await received;
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

  test(`an adopted connection goes on where it was, with its unread bytes: ${kind}`, async () => {
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

  test(`a connection whose peer has closed reads the queued bytes, and the end of the stream: ${kind}`, async () => {
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
    // TCP makes room again while the peer's side takes over what was sent, for a few turns.
    for (let full = 0; full < 10; full++) {
      for (let n = 0; n !== wouldBlock;) {
        if (n > 0) full = 0;
        sent += n;
        n = message.send(fd.raw, 0, message.data.length, 0);
      }
      await pause(1);
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

test("a connection that was reset reads the queued bytes, and then rejects", async () => {
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

test("a blocking descriptor is adopted non-blocking, and timers run while it waits", async () => {
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

test("fdListener() makes no TLS listener of a unix one", () => {
  using fd = listenOn(boundUnix(c.SOCK_STREAM, abstractName()));
  const error = assertThrows(() => fdListener(fd, localhost), WrongDescriptorError);
  assertStringIncludes(error.message, "a listening unix stream socket");
  assert(fd.owned);
});
