/**
 * Unix datagram sockets of generations, and their paths.
 *
 * @module
 */

import { assertEquals, assertThrows } from "@std/assert";
import { listen } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

const { AddrInUse } = Deno.errors;

test("every generation receives unix datagrams at the same path, and the last one removes it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const at = directory.join("log.sock");
  const sender = Deno.listenDatagram({ transport: "unixpacket", path: directory.join("sender") });
  const send = (words: string) => sender.send(bytes(words), { transport: "unixpacket", path: at });
  const received = async (socket: Deno.DatagramConn) =>
    new TextDecoder().decode((await socket.receive())[0]);
  // The file of a closed socket is replaced.
  Deno.listenDatagram({ transport: "unixpacket", path: at }).close();
  const old = await begin(path);
  const first = old.listenDatagram({ transport: "unixpacket", path: at, mode: 0o620 });
  assertEquals(Deno.statSync(at).mode! & 0o777, 0o620);
  assertThrows(() => old.listenDatagram({ path: at }), AddrInUse, at);
  await old.ready();
  await send("one");
  assertEquals(await received(first), "one");
  assertEquals(old.status().sockets.map(({ kind, address }) => [kind, address]), [
    ["datagram", JSON.stringify(at)],
  ]);
  const { ino } = Deno.statSync(at);
  const next = await begin(path);
  await send("two");
  assertEquals(await received(first), "two");
  const second = next.listenDatagram({ transport: "unixpacket", path: at });
  assertEquals(second.addr, { transport: "unixpacket", path: at });
  await next.ready();
  await send("three");
  assertEquals(await received(second), "three");
  await old.finished;
  assertEquals(Deno.statSync(at).ino, ino);
  // The socket sends from the address by which it is reached.
  await second.send(bytes("answer"), sender.addr);
  const [words, from] = await sender.receive();
  assertEquals(new TextDecoder().decode(words), "answer");
  assertEquals(from, { transport: "unixpacket", path: at });
  await next.stop();
  assertEquals(others(directory), ["sender"]);
  sender.close();
});

test("listenDatagram() replaces no file and no socket of another process, and stop() removes neither", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [file, stream, taken] = ["file", "stream", "taken"].map((name) => directory.join(name));
  Deno.writeTextFileSync(file, "text");
  using _listener = listen(stream);
  const app = await begin(path);
  for (const at of [file, stream]) {
    assertThrows(() => app.listenDatagram({ transport: "unixpacket", path: at }), AddrInUse);
  }
  assertEquals(Deno.readTextFileSync(file), "text");
  app.listenDatagram({ path: taken });
  Deno.removeSync(taken);
  const other = Deno.listenDatagram({ transport: "unixpacket", path: taken });
  await app.stop();
  assertEquals(others(directory), ["file", "stream", "taken"]);
  other.close();
});

/** The names in the directory without those of the control socket. */
function others(directory: Directory): string[] {
  return directory.names().filter((name) => !name.startsWith("app.sock"));
}

function bytes(words: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(words);
}
