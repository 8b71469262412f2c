/**
 * Listeners of another network namespace.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

const noNetwork = await without("unshare", "-n", "ip", "link", "set", "lo", "up");
if (noNetwork) {
  console.log(`network_namespace_test.ts: network namespaces are not tested: ${noNetwork}`);
}

test(
  "an inherited socket of another network namespace is marked in the status, and warned about unless the generations share one",
  {
    ignore: noNetwork !== undefined,
  },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const inside = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "-"];
    const run = (...through: string[]) => new Child("network.ts", [path], { through });
    const report = async (child: Child) => JSON.parse(await child.line());

    await using first = run(...inside);
    assertEquals(await report(first), { generation: 1, warnings: [], elsewhere: [] });
    await using second = run(...inside);
    const strange = await report(second);
    assertEquals(strange.generation, 2);
    assertEquals(strange.elsewhere, [["listener", true], ["datagram", true], [
      "listener",
      null,
    ]]);
    // The third is a unix listener: a path is independent of network namespaces.
    assertEquals(strange.warnings.length, 2);
    assertMatch(
      strange.warnings[0],
      /^The listener at 127\.0\.0\.1:\d+ .*network namespace.*control path/,
    );
    assertMatch(strange.warnings[1], /^The datagram socket at 127\.0\.0\.1:\d+ /);
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", new URL("../../lib/cli.ts", import.meta.url).pathname, "status", path],
    }).output();
    assertEquals(code, 0);
    const lines = new TextDecoder().decode(stdout).split("\n");
    assertMatch(lines[2], /^listens .*, 0 connections, in another network namespace$/);
    assertMatch(lines[3], /^datagrams .*, in another network namespace$/);
    assertMatch(lines[4], /^listens .*web\.sock", 0 connections$/);
    await second.tell("stop");
    await second.ended();
  },
);

test(
  "a listener from outside the network namespace of a service is marked in the status, and its next generation does not warn about it",
  {
    ignore: noNetwork !== undefined,
  },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const outside = directory.join("outside.sock");
    await using giver = new Child("give_listener.ts", [outside]);
    const port = await giver.line();
    await using first = new Child("network.ts", [path, port, outside], {
      through: ["unshare", "-n"],
    });
    const given = JSON.parse(await first.line());
    assertEquals(given.elsewhere[0], ["listener", true]);
    assertEquals(given.warnings.length, 1);
    const enter = ["nsenter", "-t", `${first.pid}`, "-n"];
    await using second = new Child("network.ts", [path, port], { through: enter });
    const next = JSON.parse(await second.line());
    assertEquals([next.generation, next.warnings], [2, []]);
    assertEquals(next.elsewhere[0], ["listener", true]);
    await second.tell("stop");
    await second.ended();
  },
);

/** The reason why a command fails; undefined when it succeeds. */
async function without(command: string, ...args: string[]): Promise<string | undefined> {
  try {
    const { success, stderr } = await new Deno.Command(command, { args }).output();
    return success ? undefined : new TextDecoder().decode(stderr).trim();
  } catch (error) {
    return (error as Error).message;
  }
}
