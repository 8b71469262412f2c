/**
 * Every kind of descriptor, in both directions, used for real: sent through a unix socket, received,
 * and then accepted on, answered on, read or written. Prints one JSON line for each check.
 *
 * Imports nothing but the library and node's own modules, so that any Deno runs it as it is.
 *
 * @module
 */

import { open } from "node:fs/promises";
import { createSocket } from "node:dgram";
import { createServer as createHttpServer } from "node:http";
import {
  connect as nodeConnect,
  createServer as createNetServer,
  type Server as NetServer,
  type Socket as NetSocket,
} from "node:net";
import { c, structs } from "../../ffi/abi.ts";
import { check } from "../../ffi/errno.ts";
import { Fd } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { packUnix } from "../../ffi/sockaddr.ts";
import { localAddress } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import {
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  type HttpHandler,
  receiveFrom,
  sendConnTo,
  sendFileTo,
  sendListenerTo,
  sendPacketConnTo,
  sendTo,
  serveHttp,
  start,
  type UnixConn,
} from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { connectedPair } from "../support/raw.ts";
import { RawWebSocket } from "../support/raw_websocket.ts";

/** A descriptor becomes an object ("in"), or an object gives its descriptor ("out"). */
export type Direction = "in" | "out";

/** What is checked. */
export interface Kind {
  kind: string;
  direction: Direction;
  /** Resolves to what was seen; throws `Limit` for what this Deno cannot do, and else when it fails. */
  run: (directory: Directory) => Promise<string>;
}

/** What a check printed. */
export interface Seen {
  kind: string;
  direction: Direction;
  ok: boolean;
  /** What was exchanged, or what went wrong. */
  detail: string;
  /** Why this Deno cannot do it; without one, what is not ok is a failure. */
  reason?: string;
}

/** What this Deno cannot do, whatever this library does. */
class Limit extends Error {}

/** How long one check may take; an emulated processor takes a second where a real one takes 20 ms. */
const limit = 20_000;

const attempt = "Cannot make what the check needs";
const encoder = new TextEncoder();
const localhost = { hostname: "127.0.0.1", port: 0 };

// The way through the wire.

/** What arrives at the other end of a unix connection. */
async function passed(send: (conn: UnixConn) => Promise<void>): Promise<Fd> {
  const [here, there] = connectedPair();
  using _here = here;
  using _there = there;
  await send(here);
  let received: Fd | undefined;
  await receiveFrom(there, (fd) => {
    received = new Fd(fd.take());
  });
  return received!;
}

/** Passes a descriptor of no object; the receiver's is the only one left. */
async function passedRaw(fd: Fd): Promise<Fd> {
  using sent = fd;
  return await passed((conn) => sendTo(conn, sent));
}

// Descriptors, made through libc and blocking, as most other programs hand them over.

const families = { "127.0.0.1": c.AF_INET, "::1": c.AF_INET6, "::": c.AF_INET6 };
type Hostname = keyof typeof families;

function rawSocket(family: number, type: number): Fd {
  return new Fd(check(libc().socket(family, type | c.SOCK_CLOEXEC, 0), attempt));
}

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

function bound(fd: Fd, address: Uint8Array<ArrayBuffer>): Fd {
  check(libc().bind(fd.raw, address, address.length), attempt);
  return fd;
}

function listening(fd: Fd): Fd {
  check(libc().listen(fd.raw, 128), attempt);
  return fd;
}

function connected(fd: Fd, address: Uint8Array<ArrayBuffer>): Fd {
  check(libc().connect(fd.raw, address, address.length), attempt);
  return fd;
}

function boundInet(type: number, hostname: Hostname): Fd {
  return bound(rawSocket(families[hostname], type), packInet(hostname, 0));
}

function boundUnix(type: number, path: string): Fd {
  return bound(rawSocket(c.AF_UNIX, type), packUnix(path, attempt));
}

const tcpListener = (hostname: Hostname = "127.0.0.1") =>
  listening(boundInet(c.SOCK_STREAM, hostname));
const unixListener = (path: string) => listening(boundUnix(c.SOCK_STREAM, path));
const portOf = (fd: Fd) => (localAddress(fd.raw) as Deno.NetAddr).port;

