/**
 * Descriptors for the checks of the matrix: made with libc and blocking, as most programs send them; and
 * sent through a unix socket.
 *
 * @module
 */

import { c, structs } from "../../ffi/abi.ts";
import { check } from "../../ffi/errno.ts";
import { Fd } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { packUnix } from "../../ffi/sockaddr.ts";
import { localAddress } from "../../ffi/socket.ts";
import { receiveFrom, sendTo, type UnixConn } from "../../mod.ts";
import { connectedPair } from "../support/raw.ts";

export const attempt = "Cannot make what the check needs";

/** Sends a descriptor over a unix connection; gives what is received at the other end. */
export async function passThrough(send: (conn: UnixConn) => Promise<void>): Promise<Fd> {
  const [here, there] = connectedPair();
  using _here = here;
  using _there = there;
  await send(here);
  let received: Fd | undefined;
  await receiveFrom(there, (fd) => {
    received = new Fd(fd.take());
  });
  return received!;
}

/** Sends a descriptor and closes it: only the received one is left. */
export async function passFd(fd: Fd): Promise<Fd> {
  using sent = fd;
  return await passThrough((conn) => sendTo(conn, sent));
}

export const families = { "127.0.0.1": c.AF_INET, "::1": c.AF_INET6, "::": c.AF_INET6 };
export type Hostname = keyof typeof families;

export function rawSocket(family: number, type: number): Fd {
  return new Fd(check(libc().socket(family, type | c.SOCK_CLOEXEC, 0), attempt));
}

export function packInet(hostname: Hostname, port: number): Uint8Array<ArrayBuffer> {
  if (hostname === "127.0.0.1") {
    return structs.sockaddr_in.pack({
      sin_family: c.AF_INET,
      sin_port: port,
      sin_addr: { s_addr: c.INADDR_LOOPBACK },
    });
  }
  const address = new Uint8Array(16);
  if (hostname === "::1") address[15] = 1;
  return structs.sockaddr_in6.pack({
    sin6_family: c.AF_INET6,
    sin6_port: port,
    sin6_addr: address,
  });
}

export function bindTo(fd: Fd, address: Uint8Array<ArrayBuffer>): Fd {
  check(libc().bind(fd.raw, address, address.length), attempt);
  return fd;
}

export function listenOn(fd: Fd): Fd {
  check(libc().listen(fd.raw, 128), attempt);
  return fd;
}

export function connectTo(fd: Fd, address: Uint8Array<ArrayBuffer>): Fd {
  check(libc().connect(fd.raw, address, address.length), attempt);
  return fd;
}

export function boundInetSocket(type: number, hostname: Hostname): Fd {
  return bindTo(rawSocket(families[hostname], type), packInet(hostname, 0));
}

export function boundUnixSocket(type: number, path: string): Fd {
  return bindTo(rawSocket(c.AF_UNIX, type), packUnix(path, attempt));
}

export const tcpListener = (hostname: Hostname = "127.0.0.1") =>
  listenOn(boundInetSocket(c.SOCK_STREAM, hostname));
export const unixListener = (path: string) => listenOn(boundUnixSocket(c.SOCK_STREAM, path));
export const portOf = (fd: Fd) => (localAddress(fd.raw) as Deno.NetAddr).port;

/** The two ends of a pipe. (The library itself does not call pipe(2).) */
export function pipe(): [Fd, Fd] {
  const library = Deno.dlopen("libc.so.6", {
    // int pipe2(int pipefd[2], int flags);
    pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  });
  const ends = new Int32Array(2);
  const result = library.symbols.pipe2(new Uint8Array(ends.buffer), c.O_CLOEXEC);
  library.close();
  check(result, attempt);
  return [new Fd(ends[0]), new Fd(ends[1])];
}
