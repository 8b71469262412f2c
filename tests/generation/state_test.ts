/**
 * The state that a program keeps for the next generation, and the list of all that is inherited.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import type { Fd } from "../../ffi/fd.ts";
import { type Generation, TestService } from "../../mod.ts";
import { begin, here, portOf } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

test("`inherited` lists sockets, files and kept values until the program asks for them or the probation closes them", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [web, log] = [directory.join("web.sock"), directory.join("log")];
  const old = await begin(path);
  assertEquals(old.inherited, []);
  const named = old.listen({ ...here, name: "customer 1" });
  old.listen({ path: web });
  const datagrams = old.listenDatagram({ hostname: "127.0.0.2", port: 0 });
  using _file = old.open(log, { create: true, append: true });
  old.keep("pipe", 2);
  old.keep("state", new Uint8Array(3));
  await old.ready();
  const next = await begin(path);
  const all = next.inherited;
  assertEquals(all, [
    { kind: "listener", name: "customer 1", address: `127.0.0.1:${portOf(named)}` },
    { kind: "listener", address: JSON.stringify(web) },
    { kind: "datagram", address: `127.0.0.2:${portOf(datagrams)}` },
    { kind: "file", name: log },
    { kind: "kept", name: "pipe" },
    { kind: "state", name: "state" },
  ]);
  // The program can ask for them by their names.
  const [{ name }] = all;
  assertEquals(portOf(next.listen({ ...here, name })), portOf(named));
  (next.take("pipe") as Fd).close();
  next.take("state");
  assertEquals(next.inherited, all.slice(1, 4));
  await next.ready();
  await old.finished;
  await until(() => next.inherited.length === 0);
  assertEquals(next.status().sockets.length, 1);
  await next.stop();
});

test("take() returns each state in memory of its own", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const lengths = [1, 5, 70_000, 2, 0];
  for (const length of lengths) old.keep(`${length}`, new Uint8Array(length).fill(length));
  await old.ready();
  const next = await begin(path);
  const states = lengths.map((length) => next.take(`${length}`) as Uint8Array);
  assertEquals(states, lengths.map((length) => new Uint8Array(length).fill(length)));
  assertEquals(states.map(({ buffer }) => buffer.byteLength), lengths);
  await next.ready();
  await next.stop();
});

const name = (i: number) => `session-${i}-${"x".repeat(20)}`;

/** Hands `n` states over in this process, and takes `take` of them; resolves to the milliseconds of the takes. */
async function takeOf(n: number, take: number, look?: (app: Generation) => Promise<void>) {
  let took = 0;
  async function main(app: Generation): Promise<void> {
    if (app.generation > 1) {
      const began = performance.now();
      for (let i = 0; i < take; i++) assert(app.take(name(i)) instanceof Uint8Array);
      took = performance.now() - began;
      assertEquals(app.inherited.length, n - take);
    } else {
      for (let i = 0; i < n; i++) app.keep(name(i), new Uint8Array(16));
    }
    await app.ready();
    await app.finished;
  }
  await using service = new TestService(main, { logger: {}, peerTimeout: 60_000 });
  await look?.(await service.next());
  if (!look) await service.next();
  await service.next();
  return took;
}

test("take() takes the same time however many states are left", async () => {
  const few: number[] = [], many: number[] = [];
  // Alternating: the load of the machine affects both.
  for (let i = 0; i < 3; i++) {
    few.push(await takeOf(5000, 5000));
    many.push(await takeOf(40_000, 40_000));
  }
  const [least, most] = [few, many].map((times) => Math.min(...times));
  // 8 times as many take some 10 times as long; if each call searched all that are left, 300 times.
  assert(most < 64 * Math.max(least, 1), `${least} and ${most} ms`);
});

test("300,000 states are handed over, and the status shows their number", async () => {
  await takeOf(300_000, 1, async (app) => {
    assertEquals(app.status().kept.length, 300_000);
    const cli = new URL("../../lib/cli.ts", import.meta.url).pathname;
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", cli, "status", "--timeout", "60", app.path],
    }).output();
    const words = new TextDecoder().decode(stdout);
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    const lines = words.trim().split("\n").filter((line) => line.startsWith("keeps"));
    const rest = Number(/^keeps +(\d+) more$/.exec(lines.pop()!)?.[1]);
    assertEquals(lines.length + rest, 300_000);
    assertEquals(lines[0], `keeps       ${JSON.stringify(name(0))}`);
  });
});
