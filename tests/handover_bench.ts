/**
 * A whole handover: connect, receive every descriptor, close. With a sender in another process.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { receive } from "../mod.ts";

const directory = await Deno.makeTempDir({ prefix: "graceful-" });
const counts = [1, 170, 1000, 10_000];
const times = new Map<number, number[]>(counts.map((count) => [count, []]));
const senders = await Promise.all(counts.map(startSender));

for (const count of counts) {
  Deno.bench(
    `a handover of ${count.toLocaleString("en")} descriptors`,
    { group: "handover" },
    async (b) => {
      b.start();
      const from = performance.now();
      const received = await receive(pathOf(count), () => {});
      times.get(count)!.push(performance.now() - from);
      b.end();
      assertEquals(received, count);
    },
  );
}

globalThis.addEventListener("unload", () => {
  for (const child of senders) child.kill("SIGKILL");
  Deno.removeSync(directory, { recursive: true });
  for (const [count, all] of times) {
    if (all.length === 0) continue;
    const sorted = all.toSorted((a, b) => a - b);
    const median = sorted[all.length >> 1];
    console.log(
      `${String(count).padStart(6)} descriptors: median ${median.toFixed(3)} ms a handover ` +
        `(first ${all[0].toFixed(3)}, p99 ${sorted[(all.length * 0.99) | 0].toFixed(3)}), ` +
        `${Math.round(count / median * 1000).toLocaleString("en")} descriptors a second`,
    );
  }
});

function pathOf(count: number): string {
  return `${directory}/${count}.sock`;
}

async function startSender(count: number): Promise<Deno.ChildProcess> {
  const script = new URL("./fixtures/bench_server.ts", import.meta.url).pathname;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script, pathOf(count), String(count)],
    stdout: "piped",
  }).spawn();
  const lines = child.stdout.getReader();
  if ((await lines.read()).done) {
    throw new Error(`The sender of ${count} descriptors did not start`);
  }
  lines.releaseLock();
  return child;
}
