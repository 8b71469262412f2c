/**
 * `TestService`: generations inside one process.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import { type Generation, TestService } from "../../mod.ts";
import { test } from "../support/guard.ts";

async function asked(app: Generation, headers: HeadersInit = {}): Promise<string> {
  const response = await fetch(`http://${app.status().sockets[0].address}`, { headers });
  return await response.text();
}

/** A kept connection would be answered by the generation that accepted it. */
const onItsOwn = { connection: "close" };

test("each next() of a TestService starts a generation that takes over, in the same process", async () => {
  const ended: number[] = [];
  await using service = new TestService(async (app) => {
    app.serve(
      { hostname: "127.0.0.1", port: 0 },
      () => new Response(`generation ${app.generation}`),
    );
    await app.ready();
    await app.finished;
    ended.push(app.generation);
  });
  const first = await service.next();
  assertEquals(await asked(first, onItsOwn), "generation 1");
  const { address } = first.status().sockets[0];
  for (let i = 2; i < 5; i++) {
    const app = await service.next();
    assertEquals(app.generation, i);
    assertEquals(app.status().sockets[0].address, address);
    assertEquals(await asked(app, onItsOwn), `generation ${i}`);
  }
  // A client with a kept connection gets `Connection: close` with its next answer.
  const last = await service.next();
  assertEquals(await asked(last), "generation 5");
  const after = await service.next();
  assertEquals(await asked(after), "generation 5");
  await last.finished;
  assertEquals(await asked(after), "generation 6");
  await first.finished;
  assertEquals(ended[0], 1);
});

test("next() rejects when the main program throws or ends before ready(), and the previous generation goes on", async () => {
  let broken: "throws" | "ends" | undefined;
  await using service = new TestService(async (app) => {
    app.serve({ hostname: "127.0.0.1", port: 0 }, () => new Response("fine"));
    if (broken === "throws") throw new Error("out of luck");
    if (broken === "ends") return;
    await app.ready();
    await app.finished;
  }, { logger: {} });
  const first = await service.next();
  broken = "throws";
  await assertRejects(() => service.next(), Error, "out of luck");
  assertEquals(await asked(first), "fine");
  broken = "ends";
  await assertRejects(() => service.next(), TypeError, "without calling ready()");
  assertEquals(await asked(first), "fine");
  broken = undefined;
  const next = await service.next();
  await first.finished;
  assertEquals([next.generation, await asked(next)], [2, "fine"]);
});
