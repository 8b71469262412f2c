/**
 * A descriptor becomes a native Deno object.
 *
 * What is not of the kind asked for is an error, and the descriptor stays open, with the caller: made
 * into the wrong object it would hang or lose connections silently.
 *
 * @module
 */

import {
  closeAll,
  closeRaw,
  Fd,
  isAppending,
  rawOf,
  replace,
  setNonblocking,
} from "../../ffi/fd.ts";
import { fileStatus, statusOf } from "../../ffi/file.ts";
import { createEventfd } from "../../ffi/epoll.ts";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { type Address, formatAddress } from "../../ffi/sockaddr.ts";
import {
  acceptQueueLength,
  connectUnix,
  holdPort,
  listenUnix,
  localAddress,
  peerAddress,
  setAcceptQueueLength,
  type SocketKind,
  socketKind,
} from "../../ffi/socket.ts";
import { expiring, unlessAborted } from "../time.ts";
import {
  abstractFlag,
  anyPortFlag,
  atFirst,
  capture,
  captureConn,
  divert,
  exchange,
  explained,
  keep,
  place,
  privateName,
  type Registration,
  revert,
  trialListener,
  unixStandIn,
} from "../event_loop/registration.ts";
import { remember } from "./descriptor.ts";
import { lookAfter } from "../event_loop/nonblocking_guard.ts";
import { UnsupportedRuntimeError, WrongDescriptorError } from "../errors.ts";
import { guarded } from "../logger.ts";

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
  const { dummy, registration } = captureListener<Deno.Listener>(
    raw,
    kind,
    (where) => {
      if ("path" in where) return Deno.listen({ transport: "unix", ...where });
      return tls ? Deno.listenTls({ ...where, ...tls }) : Deno.listen(where);
    },
    (listener) => listener.close(),
  );
  lookAfter(fd, registration.tfd);
  closing(() => place(registration, raw), dummy);
  Object.assign(dummy.addr, localAddress(raw));
  remember(dummy, registration.tfd);
  growAcceptQueue(raw, kind);
  release(fd);
  return dummy;
}

/** How many connections wait at a TCP listener of Deno's own (its option `tcpBacklog`). */
const nativeBacklog = 511;

/**
 * Lets as many connections wait at an inherited TCP listener as at one of Deno's own: whatever made it may
 * have been content with few, and a connection that finds no room is tried again after a second. That it
 * cannot be done is no reason not to serve.
 */
