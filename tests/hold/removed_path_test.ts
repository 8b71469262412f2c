/**
 * SIGHUP to hold while the control path of the running generation is missing.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";
import { FreshLoad } from "./fresh_load.ts";
import { deno, Held } from "./held.ts";

test("SIGHUP after the control path was removed waits until the generation has put it back: no request fails", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  await using held = new Held([path, "--", ...deno("held.ts", path, port)]);
  const first = await held.serving();
  const load = new FreshLoad(port, 2);
  await until(() => (load.answers.get(first) ?? 0) > 20);
  Deno.removeSync(path);
  held.signal("SIGHUP");
  assertMatch(
    await held.until(/^hold: (generation|restarting|the restart)/),
    /^hold: generation 2 runs, process \d+$/,
  );
  await load.end();
  assertEquals(load.failures, []);
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 0);
});
