/**
 * Makes native Deno sockets of descriptors.
 *
 * A descriptor of another kind than was asked for is an error, and stays open, with the caller: as the wrong object it
 * would hang, or lose connections without an error.
 *
 * @module
 */

import { type Fd, rawOf } from "../../ffi/fd.ts";
import {
  acceptQueueLength,
  setAcceptQueueLength,
  type SocketKind,
} from "../../ffi/socket_options.ts";
import { localAddress, peerAddress } from "../../ffi/socket.ts";
import { UnsupportedRuntimeError } from "../errors.ts";
import { exchange, unixStandIn } from "../event_loop/registration.ts";
import { completeAdoption } from "./adoption.ts";
import { dummyConn, dummyDatagrams, dummyListener } from "./dummy.ts";
import { connKind, datagramKind, listenerKind, wrong } from "./kind.ts";
import { proveInBackground, proven } from "./self_test.ts";
import { runtime } from "../runtime.ts";

/** What a TLS listener needs beside a descriptor, as in `Deno.listenTls`. */
export interface TlsOptions {
  /** PEM certificate chain. */
  cert: string;
  /** PEM private key of the certificate. */
  key: string;
  /** The format of both. @default {"pem"} */
  keyFormat?: "pem";
  /** Protocols to agree on with the client, the preferred first: `["h2", "http/1.1"]`. */
  alpnProtocols?: string[];
}

/**
 * Makes a listening TCP or unix socket a native `Deno.Listener`. The descriptor becomes the
 * listener's: an `Fd` is taken, a number must not be used any more.
 *
 * Closing the listener of a unix path leaves the path where it is.
 *
 * ```ts
 * import { fdListener, listenAndServe, listenerHandler, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * using old = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * await using _server = listenAndServe(path, listenerHandler(old));
 *
 * let listener: Deno.Listener | undefined;
 * await receive(path, (fd) => {
 *   listener = fdListener(fd);
 * });
 * using conn = await Deno.connect({ hostname: "127.0.0.1", port: old.addr.port });
 * using accepted = await listener!.accept();
 * console.log("accepted on the inherited listener:", conn.localAddr, accepted.remoteAddr);
 * listener!.close();
 * ```
 *
 * @throws {WrongDescriptorError} When it is not a listening TCP or unix stream socket.
 * @throws {Deno.errors.BadResource} When it is not open.
 * @throws {UnsupportedRuntimeError} When this Deno does not let it.
 */
export function fdListener(fd: Fd | number): Deno.Listener;
/**
 * Makes a listening TCP socket a native `Deno.TlsListener`, with a certificate of the caller's.
 *
 * @throws {WrongDescriptorError} When it is not a listening TCP socket.
 */
export function fdListener(fd: Fd | number, tls: TlsOptions): Deno.TlsListener;
export function fdListener(fd: Fd | number, tls?: TlsOptions): Deno.Listener {
  const listener = adoptListener(fd, tls);
  proveInBackground();
  return listener;
}

function adoptListener(fd: Fd | number, tls?: TlsOptions): Deno.Listener {
  const raw = rawOf(fd);
  const kind = listenerKind(raw);
  if (tls && kind.domain === "unix") throw wrong(raw, "a listening TCP socket, as TLS needs");
  const { dummy, registration } = dummyListener<Deno.Listener>(
    raw,
    kind,
    (where) => {
      if ("path" in where) return runtime.listen({ transport: "unix", ...where });
      return tls ? runtime.listenTls({ ...where, ...tls }) : runtime.listen(where);
    },
    (listener) => listener.close(),
  );
  completeAdoption(fd, dummy, registration, {
    correct(raw) {
      Object.assign(dummy.addr, localAddress(raw));
      growAcceptQueue(raw, kind);
    },
    discard: () => dummy.close(),
  });
  return dummy;
}

/** The length of the accept queue of Deno's own TCP listeners (its option `tcpBacklog`). */
const nativeBacklog = 511;

/**
 * Makes the accept queue of an inherited TCP listener as long as that of Deno's own: its sender may have chosen a
 * short one, and a connection that finds no room is tried again after a second. An error is ignored: the listener
 * serves nevertheless.
 */
