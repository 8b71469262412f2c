/**
 * hold with the permission that the rest of the command line needs.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";

test("with --allow-ffi alone, hold starts a command, forwards signals, and stops", async () => {
  using directory = new Directory();
  const script = "trap 'echo forwarded' USR1; echo ready; while :; do sleep 0.05; done";
  const args = ["hold", directory.join("app.sock"), "--", "sh", "-c", script];
  await using hold = new Generations("../../lib/cli.ts", args, {
    deno: ["run", "--allow-ffi", "--no-prompt"],
    through: ["sh", "-c", 'exec "$@" 2>&1', "sh"],
  });
  await hold.until("ready");
  Deno.kill(hold.pid, "SIGUSR1");
  await hold.until("forwarded");
  Deno.kill(hold.pid, "SIGTERM");
  await hold.until(/^hold: process \d+ was ended by SIGTERM$/);
  assertEquals((await hold.ended()).code, 143);
});
