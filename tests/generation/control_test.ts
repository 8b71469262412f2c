/**
 * Peers of the control socket that are refused: another version, no valid request, an `allow` that throws.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { Channel } from "../../lib/generation/channel.ts";
import { maxFrameBytes, protocolVersion } from "../../lib/generation/protocol.ts";
import { connect, type Generation, PeerNotAllowedError } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { begin } from "../support/in_process.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";

for (const version of [1, protocolVersion + 1]) {
  test(`a generation refuses a hello of version ${version} of the protocol, says what to do, and serves on`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const app = await begin(path);
    await app.ready();
    const channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version, pid: 1 });
    const answer = await channel.receive();
    assertEquals(answer, {
      type: "refused",
      code: "version",
      reason:
        `it speaks version ${version} of the handover, and the generation that runs version ` +
        `${protocolVersion}: stop that one first, and start this one then`,
    });
    channel[Symbol.dispose]();
    assertEquals(app.status().state, "serving");
    await app.stop();
  });
}

test("a generation closes a control connection that sends no valid request, and serves on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log, peerTimeout: 50 });
  await app.ready();
  for (
    const bytes of [
      Uint8Array.of(255, 255, 255, 255),
      Uint8Array.of(2, 0, 0, 0, 0x7b, 0x7d),
      Uint8Array.of(1),
      new Uint8Array(0),
    ]
  ) {
    using conn = await connect(path);
    await conn.write(bytes);
    assertEquals(await conn.read(new Uint8Array(1)).catch(() => null), null);
  }
  using offer = await connect(path);
  await new Channel(offer).send({ type: "withdrawn" });
  assertEquals(await offer.read(new Uint8Array(1)), null);
  assertEquals(app.status().state, "serving");
  assert(log.errors.length >= 4);
  await app.stop();
});

/** Starts a generation whose `allow` throws, and that is ready. */
async function refusing(path: string, words: string, log: KeptLog): Promise<Generation> {
  const allow = () => {
    throw new Error(words);
  };
  const app = await begin(path, { logger: log, allow });
  await app.ready();
  return app;
}

test("start() rejects with the reason when `allow` of the predecessor throws", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  await using app = await refusing(path, "out of luck", log);
  // Without a refusal start() would retry without end.
  const signal = AbortSignal.timeout(20_000);
  const words = "`allow` has failed for process";
  await assertRejects(() => begin(path, { signal }), PeerNotAllowedError, words);
  assertEquals(log.errors.length, 1);
  assertEquals(app.status().state, "serving");
});

test("a generation serves on when a refusal is too large to be sent", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  // More bytes than a frame holds.
  await using app = await refusing(path, "x".repeat(maxFrameBytes), log);
  for (let i = 0; i < 2; i++) {
    using conn = await connect(path);
    assertEquals(await conn.read(new Uint8Array(1)).catch(() => null), null);
    await until(() => log.errors.length === i + 1);
  }
  assertEquals(app.status().state, "serving");
});
