/**
 * `app.alone`: the end of the previous generation.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import { HandoverError } from "../../mod.ts";
import { begin, portOf, quietly, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const hostname = "127.0.0.1";

test("`alone` resolves at once for the first generation, and for others when the predecessor has answered its clients", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  await old.alone;
  const answer = Promise.withResolvers<Response>();
  const asks = Promise.withResolvers<void>();
  const server = old.serve(quietly, () => {
    asks.resolve();
    return answer.promise;
  });
  await old.ready();
  const port = portOf(server);
  using client = await Deno.connect({ hostname, port });
  await client.write(new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"));
  await asks.promise;
  const next = await begin(path);
  next.serve(quietly, saying("next"));
  let isAlone = false;
  const alone = next.alone.then(() => isAlone = true);
  await next.ready();
  await until(() => old.status().state === "draining");
  assertEquals([isAlone, next.status().predecessor?.generation], [false, 1]);
  answer.resolve(new Response("late"));
  await alone;
  assertEquals(next.status().predecessor, undefined);
  await next.stop();
});

test("`alone` rejects when the generation is rolled back, or stops before its predecessor", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { readyTimeout: 50 });
  await old.ready();
  const late = await begin(path);
  assertEquals(
    (await assertRejects(() => late.alone, HandoverError)).code,
    "ERR_HANDOVER_ROLLED_BACK",
  );
  await late.stop();
  const stopped = await begin(path);
  const alone = assertRejects(() => stopped.alone, HandoverError, "ended before the previous one");
  await stopped.stop();
  await alone;
  await old.stop();
});
