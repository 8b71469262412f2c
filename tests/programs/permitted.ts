/**
 * One promise of the library, kept or not under the permissions that this process was given. The other
 * ends of its sockets are made through libc: they need no permission of their own.
 *
 * @module
 */

import { c, structs } from "../../ffi/abi.ts";
import { check, uninterrupted } from "../../ffi/errno.ts";
import { Fd } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { ready } from "../../lib/event_loop/reactor.ts";
import { packUnix } from "../../ffi/sockaddr.ts";
import { connectUnix, listenUnix, localAddress } from "../../ffi/socket.ts";
import {
  connect,
  connHandler,
  drain,
  fdConn,
  fdFile,
  fdHandler,
  fdListener,
  fdPacketConn,
  fileHandler,
  type Handler,
  listen,
  listenAndServe,
  listenerHandler,
  packetConnHandler,
  receive,
  receiveAllFrom,
  send,
  serveHttp,
} from "../../mod.ts";
import { listenLoopback } from "../support/loopback.ts";

/** What to do, and the parent's directory and port. */
const [promise, directory, portArg] = Deno.args;
const port = Number(portArg);
/** Loopback too, and not where the library's own listeners are. */
const hostname = "127.0.0.2";
const attempt = "Cannot make what the fixture needs";
const name = () => `\0permitted-${crypto.randomUUID()}`;
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

const promises: Record<string, () => Promise<unknown>> = {
  import: () => Promise.resolve("imported"),

  async plain() {
    const path = `${directory}/plain.sock`;
    await using _stale = listenAndServe(path, fdHandler(0));
    await using _server = listenAndServe(path, fdHandler(0, bytes("served")), { replace: true });
    let seen = "";
    await receive(path, (_fd, meta) => void (seen += text(meta!)));
    using inbox = listen(name());
    const [conn] = await Promise.all([inbox.accept(), send(inbox.addr.path!, 0, bytes("sent"))]);
    using _conn = conn;
    await receiveAllFrom(conn, (_fd, meta) => void (seen += text(meta!)));
    using client = await connect(inbox.addr.path!);
    using accepted = await inbox.accept();
    await client.write(bytes("plain"));
    return seen + text(await accepted.readFull(new Uint8Array(5)));
  },

  listener: () => accepts(tcpListener()),
  http: () => answers(tcpListener()),
  unixListener: () => accepts(unixListener()),
  unixHttp: () => answers(unixListener()),
  conn: () => converses(tcpListener()),
  unixConn: () => converses(unixListener()),

  async file() {
    using raw = new Fd(check(libc().open(bytes("/proc/self/cmdline\0"), c.O_CLOEXEC, 0), attempt));
    return await handedOver(fdHandler(raw), async (fd) => {
      using file = fdFile(fd);
      return String(await file.read(new Uint8Array(1)));
    });
  },

  datagram: () =>
    receives(
      c.AF_INET,
      structs.sockaddr_in.pack({ sin_family: c.AF_INET, sin_addr: { s_addr: c.INADDR_LOOPBACK } }),
    ),
  unixDatagram: () => receives(c.AF_UNIX, packUnix(name(), attempt)),

  async nativeListener() {
    using listener = Deno.listen({ hostname, port: 0 });
    return await handedOver(listenerHandler(listener), addressOf);
  },

  async nativeHttp() {
    await using server = Deno.serve(
      { hostname, port: 0, onListen() {} },
      () => new Response(),
    );
    return await handedOver(listenerHandler(server), addressOf);
  },

  async nativeConn() {
    const conn = await Deno.connect({ hostname, port });
    return await handedOver(connHandler(conn), () => "a connection");
  },

  async nativeUnixConn() {
    const conn = await Deno.connect({ transport: "unix", path: `${directory}/parent.sock` });
    return await handedOver(connHandler(conn), () => "a connection");
  },

  async nativeDatagram() {
    if (!Deno.listenDatagram) throw new Error("Deno.listenDatagram needs --unstable-net");
    const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
    const seen = await handedOver(packetConnHandler(socket), addressOf);
    socket.close();
    return seen;
  },

  async nativeFile() {
    using file = Deno.openSync(`${directory}/file`);
    return await handedOver(fileHandler(file), () => "a file");
  },
};

