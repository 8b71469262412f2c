/**
 * What the Go web server beside it becomes: takes its listener over, serves on it, and can hand it to
 * a next process in turn.
 *
 *     go run . & deno run -A main.ts
 *
 * @module
 */

import { parseArgs } from "node:util";
import {
  connect,
  drain,
  type Handler,
  listenAndServe,
  receiveFrom,
  sendListener,
  serveHttp,
} from "../../mod.ts";

const usage = `Takes over from the Go web server that runs.

Usage: deno run -A examples/from_go/main.ts [options]

  --graceful PATH  its control socket, and then this one's (/tmp/graceful.sock)
  --drain-timeout MS  how long clients may take to leave, in milliseconds (30000)
  --help           this text`;

/** What a process says that has received the listener and serves. */
const ready = "ready";

const { graceful: path, drainTimeout } = readFlags();

const server = await takeOver();
const { hostname, port } = server.addr as Deno.NetAddr;
console.log(`Deno serves on ${hostname}:${port}`);

const replaced = Promise.withResolvers<void>();
// The predecessor's path is replaced, and never missing.
const control = listenAndServe(path, handOver(), { replace: true });
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => replaced.resolve());
}
await replaced.promise;
console.log("Deno leaves");
console.log(`Deno has left; ${await drain(server, { drainTimeout })} connections had not`);
await control.shutdown();
Deno.exit();

async function takeOver(): Promise<Deno.HttpServer> {
  using conn = await connect(path);
  let server: Deno.HttpServer | undefined;
  await receiveFrom(conn, (fd) => {
    server = serveHttp(fd, answer);
  });
  if (!server) throw new Error(`Whoever serves ${path} sent no listener`);
  // From here on two accept; the other one leaves now. Had this process died before, it would not.
  await conn.write(new TextEncoder().encode(ready));
  return server;
}

function handOver(): Handler {
  return async (conn, response) => {
    await sendListener(response, server);
    await response.flush();
    // One that hangs up without the word has failed, or only asked: this one goes on.
    const word = await conn.readFull(new Uint8Array(ready.length));
    if (new TextDecoder().decode(word) !== ready) throw new Error("it does not say that it serves");
    replaced.resolve();
  };
}

function answer(): Response {
  return new Response(`Hello from Deno, process ${Deno.pid}!\n`);
}

function readFlags(): { graceful: string; drainTimeout: number } {
  try {
    const { values: { help, graceful, "drain-timeout": drainTimeout } } = parseArgs({
      options: {
        graceful: { type: "string", default: "/tmp/graceful.sock" },
        "drain-timeout": { type: "string", default: "30000" },
        help: { type: "boolean", default: false },
      },
    });
    if (!help) return { graceful, drainTimeout: milliseconds(drainTimeout) };
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    Deno.exit(2);
  }
  console.log(usage);
  Deno.exit();
}

function milliseconds(value: string): number {
  if (Number(value) >= 0) return Number(value);
  throw new Error(`--drain-timeout takes milliseconds, not "${value}"`);
}
