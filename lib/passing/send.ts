/**
 * Sends descriptors over a connection, or to a path, without a server.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import type { ConnLike, FileLike, ListenerLike, PacketConnLike } from "../native/objects.ts";
import { sendConn, sendFile, sendListener, sendPacketConn } from "./handler.ts";
import type { MetaLike } from "../wire/meta.ts";
import { ResponseWriter, type SendOptions } from "./response_writer.ts";
import { connect, type ConnectOptions, type UnixConn } from "../unix/conn.ts";

/**
 * Connects to the unix socket at `path` and sends a descriptor to the process that listens there.
 *
 * ```ts
 * import { listen, receiveAllFrom, send } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/inbox.sock`);
 * await send(listener.addr.path!, 0);
 * using conn = await listener.accept();
 * await receiveAllFrom(conn, (fd) => console.log("got", fd.raw));
 * ```
 *
 * @throws {Deno.errors.NotFound} When there is no such path.
 * @throws {Deno.errors.ConnectionRefused} When no process listens there.
 * @throws {PeerNotAllowedError} When `allow` returns false.
 */
export async function send(
  path: string,
  fd: Fd | number,
  meta?: MetaLike,
  options: SendOptions & ConnectOptions = {},
): Promise<void> {
  using conn = await connect(path, options);
  await sendTo(conn, fd, meta, options);
}

/**
 * Sends a descriptor over a connection; both stay the caller's.
 *
 * ```ts
 * import { connect, listen, receiveFrom, sendTo } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * await sendTo(server, 0, new TextEncoder().encode("stdin"));
 * await receiveFrom(client, (fd, meta) => console.log(fd.raw, new TextDecoder().decode(meta!)));
 * ```
 */
export async function sendTo(
  conn: UnixConn,
  fd: Fd | number,
  meta?: MetaLike,
  options: SendOptions = {},
): Promise<void> {
  await responding(conn, options, async (response) => await response.write(fd, meta));
}

/**
 * Sends a listener over a connection; both stay the caller's.
 *
 * ```ts
 * import { connect, fdListener, listen, receiveFrom, sendListenerTo } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * using http = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * await sendListenerTo(server, http);
 * await receiveFrom(client, (fd) => {
 *   using inherited = fdListener(fd);
 *   console.log("both accept on", inherited.addr);
 * });
 * ```
 */
export async function sendListenerTo(
  conn: UnixConn,
  listener: ListenerLike,
  meta?: MetaLike,
  options: SendOptions = {},
): Promise<void> {
  await responding(conn, options, (response) => sendListener(response, listener, meta));
}

/**
 * Sends connection `moving` over connection `conn`; see {@linkcode sendConn} for what becomes of it.
 *
 * ```ts
 * import { connect, fdConn, listen, receiveFrom, sendConnTo } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * using http = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const conn = await Deno.connect({ hostname: "127.0.0.1", port: http.addr.port });
 * await sendConnTo(server, conn);
 * await receiveFrom(client, async (fd) => {
 *   using moved = await fdConn(fd);
 *   console.log("still connected to", moved.remoteAddr);
 * });
 * (await http.accept()).close();
 * ```
 */
export async function sendConnTo(
  conn: UnixConn,
  moving: ConnLike,
  meta?: MetaLike,
  options: SendOptions = {},
): Promise<void> {
  await responding(conn, options, (response) => sendConn(response, moving, meta));
}

/**
 * Sends a datagram socket over a connection; both stay the caller's.
 *
 * ```ts
 * import { connect, fdPacketConn, listen, receiveFrom, sendPacketConnTo } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
 * await sendPacketConnTo(server, socket);
 * await receiveFrom(client, (fd) => {
 *   const inherited = fdPacketConn(fd);
 *   console.log("both receive on", inherited.addr);
 *   inherited.close();
 * });
 * socket.close();
 * ```
 */
export async function sendPacketConnTo(
  conn: UnixConn,
  packetConn: PacketConnLike,
  meta?: MetaLike,
  options: SendOptions = {},
): Promise<void> {
  await responding(conn, options, (response) => sendPacketConn(response, packetConn, meta));
}

/**
 * Sends a file over a connection; both stay the caller's.
 *
 * ```ts
 * import { connect, fdFile, listen, receiveFrom, sendFileTo } from "@graceful/deno";
 *
 * using listener = listen(`${await Deno.makeTempDir()}/app.sock`);
 * using client = await connect(listener.addr.path!);
 * using server = await listener.accept();
 * using file = await Deno.open(await Deno.makeTempFile(), { append: true });
 * await sendFileTo(server, file);
 * await receiveFrom(client, async (fd) => {
 *   using inherited = fdFile(fd);
 *   await inherited.write(new TextEncoder().encode("one more line\n"));
 * });
 * ```
 */
export async function sendFileTo(
  conn: UnixConn,
  file: FileLike,
  meta?: MetaLike,
  options: SendOptions = {},
): Promise<void> {
  await responding(conn, options, (response) => sendFile(response, file, meta));
}

async function responding(
  conn: UnixConn,
  options: SendOptions,
  write: (response: ResponseWriter) => Promise<void>,
): Promise<void> {
  using response = new ResponseWriter(conn, options);
  await write(response);
  await response.flush();
}
