/**
 * The service of the soak on servers of node: HTTP on a TCP port and on a unix path, HTTPS, HTTP/2, and an echo of node:net.
 * It prints its addresses as JSON.
 *
 *     node_service.ts DIRECTORY CONTROL    CONTROL: no, or "close": the listeners are kept for the next process, and closed
 *         by node's `server.close()` when it has them
 */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createSecureServer } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, createServer as createNetServer, type Server } from "node:net";
import { pause } from "../../lib/time.ts";
import { type Fd, type Generation, type ListenAddress, start } from "../../mod.ts";
import { certificate } from "../support/tls.ts";
import { bigLength, pieces } from "../system/soak_service.ts";

const [directory, control] = Deno.args;
const big = new Uint8Array(bigLength).fill(120);
const piece = new Uint8Array(pieces.length).fill(120);

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname, searchParams } = new URL(request.url!, "http://a");
  response.setHeader("x-generation", String(app.generation));
  if (pathname === "/fast") return void response.end("fast");
  if (pathname === "/big") {
    return void response.writeHead(200, { "content-length": bigLength }).end(big);
  }
  if (pathname === "/none") return void response.writeHead(304).end();
  if (pathname === "/slow") {
    await pause(Number(searchParams.get("ms")));
    return void response.end("slow");
  }
  if (pathname === "/stream") {
    for (let i = 0; i < pieces.count; i++) {
      await pause(pieces.interval);
      response.write(piece);
    }
    return void response.end();
  }
  let length = 0;
  for await (const chunk of request) length += chunk.length;
  response.end(String(length));
}

const app = await start(`${directory}/app.sock`, {
  probation: 100,
  logger: { error: console.error },
});
const path = `${directory}/web.sock`;
const servers: Record<string, Server> = {
  http: createServer(answer),
  unix: createServer(answer),
  https: createHttpsServer(certificate, answer),
  http2: createSecureServer({ ...certificate, allowHTTP1: true }, (request, response) => {
    void answer(request as unknown as IncomingMessage, response as unknown as ServerResponse);
  }),
  echo: createNetServer((socket) => {
    socket.on("error", () => {});
    socket.pipe(socket);
  }),
};
for (const [name, server] of Object.entries(servers)) {
  const address = name === "unix" ? { path } : { hostname: "127.0.0.1", port: 0, name };
  if (control) await keep(app, name, server, address);
  else app.listenNode(server, address);
}
await app.ready();
if (control) {
  app.draining.addEventListener("abort", () => {
    for (const server of Object.values(servers)) server.close();
  });
}
const ports = Object.entries(servers).map(([name, server]) => {
  const address = server.address() as AddressInfo | string;
  return name === "unix" ? ["path", address] : [name, (address as AddressInfo).port];
});
console.log(JSON.stringify({ pid: Deno.pid, ports: Object.fromEntries(ports) }));
await app.finished;

/** Listens on a descriptor that was kept, or on a new socket, and keeps it. */
async function keep(app: Generation, name: string, server: Server, address: ListenAddress) {
  const fd = app.take(name) as Fd | undefined;
  const listening = new Promise<void>((resolve) => server.once("listening", resolve));
  if (fd) server.listen({ fd: fd.take() });
  else if ("path" in address) server.listen(address.path);
  else server.listen(0, "127.0.0.1");
  // A server on a descriptor does not know its path.
  if ("path" in address) Object.assign(server, { _pipeName: address.path });
  await listening;
  app.keep(name, server);
}
