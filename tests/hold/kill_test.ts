/**
 * The main process of a held service is killed again and again under load.
 *
 * @module
 */

import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort, reachable } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";
import { pause } from "../../lib/time.ts";
import { FreshLoad } from "./fresh_load.ts";
import { deno, Held, noContainer } from "./held.ts";

if (noContainer) console.log(`hold/kill_test.ts: hold is not tested as process 1: ${noContainer}`);

/** HOLD_KILLS=20 is the long form: each process then lives until its next start is at once. */
const kills = Number(Deno.env.get("HOLD_KILLS") ?? 5);
const lifetime = Deno.env.has("HOLD_KILLS") ? 3200 : 100;

/** Requests under way at a time: no more than so many can be lost by a kill. */
const clients = 4;

/** Milliseconds after a kill in which the requests of the killed process fail. */
const aftermath = 500;

for (const container of [false, true]) {
  const where = container ? "as process 1 of a PID namespace" : "as an ordinary process";
  test(
    `hold ${where}: kill -9 of the main process refuses nobody, and loses its own requests alone`,
    { ignore: container && noContainer !== undefined },
    async () => {
      using directory = new Directory();
      const path = directory.join("app.sock");
      const port = freePort();
      await using held = new Held([path, "--", ...deno("held.ts", path, port)], {
        container,
        env: { ORPHANS: "1" },
      });
      let pid = await held.serving();
      const load = new FreshLoad(port, clients);
      const killed: number[] = [];
      let before: ReturnType<Held["usage"]> | undefined;
      for (let i = 0; i < kills; i++) {
        await until(() => (load.answers.get(pid) ?? 0) > 20);
        await pause(lifetime);
        if (i === 2) before = held.usage();
        killed.push(performance.now());
        held.kill(pid);
        pid = await held.serving();
      }
      await until(() => (load.answers.get(pid) ?? 0) > 20);
      await held.withoutZombies();
      const after = held.usage();
      await load.end();
      console.log(
        `    ${load.answered} answered, ${load.failures.length} cut by ${kills} kills; hold: ` +
          `${before!.descriptors} to ${after.descriptors} descriptors, ` +
          `${before!.kilobytes} to ${after.kilobytes} kB`,
      );
      assertEquals(load.of("refused"), []);
      for (const { at, message } of load.failures) {
        const of = killed.findLast((time) => time <= at);
        assert(of !== undefined && at - of < aftermath, `lost without a kill: ${message}`);
      }
      assert(load.failures.length <= clients * kills);
      assertEquals(load.answers.size, kills + 1);
      assertEquals(held.children().map(({ inner }) => inner), [pid]);
      assert(after.descriptors <= before!.descriptors, "descriptors of hold");
      assertLess(after.kilobytes, before!.kilobytes + 8192);
      held.signal("SIGTERM");
      const { code } = await held.ended();
      assertEquals(code, 0);
      assertEquals(directory.names(), []);
      assertEquals(await reachable(port), false);
    },
  );
}

test("control: without hold, a killed service refuses connections until it runs again", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  const loop = ["sh", "-c", 'while :; do "$@" & echo "pid: $!"; wait; done', "sh"];
  await using service = new Generations("held.ts", [path, String(port)], { through: loop });
  const pid = await service.number("pid");
  await until(() => reachable(port));
  const load = new FreshLoad(port, clients);
  await until(() => (load.answers.get(pid) ?? 0) > 20);
  Deno.kill(pid, "SIGKILL");
  const next = await service.number("pid");
  await until(() => (load.answers.get(next) ?? 0) > 20);
  await load.end();
  assertGreater(load.of("refused").length, 0);
});
