/**
 * Handlers: what a server sends to each client.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import type { ConnLike, FileLike, ListenerLike, PacketConnLike } from "../native/objects.ts";
import { fileDescriptor } from "../native/file_descriptor.ts";
import { findConn } from "../native/conn_descriptor.ts";
import { listenerDescriptor, packetConnDescriptor, settled } from "../native/descriptor.ts";
import { notePassedOn } from "../native/registry.ts";
import type { MetaLike } from "../wire/meta.ts";
import type { ResponseWriter } from "./response_writer.ts";
import type { UnixConn } from "../unix/conn.ts";
import { UnixListener } from "../unix/listener.ts";

/**
 * Sends descriptors to one client; when it throws, the stream ends inside a record, and the client reports an error.
 */
export type HandlerFunction = (conn: UnixConn, response: ResponseWriter) => void | Promise<void>;

/** A handler: a function, or an object with a method `handle`. */
export type Handler = HandlerFunction | { handle: HandlerFunction };

/**
 * Runs a handler of either form.
 *
 * @ignore
 */
export async function handle(
  handler: Handler,
  conn: UnixConn,
  response: ResponseWriter,
): Promise<void> {
  if (typeof handler === "function") await handler(conn, response);
  else await handler.handle(conn, response);
}

/**
 * A handler that runs other handlers, one after the other.
 *
 * ```ts
 * import { callbackHandler, fdHandler, listenAndServe, receive, sequenceHandler } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(
 *   path,
 *   sequenceHandler(fdHandler(0), fdHandler(1), callbackHandler(() => console.log("sent"))),
 * );
 * console.log(await receive(path, (fd) => console.log("got", fd.raw)), "descriptors");
 * ```
 */
export function sequenceHandler(...handlers: Handler[]): HandlerFunction {
  return async (conn, response) => {
    for (const handler of handlers) await handle(handler, conn, response);
  };
}

/**
 * A handler that only calls `callback`. Descriptors that other handlers wrote before may not be sent yet: they are sent
 * at the latest when all handlers are done.
 *
 * ```ts
 * import { callbackHandler, listenAndServe, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, callbackHandler(() => console.log("a client came")));
 * await receive(path, () => {});
 * ```
 */
export function callbackHandler(callback: () => void | Promise<void>): HandlerFunction {
  return () => callback();
}

/**
 * A handler that sends a listener.
 *
 * ```ts
 * import { fdListener, listenAndServe, listenerHandler, receive } from "@graceful/deno";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, listenerHandler(listener));
 * await receive(path, (fd) => {
 *   using inherited = fdListener(fd);
 *   console.log("both accept on", inherited.addr);
 * });
 * ```
 */
export function listenerHandler(listener: ListenerLike, meta?: MetaLike): HandlerFunction {
  return (_, response) => sendListener(response, listener, meta);
}

/**
 * A handler that sends a connection; see {@linkcode sendConn}.
 *
 * ```ts
 * import { connHandler, fdConn, listenAndServe, receive } from "@graceful/deno";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, connHandler(conn));
 * await receive(path, async (fd) => {
 *   using moved = await fdConn(fd);
 *   console.log("still connected to", moved.remoteAddr);
 * });
 * (await listener.accept()).close();
 * ```
 */
export function connHandler(conn: ConnLike, meta?: MetaLike): HandlerFunction {
  return (_, response) => sendConn(response, conn, meta);
}

/**
 * A handler that sends a datagram socket.
 *
 * ```ts
 * import { fdPacketConn, listenAndServe, packetConnHandler, receive } from "@graceful/deno";
 *
 * const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, packetConnHandler(socket));
 * await receive(path, (fd) => {
 *   const inherited = fdPacketConn(fd);
 *   console.log("both receive on", inherited.addr);
 *   inherited.close();
 * });
 * socket.close();
 * ```
 */
export function packetConnHandler(conn: PacketConnLike, meta?: MetaLike): HandlerFunction {
  return (_, response) => sendPacketConn(response, conn, meta);
}

