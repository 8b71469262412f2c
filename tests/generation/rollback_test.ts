/**
 * Handovers that do not come to an end: rolled back, withdrawn by the old generation, or stopped.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { connect, HandoverError, listen } from "../../mod.ts";
import { Channel } from "../../lib/generation/channel.ts";
import type { OfferedItem } from "../../lib/generation/protocol.ts";
import { pause } from "../../lib/time.ts";
import { asked, begin, portOf, quietly, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { HeldAnswer } from "../support/held_answer.ts";
import { Http1Client } from "../support/http1_client.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** Longer than the time after which a connection is idle: milliseconds. */
const longerThanIdle = 250;

test("stop() ends a restart under way, and rolls back a successor that is not ready", async () => {
  using directory = new Directory();
  const command = { program: "sleep", args: ["600"] };
  const app = await begin(directory.join("app.sock"), { command });
  await app.ready();
  const restarting = assertRejects(() => app.restart(), HandoverError, "was stopped meanwhile");
  await app.stop();
  await restarting;

  const path = directory.join("other.sock");
  const old = await begin(path);
  const port = portOf(old.serve(quietly, saying("old")));
  await old.ready();
  const next = await begin(path);
  next.serve(quietly, saying("next"));
  await old.stop();
  const error = await assertRejects(() => next.ready(), HandoverError, "was stopped");
  assertEquals(error.code, "ERR_HANDOVER_ROLLED_BACK");
  await assertRejects(() => asked(port));
  await next.stop();
  assertEquals(directory.names(), []);
});

test("ready() of a generation that is rolled back rejects after the requests under way are answered", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = listen(path);
  const answer = Promise.withResolvers<Response>();
  const requestArrived = Promise.withResolvers<void>();
  const predecessor = (async () => {
    using channel = new Channel(await listener.accept());
    await channel.receive();
    const items: OfferedItem[] = [{ kind: "control", key: "" }];
    const offer = { type: "offer", version: 2, generation: 1, pid: Deno.pid, items } as const;
    await channel.send(offer, { descriptors: [{ fd: listener.fd }] });
    assertEquals((await channel.receive())?.type, "ready");
    await requestArrived.promise;
    await channel.send({ type: "rollback", reason: "on second thoughts" });
    assertEquals(await channel.receive(), undefined);
  })();
  const app = await begin(path);
  const server = app.serve(quietly, () => {
    requestArrived.resolve();
    return answer.promise;
  });
  let isRejected = false;
  const ready = assertRejects(() => app.ready().finally(() => isRejected = true), HandoverError);
  const asking = asked(portOf(server));
  await until(() => app.status().state === "draining");
  await pause(longerThanIdle);
  assertEquals(isRejected, false);
  answer.resolve(new Response("in time"));
  assertEquals(await asking, "in time");
  assertMatch((await ready).message, /goes on: on second thoughts$/);
  await predecessor;
});

test("a generation that serves again hangs up on the clients that were told to close, and on no other", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, {
    drainTimeout: 60_000,
    forceCloseAfter: 60_000,
    peerTimeout: 20_000,
  });
  // A Response without a body may answer any number of requests.
  const nothing = new Response(null, { status: 204 });
  const streamed = new HeldAnswer();
  const server = app.serve(quietly, ({ url }) => {
    return new URL(url).pathname === "/streamed" ? streamed.answer() : nothing;
  });
  await app.ready();
  using told = await Http1Client.dial(server.addr);
  using noted = await Http1Client.dial(server.addr);
  {
    // A next generation that is written by hand.
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: 2, pid: Deno.pid });
    const offer = await channel.receive() as { items: OfferedItem[] };
    for (const { fd } of await channel.receiveDescriptors(offer.items.length)) fd.close();
    // An answer during the handover, without Connection: close.
    assertEquals((await noted.request("/", "Connection: keep-alive\r\n")).status, 204);
    await channel.send({ type: "ready", probation: 20_000 });
    assertEquals((await channel.receive())?.type, "withdrawn");
    const { headers } = await told.request();
    assertEquals(headers.get("connection"), "close");
    // The client waits for the server to close the connection; the probation lasts longer than this test.
    assert(await told.ended());
    assertEquals(app.status().state, "standby");
  }
  await until(() => app.status().state === "serving");
  assertEquals((await noted.request()).headers.get("connection"), null);
  // Its protocol was noted then: that must not make the server take a streamed answer for an idle connection.
  await noted.send("/streamed");
  await until(() => streamed.begun === 1);
  const stopping = app.stop();
  await pause(2 * longerThanIdle);
  streamed.release();
  assertEquals((await noted.answer()).body, HeldAnswer.text);
  await stopping;
});
