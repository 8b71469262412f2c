/**
 * Makes dummies: native objects whose registration is caught, and whose descriptor is replaced by an adopted one. A dummy
 * is a socket of the same kind, so that nothing else has to be permitted, up or free.
 *
 * @module
 */

import { createEventfd } from "../../ffi/epoll.ts";
import { closeAll, type Fd, rawOf, replace } from "../../ffi/fd.ts";
import { holdPort, localAddress } from "../../ffi/socket.ts";
import type { SocketKind } from "../../ffi/socket_options.ts";
import {
  abstractFlag,
  anyPortFlag,
  atFirst,
  capture,
  captureConn,
  divert,
  explained,
  keep,
  privateName,
  type Registration,
  revert,
} from "../event_loop/registration.ts";
import { runtime } from "../runtime.ts";

/** The address of a dummy listener. */
export type DummyAddress = { path: string } | { hostname: string; port: number };

/**
 * Makes a dummy for the listening socket `raw`.
 */
export function dummyListener<T>(
  raw: number,
  { domain }: SocketKind,
  make: (where: DummyAddress) => T,
  discard: (dummy: T) => void,
): { dummy: T; registration: Registration } {
  const inet = (hostname: string) => make({ hostname, port: 0 });
  return capture(
    () =>
      domain === "unix"
        ? atFirst([privateName()], (path) => make({ path }), abstractFlag)
        : atFirst(dummyHosts(raw), inet),
    discard,
  );
}

/** Makes a dummy for the datagram socket `raw`. */
export function dummyDatagrams(
  raw: number,
  { domain }: SocketKind,
): { dummy: Deno.DatagramConn; registration: Registration } {
  const udp = (hostname: string) => runtime.listenDatagram({ transport: "udp", hostname, port: 0 });
  return capture<Deno.DatagramConn>(
    () =>
      domain === "unix"
        ? atFirst([privateName()], listenUnixpacket, abstractFlag)
        : atFirst(dummyHosts(raw), udp),
    (conn) => conn.close(),
  );
}

function listenUnixpacket(path: string): Deno.DatagramConn {
  try {
    return runtime.listenDatagram({ transport: "unixpacket", path });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // Deno 2.3 to 2.6 take no abstract names here.
    const directory = Deno.makeTempDirSync({ prefix: "graceful-" });
    try {
      return runtime.listenDatagram({ transport: "unixpacket", path: `${directory}/dummy` });
    } finally {
      Deno.removeSync(directory, { recursive: true });
    }
  }
}

/** Makes a dummy TCP connection, and its registration. */
export async function dummyConn(
  fd: Fd | number,
): Promise<{ conn: Deno.TcpConn; registration: Registration }> {
  let first: { error: unknown } | undefined;
  for (const hostname of dummyHosts(rawOf(fd))) {
    try {
      return await connectedLike(fd, hostname);
    } catch (error) {
      first ??= { error };
    }
  }
  throw explained(first!.error, anyPortFlag);
}

/**
 * Deno takes a TCP connection for established when its socket is writable and has two IP addresses. So no packet has
 * to come back: Deno reads the addresses of the descriptor itself, and its runtime watches an eventfd, which is
 * writable, because the descriptor may have no room for long. The connection attempt with which it begins is refused,
 * or filtered, and has no effect.
 */
async function connectedLike(
  fd: Fd | number,
  hostname: string,
): Promise<{ conn: Deno.TcpConn; registration: Registration }> {
  const writable = createEventfd();
  let held = -1;
  try {
    let port: number;
    ({ raw: held, port } = holdPort(hostname, rawOf(fd)));
    const { conn, registration } = await captureConn(
      () => Deno.connect({ hostname, port }),
      (registration) => {
        keep(registration);
        divert(registration, rawOf(fd), writable);
      },
    );
    // If the adoption fails, closing the dummy must not shut the descriptor down.
    try {
      replace(writable, registration.tfd);
      revert(registration, writable);
    } catch (error) {
      conn.close();
      throw error;
    }
    return { conn, registration };
  } finally {
    closeAll([writable, held]);
  }
}

/**
 * The addresses for a dummy of `raw`, as far as this process may use others than the first. Each address has its own
 * ports, and those of 127.0.0.1 may all be in use: a random one of the 2^24 loopback addresses is next. If loopback
 * is down, or IPv4 is refused, the address of `raw` itself is the last.
 */
function* dummyHosts(raw: number): Generator<string> {
  yield "127.0.0.1";
  const parts = crypto.getRandomValues(new Uint8Array(3)).map((n) => n % 254 + 1);
  const others = [`127.${parts.join(".")}`];
  const own = localAddress(raw);
  if (own && "hostname" in own) others.push(own.hostname);
  yield* others.filter(mayUse);
}

function mayUse(hostname: string): boolean {
  const host = hostname.includes(":") ? `[${hostname}]` : hostname;
  return Deno.permissions.querySync({ name: "net", host }).state === "granted";
}
