/**
 * A service with a timer that keeps its process running after its generation has finished.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const { values: flags, positionals: [path, beside] } = parseArgs({
  allowPositionals: true,
  options: {
    exitTimeout: { type: "string", default: "0" },
    exitCode: { type: "string", default: "0" },
    ending: { type: "boolean", default: false },
    late: { type: "boolean", default: false },
    unload: { type: "boolean", default: false },
  },
});

const exitTimeout: number | false = flags.exitTimeout === "false"
  ? false
  : Number(flags.exitTimeout);
const options = { exitTimeout, probation: 50, drainTimeout: 1000 };
const timer = setInterval(() => console.log("alive"), 50);
// A second generation in the same process.
const other = beside ? await start(beside, { ...options, stopOn: [] }) : undefined;
await other?.ready();
if (flags.unload) {
  addEventListener("unload", () => {
    throw new Error("out of luck");
  });
}
const toldToBeReady = Promise.withResolvers<void>();
const app = await start(path, options);
console.log("started");
commands();
app.finished.then(
  () => console.log("finished"),
  () => console.log("rejected"),
).then(() => {
  if (flags.ending) clearInterval(timer);
});
if (flags.exitCode !== "0") Deno.exitCode = Number(flags.exitCode);
try {
  if (flags.late) await toldToBeReady.promise;
  await app.ready();
  console.log("serving", app.generation);
} catch {
  console.log("not ready");
}

async function commands(): Promise<void> {
  for await (const line of told()) {
    if (line === "ready") toldToBeReady.resolve();
    if (line === "stop") await app.stop();
    if (line === "stop the other one") await other?.stop();
    if (line === "end") Deno.exit(7);
  }
}
