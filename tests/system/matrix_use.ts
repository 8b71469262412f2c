/**
 * Uses the objects of a check: connects, answers a request, sends datagrams, writes a file.
 *
 * @module
 */

import type { Server as NetServer, Socket as NetSocket } from "node:net";
import type { Fd } from "../../ffi/fd.ts";
import { fdConn, fdFile, type HttpHandler, sendConnTo } from "../../mod.ts";
import { Limit } from "./matrix_kind.ts";
import { type Hostname, passThrough } from "./matrix_sockets.ts";

export const encoder = new TextEncoder();
export const localhost = { hostname: "127.0.0.1", port: 0 };

export type Stream = Pick<Deno.Conn, "read" | "write">;

/** Writes text at one end, and reads it at the other. */
export async function sendText(from: Stream, to: Stream, words: string): Promise<string> {
  const bytes = encoder.encode(words);
  for (let at = 0; at < bytes.length;) at += await from.write(bytes.subarray(at));
  const received = new Uint8Array(bytes.length);
  for (let at = 0; at < received.length;) {
    const n = await to.read(received.subarray(at));
    if (n === null) throw new Error(`The other end closed after ${at} of ${received.length} bytes`);
    at += n;
  }
  expect(new TextDecoder().decode(received), words);
  return words;
}

/** Writes and reads once in each direction. */
export async function exchangeText(here: Stream, there: Stream): Promise<string> {
  return `${await sendText(here, there, "ping")}, ${await sendText(there, here, "pong")}`;
}

export function expect<T>(seen: T, wanted: T): void {
  if (seen !== wanted) throw new Error(`Saw ${String(seen)} where ${String(wanted)} was expected`);
}

/** Accepts a connection, and exchanges text over it. */
export async function acceptAndExchange(
  listener: Deno.Listener,
  dial: () => Promise<Deno.Conn>,
): Promise<string> {
  using _listener = listener;
  const [there, here] = await Promise.all([dial(), listener.accept()]);
  using _there = there;
  using _here = here;
  return await exchangeText(here, there);
}

export const dialTcp = (port: number, hostname = "127.0.0.1") => () =>
  Deno.connect({ hostname, port });
export const dialUnix = (path: string) => () => Deno.connect({ transport: "unix", path });

export function certificate(): { cert: string; key: string } {
  const read = (name: string) => Deno.readTextFileSync(new URL(`../data/${name}`, import.meta.url));
  return { cert: read("localhost.crt"), key: read("localhost.key") };
}

/** Connects by address and verifies the certificate of "localhost": no name has to be resolved. */
export const dialTls = (port: number) => async () => {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const { cert } = certificate();
  return await Deno.startTls(conn, { hostname: "localhost", caCerts: [cert] });
};

/** Requests "/"; gives the body. */
export async function get(dial: () => Promise<Deno.Conn>): Promise<string> {
  using conn = await dial();
  const request = encoder.encode("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  await conn.write(request);
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(4096);
  let answer = "";
  // The body ends with "!": do not wait until the server closes the connection.
  while (!/\r\n\r\n.*!$/s.test(answer)) {
    const n = await conn.read(chunk);
    if (n === null) break;
    answer += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  const [head, body] = answer.split("\r\n\r\n");
  expect(head.split("\r\n")[0], "HTTP/1.1 200 OK");
  return body;
}

export const greeting = "hello from the receiver!";
export const greet: HttpHandler = () => new Response(greeting);

/** Makes a request to a server, and shuts it down. */
export async function answerOnce(
  server: Deno.HttpServer,
  dial: () => Promise<Deno.Conn>,
): Promise<string> {
  try {
    const body = await get(dial);
    expect(body, greeting);
    return body;
  } finally {
    await server.shutdown();
  }
}

/** Sends a datagram in each direction, and closes both sockets. */
export async function exchangeDatagrams(
  here: Deno.DatagramConn,
  there: Deno.DatagramConn,
): Promise<string> {
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

export function needDatagrams(): void {
  if (typeof Deno.listenDatagram === "function") return;
  throw new Limit("`Deno.listenDatagram` needs the flag `--unstable-net`");
}

export const udp = (hostname: Hostname = "127.0.0.1") =>
  Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
export const unixDatagram = (path: string) =>
  Deno.listenDatagram({ transport: "unixpacket", path });

/** Appends a line to a received file, and checks the content at its path. */
export async function writeLine(fd: Fd, path: string): Promise<string> {
  using file = fdFile(fd);
  await file.write(encoder.encode("and a line of the receiver's\n"));
  const content = await Deno.readTextFile(path);
  expect(content, "a line of the sender's\nand a line of the receiver's\n");
  return `${content.length} bytes`;
}

export const firstLine = encoder.encode("a line of the sender's\n");

/** Waits for an event of a Node object; rejects at its "error". */
export function nextEvent(
  emitter: { once(name: string, listener: (value: unknown) => void): unknown },
  name: string,
): Promise<void> {
  return new Promise((resolve, reject) => {
    emitter.once(name, () => resolve());
    emitter.once("error", reject);
  });
}

/** Closes a Node object. Its socket stays open in the receiver. */
export async function close(server: { close(done: () => void): unknown }): Promise<void> {
  await new Promise<void>((resolve) => server.close(() => resolve()));
}

/** Makes a second path of a unix socket: a listener that is closed removes its own path. */
export function secondName(path: string): string {
  Deno.linkSync(path, `${path}2`);
  return `${path}2`;
}

export async function nodeServer(server: NetServer, where: object | string): Promise<NetServer> {
  const ready = nextEvent(server, "listening");
  server.listen(where);
  await ready;
  return server;
}

export const nodePort = (server: NetServer) => (server.address() as { port: number }).port;

/** Connects a Node socket to a listener; gives both ends. */
export async function nodePair(
  listener: Deno.Listener,
  dial: () => NetSocket,
): Promise<[NetSocket, Deno.Conn]> {
  using _listener = listener;
  const socket = dial();
  const [there] = await Promise.all([listener.accept(), nextEvent(socket, "connect")]);
  return [socket, there];
}

/** Connects to a listener; gives both ends. */
export async function pair(
  listener: Deno.Listener,
  dial: () => Promise<Deno.Conn>,
): Promise<[Deno.Conn, Deno.Conn]> {
  using _listener = listener;
  return await Promise.all([dial(), listener.accept()]);
}

/** Sends one end of a connection, and exchanges text between the received end and the other. */
export async function passAndExchange(
  conn: Deno.Conn | NetSocket,
  there: Deno.Conn,
): Promise<string> {
  using _there = there;
  const fd = await passThrough((wire) => sendConnTo(wire, conn));
  using here = await fdConn(fd);
  return await exchangeText(here, there);
}
