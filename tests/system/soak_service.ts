/**
 * The service of the soak: HTTP on a TCP port, HTTPS where the directory has a certificate, and HTTP on a
 * unix path. It prints its phases as lines of JSON.
 *
 *     soak_service.ts OPTIONS    OPTIONS: SoakServiceOptions as JSON
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import {
  type Fd,
  listenAndServe,
  listenerHandler,
  receive,
  sequenceHandler,
  serveHttp,
  start,
} from "../../mod.ts";

/** The options of the service, which it gets as JSON. */
export interface SoakServiceOptions {
  /** The directory of its sockets, and of "cert.pem" and "key.pem", without which it serves no HTTPS. */
  directory: string;
  /** The control: no generation, but a process that sends its listeners and ends by `server.shutdown()` alone. */
  control: boolean;
  /** Milliseconds of the probation of a generation. @default {that of the library} */
  probation?: number;
}

/** A line that the service prints. */
export interface SoakLine {
  pid: number;
  /** A phase that a generation logs; or "started", "listening", "error" and "left" of this program. */
  phase: string;
  generation?: number;
  /** Of a phase of the old generation: the process that takes over. */
  successor?: number;
  /** Of "listening": the addresses. */
  ports?: Ports;
  /** Of "error": the message. */
  message?: string;
}

/** The ports of 127.0.0.1, and the unix path, of the service. */
export interface Ports {
  http: number;
  https?: number;
  path: string;
}

/** The length of the large answer in bytes. */
export const bigLength = 256 << 10;

/** The streamed answer: `count` pieces of `length` bytes, one every `interval` milliseconds. */
export const pieces = { count: 5, length: 1000, interval: 25 };

const big = new Uint8Array(bigLength).fill(120);
const piece = new Uint8Array(pieces.length).fill(120);

function answer(request: Request): Response | Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  if (pathname === "/fast") return new Response("fast");
  if (pathname === "/slow") return slow(Number(searchParams.get("ms")));
  if (pathname === "/stream") return new Response(stream());
  if (pathname === "/upload") return received(request);
  if (pathname === "/big") return new Response(big);
  return new Response(`There is no ${pathname}`, { status: 404 });
}

async function slow(milliseconds: number): Promise<Response> {
  await pause(milliseconds);
  return new Response("slow");
}

async function received(request: Request): Promise<Response> {
  return new Response(String((await request.arrayBuffer()).byteLength));
}

function stream(): ReadableStream<Uint8Array> {
  let left = pieces.count;
  return new ReadableStream({
    async pull(controller) {
      await pause(pieces.interval);
      controller.enqueue(piece.slice());
      if (--left === 0) controller.close();
    },
  });
}

function print(line: Omit<SoakLine, "pid">): void {
  console.log(JSON.stringify({ pid: Deno.pid, ...line }));
}

/** A logger that prints the phase of each entry. */
function printPhase(_message: string, about: unknown): void {
  const { phase, generation, successor } = (about ?? {}) as Partial<SoakLine>;
  if (phase) print({ phase, generation, successor });
}

interface Tls {
  cert: string;
  key: string;
}

function tlsIn(directory: string): Tls | undefined {
  try {
    return {
      cert: Deno.readTextFileSync(`${directory}/cert.pem`),
      key: Deno.readTextFileSync(`${directory}/key.pem`),
    };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Serves as a generation of the library. */
async function generation({ directory, probation }: SoakServiceOptions): Promise<void> {
  const app = await start(`${directory}/app.sock`, {
    probation,
    logger: {
      info: printPhase,
      error: (message, error) => print({ phase: "error", message: `${message}: ${error}` }),
    },
  });
  const tcp = { hostname: "127.0.0.1", port: 0 };
  const path = `${directory}/web.sock`;
  const http = app.serve(tcp, answer);
  app.serve({ path }, answer);
  const tls = tlsIn(directory);
  const https = tls && app.serve({ ...tcp, ...tls }, answer);
  await app.ready();
  const ports = { http: portOf(http), https: https && portOf(https), path };
  print({ phase: "listening", generation: app.generation, ports });
  await app.finished;
}

/** The control: sends the listeners to the next process, and at SIGTERM calls server.shutdown(). */
async function control({ directory }: SoakServiceOptions): Promise<void> {
  const controlPath = `${directory}/plain.sock`;
  const path = `${directory}/web.sock`;
  const tls = tlsIn(directory);
  const servers = new Map<string, Deno.HttpServer>();
  const serveOn = (name: string, listener: Fd | Deno.Listener) => {
    servers.set(name, serveHttp(listener, name === "https" ? tls! : {}, answer));
  };
  try {
    await receive(controlPath, (fd, meta) => serveOn(new TextDecoder().decode(meta!), fd));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    const tcp = { hostname: "127.0.0.1", port: 0 };
    serveOn("http", Deno.listen(tcp));
    serveOn("unix", Deno.listen({ transport: "unix", path }));
    if (tls) serveOn("https", Deno.listen(tcp));
  }
  const send = [...servers].map(([name, server]) =>
    listenerHandler(server, new TextEncoder().encode(name))
  );
  const giving = listenAndServe(controlPath, sequenceHandler(...send), { replace: true });
  const terminated = Promise.withResolvers<void>();
  const terminate = terminated.resolve;
  Deno.addSignalListener("SIGTERM", terminate);
  const https = servers.get("https");
  const ports = { http: portOf(servers.get("http")!), https: https && portOf(https), path };
  print({ phase: "listening", ports });
  await terminated.promise;
  Deno.removeSignalListener("SIGTERM", terminate);
  await giving.shutdown();
  await Promise.all([...servers.values()].map((server) => server.shutdown()));
  print({ phase: "left" });
}

function portOf({ addr }: Deno.HttpServer): number {
  return (addr as Deno.NetAddr).port;
}

if (import.meta.main) {
  const options: SoakServiceOptions = JSON.parse(Deno.args[0]);
  print({ phase: "started" });
  await (options.control ? control(options) : generation(options));
}
