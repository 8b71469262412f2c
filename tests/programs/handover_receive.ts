/**
 * For each line "run COUNT ROUNDS" receives ROUNDS times from DIRECTORY/COUNT, and prints the
 * nanoseconds of each. The receiver of the handover benchmark.
 *
 *     handover_receive.ts DIRECTORY
 *     handover_receive.ts DIRECTORY used    the library has been used for something small by then
 *
 * @module
 */

import { listen, receive } from "../../mod.ts";
import { told } from "../support/child.ts";

const [directory, used] = Deno.args;
if (used) listen(`\0${crypto.randomUUID()}`).close();

for await (const line of told()) {
  const [count, rounds] = line.split(" ").slice(1).map(Number);
  const path = `${directory}/${count}`;
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const from = performance.now();
    const received = await receive(path, () => {});
    times.push(Math.round((performance.now() - from) * 1e6));
    if (received !== count) throw new Error(`Received ${received} of ${count} descriptors`);
  }
  console.log(times.join(" "));
}
