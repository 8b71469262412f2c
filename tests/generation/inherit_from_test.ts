/**
 * `inheritFrom`: the first generation takes its listeners from a server of the plain protocol.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import {
  type Fd,
  fdHandler,
  HandoverError,
  listenAndServe,
  listenerHandler,
  sendListener,
  sequenceHandler,
} from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { asked, begin, here, portOf, saying } from "../support/in_process.ts";
import { Sockets } from "../support/raw.ts";
import { until } from "../support/until.ts";

test("inheritFrom: a generation takes its listeners from a plain server, and closes the connection once it serves", async () => {
  using directory = new Directory();
  const plain = directory.join("plain.sock");
  using listener = Deno.listen(here);
  using other = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using sockets = new Sockets(1);
  const hungUp = Promise.withResolvers<void>();
  const send = sequenceHandler(
    listenerHandler(listener),
    listenerHandler(other),
    fdHandler(sockets.raws[0], new TextEncoder().encode("socket")),
  );
  await using _server = listenAndServe(plain, async (conn, response) => {
    await send(conn, response);
    await response.flush();
    conn.closeWrite();
    await conn.read(new Uint8Array(1));
    hungUp.resolve();
  });
  const app = await begin(directory.join("app.sock"), { inheritFrom: plain });
  assertEquals(app.generation, 1);
  const server = app.serve({ hostname: "127.0.0.1", port: portOf(listener) }, saying("here"));
  assertEquals(portOf(server), portOf(listener));
  using socket = app.take("socket") as Fd;
  assertEquals(Sockets.cookie(socket.raw), sockets.cookies[0]);
  await app.ready();
  await hungUp.promise;
  assertEquals(await asked(portOf(listener)), "here");
  await app.stop();
});

test('inheritFrom: a plain server receives "ready" once its listener is served', async () => {
  using directory = new Directory();
  const plain = directory.join("plain.sock");
  using listener = Deno.listen(here);
  const word = new Uint8Array(5);
  await using _server = listenAndServe(plain, async (conn, response) => {
    await sendListener(response, listener);
    await response.flush();
    await conn.readFull(word);
  });
  const app = await begin(directory.join("app.sock"), { inheritFrom: plain });
  app.serve({ hostname: "127.0.0.1", port: portOf(listener) }, saying("here"));
  assertEquals(word, new Uint8Array(5));
  await app.ready();
  await until(() => new TextDecoder().decode(word) === "ready");
  assertEquals(await asked(portOf(listener)), "here");
  await app.stop();
});

test("inheritFrom: start() rejects after peerTimeout when the plain server sends nothing", async () => {
  using directory = new Directory();
  const plain = directory.join("plain.sock");
  await using _server = listenAndServe(plain, async (conn) => {
    await conn.read(new Uint8Array(1));
  });
  const path = directory.join("app.sock");
  const options = { inheritFrom: plain, peerTimeout: 50 };
  const error = await assertRejects(() => begin(path, options), HandoverError, "sent nothing");
  assertEquals(error.code, "ERR_HANDOVER_TIMEOUT");
  assertEquals(directory.names(), ["plain.sock"]);
});

test("inheritFrom is ignored when nothing listens at its path, or a generation runs already", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const inheritFrom = directory.join("nobody.sock");
  const first = await begin(path, { inheritFrom });
  await first.ready();
  const second = await begin(path, { inheritFrom });
  assertEquals(second.generation, 2);
  await second.ready();
  await first.finished;
  await second.stop();
});
