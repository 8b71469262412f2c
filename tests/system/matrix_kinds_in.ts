/**
 * The checks "in": a descriptor that is received becomes a native object, which is used.
 *
 * @module
 */

import { c } from "../../ffi/abi.ts";
import { check } from "../../ffi/errno.ts";
import { Fd } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { packUnix } from "../../ffi/sockaddr.ts";
import { fdConn, fdFile, fdListener, fdPacketConn, serveHttp, start } from "../../mod.ts";
import { RawWebSocket } from "../support/raw_websocket.ts";
import type { Kind } from "./matrix_kind.ts";
import {
  attempt,
  boundInetSocket,
  boundUnixSocket,
  connectTo,
  families,
  type Hostname,
  packInet,
  passFd,
  pipe,
  portOf,
  rawSocket,
  tcpListener,
  unixListener,
} from "./matrix_sockets.ts";
import {
  acceptAndExchange,
  answerOnce,
  certificate,
  dialTcp,
  dialTls,
  dialUnix,
  encoder,
  exchangeDatagrams,
  exchangeText,
  expect,
  firstLine,
  get,
  greet,
  greeting,
  localhost,
  needDatagrams,
  sendText,
  udp,
  unixDatagram,
  writeLine,
} from "./matrix_use.ts";

/** The checks of received descriptors, in the order of the table. */
export const kindsIn: Kind[] = [
  ...["127.0.0.1", "::1", "::"].map((hostname): Kind => ({
    kind: `TCP listener, ${{ "127.0.0.1": "IPv4", "::1": "IPv6" }[hostname] ?? "dual stack"}`,
    direction: "in",
    async run() {
      const fd = await passFd(tcpListener(hostname as Hostname));
      const port = portOf(fd);
      const listener = fdListener(fd);
      if (hostname !== "::") return await acceptAndExchange(listener, dialTcp(port, hostname));
      using _listener = listener;
      for (const dialled of ["127.0.0.1", "::1"]) {
        const [there, here] = await Promise.all([dialTcp(port, dialled)(), listener.accept()]);
        using _there = there;
        using _here = here;
        await exchangeText(here, there);
      }
      return "both families talked";
    },
  })),
  {
    kind: "unix listener, path",
    direction: "in",
    async run(directory) {
      const path = directory.join("in.sock");
      return await acceptAndExchange(fdListener(await passFd(unixListener(path))), dialUnix(path));
    },
  },
  {
    kind: "unix listener, abstract",
    direction: "in",
    async run() {
      const name = `\0kinds-${crypto.randomUUID()}`;
      return await acceptAndExchange(fdListener(await passFd(unixListener(name))), dialUnix(name));
    },
  },
  {
    kind: "TLS listener",
    direction: "in",
    async run() {
      const fd = await passFd(tcpListener());
      const port = portOf(fd);
      return await acceptAndExchange(fdListener(fd, certificate()), dialTls(port));
    },
  },
  ...(["127.0.0.1", "::1"] as const).map((hostname): Kind => ({
    kind: `TCP connection, ${hostname === "::1" ? "IPv6" : "IPv4"}`,
    direction: "in",
    async run() {
      using listener = Deno.listen({ hostname, port: 0 });
      const { port } = listener.addr;
      const raw = connectTo(
        rawSocket(families[hostname], c.SOCK_STREAM),
        packInet(hostname, port),
      );
      using there = await listener.accept();
      using here = await fdConn(await passFd(raw));
      expect((here.remoteAddr as Deno.NetAddr).port, port);
      return await exchangeText(here, there);
    },
  })),
  {
    kind: "unix connection",
    direction: "in",
    async run(directory) {
      const path = directory.join("conn.sock");
      using listener = Deno.listen({ transport: "unix", path });
      const raw = connectTo(rawSocket(c.AF_UNIX, c.SOCK_STREAM), packUnix(path, attempt));
      using there = await listener.accept();
      using here = await fdConn(await passFd(raw));
      return await exchangeText(here, there);
    },
  },
  ...(["127.0.0.1", "::1"] as const).map((hostname): Kind => ({
    kind: `UDP socket, ${hostname === "::1" ? "IPv6" : "IPv4"}`,
    direction: "in",
    async run() {
      needDatagrams();
      const fd = await passFd(boundInetSocket(c.SOCK_DGRAM, hostname));
      return await exchangeDatagrams(fdPacketConn(fd), udp(hostname));
    },
  })),
  {
    kind: "unix datagram socket",
    direction: "in",
    async run(directory) {
      needDatagrams();
      const fd = await passFd(boundUnixSocket(c.SOCK_DGRAM, directory.join("in")));
      return await exchangeDatagrams(fdPacketConn(fd), unixDatagram(directory.join("peer")));
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
      return await writeLine(await passFd(fd), path);
    },
  },
  {
    kind: "pipe",
    direction: "in",
    async run() {
      const [readable, writable] = pipe();
      using reader = fdFile(await passFd(readable));
      using writer = fdFile(await passFd(writable));
      return await sendText(writer, reader, "down the pipe");
    },
  },
  {
    kind: "`serveHttp`, TCP",
    direction: "in",
    async run() {
      const fd = await passFd(tcpListener());
      const port = portOf(fd);
      return await answerOnce(serveHttp(fd, greet), dialTcp(port));
    },
  },
  {
    kind: "`serveHttp`, unix path",
    direction: "in",
    async run(directory) {
      const path = directory.join("http.sock");
      return await answerOnce(serveHttp(await passFd(unixListener(path)), greet), dialUnix(path));
    },
  },
  {
    kind: "`serveHttp`, HTTPS",
    direction: "in",
    async run() {
      const fd = await passFd(tcpListener());
      const port = portOf(fd);
      return await answerOnce(serveHttp(fd, certificate(), greet), dialTls(port));
    },
  },
  {
    kind: "`serveHttp`, WebSocket",
    direction: "in",
    async run() {
      const fd = await passFd(tcpListener());
      const port = portOf(fd);
      const server = serveHttp(fd, (request) => {
        const { socket, response } = Deno.upgradeWebSocket(request);
        socket.onmessage = ({ data }) => socket.send(`echo ${data}`);
        return response;
      });
      const socket = new WebSocket(`ws://127.0.0.1:${port}`);
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      socket.onopen = () => socket.send("ping");
      socket.onmessage = ({ data }) => resolve(data);
      socket.onerror = (event) => reject(new Error((event as ErrorEvent).message));
      const received = await promise;
      expect(received, "echo ping");
      const gone = Promise.withResolvers<void>();
      socket.onclose = () => gone.resolve();
      socket.close();
      await gone.promise;
      await server.shutdown();
      return received;
    },
  },
  {
    kind: "`serveHttp`, WebSocket, async",
    direction: "in",
    async run() {
      const fd = await passFd(tcpListener());
      const port = portOf(fd);
      const turn = Promise.withResolvers<void>();
      const server = serveHttp(fd, async (request) => {
        if (!request.headers.has("upgrade")) return new Response(greeting);
        // Upgraded before the first await: the handler resolves later.
        const { socket, response } = Deno.upgradeWebSocket(request);
        socket.onmessage = ({ data }) => {
          socket.send(`echo ${data}`);
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
      const received = await client.rest();
      expect(JSON.stringify(received), '{"texts":["echo ping"],"code":4000}');
      await client.sendClose(4000);
      await client.ended();
      expect(await get(dialTcp(port)), greeting);
      expect(finished, false);
      await server.shutdown();
      return received.texts[0];
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
      const body = await get(dialTcp(port));
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
          socket.send(`echo ${data}`);
          socket.close(4000, "enough");
        };
        return response;
      });
      await app.ready();
      using client = await RawWebSocket.connect((server.addr as Deno.NetAddr).port);
      // Three at once: when it closes, further messages have arrived, and Deno alone sends no Close frame.
      await client.send("ping", "pong", "pang");
      const received = await client.rest();
      expect(JSON.stringify(received), '{"texts":["echo ping"],"code":4000}');
      await client.sendClose(4000);
      await client.ended();
      await app.stop();
      return received.texts[0];
    },
  },
];