/**
 * A handler that sends a file.
 *
 * ```ts
 * import { fdFile, fileHandler, listenAndServe, Meta, receive } from "@graceful/deno";
 *
 * using log = await Deno.open(await Deno.makeTempFile(), { append: true });
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, fileHandler(log, new Meta({ name: "app.log" })));
 * await receive(path, async (fd, meta) => {
 *   using inherited = fdFile(fd);
 *   await inherited.write(new TextEncoder().encode(`${Meta.from(meta).get("name")} goes on\n`));
 * });
 * ```
 */
export function fileHandler(file: FileLike, meta?: MetaLike): HandlerFunction {
  return (_, response) => sendFile(response, file, meta);
}

/**
 * A handler that sends a descriptor by its number, which stays open here.
 *
 * ```ts
 * import { fdHandler, listenAndServe, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * await using _server = listenAndServe(path, fdHandler(0, new TextEncoder().encode("stdin")));
 * await receive(path, (fd, meta) => console.log(fd.raw, "is", new TextDecoder().decode(meta!)));
 * ```
 */
export function fdHandler(fd: Fd | number, meta?: MetaLike): HandlerFunction {
  return (_, response) => response.write(fd, meta);
}

/**
 * Sends a listener from within a handler. The listener stays open here; a closed one is an error.
 *
 * ```ts
 * import { type Handler, sendListener } from "@graceful/deno";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const handler: Handler = async (_conn, response) => {
 *   await sendListener(response, listener);
 * };
 * ```
 *
 * @throws {NoDescriptorError} When its descriptor cannot be told for certain.
 */
export async function sendListener(
  response: ResponseWriter,
  listener: ListenerLike,
  meta?: MetaLike,
): Promise<void> {
  const fd = listenerDescriptor(listener);
  // The receiver may serve on the path after this process has closed the listener.
  await response.give(fd, meta, () => {
    if (listener instanceof UnixListener) listener.keepPath();
    else if (typeof listener === "object") notePassedOn(listener);
  });
}

/**
 * Sends a connection from within a handler. A `Deno.Conn`, or a socket of node:net, moves: once sent it is closed here, without
 * ending the connection, as `close()` would. A number, an `Fd` or a `UnixConn` stays open.
 *
 * ```ts
 * import { type Handler, sendConn } from "@graceful/deno";
 *
 * const conns = new Set<Deno.Conn>();
 * const handler: Handler = async (_conn, response) => {
 *   for (const conn of conns) await sendConn(response, conn);
 * };
 * ```
 *
 * @throws {NoDescriptorError} When its descriptor cannot be told for certain, or it is a TLS connection.
 */
export async function sendConn(
  response: ResponseWriter,
  conn: ConnLike,
  meta?: MetaLike,
): Promise<void> {
  const { fd, closeHere } = await settled(() => findConn(conn));
  await response.give(fd, meta, closeHere);
}

/**
 * Sends a datagram socket from within a handler. It stays open here.
 *
 * ```ts
 * import { type Handler, sendPacketConn } from "@graceful/deno";
 *
 * const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
 * const handler: Handler = async (_conn, response) => {
 *   await sendPacketConn(response, socket);
 *   socket.close();
 * };
 * ```
 *
 * @throws {NoDescriptorError} When its descriptor cannot be told for certain.
 */
export async function sendPacketConn(
  response: ResponseWriter,
  conn: PacketConnLike,
  meta?: MetaLike,
): Promise<void> {
  await response.give(packetConnDescriptor(conn), meta);
}

/**
 * Sends a file from within a handler. It stays open here, with an offset shared by both.
 *
 * ```ts
 * import { type Handler, sendFile } from "@graceful/deno";
 *
 * using file = await Deno.open(await Deno.makeTempFile(), { append: true });
 * const handler: Handler = async (_conn, response) => {
 *   await sendFile(response, file);
 * };
 * ```
 *
 * @throws {NoDescriptorError} When its descriptor cannot be told for certain.
 */
export async function sendFile(
  response: ResponseWriter,
  file: FileLike,
  meta?: MetaLike,
): Promise<void> {
  await response.give(await settled(() => fileDescriptor(file)), meta);
}
