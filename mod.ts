/**
 * Passes descriptors (of listeners, connections, datagram sockets, files and others) between processes over unix
 * sockets, with metadata, and makes native Deno objects of them: so a service is replaced by its next generation
 * without losing a request. The protocol is that of the Go library `graceful`, in both directions.
 *
 * {@linkcode start} restarts a service. By hand, a process that owns descriptors is a server, and a process that
 * receives them a client:
 *
 * ```ts
 * import * as graceful from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 *
 * // The running instance: serves HTTP, and sends its listener to each client.
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const old = graceful.serveHttp(listener, () => new Response("from the old one"));
 * const control = graceful.listenAndServe(path, graceful.listenerHandler(listener));
 *
 * // The next instance, usually another process: receives the listener and serves on it.
 * let next: Deno.HttpServer | undefined;
 * await graceful.receive(path, (fd) => {
 *   next = graceful.serveHttp(fd, () => new Response("from the next one"));
 * });
 *
 * // The old instance ends when its clients have closed their connections.
 * await control.shutdown();
 * await graceful.drain(old);
 *
 * const { port } = next!.addr as Deno.NetAddr;
 * console.log(await (await fetch(`http://127.0.0.1:${port}`)).text());
 * await next!.shutdown();
 * ```
 *
 * @module
 */

export { Fd } from "./ffi/fd.ts";
export type { UnixAddress } from "./ffi/sockaddr.ts";
export type { Credentials } from "./ffi/peer.ts";
export { fdConn, fdListener, fdPacketConn, type TlsOptions } from "./lib/native/adopt.ts";
export { fdFile } from "./lib/native/file.ts";
export {
  Client,
  receive,
  receiveAllFrom,
  type ReceiveCallback,
  type Received,
  receiveFrom,
  type ReceiveOptions,
} from "./lib/passing/client.ts";
export type {
  ConnLike,
  DescriptorLike,
  FileLike,
  ListenerLike,
  NodeServer,
  NodeSocket,
  PacketConnLike,
} from "./lib/native/objects.ts";
export {
  ControlTruncatedError,
  EmptyControlMessageError,
  GobError,
  GracefulError,
  HandoverError,
  type HandoverErrorCode,
  LongReadError,
  LongWriteError,
  NoDescriptorError,
  NotUnixConnError,
  NotUnixListenerError,
  PeerNotAllowedError,
  SurplusDescriptorsError,
  UnexpectedEofError,
  UnsupportedRuntimeError,
  WrongDescriptorError,
} from "./lib/errors.ts";
export {
  callbackHandler,
  connHandler,
  fdHandler,
  fileHandler,
  type Handler,
  type HandlerFunction,
  listenerHandler,
  packetConnHandler,
  sendConn,
  sendFile,
  sendListener,
  sendPacketConn,
  sequenceHandler,
} from "./lib/passing/handler.ts";
export type { DrainOptions } from "./lib/http/drain.ts";
export { drain } from "./lib/node/drain.ts";
export { serveHttp, type ServeHttpOptions } from "./lib/http/serve.ts";
export type { HttpHandler } from "./lib/http/tracker.ts";
export type { GenerationStatus, SocketStatus } from "./lib/generation/protocol.ts";
export type {
  DatagramListenAddress,
  ListenAddress,
  NamedListenAddress,
  TcpListenAddress,
  UdpListenAddress,
  UnixDatagramListenAddress,
  UnixListenAddress,
} from "./lib/listen_address.ts";
export { Meta, type MetaLike, type MetaValue } from "./lib/wire/meta.ts";
export { type ListenFd, listenFds, type ListenFdsOptions } from "./lib/systemd/listen_fds.ts";
export { notify, type NotifyOptions } from "./lib/systemd/notify.ts";
export type { Logger } from "./lib/logger.ts";
export { ResponseWriter, type SendOptions } from "./lib/passing/response_writer.ts";
export { type Main, TestService } from "./lib/generation/test_service.ts";
export type { Arrival } from "./lib/generation/predecessor.ts";
export type { InheritedItem } from "./lib/generation/inheritance.ts";
export type { Keepable } from "./lib/generation/state.ts";
export { Generation } from "./lib/generation/generation.ts";
export type { StartOptions } from "./lib/generation/options.ts";
export type { ServeOptions, ServeTcpOptions, ServeUnixOptions } from "./lib/generation/serve.ts";
export type { Restarted } from "./lib/generation/restart.ts";
export { start } from "./lib/generation/start.ts";
export type { Command } from "./lib/generation/command.ts";
export {
  send,
  sendConnTo,
  sendFileTo,
  sendListenerTo,
  sendPacketConnTo,
  sendTo,
} from "./lib/passing/send.ts";
export {
  listenAndServe,
  serve,
  Server,
  type ServerOptions,
  type ShutdownOptions,
} from "./lib/passing/server.ts";
export { connect, type ConnectOptions, UnixConn, type WaitOptions } from "./lib/unix/conn.ts";
export { type PeerCheck } from "./lib/unix/peer.ts";
export { listen, type ListenOptions, UnixListener } from "./lib/unix/listener.ts";
