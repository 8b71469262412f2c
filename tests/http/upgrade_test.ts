/**
 * Handlers that upgrade a request with Deno.upgradeWebSocket().
 *
 * These tests run on other versions of Deno as well: see `departure_versions_test.ts`.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { drain, serveHttp } from "../../mod.ts";
import { here, portOf } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { listening, readAll, text } from "../support/foreign.ts";
import { Http1Client } from "../support/http1_client.ts";
import { certificate, dialTls } from "../support/tls.ts";
import { test } from "../support/guard.ts";

/** The request of a WebSocket handshake. */
const upgrade = "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/** A Close frame with the code 1000, masked with zeros. */
const closeFrame = Uint8Array.of(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8);

/** Sends "hi" in a frame that is masked with zeros, and reads a frame with "hi!". */
async function assertEchoes(conn: Deno.Conn): Promise<void> {
  await conn.write(Uint8Array.of(0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69));
  const frame = new Uint8Array(5);
  for (let n = 0; n < frame.length;) n += (await conn.read(frame.subarray(n)))!;
  assertEquals([...frame], [0x81, 3, 0x68, 0x69, 0x21]);
}

for (const tls of [undefined, certificate]) {
  test(`serveHttp() lets an async handler upgrade before its first await, over ${tls ? "TLS" : "TCP"}`, async () => {
    const server = serveHttp(Deno.listen(here), { ...tls }, async (request) => {
      if (request.headers.get("upgrade") !== "websocket") return new Response("http");
      const { socket, response } = Deno.upgradeWebSocket(request);
      socket.onmessage = ({ data }) => socket.send(`${data}!`);
      await Promise.resolve();
      return response;
    });
    let hasFinished = false;
    server.finished.then(() => hasFinished = true);
    const dial = async () =>
      new Http1Client(
        tls
          ? await dialTls(portOf(server))
          : await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) }),
      );
    using client = await dial();
    await client.conn.write(text.encode(upgrade));
    assertEquals((await client.answer()).status, 101);
    await assertEchoes(client.conn);
    using other = await dial();
    assertEquals((await other.request()).body, "http");
    assertEquals(hasFinished, false);
    await client.conn.write(closeFrame);
    await readAll(client.conn);
    await server.shutdown();
  });
}

test("serveHttp() serves on after a handler has upgraded a request and then thrown", async () => {
  // In a process of its own: Deno 2.9.6 never closes the listener of such a server.
  await using child = new Child("./upgrade_fails.ts");
  const port = Number(await child.line());
  for (const path of ["/at-once", "/later"]) {
    using client = await Http1Client.dial({ transport: "tcp", hostname: "127.0.0.1", port });
    await client.conn.write(text.encode(upgrade.replace("/", path)));
    assertEquals((await client.answer()).status, 500);
    assertEquals(await child.line(), `error: ${path}`);
    assertEquals((await client.request()).body, "http");
  }
});

test("drain() does not change the answer that upgrades to a WebSocket, and waits for the socket", async () => {
  using directory = new Directory();
  const server = serveHttp(listening("127.0.0.1", directory).fd, (request) => {
    if (request.headers.get("upgrade") !== "websocket") return new Response("no");
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(`${data}!`);
    return response;
  });
  const client = await Http1Client.dial(server.addr);
  await client.request();
  const draining = drain(server);
  await client.conn.write(text.encode(upgrade));
  const { status, headers } = await client.answer();
  assertEquals([status, headers.get("connection")?.toLowerCase()], [101, "upgrade"]);
  await assertEchoes(client.conn);
  await client.conn.write(closeFrame);
  await readAll(client.conn);
  client.conn.close();
  assertEquals(await draining, 0);
});
