/**
 * A certificate for localhost, and clients that trust it.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Child } from "./child.ts";

const path = new URL("../data/localhost.crt", import.meta.url).pathname;

/** A self-signed certificate and its key. */
export const certificate = {
  cert: Deno.readTextFileSync(path),
  key: Deno.readTextFileSync(new URL("../data/localhost.key", import.meta.url)),
};

/** Connects to a port of localhost by TLS. */
export function dialTls(port: number, alpnProtocols = ["http/1.1"]): Promise<Deno.TlsConn> {
  return Deno.connectTls({
    hostname: "localhost",
    port,
    caCerts: [certificate.cert],
    alpnProtocols,
  });
}

/**
 * Starts an HTTP/2 client in a process of Node, with one session. `host`: each request has a Host field;
 * `isPlain`: without TLS.
 */
export async function startHttp2Client(
  port: number,
  { host = false, isPlain = false }: { host?: boolean; isPlain?: boolean } = {},
): Promise<Child> {
  const args = [String(port), isPlain ? "-" : path, ...host ? ["host"] : []];
  const client = new Child("./http2_client.mjs", args, { command: "node" });
  assertEquals(await client.line(), "connected");
  return client;
}
