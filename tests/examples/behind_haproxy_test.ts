/**
 * The example behind HAProxy: two instances are stopped, started and restarted while clients use them.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";

const hasHaproxy = await succeeds(["haproxy", "-v"]) ||
  Deno.uid() === 0 && await succeeds(["apt-get", "install", "-y", "haproxy"]) &&
    await succeeds(["haproxy", "-v"]);
if (!hasHaproxy) {
  console.log(
    "behind_haproxy_test.ts: the instances behind HAProxy are not tested: haproxy is not installed, and cannot be",
  );
}

const rolling = "../../examples/behind_haproxy/rolling.ts";

/** Reads lines until one begins so; returns the rest of it. Without a limit of its own, for a busy machine. */
async function lineAfter(example: Generations, beginning: string): Promise<string> {
  for (;;) {
    const line = await example.line();
    if (line.startsWith(beginning)) return line.slice(beginning.length);
  }
}

/** Reads the line about one way to replace both instances; returns how many requests there were, and failed. */
async function counts(
  example: Generations,
  what: string,
): Promise<{ requests: number; failed: number }> {
  const line = await lineAfter(example, what);
  const [, requests, failed] = /^: (\d+) requests, (\d+) failed/.exec(line)!;
  return { requests: Number(requests), failed: Number(failed) };
}

test(
  "instances behind HAProxy lose no request when they are stopped, started and restarted in turn; without stopDelay they do",
  {
    ignore: !hasHaproxy,
  },
  async () => {
    await using example = new Generations(rolling);
    // The control: HAProxy sends requests to a process that has ended, until its checks have noticed.
    const control = await counts(example, "stopped and started again, without stopDelay");
    assert(
      control.failed > 0,
      "none failed without stopDelay: the checks are too fast for a control",
    );
    for (
      const what of [
        "stopped and started again, with stopDelay",
        "restarted, the next process takes over",
      ]
    ) {
      const { requests, failed } = await counts(example, what);
      assert(requests >= 1500);
      assertEquals(failed, 0, what);
    }
    assertEquals(
      await lineAfter(example, "HAProxy has marked a server down "),
      "0 times in the restarts",
    );
    const { code, stderr } = await example.ended();
    assertEquals([code, stderr], [0, ""]);
  },
);

test(
  "the example behind HAProxy exits with 1 when requests fail, and with 2 for a wrong argument",
  {
    ignore: !hasHaproxy,
  },
  async () => {
    // Too short: HAProxy has not noticed when it is over.
    await using short = new Generations(rolling, ["--stop-delay", "1"]);
    const { failed } = await counts(short, "stopped and started again, with stopDelay");
    assert(failed > 0);
    assertEquals((await short.ended()).code, 1);
    await using wrong = new Generations(rolling, ["--stop-delay", "soon"]);
    const { code, stderr } = await wrong.ended();
    assertEquals(code, 2);
    assertMatch(stderr, /--stop-delay takes a number .*\n\nStops, [^]*\nUsage: /);
  },
);
