/**
 * The checks "out": the descriptor of an object is sent, and used by the receiver.
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
} from "node:net";
import {
  fdListener,
  fdPacketConn,
  sendFileTo,
  sendListenerTo,
  sendPacketConnTo,
  sendTo,
  serveHttp,
} from "../../mod.ts";
import type { Kind } from "./matrix_kind.ts";
import { passThrough, portOf, tcpListener } from "./matrix_sockets.ts";
import {
  acceptAndExchange,
  answerOnce,
  certificate,
  close,
  dialTcp,
  dialTls,
  dialUnix,
  exchangeDatagrams,
  firstLine,
  greet,
  localhost,
  needDatagrams,
  nextEvent,
  nodePair,
  nodePort,
  nodeServer,
  pair,
  passAndExchange,
  secondName,
  udp,
  unixDatagram,
  writeLine,
} from "./matrix_use.ts";

/** The checks of sent objects, in the order of the table. */
export const kindsOut: Kind[] = [
  {
    kind: "`Deno.Listener`, TCP",
    direction: "out",
    async run() {
      using listener = Deno.listen(localhost);
      const fd = await passThrough((conn) => sendListenerTo(conn, listener));
      return await acceptAndExchange(fdListener(fd), dialTcp(listener.addr.port));
    },
  },
  {
    kind: "`Deno.Listener`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("out.sock");
      using listener = Deno.listen({ transport: "unix", path });
      const fd = await passThrough((conn) => sendListenerTo(conn, listener));
      return await acceptAndExchange(fdListener(fd), dialUnix(path));
    },
  },
  {
    kind: "`Deno.TlsListener`",
    direction: "out",
    async run() {
      using listener = Deno.listenTls({ ...localhost, ...certificate() });
      const fd = await passThrough((conn) => sendListenerTo(conn, listener));
      return await acceptAndExchange(fdListener(fd, certificate()), dialTls(listener.addr.port));
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
      const fd = await passThrough((conn) => sendListenerTo(conn, server));
      await server.shutdown();
      return await answerOnce(serveHttp(fd, greet), dialTcp(server.addr.port));
    },
  },
  {
    kind: "`Deno.HttpServer`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("server.sock");
      const server = Deno.serve({ path, onListen: () => {} }, () => new Response("the sender!"));
      const fd = await passThrough((conn) => sendListenerTo(conn, server));
      const other = secondName(path);
      await server.shutdown();
      return await answerOnce(serveHttp(fd, greet), dialUnix(other));
    },
  },
  {
    kind: "`Deno.TcpConn`",
    direction: "out",
    async run() {
      const listener = Deno.listen(localhost);
      return await passAndExchange(...await pair(listener, dialTcp(listener.addr.port)));
    },
  },
  {
    kind: "`Deno.UnixConn`",
    direction: "out",
    async run(directory) {
      const path = directory.join("conn.sock");
      const listener = Deno.listen({ transport: "unix", path });
      return await passAndExchange(...await pair(listener, dialUnix(path)));
    },
  },
  {
    kind: "`Deno.DatagramConn`, UDP",
    direction: "out",
    async run() {
      needDatagrams();
      const socket = udp();
      const fd = await passThrough((conn) => sendPacketConnTo(conn, socket));
      socket.close();
      return await exchangeDatagrams(fdPacketConn(fd), udp());
    },
  },
  {
    kind: "`Deno.DatagramConn`, unix",
    direction: "out",
    async run(directory) {
      needDatagrams();
      const socket = unixDatagram(directory.join("out"));
      const fd = await passThrough((conn) => sendPacketConnTo(conn, socket));
      const seen = await exchangeDatagrams(fdPacketConn(fd), unixDatagram(directory.join("peer")));
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
      // The same file a second time: the inode alone does not identify the descriptor.
      using _other = await Deno.open(path);
      await file.write(firstLine);
      return await writeLine(await passThrough((conn) => sendFileTo(conn, file)), path);
    },
  },
  {
    kind: "node `net.Server`, TCP",
    direction: "out",
    async run() {
      const server = await nodeServer(createNetServer(), localhost);
      const port = nodePort(server);
      const fd = await passThrough((conn) => sendListenerTo(conn, server));
      await close(server);
      return await acceptAndExchange(fdListener(fd), dialTcp(port));
    },
  },
  {
    kind: "node `net.Server`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("node.sock");
      const server = await nodeServer(createNetServer(), path);
      const fd = await passThrough((conn) => sendListenerTo(conn, server));
      const other = secondName(path);
      await close(server);
      return await acceptAndExchange(fdListener(fd), dialUnix(other));
    },
  },
  {
    kind: "node `http.Server`",
    direction: "out",
    async run() {
      const server = createHttpServer((_, response) => response.end("the sender!"));
      await nodeServer(server as unknown as NetServer, localhost);
      const port = nodePort(server as unknown as NetServer);
      const fd = await passThrough((conn) => sendListenerTo(conn, server));
      await close(server);
      return await answerOnce(serveHttp(fd, greet), dialTcp(port));
    },
  },
  {
    kind: "node `net.Socket`, TCP",
    direction: "out",
    async run() {
      const listener = Deno.listen(localhost);
      const { port } = listener.addr;
      return await passAndExchange(
        ...await nodePair(listener, () => nodeConnect(port, "127.0.0.1")),
      );
    },
  },
  {
    kind: "node `net.Socket`, unix",
    direction: "out",
    async run(directory) {
      const path = directory.join("node.sock");
      const listener = Deno.listen({ transport: "unix", path });
      return await passAndExchange(...await nodePair(listener, () => nodeConnect(path)));
    },
  },
  {
    kind: "node `dgram.Socket`",
    direction: "out",
    async run() {
      needDatagrams();
      const socket = createSocket("udp4");
      const ready = nextEvent(socket, "listening");
      socket.bind(0, "127.0.0.1");
      await ready;
      const fd = await passThrough((conn) => sendPacketConnTo(conn, socket));
      await close(socket);
      return await exchangeDatagrams(fdPacketConn(fd), udp());
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
        return await writeLine(await passThrough((conn) => sendFileTo(conn, handle)), path);
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
      const fd = await passThrough((conn) => sendTo(conn, kind === "number" ? sent.raw : sent));
      return await acceptAndExchange(fdListener(fd), dialTcp(portOf(sent)));
    },
  })),
];
