/**
 * Serves a connection until it has read LIMIT bytes, and then moves the connection to the process at NEXT,
 * together with the bytes of an unfinished frame.
 *
 *     move_connection.ts listen|INBOX NEXT|end LIMIT [PATH]
 *
 * @module
 */

import { connect, fdConn, listen, Meta, receiveAllFrom, sendConnTo } from "../../mod.ts";
import { frameBytes, fromClient, fromServer } from "../support/stream.ts";

const [from, next, limit, path] = Deno.args;

let conn: Deno.Conn;
let read = 0;
let written = 0;
let unfinished = new Uint8Array();
if (from === "listen") {
  using listener = path
    ? Deno.listen({ transport: "unix", path })
    : Deno.listen({ hostname: "127.0.0.1", port: 0 });
  console.log(JSON.stringify(listener.addr));
  conn = await listener.accept();
} else {
  using inbox = listen(from);
  console.log("ready");
  using sender = await inbox.accept();
  await receiveAllFrom(sender, async (fd, bytes) => {
    const meta = Meta.from(bytes);
    read = meta.get("read") as number;
    written = meta.get("written") as number;
    unfinished = Uint8Array.from(meta.get("unfinished") as Uint8Array);
    conn = await fdConn(fd);
  });
}

/** Whether this process still serves the connection. */
const isServing = () => next === "end" || read < Number(limit);

const buffer = new Uint8Array(10_007);
while (isServing()) {
  const n = await conn!.read(buffer);
  if (n === null) break;
  takeFrames(buffer.subarray(0, n));
  // As many bytes back: both directions are in mid-stream when the connection moves.
  await writeUpTo(read);
}

function takeFrames(arrived: Uint8Array): void {
  const bytes = new Uint8Array(unfinished.length + arrived.length);
  bytes.set(unfinished);
  bytes.set(arrived, unfinished.length);
  const frames = bytes.length - bytes.length % frameBytes;
  for (let i = 0; i < frames; i++) {
    if (bytes[i] !== fromClient(read + i)) throw new Error(`Wrong byte at ${read + i}`);
  }
  read += frames;
  unfinished = bytes.slice(frames);
}

async function writeUpTo(end: number): Promise<void> {
  while (written < end) {
    const length = end - written;
    written += await conn.write(Uint8Array.from({ length }, (_, i) => fromServer(written + i)));
  }
}

console.log(JSON.stringify({ read, written, unfinished: unfinished.length }));
if (next === "end") {
  conn!.close();
} else {
  using sender = await connect(next);
  await sendConnTo(sender, conn!, new Meta({ read, written, unfinished }), {
    maxMetaBytes: 100_000,
  });
}