export function growAcceptQueue(raw: number, { domain }: SocketKind): void {
  // To listen again on a unix socket changes the credentials that its clients see (unix(7), SO_PEERCRED).
  if (domain === "unix") return;
  const length = acceptQueueLength(raw);
  if (length === undefined || length >= nativeBacklog) return;
  try {
    setAcceptQueueLength(raw, nativeBacklog);
  } catch {
    // A sandbox that refuses listen(2): it accepts all the same.
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
  // A peer that resets meanwhile has no address any more.
  const peer = peerAddress(rawOf(fd));
  const unix = connKind(rawOf(fd)).domain === "unix";
  const { conn, registration } = unix ? await unixStandIn() : await tcpStandIn(fd);
  closing(() => {
    const raw = rawOf(fd);
    lookAfter(fd, registration.tfd);
    exchange(registration, raw);
    Object.assign(conn.localAddr, localAddress(raw));
    Object.assign(conn.remoteAddr, peer);
  }, conn);
  remember(conn, registration.tfd);
  release(fd);
  return conn;
}

/** A TCP connection that stands on nothing of the network, and its place. */
async function tcpStandIn(
  fd: Fd | number,
): Promise<{ conn: Deno.TcpConn; registration: Registration }> {
  let first: { error: unknown } | undefined;
  for (const hostname of standInHosts(rawOf(fd))) {
    try {
      return await connectedLike(fd, hostname);
    } catch (error) {
      first ??= { error };
    }
  }
  throw explained(first!.error, anyPortFlag);
}

/**
 * Deno takes a TCP connection for established when its socket is writable and has two IP addresses. So
 * no packet has to come back: what Deno reads the addresses of is the descriptor itself, and what its
 * runtime sees to be writable is an eventfd, because the descriptor may have no room for long. The attempt
 * that begins it all is refused, or filtered, and forgotten.
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
    // Closing the connection must not shut the descriptor's down, should it not be adopted after all.
    closing(() => {
      replace(writable, registration.tfd);
      revert(registration, writable);
    }, conn);
    return { conn, registration };
  } finally {
    closeAll([writable, held]);
  }
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
  const kind = socketKind(raw);
  if (kind?.type !== "datagram" || kind.domain === "other") throw wrong(raw, "a datagram socket");
  checkDatagrams();
  const udp = (hostname: string) => Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const { dummy, registration } = capture<Deno.DatagramConn>(
    () =>
      kind.domain === "unix"
        ? atFirst([privateName()], listenUnixpacket, abstractFlag)
        : atFirst(standInHosts(raw), udp),
    (conn) => conn.close(),
  );
  lookAfter(fd, registration.tfd);
  closing(() => place(registration, raw), dummy);
  Object.assign(dummy.addr, localAddress(raw));
  remember(dummy, registration.tfd);
  release(fd);
  proveInBackground();
  return dummy;
}

/** @throws {UnsupportedRuntimeError} Without `--unstable-net`. */
export function checkDatagrams(): void {
  if (typeof Deno.listenDatagram === "function") return;
  throw new UnsupportedRuntimeError(
    "Datagram sockets need the flag --unstable-net, as Deno.listenDatagram does",
  );
}

function listenUnixpacket(path: string): Deno.DatagramConn {
  try {
    return Deno.listenDatagram({ transport: "unixpacket", path });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // Deno 2.3 to 2.6 take no abstract names here.
    const directory = Deno.makeTempDirSync({ prefix: "graceful-" });
    try {
      return Deno.listenDatagram({ transport: "unixpacket", path: `${directory}/stand-in` });
    } finally {
      Deno.removeSync(directory, { recursive: true });
    }
  }
}

/**
 * Makes a file, pipe or terminal a native `Deno.FsFile`; the offset stays shared with whoever else
 * has the file open. The descriptor becomes the file's.
 *
 * ```ts
 * import { fdFile, fileHandler, listenAndServe, receive } from "@graceful/deno";
 *
 * const path = `${await Deno.makeTempDir()}/app.sock`;
 * using old = await Deno.open(await Deno.makeTempFile(), { append: true });
 * await using _server = listenAndServe(path, fileHandler(old));
 *
 * await receive(path, async (fd) => {
 *   using file = fdFile(fd);
 *   await file.write(new TextEncoder().encode("one more line\n"));
 * });
 * ```
 *
 * @throws {WrongDescriptorError} When it is a socket or something else that Deno cannot read.
 * @throws {Deno.errors.BadResource} When it is not open.
 */
export function fdFile(fd: Fd | number): Deno.FsFile {
  const raw = rawOf(fd);
  const { kind } = fileStatus(raw);
  if (kind === "socket" || kind === "directory" || kind === "other") throw wrong(raw, "a file");
  // Deno reads files on a thread that blocks; one that does not would give EAGAIN.
  if (kind !== "regular") setNonblocking(raw, false);
  const { dummy, place } = standInFile(raw);
  remember(dummy, place);
  release(fd);
  return dummy;
}

/**
 * A native file in whose place is what `raw` is open on. Files are in no epoll: what tells its number
 * is that nobody else has /dev/null open in such a way. Other threads may, at the same moment and for
 * the same reason; then all try again.
 */
function standInFile(raw: number): { dummy: Deno.FsFile; place: number } {
  for (let tries = 0; tries < 1000; tries++) {
    const dummy = Deno.openSync("/dev/null", { read: true, append: true });
    const [place, ...others] = openDescriptors().filter(isAppendingNull);
    if (place !== undefined && others.length === 0) {
      closing(() => replace(raw, place), dummy);
      return { dummy, place };
    }
    dummy.close();
    const until = performance.now() + Math.random();
    while (performance.now() < until);
  }
  throw new UnsupportedRuntimeError(
    "Cannot adopt a file: the number of a file that is opened cannot be told",
  );
}

/** Whether `raw` is open on /dev/null, character device 1:3, for reading and appending. */
function isAppendingNull(raw: number): boolean {
  if (!isAppending(raw)) return false;
  const status = statusOf(raw);
  return status?.kind === "character device" && status.rdev === 0x103n;
}

/** Where a listener stands that stands in for another one. */
export type StandInPlace = { path: string } | { hostname: string; port: number };

/**
 * Captures what `make` makes to stand in for the listening socket `raw`: on a socket of the same kind,
 * so that nothing else has to be permitted, up or free.
 */
export function captureListener<T>(
  raw: number,
  { domain }: SocketKind,
  make: (where: StandInPlace) => T,
  discard: (dummy: T) => void,
): { dummy: T; registration: Registration } {
  const inet = (hostname: string) => make({ hostname, port: 0 });
  return capture(
    () =>
      domain === "unix"
        ? atFirst([privateName()], (path) => make({ path }), abstractFlag)
        : atFirst(standInHosts(raw), inet),
    discard,
  );
}

/**
 * Where a socket may be made that stands in for `raw`, as far as this process may use others than the
 * first. Each address has ports of its own, and those of 127.0.0.1 may all be in use: a random one of the
 * 2^24 loopback addresses is next. Where loopback is down, or IPv4 is refused, the address of `raw` itself
 * is the last.
 */
function* standInHosts(raw: number): Generator<string> {
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

/**
 * The kind of a listening stream socket.
 *
 * @throws {WrongDescriptorError} When `raw` is something else.
 */
export function listenerKind(raw: number): SocketKind {
  const kind = socketKind(raw);
  if (!kind || kind.domain === "other" || kind.type !== "stream" || !kind.listening) {
    throw wrong(raw, "a listening TCP or unix socket");
  }
  return kind;
}

let proof: Promise<void> | undefined;

/**
 * Rejects if objects on a socket of ours are not woken, tried once for the thread with a connection of
 * its own: a runtime on which they are not is an error, and not a hang.
 */
function proven(): Promise<void> {
  return proof ??= prove().catch((error) => {
    if (error instanceof UnsupportedRuntimeError) throw error;
    // Out of descriptors, for example: nothing is proven, and the next call tries again.
    proof = undefined;
  });
}

/**
 * The same for calls that cannot wait for it: a failure is logged. What it is about may have been
 * served for a second, and a process that serves is not ended for what a proof makes of it.
 */
export function proveInBackground(): void {
  if (proof) return;
  proven().catch((error) =>
    guarded(console).error!("Adopted listeners and servers of this process may hang", error)
  );
}

/** A unix socket is all that it takes: no packet filter sees it, no interface has to be up. */
async function prove(): Promise<void> {
  const attempt = "Cannot try an adopted listener";
  const name = privateName();
  using fd = new Fd(listenUnix(name, attempt));
  const { dummy, registration } = capture(trialListener, (listener) => listener.close());
  using listener = dummy;
  place(registration, fd.raw);
  const accepting = listener.accept();
  using _client = new Fd(connectUnix(name, attempt));
  // A listener of TCP that finds a unix connection fails then, and was woken too.
  await woken(accepting.then((conn) => conn.close(), () => {}));
}

/** What a promise comes to, if it does within a second, and a hundred turns, of the event loop. */
async function woken<T>(promise: Promise<T>): Promise<T> {
  let turns = 100;
  using late = expiring(
    10,
    () =>
      new UnsupportedRuntimeError(
        `Cannot adopt descriptors on Deno ${Deno.version.deno}: its event loop does not wake them. ` +
          "node:net and node:http take a descriptor with listen({ fd }), at lower speed",
      ),
    () => --turns > 0 ? 10 : 0,
  );
  return await unlessAborted(promise, late.signal);
}

/** The descriptor belongs to the new object from here on. */
export function release(fd: Fd | number): void {
  closeRaw(typeof fd === "number" ? fd : fd.take());
}

function connKind(raw: number): SocketKind {
  const kind = socketKind(raw);
  const stream = kind && kind.domain !== "other" && kind.type === "stream" && !kind.listening;
  if (!stream || peerAddress(raw) === undefined) {
    throw wrong(raw, "a connected TCP or unix stream socket");
  }
  return kind;
}

/** Runs `step`, and closes `dummy` if it fails. */
function closing(step: () => void, dummy: { close(): void }): void {
  try {
    step();
  } catch (error) {
    dummy.close();
    throw error;
  }
}

/** The error for a descriptor that is not of the kind that is wanted. */
export function wrong(raw: number, wanted: string): WrongDescriptorError {
  return new WrongDescriptorError(`Descriptor ${raw} is ${describe(raw)}, not ${wanted}`);
}

/** "a connected TCP socket (127.0.0.1:80 to 127.0.0.1:4711)", "a pipe". */
function describe(raw: number): string {
  const kind = socketKind(raw);
  if (!kind) return describeFile(raw);
  const { domain, type, listening } = kind;
  const local: Address | undefined = localAddress(raw);
  if (domain === "other" || type === "other") return "a socket of another family";
  const family = domain === "unix" ? `unix ${type}` : type === "stream" ? "TCP" : "UDP";
  if (listening) return `a listening ${family} socket (${formatAddress(local)})`;
  const peer = peerAddress(raw);
  if (!peer) return `an unconnected ${family} socket (${formatAddress(local)})`;
  return `a connected ${family} socket (${formatAddress(local)} to ${formatAddress(peer)})`;
}

/** "a regular file", "a pipe", "anon_inode:[eventpoll]". */
function describeFile(raw: number): string {
  const { kind } = fileStatus(raw);
  if (kind === "other") return describeDescriptor(raw) ?? "of an unknown kind";
  return kind === "regular" ? "a regular file" : `a ${kind}`;
}
