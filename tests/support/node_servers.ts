/**
 * Servers of node in the generations of a test's own process.
 *
 * @module
 */

import type { RequestListener, Server } from "node:http";
import { createServer } from "node:http";
import type { AddressInfo, Server as NetServer } from "node:net";
import type { Generation, StartOptions } from "../../mod.ts";
import { begin } from "./in_process.ts";

/** A generation with a server of node:http. */
export interface NodeService {
  app: Generation;
  server: Server;
  port: number;
}

/** Starts a generation with a server of node:http, on the port of the previous one, and waits until it is ready. */
export async function nodeServing(
  path: string,
  listener: RequestListener,
  { port = 0, ...options }: StartOptions & { port?: number } = {},
): Promise<NodeService> {
  const app = await begin(path, options);
  const server = app.listenNode(createServer(listener), { hostname: "127.0.0.1", port });
  await app.ready();
  return { app, server, port: portOfNode(server) };
}

/** The port of a server. */
export function portOfNode(server: NetServer): number {
  return (server.address() as AddressInfo).port;
}
