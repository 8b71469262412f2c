/**
 * Modules under `deno serve`: descriptors are passed to them, and by them.
 *
 * @module
 */

import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { pause } from "../../lib/time.ts";
import { drain, listenAndServe, listenerHandler, receive, serveHttp } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const ways = [["deno serve", 1], ["deno serve --parallel", 2]] as const;

for (const [way, instances] of ways) {
  test(`a module under ${way} receives a listener, and serves on it beside its own`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    const old = serveHttp(listener, () => new Response("from the old server"));
    // Each instance of the module receives the same socket.
    const control = listenAndServe(path, listenerHandler(listener));
    await using child = runModule(instances, "take", path);
    const lines = await linesOf(child, instances + 1);
    await control.shutdown();
    assertEquals(lines.filter((line) => line === "serving").length, instances);
    assertEquals(await drain(old, { drainTimeout: 0 }), 0);
    const answers = new Set<string>();
    await until(async () => {
      for (const text of await Promise.all(Array.from({ length: 8 }, () => get(port)))) {
        answers.add(text);
      }
      return answers.size === instances;
    });
    // deno serve itself listens on another port.
    const [ownPort] = lines.flatMap((line) => /^port (\d+)$/.exec(line)?.[1] ?? []);
    assertNotEquals(Number(ownPort), port);
    assertEquals(answers.has(await get(Number(ownPort))), true);
  });

  test(`a module under ${way} sends its listener, and the receiver serves on the same port`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    let port = 0;
    let next: Deno.HttpServer | undefined;
    {
      await using child = runModule(instances, "give", path);
      const [line] = await linesOf(child, 1);
      port = Number(/^port (\d+)$/.exec(line)![1]);
      assertMatch(await get(port), /^[0-9a-f-]{36}$/);
      await receive(path, (fd) => {
        next = serveHttp(fd, () => new Response("from the next server"));
      });
      assertEquals((next!.addr as Deno.NetAddr).port, port);
      // The end of the block kills the process: a module gets no server object, so it cannot drain.
    }
    assertEquals(await get(port), "from the next server");
    await next!.shutdown();
  });
}

test("listenerDescriptor() throws for a reusePort server of deno serve --parallel, and adoption still works", async () => {
  using port = Deno.listen({ hostname: "127.0.0.1", port: 0, reusePort: true });
  await using child = runModule(2, "share", String(port.addr.port));
  const lines = await linesOf(child, 4);
  const refusals = lines.filter((line) => line !== "accepted");
  assertEquals(refusals.length, 2, "each of both instances refuses, and adopts another listener");
  for (const refusal of refusals) {
    assertMatch(refusal, /^NoDescriptorError: 2 open descriptors could be the listener at /);
    assertMatch(refusal, /pass the one meant as a number$/);
  }
});

/** Starts the module under `deno serve` with so many instances. */
function runModule(instances: number, ...args: string[]): Child {
  const deno = ["serve", "-A", "--host", "127.0.0.1", "--port", "0"];
  if (instances > 1) deno.push("--parallel");
  return new Child("under_serve.ts", args, { deno, env: { DENO_JOBS: String(instances) } });
}

/**
 * Reads the next `count` lines, without the name of the instance that deno serve puts before each. After 30
 * seconds the process is killed, so that the test fails.
 */
async function linesOf(child: Child, count: number): Promise<string[]> {
  const over = new AbortController();
  const limit = pause(30_000, over.signal).then(
    () => Deno.kill(child.pid, "SIGKILL"),
    () => {}, // All lines were read in time.
  );
  const lines: string[] = [];
  try {
    while (lines.length < count) {
      lines.push((await child.line()).replace(/^\[serve-worker-.*?\] /, ""));
    }
  } finally {
    over.abort();
    await limit;
  }
  return lines;
}

async function get(port: number): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}`, {
    headers: { connection: "close" },
    signal: AbortSignal.timeout(20_000),
  });
  return await response.text();
}
