/**
 * A generation that takes the service back when hold does not expect that any more.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { pause } from "../../lib/time.ts";
import { programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";
import { Held } from "./held.ts";

const noPython = !await succeeds(["python3", "-c", "match 0:\n case 0: pass"]);
if (noPython) console.log("hold/late_rollback_test.ts: python3 of 3.10 or later is not installed");

test(
  "hold goes on with a generation that takes the service back a second after the next one has ended with 0",
  {
    ignore: noPython,
  },
  async () => {
    using directory = new Directory();
    const command = ["python3", programPath("late_rollback.py")];
    await using held = new Held([directory.join("app.sock"), "--", ...command]);
    const pid = await held.started();
    await held.tell("hand over");
    const next = (await held.until(/^hold: process \d+ is the main process/)).match(/\d+/)![0];
    await held.tell("end next");
    await held.until(`hold: process ${next} has ended with code 0`);
    // `rollbackTime` of hold is half of it; its end is not logged.
    await pause(1000);
    await held.tell("take back");
    await held.until(`hold: process ${pid} is the main process`);
    // hold looks at its children whenever one ends.
    await held.tell("orphan");
    await held.tell("end");
    await held.until(`hold: process ${pid} has ended with code 3`);
    await held.until(/^hold: started process \d+ \(start 2\)/);
    held.signal("SIGTERM");
    assertEquals((await held.ended()).code, 143);
  },
);
