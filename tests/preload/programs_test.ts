/**
 * Programs without a line of this library, restarted once under load: the short form of `deno task programs`.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Child } from "../support/child.ts";
import { test } from "../support/guard.ts";
import { programOf, programs, whyNotCached } from "../system/programs_list.ts";
import { restartUnderLoad } from "../system/programs_run.ts";

/** Requests before and after the restart: the task makes more. */
const enough = 50;

const skipped = await Promise.all(programs.map(whyNotCached));

for (const [i, program] of programs.entries()) {
  const first = i % 2 === 0 ? "SIGHUP" : "cli.ts restart";
  const ignore = skipped[i] !== undefined;
  if (ignore) console.log(`programs_test.ts: ${program.file} is not tested: ${skipped[i]}`);
  const by = program.by ? ` (${program.by})` : "";
  test(`${program.file}${by} is restarted by ${first}, and loses nothing`, { ignore }, async () => {
    const { refused, lost, failures, requests, stderr } = await restartUnderLoad(program, {
      restarts: 1,
      enough,
      first,
    });
    assertEquals({ refused, lost, stderr }, { refused: 0, lost: 0, stderr: "" }, words(failures));
    assert(requests > enough, `${requests} requests`);
  });
}

for (const file of ["three_lines.ts", "node_http.ts", "echo_deno.ts", "websocket_deno.ts"]) {
  test(`a control: ${file}, stopped and started, loses requests`, async () => {
    const options = { restarts: 1, enough, isPlain: true };
    const { refused, lost } = await restartUnderLoad(programOf(file), options);
    assert(refused + lost > 0);
  });
}

test("deno task programs prints its usage, and exits with 2 for wrong arguments", async () => {
  const run = async (...args: string[]) => {
    await using child = new Child("../system/programs.ts", args);
    const { code, stdout, stderr } = await child.ended();
    assertMatch([...stdout, stderr].join("\n"), /^Usage: deno task programs/m);
    return code;
  };
  assertEquals(await run("--help"), 0);
  for (const args of [["--bogus"], ["--only", "nothing"], ["--restarts", "0"]]) {
    assertEquals(await run(...args), 2);
  }
});

function words(failures: Map<string, number>): string {
  return Array.from(failures, ([what, count]) => `${count} x ${what}`).join("\n");
}
