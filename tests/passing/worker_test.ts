import { assertEquals } from "@std/assert";
import { pause } from "../../lib/time.ts";
import { listen, listenAndServe, listenerHandler } from "../../mod.ts";
import { Child, type Ended } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

// Each in a process of its own: what a terminated worker leaves open stays open to the end of one.

test("a worker receives a listener and serves HTTP on it, while the main thread does the same", async () => {
  using directory = new Directory();
  const paths = ["worker.sock", "main.sock"].map((name) => directory.join(name));
  using ours = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using theirs = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using _worker = listenAndServe(paths[0], listenerHandler(theirs));
  await using _main = listenAndServe(paths[1], listenerHandler(ours));
  await using child = new Child("workers.ts", ["serve", ...paths]);
  assertEquals(await child.line(), "serving");
  // More than once: each accept has to ask for the next event.
  for (let i = 0; i < 5; i++) {
    const answers = await Promise.all([theirs, ours].map(get));
    assertEquals(answers, ["from the worker", "from the main thread"]);
  }
  await child.tell("enough");
  assertEquals((await bounded(child)).code, 0);
});

for (const kinds of ["listeners and connections", "files, too"]) {
  test(`three workers and the main thread adopt 50 times each, at once: ${kinds}`, async () => {
    using directory = new Directory();
    const file = directory.join("file");
    await Deno.writeTextFile(file, "what the file says");
    const path = kinds === "files, too" ? file : "";
    await using child = new Child("workers.ts", ["adopt", path, "50", "3"]);
    const { code, stdout, stderr } = await bounded(child);
    assertEquals([code, stderr], [0, ""]);
    const { adopted, answered, before, after, watchedElsewhere } = JSON.parse(stdout[0]);
    assertEquals(adopted, [50, 50, 50, 50]);
    // The native listener of the main thread stays what it was, and the main thread's.
    assertEquals([answered, watchedElsewhere], [200, []]);
    assertEquals([before.length, after], [1, before]);
  });
}

for (const end of ["by itself", "by Deno.exit()"]) {
  test(`a worker that waits in accept() is terminated at once, and the process ends ${end}`, async () => {
    using directory = new Directory();
    const path = directory.join("worker.sock");
    const args = ["terminate", path, "accept", ...end === "by itself" ? [] : ["exit"]];
    await using child = new Child("workers.ts", args);
    const { code, stdout, stderr } = await bounded(child);
    // What it had open stays: whoever connects gets no answer, until the process has ended.
    const seen = end === "by itself" ? ["terminated", "connected"] : ["terminated"];
    assertEquals([code, stdout, stderr], [end === "by itself" ? 0 : 7, seen, ""]);
  });

  test(`a worker that waits in receive() is terminated at once, and the process ends ${end}`, async () => {
    using directory = new Directory();
    const path = directory.join("never.sock");
    using _mute = listen(path);
    const args = ["terminate", path, "receive", ...end === "by itself" ? [] : ["exit"]];
    await using child = new Child("workers.ts", args);
    const { code, stdout, stderr } = await bounded(child);
    assertEquals([code, stdout, stderr], [end === "by itself" ? 0 : 7, ["terminated"], ""]);
  });
}

test("a waiting worker does not keep another worker from being terminated later", async () => {
  using directory = new Directory();
  await using child = new Child("workers.ts", ["terminateMany", directory.path, "8"]);
  const { code, stdout, stderr } = await bounded(child);
  assertEquals([code, stdout, stderr], [0, ["terminated 8"], ""]);
});

async function get(listener: Deno.Listener): Promise<string> {
  const { port } = listener.addr as Deno.NetAddr;
  const response = await fetch(`http://127.0.0.1:${port}`, { headers: { connection: "close" } });
  return await response.text();
}

/** The end of a fixture; one that hangs is killed, and fails. */
async function bounded(child: Child): Promise<Ended> {
  const over = new AbortController();
  const limit = pause(30_000, over.signal).then(
    () => Deno.kill(child.pid, "SIGKILL"),
    () => {},
  );
  const ended = await child.ended();
  over.abort();
  await limit;
  return ended;
}
