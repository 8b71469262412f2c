/**
 * Makes native Deno objects of descriptors.
 *
 * A descriptor of another kind than was asked for is an error, and stays open, with the caller: as the wrong object it
 * would hang, or lose connections without an error.
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

/** Makes a dummy TCP connection, and its registration. */
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
 * Makes a file, pipe or terminal a native `Deno.FsFile`; the offset is shared with every process
 * that has the file open. The descriptor becomes the file's.
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
  // Deno reads files on a thread that blocks: with O_NONBLOCK a read would fail with EAGAIN.
  if (kind !== "regular") setNonblocking(raw, false);
  const { dummy, place } = standInFile(raw);
  remember(dummy, place);
  release(fd);
  return dummy;
}

/**
 * Makes a native file with a duplicate of `raw`. Files are in no epoll: the number of the dummy is found because no
 * other descriptor has /dev/null open in the same way. Other threads may open it so at the same moment: all of them
 * try again then.
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

/** The address of a dummy listener. */
export type StandInPlace = { path: string } | { hostname: string; port: number };

/**
 * Makes a dummy for the listening socket `raw` and catches its registration. The dummy is of the same kind of socket:
 * nothing else has to be permitted, up or free.
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
 * The addresses for a dummy of `raw`, as far as this process may use others than the first. Each address has its own
 * ports, and those of 127.0.0.1 may all be in use: a random one of the 2^24 loopback addresses is next. If loopback
 * is down, or IPv4 is refused, the address of `raw` itself is the last.
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
 * Rejects if adopted objects do not notice events, tried once a thread with a connection of its own: on such a
 * runtime an adoption is an error, and not a hang.
 */
function proven(): Promise<void> {
  return proof ??= prove().catch((error) => {
    if (error instanceof UnsupportedRuntimeError) throw error;
    // The test could not be made, for lack of descriptors for example: the next call tries again.
    proof = undefined;
  });
}

/**
 * The same for calls that do not wait: a failure is logged. The object may have been served on for a second by then,
 * and a process that serves is not ended for a failed test.
 */
export function proveInBackground(): void {
  if (proof) return;
  proven().catch((error) =>
    guarded(console).error!("Adopted listeners and servers of this process may hang", error)
  );
}

/** Tests with a unix socket: no packet filter applies, and no interface has to be up. */
async function prove(): Promise<void> {
  const attempt = "Cannot try an adopted listener";
  const name = privateName();
  using fd = new Fd(listenUnix(name, attempt));
  const { dummy, registration } = capture(trialListener, (listener) => listener.close());
  using listener = dummy;
  place(registration, fd.raw);
  const accepting = listener.accept();
  using _client = new Fd(connectUnix(name, attempt));
  // A TCP listener that accepts a unix connection fails: it has noticed the event, too.
  await woken(accepting.then((conn) => conn.close(), () => {}));
}

/** Waits for a promise, for a second and a hundred turns of the event loop at least. */
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

/** Gives the descriptor up: it belongs to the new object. */
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

/** Runs a step, and closes the dummy if it fails. */
function closing(step: () => void, dummy: { close(): void }): void {
  try {
    step();
  } catch (error) {
    dummy.close();
    throw error;
  }
}

/** The error for a descriptor of another kind than was asked for. */
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
