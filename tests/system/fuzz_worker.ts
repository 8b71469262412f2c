/**
 * Holds the conversations that it is told the numbers of, and prints what came of them.
 *
 * @module
 */

import { told } from "../support/child.ts";
import { runBatch, warmUp } from "./converse.ts";

const seed = Number(Deno.args[0]);
await warmUp();
console.log("ready");
for await (const line of told()) {
  const [from, to] = line.split(" ").map(Number);
  const tally = await runBatch(seed, from, to);
  console.log(JSON.stringify({ ...tally, rss: Deno.memoryUsage().rss }));
}
