/**
 * A service of a unit: it serves and receives at the addresses that it is told, answers with its generation and PID, and
 * prints each step on a line. It obeys the lines that it reads: restart, stop, close, bind JSON,
 * rebind JSON.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { pathStatus } from "../../ffi/file.ts";
import { pause } from "../../lib/time.ts";
import { Fd, fdFile, start } from "../../mod.ts";
import { told } from "../support/child.ts";

const { values: flags, positionals: [path] } = parseArgs({
  allowPositionals: true,
  options: {
    serve: { type: "string", multiple: true, default: [] },
    // Those of the first generation alone, and of the later ones alone.
    serveFirst: { type: "string", multiple: true, default: [] },
    serveLater: { type: "string", multiple: true, default: [] },
    // A file with a JSON array of more addresses.
    serveFile: { type: "string" },
    listen: { type: "string", multiple: true, default: [] },
    datagram: { type: "string", multiple: true, default: [] },
    take: { type: "string", multiple: true, default: [] },
    probation: { type: "string", default: "100" },
    readyTimeout: { type: "string", default: "20000" },
    drainTimeout: { type: "string", default: "20000" },
    // Later generations fail before ready(), or stop() before ready(), while this file exists.
    fail: { type: "string" },
    stopEarly: { type: "string" },
    // Later generations wait for this file before that, and before ready(); or they block until it is there.
    wait: { type: "string" },
    block: { type: "string" },
    // A request for "/slow" is answered when this file exists.
    slow: { type: "string" },
    // Starts this program with these arguments, as a helper, before ready().
    helper: { type: "string" },
  },
});

const isThere = (file: string | undefined) => file !== undefined && pathStatus(file) !== undefined;
const say = (line: string) => console.log(line.replaceAll("\n", " "));
const app = await start(path, {
  logger: {
    info: (message) => say(`info: ${message}`),
    warn: (message) => say(`warning: ${message}`),
    error: (message, error) => say(`error: ${message}: ${(error as Error)?.message}`),
  },
  probation: Number(flags.probation),
  readyTimeout: Number(flags.readyTimeout),
  drainTimeout: Number(flags.drainTimeout),
});
const isLater = app.generation > 1;
if (isLater && isThere(flags.fail)) throw new Error("this release is broken");
variables();
const closing: (() => unknown)[] = [];
for (const each of flags.serve) serve(JSON.parse(each));
for (const each of isLater ? flags.serveLater : flags.serveFirst) serve(JSON.parse(each));
if (flags.serveFile) {
  for (const each of JSON.parse(Deno.readTextFileSync(flags.serveFile))) serve(each);
}
for (const each of flags.listen) {
  const listener = app.listen(JSON.parse(each));
  closing.push(() => listener.close());
}
for (const each of flags.datagram) void echo(JSON.parse(each));
for (const name of flags.take) await take(name);
if (isLater && flags.wait) { while (!isThere(flags.wait)) await pause(10); }
if (isLater && isThere(flags.stopEarly)) {
  say(`stopping early: ${app.generation}`);
  await app.stop();
  Deno.exit(3);
}
if (flags.helper && !isLater) help(flags.helper);
commands();
if (isLater && flags.block) block(flags.block);
try {
  await app.ready();
  say(`serving: ${app.generation} ${Deno.pid}`);
} catch (error) {
  say(`not ready: ${(error as Error).message}`);
}
app.finished.then(() => say(`finished: ${app.generation}`), () => say("rejected")).then(() =>
  Deno.exit()
);

function serve(address: Deno.TcpListenOptions & { path: string; name?: string }): void {
  const server = app.serve({ ...address, onListen() {} }, async (request) => {
    if (new URL(request.url).pathname === "/slow") {
      say(`slow: ${app.generation}`);
      while (!isThere(flags.slow)) await pause(10);
    }
    return new Response(`${app.generation} ${Deno.pid} ${address.name ?? ""}`);
  });
  closing.push(() => server.shutdown());
  say(`bound: ${JSON.stringify(server.addr)}`);
}

async function echo(address: Deno.UdpListenOptions & { transport: "udp" }): Promise<void> {
  const socket = app.listenDatagram(address);
  say(`bound: ${JSON.stringify(socket.addr)}`);
  for await (const [, from] of socket) {
    await socket.send(new TextEncoder().encode(`${app.generation}`), from);
  }
}

async function take(name: string): Promise<void> {
  const kept = app.take(name);
  if (!(kept instanceof Fd)) return say(`taken: ${name} nothing`);
  using file = fdFile(kept);
  const chunk = new Uint8Array(100);
  const n = await file.read(chunk);
  say(`taken: ${name} ${new TextDecoder().decode(chunk.subarray(0, n ?? 0))}`);
}

/** Starts a process that is no generation of this service, with the same environment. */
function help(control: string): void {
  const args = ["run", "-A", import.meta.filename!, control, "--serve", '{"port":0}'];
  const helper = new Deno.Command(Deno.execPath(), { args, stdin: "piped", stdout: "piped" });
  const { stdin, stdout } = helper.spawn();
  void (async () => {
    for await (const text of stdout.pipeThrough(new TextDecoderStream())) {
      for (const line of text.trim().split("\n")) say(`helper ${line}`);
    }
  })();
  closing.push(() => stdin.close());
}

/** Blocks the event loop until a file is there. */
function block(file: string): void {
  say("blocking");
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (!isThere(file)) Atomics.wait(never, 0, 0, 10);
}

function variables(): void {
  const names = Object.keys(Deno.env.toObject()).filter((name) => name.startsWith("LISTEN_"));
  say(`variables: ${app.generation} ${names.join(" ")}`);
}

async function commands(): Promise<void> {
  for await (const line of told()) {
    if (line === "stop") app.stop();
    if (line === "close") closing.shift()!();
    if (line.startsWith("rebind ")) {
      closing.shift()!();
      say(`bound: ${JSON.stringify(app.listen(JSON.parse(line.slice(7))).addr)}`);
    }
    if (line.startsWith("bind ")) serve(JSON.parse(line.slice(5)));
    if (line === "restart") {
      app.restart().then(
        ({ generation }) => say(`restarted: ${generation}`),
        (error) => say(`failed: ${error.code} ${error.message}`),
      );
    }
  }
}
