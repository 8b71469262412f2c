/**
 * A web server that passes its listener to its successor, by the functions for passing descriptors: start
 * it twice, and the second instance receives the listener of the first, which drains and ends.
 *
 *     deno run -A examples/web.ts --listen 127.0.0.1:3333
 *
 * @module
 */

import {
  connect,
  drain,
  type Handler,
  listenAndServe,
  receiveAllFrom,
  sendListener,
  serveHttp,
} from "../mod.ts";
import { fail, parseFlags } from "./flags.ts";

const usage = `A web server that passes its listener to its successor.

Usage: deno run -A examples/web.ts [options]

  --graceful PATH     the control socket, where the successor finds this instance (/tmp/graceful.sock)
  --listen HOST:PORT  the address of the first instance (127.0.0.1:3333)
  --sleep MS          how long an answer takes, in milliseconds (5000)
  --help              print this`;

/** A successor sends this when it has received the listener and serves. */
const ready = "ready";

const { graceful: path, listen: address, sleep } = parseFlags(usage, {
  graceful: "/tmp/graceful.sock",
  listen: "127.0.0.1:3333",
  sleep: 5000,
});

const name = randomName(8);

// A running instance sends its listener. Without one, this is the first instance.
const server = await inherit() ?? serveFirst();
log(`server "${name}" serves on ${format(server.addr)}`);

const stopping = Promise.withResolvers<string>();
const control = listenAndServe(path, handOver(), { replace: true });
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => stopping.resolve(signal));
}

const reason = await stopping.promise;
log(`server "${name}" drains: ${reason}`);
const closed = await drain(server, { drainTimeout: 30_000 });
await control.shutdown();
log(`server "${name}" has stopped${closed > 0 ? `; ${closed} connections were closed` : ""}`);
Deno.exit();

/** Serves on the listener of the running instance; gives undefined when none is running. */
async function inherit(): Promise<Deno.HttpServer | undefined> {
  let server: Deno.HttpServer | undefined;
  try {
    using conn = await connect(path);
    await receiveAllFrom(conn, (fd) => {
      server = serveHttp(fd, answer);
    });
    if (!server) throw new Error(`The server at ${path} sent no listener`);
    // Now both instances accept. The predecessor drains when it receives this; if this instance fails
    // before, the predecessor goes on.
    await conn.write(new TextEncoder().encode(ready));
  } catch (error) {
    const { NotFound, ConnectionRefused } = Deno.errors;
    if (!(error instanceof NotFound || error instanceof ConnectionRefused)) throw error;
  }
  return server;
}

/** Serves on a new listener. */
function serveFirst(): Deno.HttpServer {
  const [, hostname, port] = /^\[?(.*?)\]?:(\d+)$/.exec(address) ??
    fail(usage, `--listen takes HOST:PORT, not "${address}"`);
  return serveHttp(Deno.listen({ hostname, port: Number(port) }), answer);
}

/** Sends the listener to the successor, one at a time, and drains when that serves. */
function handOver(): Handler {
  let successor = false;
  return async (conn, response) => {
    if (successor) throw new Error("another successor is starting already");
    successor = true;
    try {
      await sendListener(response, server);
      await response.flush();
      // The successor receives until the end of the stream, and sends "ready" when it serves.
      conn.closeWrite();
      const reply = await conn.readFull(new Uint8Array(ready.length));
      if (new TextDecoder().decode(reply) !== ready) throw new Error('it did not send "ready"');
      stopping.resolve(`replaced by process ${conn.peer.pid}`);
    } catch (error) {
      // A client that closes without "ready" has failed, or is no successor: this instance goes on.
      successor = false;
      throw error;
    }
  };
}

async function answer(): Promise<Response> {
  if (sleep > 0) await new Promise((resolve) => setTimeout(resolve, sleep));
  return new Response(`Hello, I am a graceful server "${name}"!\n`);
}

function format(addr: Deno.Addr): string {
  return "hostname" in addr ? `${addr.hostname}:${addr.port}` : JSON.stringify(addr);
}

function randomName(length: number): string {
  const letters = crypto.getRandomValues(new Uint8Array(length));
  return String.fromCharCode(...letters.map((n) => 65 + n % 26));
}

function log(message: string): void {
  console.log(`${new Date().toISOString()} ${message}`);
}
