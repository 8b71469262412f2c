/**
 * The messages that the library puts on a socket are those of the Go library's sender.
 *
 * @module
 */

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { LongWriteError } from "../../lib/errors.ts";
import { connect, listenAndServe, ResponseWriter, sendTo } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { captureMessages, connectedPair, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";
import { batched, bytesOf, frames, golden, hexOf, metasOf } from "./records.ts";

for (const frame of frames.filter(({ messages }) => messages.length > 0)) {
  test(`ResponseWriter sends the messages of Go's sender: ${frame.name}`, async () => {
    using sockets = new Sockets(3);
    const [sender, receiver] = connectedPair();
    using _receiver = receiver;
    const metas = metasOf(frame);
    const raws = metas.map((_, i) => sockets.raws[i % 3]);
    {
      using _sender = sender;
      using response = new ResponseWriter(sender);
      for (const [i, meta] of metas.entries()) await response.write(raws[i], meta);
      await response.flush();
    }
    const messages = await captureMessages(receiver);
    const wanted = batched(metas);
    assertEquals(
      messages.map(({ bytes }) => hexOf(bytes)),
      wanted.map(({ bytes }) => hexOf(bytes)),
    );
    assertEquals(
      messages.flatMap(({ cookies }) => cookies),
      metas.map((_, i) => sockets.cookies[i % 3]),
    );
    for (const [i, { bytes, fds, hex, hex_first_24 }] of frame.messages.entries()) {
      assertEquals([messages[i].bytes.length, messages[i].cookies.length], [bytes, fds]);
      assert(hexOf(messages[i].bytes).startsWith((hex ?? hex_first_24)!));
    }
  });
}

test("sendTo() sends the golden bytes", async () => {
  using sockets = new Sockets(2);
  const [sender, receiver] = connectedPair();
  using _receiver = receiver;
  {
    using _sender = sender;
    await sendTo(sender, sockets.raws[0], bytesOf("a"));
    await sendTo(sender, sockets.raws[1]);
  }
  const messages = await captureMessages(receiver);
  assertEquals(messages.map(({ bytes }) => hexOf(bytes)), [
    golden("one_byte_meta"),
    golden("nil_meta"),
  ]);
  assertEquals(messages.map(({ cookies }) => cookies), sockets.cookies.map((cookie) => [cookie]));
});

test("a handler of listenAndServe() sends the golden bytes", async () => {
  using directory = new Directory();
  using sockets = new Sockets(3);
  const path = directory.join("app.sock");
  const frame = frames.find(({ name }) => name === "batch_nil_a_gob")!;
  await using _server = listenAndServe(path, async (_conn, response) => {
    for (const [i, meta] of metasOf(frame).entries()) await response.write(sockets.raws[i], meta);
  });
  using conn = await connect(path);
  const messages = await captureMessages(conn);
  assertEquals(messages.map(({ bytes }) => hexOf(bytes)), [golden("batch_nil_a_gob")]);
  assertEquals(messages[0].cookies, sockets.cookies);
});

test("sendTo() refuses a meta that is too long, and sends nothing of it", async () => {
  using sockets = new Sockets(1);
  const [sender, receiver] = connectedPair();
  using _receiver = receiver;
  {
    using _sender = sender;
    const [raw] = sockets.raws;
    const error = await sendTo(sender, raw, new Uint8Array(4093)).catch((error) => error);
    assertInstanceOf(error, LongWriteError);
    await sendTo(sender, raw, new Uint8Array(4093), { maxMetaBytes: 4093 });
  }
  const messages = await captureMessages(receiver);
  assertEquals(messages.map(({ bytes }) => bytes.length), [4097]);
});
