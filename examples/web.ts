/**
 * A web server that its next instance takes over from: start it twice, and the second one receives
 * the listener of the first, which answers what it has and leaves.
 *
 *     deno run -A examples/web.ts --listen 127.0.0.1:3333
 *
 * @module
 */

import { parseArgs } from "node:util";
import {
  connect,
  drain,
  type Handler,
  listenAndServe,
  receiveAllFrom,
  sendListener,
  serveHttp,
} from "../mod.ts";

const usage = `A web server that its next instance takes over from.

Usage: deno run -A examples/web.ts [options]

  --graceful PATH     control socket, where the next instance finds this one (/tmp/graceful.sock)
  --listen HOST:PORT  where the first instance listens (127.0.0.1:3333)
  --sleep MS          how long an answer takes, in milliseconds (5000)
  --help              this text`;

/** What an instance says that has received the listener and serves. */
const ready = "ready";

const flags = readFlags();
const sleep = Number(flags.sleep);
if (!(sleep >= 0)) fail(`--sleep takes milliseconds, not "${flags.sleep}"`);

const name = randomName(8);

// If an instance is running, it sends its listener. If none is, this is the first one.
const server = await inherit() ?? begin();
log(`server "${name}" serves on ${format(server.addr)}`);

const replaced = Promise.withResolvers<string>();
const control = listenAndServe(flags.graceful, handOver(), { replace: true });
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => replaced.resolve(signal));
}

const reason = await replaced.promise;
log(`server "${name}" leaves: ${reason}`);
const closed = await drain(server, { drainTimeout: 30_000 });
await control.shutdown();
log(`stopped server "${name}"${closed > 0 ? `; ${closed} connections had not left` : ""}`);
Deno.exit();

function readFlags(): { graceful: string; listen: string; sleep: string } {
  try {
    const { values: { help, ...flags } } = parseArgs({
      options: {
        graceful: { type: "string", default: "/tmp/graceful.sock" },
        listen: { type: "string", default: "127.0.0.1:3333" },
        sleep: { type: "string", default: "5000" },
        help: { type: "boolean", default: false },
      },
    });
    if (!help) return flags;
  } catch (error) {
    fail((error as Error).message);
  }
  console.log(usage);
  Deno.exit();
}

async function inherit(): Promise<Deno.HttpServer | undefined> {
  let server: Deno.HttpServer | undefined;
  try {
    using conn = await connect(flags.graceful);
    await receiveAllFrom(conn, (fd) => {
      server = serveHttp(fd, answer);
    });
    if (!server) throw new Error(`Whoever serves ${flags.graceful} sent no listener`);
    // From here on two accept; the other one leaves now. Had this one failed before, it would not.
    await conn.write(new TextEncoder().encode(ready));
  } catch (error) {
    const { NotFound, ConnectionRefused } = Deno.errors;
    if (!(error instanceof NotFound || error instanceof ConnectionRefused)) throw error;
  }
  return server;
}

function begin(): Deno.HttpServer {
  const [, hostname, port] = /^\[?(.*?)\]?:(\d+)$/.exec(flags.listen) ??
    fail(`--listen takes HOST:PORT, not "${flags.listen}"`);
  return serveHttp(Deno.listen({ hostname, port: Number(port) }), answer);
}

/** Sends the listener to the first that comes, once. */
function handOver(): Handler {
  let successor = false;
  return async (conn, response) => {
    if (successor) throw new Error("another instance is taking over already");
    successor = true;
    try {
      await sendListener(response, server);
      await response.flush();
      // The other side reads to the end, and says so when it serves.
      conn.closeWrite();
      const word = await conn.readFull(new Uint8Array(ready.length));
      if (new TextDecoder().decode(word) !== ready) {
        throw new Error("it does not say that it serves");
      }
      replaced.resolve(`replaced by process ${conn.peer.pid}`);
    } catch (error) {
      // One that hangs up without the word has failed, or only asked: this one goes on.
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

function fail(message: string): never {
  console.error(`${message}\n\n${usage}`);
  Deno.exit(2);
}
