/**
 * The service of the soak: HTTP on a TCP port, HTTPS where there is a certificate, and HTTP on a unix
 * path. It prints what becomes of it, a line each. Started with {@linkcode SoakServiceOptions}.
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

/** What the service gets as JSON. */
export interface SoakServiceOptions {
  /** Where its sockets are, and "cert.pem" and "key.pem" if it is to serve HTTPS. */
  directory: string;
  /** In place of a generation: gives its listeners away, and leaves by `server.shutdown()` alone. */
  control: boolean;
  /** How long a generation is on probation; as long as it is by default without it. */
  probation?: number;
}

/** A line that the service prints. */
export interface SoakLine {
  pid: number;
  /** One of the phases that a generation logs; or "started", "complained" and "ended". */
  phase: string;
  generation?: number;
  /** When it serves: where. */
  ports?: Ports;
  /** What it complained of. */
  message?: string;
}

/** The ports of 127.0.0.1, and the path, on which the service is reached. */
export interface Ports {
  http: number;
  https?: number;
  path: string;
}

/** The bytes of the large answer. */
export const bigLength = 256 << 10;

/** What the streamed answer consists of, and when: a piece every so many milliseconds. */
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

/** Prints the phases that the logger is told of. */
function note(_message: string, about: unknown): void {
  const { phase, generation } = (about ?? {}) as Partial<SoakLine>;
  if (phase) print({ phase, generation });
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

/** As the library means it. */
async function generation({ directory, probation }: SoakServiceOptions): Promise<void> {
  const app = await start(`${directory}/app.sock`, {
    probation,
    logger: {
      info: note,
      error: (message, error) => print({ phase: "complained", message: `${message}: ${error}` }),
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
  print({ phase: "serving", generation: app.generation, ports });
  await app.finished;
}

/** As it is without: the listeners are passed on just so, and then the server is shut down. */
async function plain({ directory }: SoakServiceOptions): Promise<void> {
  const control = `${directory}/plain.sock`;
  const path = `${directory}/web.sock`;
  const tls = tlsIn(directory);
  const servers = new Map<string, Deno.HttpServer>();
  const serveOn = (name: string, listener: Fd | Deno.Listener) => {
    servers.set(name, serveHttp(listener, name === "https" ? tls! : {}, answer));
  };
  try {
    await receive(control, (fd, meta) => serveOn(new TextDecoder().decode(meta!), fd));
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
  const giving = listenAndServe(control, sequenceHandler(...send), { replace: true });
  const terminated = Promise.withResolvers<void>();
  const terminate = terminated.resolve;
  Deno.addSignalListener("SIGTERM", terminate);
  const https = servers.get("https");
  const ports = { http: portOf(servers.get("http")!), https: https && portOf(https), path };
  print({ phase: "serving", ports });
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
  await (options.control ? plain(options) : generation(options));
}