export function growAcceptQueue(raw: number, { domain }: SocketKind): void {
  // listen(2) on a unix socket changes the credentials that its clients see (unix(7), SO_PEERCRED).
  if (domain === "unix") return;
  const length = acceptQueueLength(raw);
  if (length === undefined || length >= nativeBacklog) return;
  try {
    setAcceptQueueLength(raw, nativeBacklog);
  } catch {
    // A sandbox may refuse listen(2): the listener accepts all the same.
  }
}

/**
 * Makes a connected TCP or unix stream socket a native `Deno.TcpConn` or `Deno.UnixConn`, with its
 * own addresses. The descriptor becomes the connection's once this resolves.
 *
 * ```ts
 * import { connHandler, fdConn, listenAndServe, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * using peer = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const old = await Deno.connect({ hostname: "127.0.0.1", port: peer.addr.port });
 * await using _server = listenAndServe(path, connHandler(old));
 *
 * await receive(path, async (fd) => {
 *   using conn = await fdConn(fd);
 *   await conn.write(new TextEncoder().encode(`hello to ${JSON.stringify(conn.remoteAddr)}`));
 * });
 * (await peer.accept()).close();
 * ```
 *
 * @throws {WrongDescriptorError} When it is not a connected TCP or unix stream socket.
 * @throws {Deno.errors.BadResource} When it is not open.
 * @throws {UnsupportedRuntimeError} When this Deno does not let it.
 */
export async function fdConn(fd: Fd | number): Promise<Deno.TcpConn | Deno.UnixConn> {
  connKind(rawOf(fd));
  await proven();
  return await adoptConn(fd);
}

async function adoptConn(fd: Fd | number): Promise<Deno.TcpConn | Deno.UnixConn> {
  // A connection that its peer resets meanwhile has no address any more.
  const peer = peerAddress(rawOf(fd));
  const isUnix = connKind(rawOf(fd)).domain === "unix";
  const { conn, registration } = isUnix ? await unixStandIn() : await dummyConn(fd);
  completeAdoption(fd, conn, registration, {
    put: exchange,
    correct(raw) {
      Object.assign(conn.localAddr, localAddress(raw));
      Object.assign(conn.remoteAddr, peer);
    },
    discard: () => conn.close(),
  });
  return conn;
}

/**
 * Makes a UDP or unix datagram socket a native `Deno.DatagramConn`; needs `--unstable-net`, as
 * `Deno.listenDatagram` does. The descriptor becomes the socket's.
 *
 * ```ts
 * import { fdPacketConn, listenAndServe, packetConnHandler, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * const old = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
 * await using _server = listenAndServe(path, packetConnHandler(old));
 *
 * await receive(path, async (fd) => {
 *   const socket = fdPacketConn(fd);
 *   await socket.send(new TextEncoder().encode("hello"), socket.addr);
 *   console.log("received", await socket.receive());
 *   socket.close();
 * });
 * old.close();
 * ```
 *
 * @throws {WrongDescriptorError} When it is not a datagram socket.
 * @throws {Deno.errors.BadResource} When it is not open.
 * @throws {UnsupportedRuntimeError} Without `--unstable-net`.
 */
export function fdPacketConn(fd: Fd | number): Deno.DatagramConn {
  const raw = rawOf(fd);
  const kind = datagramKind(raw);
  checkDatagrams();
  const { dummy, registration } = dummyDatagrams(raw, kind);
  completeAdoption(fd, dummy, registration, {
    correct: (raw) => void Object.assign(dummy.addr, localAddress(raw)),
    discard: () => dummy.close(),
  });
  proveInBackground();
  return dummy;
}

/** @throws {UnsupportedRuntimeError} Without `--unstable-net`. */
export function checkDatagrams(): void {
  if (typeof runtime.listenDatagram === "function") return;
  throw new UnsupportedRuntimeError(
    "Datagram sockets need the flag --unstable-net, as Deno.listenDatagram does",
  );
}