/** The two ends of a pipe; pipe(2) is not among what the library calls. */
function pipe(): [Fd, Fd] {
  const library = Deno.dlopen("libc.so.6", {
    // int pipe2(int pipefd[2], int flags);
    pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  });
  const ends = new Int32Array(2);
  const result = library.symbols.pipe2(new Uint8Array(ends.buffer), c.O_CLOEXEC);
  library.close();
  check(result, attempt);
  return [new Fd(ends[0]), new Fd(ends[1])];
}

// Using what arrived.

type Stream = Pick<Deno.Conn, "read" | "write">;

/** Writes at one end, reads at the other. */
async function said(from: Stream, to: Stream, words: string): Promise<string> {
  const bytes = encoder.encode(words);
  for (let at = 0; at < bytes.length;) at += await from.write(bytes.subarray(at));
  const heard = new Uint8Array(bytes.length);
  for (let at = 0; at < heard.length;) {
    const n = await to.read(heard.subarray(at));
    if (n === null) throw new Error(`The other end closed after ${at} of ${heard.length} bytes`);
    at += n;
  }
  expect(new TextDecoder().decode(heard), words);
  return words;
}

/** Both ways, once each. */
async function talked(here: Stream, there: Stream): Promise<string> {
  return `${await said(here, there, "ping")}, ${await said(there, here, "pong")}`;
}

function expect<T>(seen: T, wanted: T): void {
  if (seen !== wanted) throw new Error(`Saw ${String(seen)} where ${String(wanted)} was expected`);
}

/** Accepts what dials in, and talks. */
async function accepted(listener: Deno.Listener, dial: () => Promise<Deno.Conn>): Promise<string> {
  using _listener = listener;
  const [there, here] = await Promise.all([dial(), listener.accept()]);
  using _there = there;
  using _here = here;
  return await talked(here, there);
}

const dialTcp = (port: number, hostname = "127.0.0.1") => () => Deno.connect({ hostname, port });
const dialUnix = (path: string) => () => Deno.connect({ transport: "unix", path });

function certificate(): { cert: string; key: string } {
  const read = (name: string) => Deno.readTextFileSync(new URL(`../data/${name}`, import.meta.url));
  return { cert: read("localhost.crt"), key: read("localhost.key") };
}

/** Dials by address, and is shown the certificate of "localhost": no resolver is asked. */
const dialTls = (port: number) => async () => {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const { cert } = certificate();
  return await Deno.startTls(conn, { hostname: "localhost", caCerts: [cert] });
};

