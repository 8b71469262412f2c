/**
 * The examples that know nothing of the library: started and restarted as their comments say.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { Load } from "../support/load.ts";
import { answerAt, auto, firstAnswerAt } from "../support/preloaded.ts";
import { soon } from "../support/until.ts";

const example = (name: string) =>
  new URL(`../../examples/no_code/${name}`, import.meta.url).pathname;
const commandLine = new URL("../../lib/cli.ts", import.meta.url).pathname;

test("three lines are started by cli.ts run, and restarted by SIGHUP, under load", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Generations(example("hello.ts"), [], {
    deno: ["run", "-A", commandLine, "run"],
    env: {
      PORT: String(port),
      GRACEFUL_PROBATION: "100",
      XDG_RUNTIME_DIR: directory.path,
      TMPDIR: directory.path,
    },
  });
  assertEquals(await firstAnswerAt(port), `hello from process ${service.pid}\n`);
  const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
  for (let i = 0; i < 2; i++) {
    const before = await answerAt(port);
    Deno.kill(Number(/\d+/.exec(before)![0]), "SIGHUP");
    await soon(async () => await answerAt(port) !== before);
    // The next SIGHUP has to find the probation over.
    await load.more(200);
  }
  assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
});

test("an Express application is restarted by the command line, under load", async () => {
  using directory = new Directory();
  const port = freePort();
  const control = directory.join("shop.sock");
  await using service = new Generations(example("express.ts"), [], {
    deno: ["run", "-A", "--preload", auto],
    env: { PORT: String(port), GRACEFUL_CONTROL: control, GRACEFUL_PROBATION: "100" },
  });
  const first = await firstAnswerAt(port);
  assertEquals(first, `hello from process ${service.pid}\n`);
  const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
  for (let i = 2; i < 4; i++) {
    const { code, stdout } = await cli("restart", control);
    assertEquals(code, 0);
    assertMatch(stdout, new RegExp(`^generation ${i} runs, process `));
  }
  await load.more(20);
  assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
  Deno.kill(Number(/\d+/.exec(await answerAt(port))![0]), "SIGTERM");
  const { code, stderr } = await service.ended();
  assertEquals([code, stderr], [0, ""]);
});
