import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { pause } from "../../lib/time.ts";
import { drain, listenAndServe, listenerHandler, receive, serveHttp } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const ways = [["deno serve", 1], ["deno serve --parallel", 2]] as const;

for (const [way, instances] of ways) {
  test(`a service hands its listener to a module under ${way}, which serves it beside its own`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    const old = serveHttp(listener, () => new Response("the old one"));
    // As many handovers as there are instances of the module: each gets the same socket.
    const control = listenAndServe(path, listenerHandler(listener));
    await using child = serving(instances, "take", path);
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
    // The port that deno serve insists on is another one.
    const [ownPort] = lines.flatMap((line) => /^port (\d+)$/.exec(line)?.[1] ?? []);
    assertNotEquals(Number(ownPort), port);
    assertEquals(answers.has(await get(Number(ownPort))), true);
  });

  test(`the listener of ${way} is one socket: it is sent, and the next one goes on with the port`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    let port = 0;
    let next: Deno.HttpServer | undefined;
    {
      await using child = serving(instances, "give", path);
      const [line] = await linesOf(child, 1);
      port = Number(/^port (\d+)$/.exec(line)![1]);
      assertMatch(await get(port), /^[0-9a-f-]{36}$/);
      await receive(path, (fd) => {
        next = serveHttp(fd, () => new Response("the next one"));
      });
      assertEquals((next!.addr as Deno.NetAddr).port, port);
      // A module gets no server that it could drain: it ends as it is.
    }
    assertEquals(await get(port), "the next one");
    await next!.shutdown();
  });
}

test("reusePort servers, one in each worker of deno serve --parallel, cannot be told apart: the error says so, and adoption goes on", async () => {
  using port = Deno.listen({ hostname: "127.0.0.1", port: 0, reusePort: true });
  await using child = serving(2, "share", String(port.addr.port));
  const lines = await linesOf(child, 4);
  const refusals = lines.filter((line) => line !== "accepted");
  assertEquals(refusals.length, 2, "and each instance adopts another listener all the same");
  for (const refusal of refusals) {
    assertMatch(refusal, /^NoDescriptorError: 2 open descriptors could be the listener at /);
    assertMatch(refusal, /pass the one meant as a number$/);
  }
});

/** The module under `deno serve`, with so many instances. */
function serving(instances: number, ...args: string[]): Child {
  const deno = ["serve", "-A", "--host", "127.0.0.1", "--port", "0"];
  if (instances > 1) deno.push("--parallel");
  return new Child("under_serve.ts", args, { deno, env: { DENO_JOBS: String(instances) } });
}

/**
 * The next lines it prints, without the name of the instance that deno serve puts before each. One
 * that prints less is killed, and fails.
 */
async function linesOf(child: Child, count: number): Promise<string[]> {
  const over = new AbortController();
  const limit = pause(30_000, over.signal).then(
    () => Deno.kill(child.pid, "SIGKILL"),
    () => {},
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
