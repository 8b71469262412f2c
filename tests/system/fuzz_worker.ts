/**
 * Runs the conversations whose numbers it reads from stdin, FROM TO a line, and prints a tally for each line.
 *
 *     fuzz_worker.ts SEED
 *
 * @module
 */

import { told } from "../support/child.ts";
import { runBatch, warmUp } from "./fuzz_batch.ts";

const seed = Number(Deno.args[0]);
await warmUp();
console.log("ready");
for await (const line of told()) {
  const [from, to] = line.split(" ").map(Number);
  const tally = await runBatch(seed, from, to);
  console.log(JSON.stringify({ ...tally, rss: Deno.memoryUsage().rss }));
}
