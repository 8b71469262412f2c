/**
 * Lets restarts fail as process 1 of a PID namespace, which is the parent of every orphan. Prints its PID, how
 * many restarts have failed, and the processes that are left.
 *
 * @module
 */

import { readText } from "../../ffi/file.ts";
import { start } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";

using directory = new Directory();
const app = await start(directory.join("app.sock"), {
  readyTimeout: 1000,
  logger: {},
  restartAsMain: true,
});
await app.ready();
let failed = 0;
for (const args of [["-c", "exit 3"], ["-c", "exec sleep 600"]]) {
  await app.restart({ program: "sh", args }).catch(() => failed++);
}
/** `/proc/PID/stat` of every other process: a killed process ends a moment later. */
const left = () =>
  Array.from(Deno.readDirSync("/proc"), ({ name }) => name)
    .filter((name) => /^\d+$/.test(name) && Number(name) !== Deno.pid)
    .map((name) => readText(`/proc/${name}/stat`));
// The test compares the processes that are left.
await until(() => left().length === 0).catch(() => {});
console.log(JSON.stringify([Deno.pid, failed, left()]));
await app.stop();
