/**
 * A large state in a handover: no limit while bytes flow, `peerTimeout` when they stop.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Channel } from "../../lib/generation/channel.ts";
import { encodeFrame } from "../../lib/generation/frame.ts";
import { type Frame, protocolVersion } from "../../lib/generation/protocol.ts";
import {
  connect,
  type Generation,
  HandoverError,
  listen,
  ResponseWriter,
  type UnixListener,
} from "../../mod.ts";
import { pause } from "../../lib/time.ts";
import { begin } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const peerTimeout = 1000;
/** Larger than the buffers of a connection. */
const state = new Uint8Array(4 << 20).map((_, i) => i * 31 >> 3);
const piece = 32 << 10;

/** Pauses after a piece: with these pauses the whole state takes four times `peerTimeout`. */
async function dawdle(): Promise<void> {
  await pause(4 * peerTimeout * piece / state.length);
}

test("a generation offers a large state to a slow reader, and gives up after peerTimeout when the reader stops", async () => {
  const began = performance.now();
  await Promise.all([slow(), stalled()]);

  async function slow(): Promise<void> {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const log = new KeptLog();
    await using _app = await keeping(path, log);
    using channel = await offered(path);
    const read = new Uint8Array(state.length);
    for (let at = 0; at < read.length; at += piece) {
      await channel.conn.readFull(read.subarray(at, at + piece));
      await dawdle();
    }
    assert(performance.now() - began > 3 * peerTimeout);
    assertEquals(read, state);
    const [{ fd }] = await channel.receiveDescriptors(1);
    fd.close();
    assertEquals(log.errors, []);
  }

  async function stalled(): Promise<void> {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const log = new KeptLog();
    await using app = await keeping(path, log);
    using channel = await offered(path);
    await channel.conn.readFull(new Uint8Array(state.length / 2));
    await until(() => log.errors.length > 0);
    assertMatch(String(log.errors[0][1]), /The other generation has read nothing for 1000 ms/);
    assertEquals(app.status().state, "serving");
  }
});

test("start() reads a large state from a slow writer, and rejects after peerTimeout when the writer stops", async () => {
  const began = performance.now();
  await Promise.all([slow(), stalled()]);

  async function slow(): Promise<void> {
    using directory = new Directory();
    const path = directory.join("app.sock");
    using offering = offer(path, state.length);
    await using app = await begin(path, { peerTimeout });
    assert(performance.now() - began > 3 * peerTimeout);
    assertEquals(app.take("large"), state);
    assertEquals(app.generation, 2);
    await offering.end();
  }

  async function stalled(): Promise<void> {
    using directory = new Directory();
    const path = directory.join("app.sock");
    using offering = offer(path, state.length / 2);
    const error = await assertRejects(() => begin(path, { peerTimeout }), HandoverError);
    assertEquals(error.code, "ERR_HANDOVER_TIMEOUT");
    assertMatch(error.message, /has sent nothing for 1000 ms/);
    await offering.end();
  }
});

/** Says hello to the generation at `path`, and reads the offer alone: state and descriptors follow. */
async function offered(path: string): Promise<Channel> {
  const channel = new Channel(await connect(path));
  await channel.send({ type: "hello", version: protocolVersion, pid: Deno.pid });
  const offer = await channel.receive() as Frame & { type: "offer" };
  assertEquals(offer.items.map(({ kind }) => kind), ["control", "state"]);
  return channel;
}

/** Starts a generation that keeps the state, and is ready. */
async function keeping(path: string, log: KeptLog): Promise<Generation> {
  const app = await begin(path, { peerTimeout, logger: log });
  app.keep("large", state);
  await app.ready();
  return app;
}

/** Listens at the control path, and offers the state as a generation does, slowly; `most` bytes of it. */
function offer(path: string, most: number): { end(): Promise<void> } & Disposable {
  const control = listen(path);
  const service = listen(`${path}.service`);
  const offering = sendOffer(control, service, most);
  return {
    /** Waits until the offer has been sent, and closes its connection. */
    async end() {
      (await offering)[Symbol.dispose]();
    },
    [Symbol.dispose]() {
      service[Symbol.dispose]();
      control[Symbol.dispose]();
    },
  };
}

/** Sends an offer with `most` bytes of the state; the descriptors follow if that is all of it. */
async function sendOffer(
  control: UnixListener,
  { fd }: UnixListener,
  most: number,
): Promise<Channel> {
  const channel = new Channel(await control.accept());
  assertEquals((await channel.receive())?.type, "hello");
  await channel.conn.write(encodeFrame({
    type: "offer",
    version: protocolVersion,
    generation: 1,
    pid: Deno.pid,
    items: [{ kind: "control", key: "" }, { kind: "state", key: "large", bytes: state.length }],
  }));
  for (let at = 0; at < most; at += piece) {
    await channel.conn.write(state.subarray(at, at + piece));
    await dawdle();
  }
  if (most < state.length) return channel;
  using response = new ResponseWriter(channel.conn);
  await response.write(fd);
  await response.flush();
  return channel;
}
