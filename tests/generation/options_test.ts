/**
 * Options of start() that are invalid, or at the limit of their range.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { connect, HandoverError, type Logger } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

test("start() throws for an unknown signal, and leaves nothing behind", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const restartOn = ["SIGHUB"] as unknown as Deno.Signal[];
  await assertRejects(() => begin(path, { stopOn: ["SIGUSR2"], restartOn }), TypeError, "SIGHUB");
  assertEquals(directory.names(), []);
  const app = await begin(path);
  await app.ready();
  await assertRejects(() => begin(path, { restartOn }), TypeError, "SIGHUB");
  const next = await begin(path);
  await next.ready();
  await next.stop();
});

test("start() accepts fractions of milliseconds, and Infinity for most durations", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await assertRejects(() => begin(path, { probation: Infinity }), RangeError);
  await assertRejects(() => begin(path, { drainTimeout: NaN }), RangeError, "drainTimeout");
  await assertRejects(
    () => begin(path, { stopDelay: Infinity }),
    RangeError,
    "stopDelay has an end",
  );
  await assertRejects(() => begin(path, { stopDelay: -1 }), RangeError, "stopDelay");
  const endless = { readyTimeout: Infinity, peerTimeout: Infinity, forceCloseAfter: Infinity };
  const old = await begin(path, endless);
  await old.ready();
  const next = await begin(path, { ...endless, probation: 1.5 });
  await next.ready();
  await old.finished;
  const command = { program: "sh", args: ["-c", "exit 3"] };
  await assertRejects(() => next.restart(command), HandoverError, "ended with code 3");
  await next.stop();
});

test("a generation works with a logger that throws", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const fail = () => {
    throw new Error("the disk is full");
  };
  const logger: Logger = { debug: fail, info: fail, error: fail };
  const { error } = console;
  let printed = 0;
  console.error = () => printed++;
  try {
    const old = await begin(path, { logger });
    await old.ready();
    using garbage = await connect(path);
    await garbage.write(Uint8Array.of(255, 255, 255, 255));
    assertEquals(await garbage.read(new Uint8Array(1)), null);
    const next = await begin(path, { logger });
    await next.ready();
    await old.finished;
    await next.stop();
  } finally {
    console.error = error;
  }
  assert(printed > 5);
});