/** A listening socket that no native object stands on, and a way to connect to it. */
interface Listening {
  fd: Fd;
  dial: () => Fd;
}

function tcpListener(): Listening {
  const { raw, port } = listenLoopback();
  return {
    fd: new Fd(raw),
    dial: () => {
      const client = new Fd(check(libc().socket(c.AF_INET, c.SOCK_STREAM, 0), attempt));
      const address = structs.sockaddr_in.pack({
        sin_family: c.AF_INET,
        sin_port: port,
        sin_addr: { s_addr: c.INADDR_LOOPBACK },
      });
      check(libc().connect(client.raw, address, address.length), attempt);
      return client;
    },
  };
}

function unixListener(): Listening {
  const path = name();
  return {
    fd: new Fd(listenUnix(path, attempt)),
    dial: () => new Fd(connectUnix(path, attempt)),
  };
}

/** What `use` makes of the descriptor that `handler` sends and this process receives. */
async function handedOver<T>(handler: Handler, use: (fd: Fd) => T | Promise<T>): Promise<T> {
  const path = name();
  let failure: unknown;
  const logger = { error: (_message: string, error: unknown) => failure = error };
  await using _server = listenAndServe(path, handler, { logger });
  let result: T | undefined;
  try {
    await receive(path, async (fd) => {
      result = await use(fd);
    });
  } catch (error) {
    throw failure ?? error;
  }
  return result!;
}

function accepts({ fd: original, dial }: Listening): Promise<string> {
  using fd = original;
  return handedOver(fdHandler(fd.dup()), async (fd) => {
    using listener = fdListener(fd);
    const accepting = listener.accept();
    using client = dial();
    using conn = await accepting;
    write(client, "hello");
    return await heard(conn);
  });
}

function answers({ fd: original, dial }: Listening): Promise<string> {
  using fd = original;
  return handedOver(fdHandler(fd.dup()), async (fd) => {
    const server = serveHttp(fd, () => new Response("hello"));
    using client = dial();
    write(client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    const answer = await readAll(client);
    await drain(server);
    return answer.slice(answer.indexOf("\r\n\r\n") + 4);
  });
}

async function converses({ fd: listener, dial }: Listening): Promise<string> {
  using _listener = listener;
  using client = dial();
  using end = new Fd(check(libc().accept4(listener.raw, null, null, c.SOCK_CLOEXEC), attempt));
  return await handedOver(fdHandler(end), async (fd) => {
    using conn = await fdConn(fd);
    write(client, "hello");
    return await heard(conn);
  });
}

async function receives(family: number, address: Uint8Array<ArrayBuffer>): Promise<string> {
  using fd = new Fd(check(libc().socket(family, c.SOCK_DGRAM | c.SOCK_CLOEXEC, 0), attempt));
  check(libc().bind(fd.raw, address, address.length), attempt);
  return await handedOver(fdHandler(fd), (fd) => {
    const socket = fdPacketConn(fd);
    const { transport } = socket.addr;
    socket.close();
    return transport;
  });
}

function addressOf(fd: Fd): string {
  return (localAddress(fd.raw) as Deno.NetAddr).hostname;
}

async function heard(conn: Deno.Conn): Promise<string> {
  const into = new Uint8Array(100);
  return text(into.subarray(0, await conn.read(into) ?? 0));
}

function write(fd: Fd, message: string): void {
  const all = bytes(message);
  check(Number(libc().write(fd.raw, all, BigInt(all.length))), attempt);
}

async function readAll(fd: Fd): Promise<string> {
  let all = "";
  const chunk = new Uint8Array(1000);
  for (;;) {
    await ready(fd.raw, "readable");
    const n = Number(uninterrupted(() => libc().read(fd.raw, chunk, BigInt(chunk.length))));
    if (n <= 0) return all;
    all += text(chunk.subarray(0, n));
  }
}

try {
  console.log(JSON.stringify({ seen: await promises[promise]() }));
} catch (error) {
  const { name, message } = error as Error;
  console.log(JSON.stringify({ name, message }));
}
