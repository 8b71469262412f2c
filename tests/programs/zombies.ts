/**
 * Lets restarts fail, in a process that is the parent of every orphan: process 1 of its PID namespace. Prints
 * its number, how often a restart has failed, and what is left of
 * the processes that it started.
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
/** All processes but this one, as proc(5) has them: what was killed ends a moment later. */
const left = () =>
  Array.from(Deno.readDirSync("/proc"), ({ name }) => name)
    .filter((name) => /^\d+$/.test(name) && Number(name) !== Deno.pid)
    .map((name) => readText(`/proc/${name}/stat`));
await until(() => left().length === 0).catch(() => {});
console.log(JSON.stringify([Deno.pid, failed, left()]));
await app.stop();