/** Asks for "/" and gives the body. */
async function asked(dial: () => Promise<Deno.Conn>): Promise<string> {
  using conn = await dial();
  const request = encoder.encode("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  await conn.write(request);
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(4096);
  let answer = "";
  // The server ends the connection after the answer, and its length says where that ends.
  while (!/\r\n\r\n.*!$/s.test(answer)) {
    const n = await conn.read(chunk);
    if (n === null) break;
    answer += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  const [head, body] = answer.split("\r\n\r\n");
  expect(head.split("\r\n")[0], "HTTP/1.1 200 OK");
  return body;
}

const greeting = "hello from the one that received it!";
const greet: HttpHandler = () => new Response(greeting);

/** Answers a request on a server, and ends it. */
async function answered(server: Deno.HttpServer, dial: () => Promise<Deno.Conn>): Promise<string> {
  try {
    const body = await asked(dial);
    expect(body, greeting);
    return body;
  } finally {
    await server.shutdown();
  }
}

/** Sends there and back. */
async function exchanged(here: Deno.DatagramConn, there: Deno.DatagramConn): Promise<string> {
  try {
    await there.send(encoder.encode("ping"), here.addr);
    const [ping, from] = await here.receive();
    expect(new TextDecoder().decode(ping), "ping");
    await here.send(encoder.encode("pong"), from);
    const [pong] = await there.receive();
    expect(new TextDecoder().decode(pong), "pong");
    return "ping, pong";
  } finally {
    here.close();
    there.close();
  }
}

function needDatagrams(): void {
  if (typeof Deno.listenDatagram === "function") return;
  throw new Limit("`Deno.listenDatagram` needs the flag `--unstable-net`");
}

const udp = (hostname: Hostname = "127.0.0.1") =>
  Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
const unixDatagram = (path: string) => Deno.listenDatagram({ transport: "unixpacket", path });

/** Writes a line to a received file; it is in the file of that name. */
async function written(fd: Fd, path: string): Promise<string> {
  using file = fdFile(fd);
  await file.write(encoder.encode("and a line of the receiver's\n"));
  const content = await Deno.readTextFile(path);
  expect(content, "a line of the sender's\nand a line of the receiver's\n");
  return `${content.length} bytes`;
}

const firstLine = encoder.encode("a line of the sender's\n");

// Objects of node's.

/** Waits for an event of node's, or for its "error". */
function event(
  emitter: { once(name: string, listener: (value: unknown) => void): unknown },
  name: string,
): Promise<void> {
  return new Promise((resolve, reject) => {
    emitter.once(name, () => resolve());
    emitter.once("error", reject);
  });
}

/** Ends a server; the socket lives on where it was received. */
async function closed(server: { close(done: () => void): unknown }): Promise<void> {
  await new Promise<void>((resolve) => server.close(() => resolve()));
}

/** A second name of a unix socket: closing a listener removes its path, and may be right to. */
function secondName(path: string): string {
  Deno.linkSync(path, `${path}2`);
  return `${path}2`;
}

async function nodeServer(server: NetServer, where: object | string): Promise<NetServer> {
  const ready = event(server, "listening");
  server.listen(where);
  await ready;
  return server;
}

const nodePort = (server: NetServer) => (server.address() as { port: number }).port;

/** A connection of node's to a listener, and the listener's end of it. */
async function nodePair(
  listener: Deno.Listener,
  dial: () => NetSocket,
): Promise<[NetSocket, Deno.Conn]> {
  using _listener = listener;
  const socket = dial();
  const [there] = await Promise.all([listener.accept(), event(socket, "connect")]);
  return [socket, there];
}

/** Two native connections to each other. */
async function pair(
  listener: Deno.Listener,
  dial: () => Promise<Deno.Conn>,
): Promise<[Deno.Conn, Deno.Conn]> {
  using _listener = listener;
  return await Promise.all([dial(), listener.accept()]);
}

/** Sends one end away and talks from where it was received to the other end. */
async function moved(conn: Deno.Conn | NetSocket, there: Deno.Conn): Promise<string> {
  using _there = there;
  const fd = await passed((wire) => sendConnTo(wire, conn));
  using here = await fdConn(fd);
  return await talked(here, there);
}

/** Every check, in the order of the table. */
export const kinds: Kind[] = [
  ...["127.0.0.1", "::1", "::"].map((hostname): Kind => ({
    kind: `TCP listener, ${{ "127.0.0.1": "IPv4", "::1": "IPv6" }[hostname] ?? "dual stack"}`,
    direction: "in",
    async run() {
      const fd = await passedRaw(tcpListener(hostname as Hostname));
      const port = portOf(fd);
      const listener = fdListener(fd);
      if (hostname !== "::") return await accepted(listener, dialTcp(port, hostname));
      using _listener = listener;
      for (const dialled of ["127.0.0.1", "::1"]) {
        const [there, here] = await Promise.all([dialTcp(port, dialled)(), listener.accept()]);
        using _there = there;
        using _here = here;
        await talked(here, there);
      }
      return "both families talked";
    },
  })),
  {
    kind: "unix listener, path",
    direction: "in",
    async run(directory) {
      const path = directory.join("in.sock");
      return await accepted(fdListener(await passedRaw(unixListener(path))), dialUnix(path));
    },
  },
  {
    kind: "unix listener, abstract",
    direction: "in",
    async run() {
      const name = `\0kinds-${crypto.randomUUID()}`;
      return await accepted(fdListener(await passedRaw(unixListener(name))), dialUnix(name));
    },
  },
  {
    kind: "TLS listener",
    direction: "in",
    async run() {
      const fd = await passedRaw(tcpListener());
      const port = portOf(fd);
      return await accepted(fdListener(fd, certificate()), dialTls(port));
    },
  },
  ...(["127.0.0.1", "::1"] as const).map((hostname): Kind => ({
    kind: `TCP connection, ${hostname === "::1" ? "IPv6" : "IPv4"}`,
    direction: "in",
    async run() {
      using listener = Deno.listen({ hostname, port: 0 });
      const { port } = listener.addr;
      const raw = connected(
        rawSocket(families[hostname], c.SOCK_STREAM),
        packInet(hostname, port),
      );
      using there = await listener.accept();
      using here = await fdConn(await passedRaw(raw));
      expect((here.remoteAddr as Deno.NetAddr).port, port);
      return await talked(here, there);
    },
  })),
  {
    kind: "unix connection",
    direction: "in",
    async run(directory) {
      const path = directory.join("conn.sock");
      using listener = Deno.listen({ transport: "unix", path });
      const raw = connected(rawSocket(c.AF_UNIX, c.SOCK_STREAM), packUnix(path, attempt));
      using there = await listener.accept();
      using here = await fdConn(await passedRaw(raw));
      return await talked(here, there);
    },
  },
  ...(["127.0.0.1", "::1"] as const).map((hostname): Kind => ({
    kind: `UDP socket, ${hostname === "::1" ? "IPv6" : "IPv4"}`,
    direction: "in",
    async run() {
      needDatagrams();
      const fd = await passedRaw(boundInet(c.SOCK_DGRAM, hostname));
      return await exchanged(fdPacketConn(fd), udp(hostname));
    },
  })),
  {
    kind: "unix datagram socket",
    direction: "in",
    async run(directory) {
      needDatagrams();
      const fd = await passedRaw(boundUnix(c.SOCK_DGRAM, directory.join("in")));
      return await exchanged(fdPacketConn(fd), unixDatagram(directory.join("peer")));
    },
  },
  {
    kind: "file",
    direction: "in",
    async run(directory) {
      const path = directory.join("file");
      Deno.writeFileSync(path, firstLine);
      const name = encoder.encode(`${path}\0`);
      const fd = new Fd(check(libc().open(name, c.O_RDWR | c.O_CLOEXEC, 0), attempt));
      check(Number(libc().lseek(fd.raw, BigInt(firstLine.length), c.SEEK_SET)), attempt);
      return await written(await passedRaw(fd), path);
    },
  },
  {
    kind: "pipe",
    direction: "in",
    async run() {
      const [readable, writable] = pipe();
      using reader = fdFile(await passedRaw(readable));
      using writer = fdFile(await passedRaw(writable));
      return await said(writer, reader, "down the pipe");
    },
  },
  {
    kind: "`serveHttp`, TCP",
    direction: "in",
    async run() {
      const fd = await passedRaw(tcpListener());
      const port = portOf(fd);
      return await answered(serveHttp(fd, greet), dialTcp(port));
    },
  },
  {
    kind: "`serveHttp`, unix path",
    direction: "in",
    async run(directory) {
      const path = directory.join("http.sock");
      return await answered(serveHttp(await passedRaw(unixListener(path)), greet), dialUnix(path));
    },
  },
  {
    kind: "`serveHttp`, HTTPS",
    direction: "in",
    async run() {
      const fd = await passedRaw(tcpListener());
      const port = portOf(fd);
      return await answered(serveHttp(fd, certificate(), greet), dialTls(port));
    },
  },
  {
    kind: "`serveHttp`, WebSocket",
    direction: "in",
    async run() {
      const fd = await passedRaw(tcpListener());
      const port = portOf(fd);
      const server = serveHttp(fd, (request) => {
        const { socket, response } = Deno.upgradeWebSocket(request);
        socket.onmessage = ({ data }) => socket.send(`heard ${data}`);
        return response;
      });
      const socket = new WebSocket(`ws://127.0.0.1:${port}`);
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      socket.onopen = () => socket.send("ping");
      socket.onmessage = ({ data }) => resolve(data);
      socket.onerror = (event) => reject(new Error((event as ErrorEvent).message));
      const heard = await promise;
      expect(heard, "heard ping");
      const gone = Promise.withResolvers<void>();
      socket.onclose = () => gone.resolve();
      socket.close();
      await gone.promise;
      await server.shutdown();
      return heard;
    },
  },
  {
    kind: "`serveHttp`, WebSocket, async",
    direction: "in",
    async run() {
      const fd = await passedRaw(tcpListener());
      const port = portOf(fd);
      const turn = Promise.withResolvers<void>();
      const server = serveHttp(fd, async (request) => {
        if (!request.headers.has("upgrade")) return new Response(greeting);
        // The first await comes after that.
        const { socket, response } = Deno.upgradeWebSocket(request);
        socket.onmessage = ({ data }) => {
          socket.send(`heard ${data}`);
          socket.close(4000, "enough");
        };
        await turn.promise;
        return response;
      });
      let finished = false;
      void server.finished.then(() => finished = true);
      using client = await RawWebSocket.begin(port);
      turn.resolve();
      await client.opened();
      await client.send("ping");
      const heard = await client.rest();
      expect(JSON.stringify(heard), '{"texts":["heard ping"],"code":4000}');
      await client.sendClose(4000);
      await client.ended();
      expect(await asked(dialTcp(port)), greeting);
      expect(finished, false);
      await server.shutdown();
      return heard.texts[0];
    },
  },
  {
    kind: "`start`, next generation",
    direction: "in",
    async run(directory) {
      const path = directory.join("app.sock");
      const options = { stopOn: [], logger: {}, probation: 10 };
      const old = await start(path, options);
      const { port } = old.serve(localhost, () => new Response("old")).addr as Deno.NetAddr;
      await old.ready();
      const next = await start(path, options);
      const server = next.serve(localhost, greet);
      expect((server.addr as Deno.NetAddr).port, port);
      await next.ready();
      await old.finished;
      const body = await asked(dialTcp(port));
      expect(body, greeting);
      await next.stop();
      return body;
    },
  },
  {
    kind: "`start`, WebSocket",
    direction: "in",
    async run(directory) {
      const app = await start(directory.join("app.sock"), { stopOn: [], logger: {} });
      const server = app.serve(localhost, (request) => {
        const { socket, response } = app.upgradeWebSocket(request);
        socket.onmessage = ({ data }) => {
          socket.send(`heard ${data}`);
          socket.close(4000, "enough");
        };
        return response;
      });
      await app.ready();
      using client = await RawWebSocket.connect((server.addr as Deno.NetAddr).port);
      // Those that follow are there when it is closed: Deno alone would then send no Close frame.
      await client.send("ping", "pong", "pang");
      const heard = await client.rest();
      expect(JSON.stringify(heard), '{"texts":["heard ping"],"code":4000}');
      await client.sendClose(4000);
      await client.ended();
      await app.stop();
      return heard.texts[0];
    },
  },
  {
    kind: "`Deno.Listener`, TCP",
    direction: "out",
    async run() {
      using listener = Deno.listen(localhost);
      const fd = await passed((conn) => sendListenerTo(conn, listener));
      return await accepted(fdListener(fd), dialTcp(listener.addr.port));
    },
  },
  {
    kind: "`Deno.Listener`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("out.sock");
      using listener = Deno.listen({ transport: "unix", path });
      const fd = await passed((conn) => sendListenerTo(conn, listener));
      return await accepted(fdListener(fd), dialUnix(path));
    },
  },
  {
    kind: "`Deno.TlsListener`",
    direction: "out",
    async run() {
      using listener = Deno.listenTls({ ...localhost, ...certificate() });
      const fd = await passed((conn) => sendListenerTo(conn, listener));
      return await accepted(fdListener(fd, certificate()), dialTls(listener.addr.port));
    },
  },
  {
    kind: "`Deno.HttpServer`, TCP",
    direction: "out",
    async run() {
      const server = Deno.serve(
        { ...localhost, onListen: () => {} },
        () => new Response("the sender!"),
      );
      const fd = await passed((conn) => sendListenerTo(conn, server));
      await server.shutdown();
      return await answered(serveHttp(fd, greet), dialTcp(server.addr.port));
    },
  },
  {
    kind: "`Deno.HttpServer`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("server.sock");
      const server = Deno.serve({ path, onListen: () => {} }, () => new Response("the sender!"));
      const fd = await passed((conn) => sendListenerTo(conn, server));
      const other = secondName(path);
      await server.shutdown();
      return await answered(serveHttp(fd, greet), dialUnix(other));
    },
  },
  {
    kind: "`Deno.TcpConn`",
    direction: "out",
    async run() {
      const listener = Deno.listen(localhost);
      return await moved(...await pair(listener, dialTcp(listener.addr.port)));
    },
  },
  {
    kind: "`Deno.UnixConn`",
    direction: "out",
    async run(directory) {
      const path = directory.join("conn.sock");
      const listener = Deno.listen({ transport: "unix", path });
      return await moved(...await pair(listener, dialUnix(path)));
    },
  },
  {
    kind: "`Deno.DatagramConn`, UDP",
    direction: "out",
    async run() {
      needDatagrams();
      const socket = udp();
      const fd = await passed((conn) => sendPacketConnTo(conn, socket));
      socket.close();
      return await exchanged(fdPacketConn(fd), udp());
    },
  },
  {
    kind: "`Deno.DatagramConn`, unix",
    direction: "out",
    async run(directory) {
      needDatagrams();
      const socket = unixDatagram(directory.join("out"));
      const fd = await passed((conn) => sendPacketConnTo(conn, socket));
      const seen = await exchanged(fdPacketConn(fd), unixDatagram(directory.join("peer")));
      socket.close();
      return seen;
    },
  },
  {
    kind: "`Deno.FsFile`",
    direction: "out",
    async run(directory) {
      const path = directory.join("file");
      using file = await Deno.open(path, { write: true, create: true });
      // The same file a second time: its inode alone does not tell which one is meant.
      using _other = await Deno.open(path);
      await file.write(firstLine);
      return await written(await passed((conn) => sendFileTo(conn, file)), path);
    },
  },
  {
    kind: "node `net.Server`, TCP",
    direction: "out",
    async run() {
      const server = await nodeServer(createNetServer(), localhost);
      const port = nodePort(server);
      const fd = await passed((conn) => sendListenerTo(conn, server));
      await closed(server);
      return await accepted(fdListener(fd), dialTcp(port));
    },
  },
  {
    kind: "node `net.Server`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("node.sock");
      const server = await nodeServer(createNetServer(), path);
      const fd = await passed((conn) => sendListenerTo(conn, server));
      const other = secondName(path);
      await closed(server);
      return await accepted(fdListener(fd), dialUnix(other));
    },
  },
  {
    kind: "node `http.Server`",
    direction: "out",
    async run() {
      const server = createHttpServer((_, response) => response.end("the sender!"));
      await nodeServer(server as unknown as NetServer, localhost);
      const port = nodePort(server as unknown as NetServer);
      const fd = await passed((conn) => sendListenerTo(conn, server));
      await closed(server);
      return await answered(serveHttp(fd, greet), dialTcp(port));
    },
  },
  {
    kind: "node `net.Socket`, TCP",
    direction: "out",
    async run() {
      const listener = Deno.listen(localhost);
      const { port } = listener.addr;
      return await moved(...await nodePair(listener, () => nodeConnect(port, "127.0.0.1")));
    },
  },
  {
    kind: "node `net.Socket`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("node.sock");
      const listener = Deno.listen({ transport: "unix", path });
      return await moved(...await nodePair(listener, () => nodeConnect(path)));
    },
  },
  {
    kind: "node `dgram.Socket`",
    direction: "out",
    async run() {
      needDatagrams();
      const socket = createSocket("udp4");
      const ready = event(socket, "listening");
      socket.bind(0, "127.0.0.1");
      await ready;
      const fd = await passed((conn) => sendPacketConnTo(conn, socket));
      await closed(socket);
      return await exchanged(fdPacketConn(fd), udp());
    },
  },
  {
    kind: "node `FileHandle`",
    direction: "out",
    async run(directory) {
      const path = directory.join("file");
      const handle = await open(path, "w");
      try {
        await handle.write(firstLine);
        return await written(await passed((conn) => sendFileTo(conn, handle)), path);
      } finally {
        await handle.close();
      }
    },
  },
  ...(["`Fd`", "number"] as const).map((kind): Kind => ({
    kind,
    direction: "out",
    async run() {
      using sent = tcpListener();
      const fd = await passed((conn) => sendTo(conn, kind === "number" ? sent.raw : sent));
      return await accepted(fdListener(fd), dialTcp(portOf(sent)));
    },
  })),
];

/** Runs one check, for a bounded time. */
async function seen({ kind, direction, run }: Kind): Promise<Seen> {
  const directory = new Directory();
  const ended = new AbortController();
  const tooLong = pause(limit, ended.signal).then(() => {
    throw new Error(`Nothing came of it for ${limit / 1000} s`);
  });
  try {
    return { kind, direction, ok: true, detail: await Promise.race([run(directory), tooLong]) };
  } catch (error) {
    const detail = String(error);
    const failed = { kind, direction, ok: false, detail };
    return error instanceof Limit ? { ...failed, reason: error.message } : failed;
  } finally {
    ended.abort();
    tooLong.catch(() => {});
    directory[Symbol.dispose]();
  }
}

if (import.meta.main) {
  const only = Deno.args[0];
  for (const kind of kinds) {
    if (only && !`${kind.direction} ${kind.kind}`.includes(only)) continue;
    console.log(JSON.stringify(await seen(kind)));
  }
  // A check that failed may have left something that waits.
  Deno.exit();
}
