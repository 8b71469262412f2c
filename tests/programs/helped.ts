/**
 * A service whose every generation has a helper: a process that says a word on stdout and on stderr again and again.
 *
 *     helped.ts PATH "before start()" | "before ready()" | "after ready()" | "never"
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path, when] = Deno.args;
const lead =
  'while echo "a helper of $0 on stdout" && echo "a helper of $0 on stderr" >&2; do sleep 0.02; done';

/** Starts the helper, when it is time; it gets the streams of this process. */
function help(moment: string, generation: number): void {
  if (moment !== when) return;
  new Deno.Command("/bin/sh", { args: ["-c", lead, String(generation)], stdin: "null" }).spawn();
}

// Before start() nothing else tells which generation it will be.
Deno.writeTextFileSync(`${path}.started`, "x", { append: true });
const generation = Deno.statSync(`${path}.started`).size;
help("before start()", generation);
const app = await start(path, {
  probation: 50,
  restartOn: ["SIGHUP"],
  drainTimeout: 500,
  logger: {},
});
console.log(`pid of ${generation}: ${Deno.pid}`);
help("before ready()", generation);
await app.ready();
console.log(`serving: ${generation}`);
help("after ready()", generation);
const timer = setInterval(() => {
  const encoder = new TextEncoder();
  Deno.stdout.writeSync(encoder.encode(`a word of ${generation} to Deno.stdout\n`));
  Deno.stderr.writeSync(encoder.encode(`a word of ${generation} to Deno.stderr\n`));
}, when === "never" ? 20 : 1e9);
commands();
await app.finished;
clearInterval(timer);
Deno.exit();

async function commands(): Promise<void> {
  for await (const line of told()) if (line === "restart") app.restart().catch(console.error);
}
