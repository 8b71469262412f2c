/**
 * Adopts a descriptor of each kind and uses it, where something that stand-ins might want is missing:
 * what they replace is made before, through libc. Prints what it saw.
 *
 * @module
 */

import { accept, connectUnix, listenUnix, socketPair } from "../../ffi/socket.ts";
import { Fd } from "../../ffi/fd.ts";
import { check } from "../../ffi/errno.ts";
import { libc } from "../../ffi/libc.ts";
import { ready } from "../../lib/event_loop/reactor.ts";
import { fdConn, fdListener, fdPacketConn, serveHttp, start } from "../../mod.ts";
import { boundAt, connectedTo, portOf } from "../support/loopback.ts";

/** "unix", or an IP address; what to take away then; and where generations have their control path. */
const [where, missing, control] = Deno.args;
const attempt = "Cannot make what the fixture needs";
const request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const encode = (text: string) => new TextEncoder().encode(text);

/** A listener, and a client in its queue: to connect later on may not be possible. */
interface Listening {
  fd: Fd;
  client: Fd;
}

function unixListening(): Listening {
  const path = `\0stand-ins-${crypto.randomUUID()}`;
  const fd = new Fd(listenUnix(path, attempt));
  return { fd, client: new Fd(connectUnix(path, attempt)) };
}

function tcpListening(): Listening {
  const fd = boundAt(where, "stream");
  check(libc().listen(fd.raw, 10), attempt);
  return { fd, client: connectedTo(where, portOf(fd)) };
}

function tcpPair(): [Fd, Fd] {
  const { fd, client } = tcpListening();
  using _listener = fd;
  return [client, new Fd(accept(fd.raw, attempt))];
}

function unixPair(type: "stream" | "datagram"): [Fd, Fd] {
  const [a, b] = socketPair(type);
  return [new Fd(a), new Fd(b)];
}

async function heard(conn: Deno.Conn, from: Fd): Promise<string> {
  write(from, "hello");
  const into = new Uint8Array(100);
  return new TextDecoder().decode(into.subarray(0, await conn.read(into) ?? 0));
}

function write(fd: Fd, text: string): void {
  const bytes = encode(text);
  check(Number(libc().write(fd.raw, bytes, BigInt(bytes.length))), attempt);
}

async function answer(client: Fd): Promise<string> {
  let text = "";
  const chunk = new Uint8Array(1000);
  for (;;) {
    await ready(client.raw, "readable");
    const n = Number(libc().read(client.raw, chunk, BigInt(chunk.length)));
    if (n <= 0) return text.slice(text.indexOf("\r\n\r\n") + 4);
    text += new TextDecoder().decode(chunk.subarray(0, n));
  }
}

/** Uses up the ports of 127.0.0.1: those of TCP by clients of a service there, as a busy proxy does. */
function useUpPorts(): Disposable[] {
  const service = boundAt("127.0.0.1", "stream", 8080);
  check(libc().listen(service.raw, 1000), attempt);
  const all: Disposable[] = [service];
  for (
    const take of [() => connectedTo("127.0.0.1", 8080), () => boundAt("127.0.0.1", "datagram")]
  ) {
    for (;;) {
      try {
        all.push(take());
      } catch (error) {
        const { AddrInUse, AddrNotAvailable } = Deno.errors;
        if (error instanceof AddrInUse || error instanceof AddrNotAvailable) break;
        throw error;
      }
    }
  }
  return all;
}

/** Takes away what is to be missing; the function that it returns gives it back. */
function takeAway(): () => void {
  switch (missing) {
    case "ports": {
      const count = useUpPorts().length;
      if (count < 10) throw new Error(`Only ${count} sockets have a port`);
      return () => {};
    }
    case "loopback":
      setLoopback("down");
      return () => setLoopback("up");
    default:
      return () => {};
  }
}

function setLoopback(state: "up" | "down"): void {
  const args = ["link", "set", "lo", state];
  const { success, stderr } = new Deno.Command("ip", { args }).outputSync();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
}

async function each(): Promise<Record<string, unknown>> {
  const unix = where === "unix";
  const listening = unix ? unixListening : tcpListening;
  const [accepting, serving] = [listening(), listening()];
  const [near, far] = unix ? unixPair("stream") : tcpPair();
  const datagrams = unix ? unixPair("datagram")[0] : boundAt(where, "datagram");
  const giveBack = takeAway();
  const listener = fdListener(accepting.fd);
  serveHttp(serving.fd, () => new Response("hello"));
  const conn = await fdConn(near);
  const socket = fdPacketConn(datagrams);
  giveBack();
  write(serving.client, request);
  const seen = {
    listener: await heard(await listener.accept(), accepting.client),
    http: await answer(serving.client),
    conn: await heard(conn, far),
    datagram: socket.addr.transport,
  };
  await conn.write(encode("back"));
  await ready(far.raw, "readable");
  return seen;
}

/** A generation serves, and another one takes over from it. */
async function generations(): Promise<Record<string, unknown>> {
  const options = { logger: {}, probation: 10 };
  const at = where === "unix" ? { path: `${control}.http` } : { hostname: where, port: 8081 };
  const first = await start(control, options);
  first.serve({ ...at, onListen() {} }, () => new Response("first"));
  await first.ready();
  const dial = () =>
    "path" in at ? new Fd(connectUnix(at.path!, attempt)) : connectedTo(where, 8081);
  const ask = async () => {
    using client = dial();
    write(client, request);
    return await answer(client);
  };
  const seen: Record<string, unknown> = { first: await ask() };
  const second = await start(control, options);
  second.serve({ ...at, onListen() {} }, () => new Response("second"));
  await second.ready();
  await first.finished;
  seen.second = await ask();
  // What the thread proves to itself has come to its end when a connection is adopted.
  const [a, b] = unixPair("stream");
  seen.conn = await heard(await fdConn(a), b);
  await second.stop();
  return seen;
}

console.log(JSON.stringify(await (control ? generations() : each())));
Deno.exit();
