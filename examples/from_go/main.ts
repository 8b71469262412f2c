/**
 * The successor of the Go web server in main.go: it receives the listener, serves on it, and passes it to
 * its own successor.
 *
 *     go run . & deno run -A main.ts
 *
 * @module
 */

import {
  connect,
  drain,
  type Handler,
  listenAndServe,
  receiveFrom,
  sendListener,
  serveHttp,
} from "../../mod.ts";
import { parseFlags } from "../flags.ts";

const usage = `Takes over from the running Go web server.

Usage: deno run -A examples/from_go/main.ts [options]

  --graceful PATH     the control socket of both servers (/tmp/graceful.sock)
  --drain-timeout MS  how long clients may stay connected, in milliseconds (30000)
  --help              print this`;

/** A successor sends this when it has received the listener and serves. */
const ready = "ready";

const { graceful: path, "drain-timeout": drainTimeout } = parseFlags(usage, {
  "graceful": "/tmp/graceful.sock",
  "drain-timeout": 30_000,
});

const server = await takeOver();
const { hostname, port } = server.addr as Deno.NetAddr;
console.log(`Deno serves on ${hostname}:${port}`);

const stopping = Promise.withResolvers<void>();
// replace: takes the path over from the predecessor in one step, so that it always leads to a listener.
const control = listenAndServe(path, handOver(), { replace: true });
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => stopping.resolve());
}
await stopping.promise;
console.log("Deno drains");
const closed = await drain(server, { drainTimeout });
console.log(`Deno has drained; ${closed} connections were closed`);
await control.shutdown();
Deno.exit();

/** Serves on the listener of the running process. */
async function takeOver(): Promise<Deno.HttpServer> {
  using conn = await connect(path);
  let server: Deno.HttpServer | undefined;
  await receiveFrom(conn, (fd) => {
    server = serveHttp(fd, answer);
  });
  if (!server) throw new Error(`The server at ${path} sent no listener`);
  // Now both processes accept. The predecessor drains when it receives this; if this process dies
  // before, the predecessor goes on.
  await conn.write(new TextEncoder().encode(ready));
  return server;
}

/** Sends the listener to the successor, and drains when that serves. */
function handOver(): Handler {
  return async (conn, response) => {
    await sendListener(response, server);
    await response.flush();
    // A client that closes without "ready" has failed, or is no successor: this process goes on.
    const reply = await conn.readFull(new Uint8Array(ready.length));
    if (new TextDecoder().decode(reply) !== ready) throw new Error('it did not send "ready"');
    stopping.resolve();
  };
}

function answer(): Response {
  return new Response(`Hello from Deno, process ${Deno.pid}!\n`);
}
