/**
 * Successors in the unit that are too late: their predecessor has taken the service back, and they are stopped, or
 * call `ready()` before they have read that.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { readText } from "../../ffi/file.ts";
import { hasPython } from "../support/activation.ts";
import { programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { ManagedService } from "../support/managed_service.ts";

const ignore = !hasPython;
if (ignore) console.log("late_successor_test.ts: without python3, there is no service manager");

/** Starts a successor with the variables of process `pid`, which does not end it. */
function startBeside(pid: number, control: string, args: string[]): Generations {
  const entries = readText(`/proc/${pid}/environ`)!.split("\0").slice(0, -1);
  const env = Object.fromEntries(entries.map((each) => {
    const at = each.indexOf("=");
    return [each.slice(0, at), each.slice(at + 1)];
  }));
  return new Generations(programPath("unit_service.ts"), [control, ...args], { env });
}

test("a successor that is stopped after the offer was taken back does not say STOPPING=1", {
  ignore,
}, async () => {
  using directory = new Directory();
  const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port: freePort() })];
  await using service = new ManagedService(directory, [...serve, "--readyTimeout", "1000"]);
  const old = await service.serving();
  await service.heard(/^FDSTORE=1/);
  const go = directory.join("go");
  const args = [...serve, "--wait", go, "--stopEarly", go];
  await using late = startBeside(old, service.control, args);
  await late.until(/^warning: This generation, 2, cannot take over any more/);
  const before = service.told.length;
  Deno.writeTextFileSync(go, "");
  await late.until(/^stopping early/);
  assertEquals((await late.ended()).code, 3);
  // Behind whatever the late one has said.
  await service.command("restart");
  const next = await service.serving(2);
  assertEquals(service.main, next);
  const stopping = service.told.slice(before).filter(({ text }) => text.includes("STOPPING"));
  assertEquals(stopping, []);
});

for (const pidfile of ["app.pid", null]) {
  const by = pidfile ? "the PID file" : "MAINPID=";
  test(`${by} names the predecessor again after a successor that was ready too late`, {
    ignore,
  }, async () => {
    using directory = new Directory();
    const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port: freePort() })];
    const args = [...serve, "--readyTimeout", "200"];
    await using service = new ManagedService(directory, args, { pidfile });
    const old = await service.serving();
    const go = directory.join("go");
    await using late = startBeside(old, service.control, [...serve, "--block", go]);
    await late.until("blocking");
    await service.toldOf(/has failed$/);
    // It does not read that it is too late before it calls ready().
    Deno.writeTextFileSync(go, "");
    const { pid } = await service.toldOf(/^READY=1\nSTATUS=Generation 2,/);
    assertEquals(pid, late.pid);
    await late.until(/^rejected/);
    await late.ended();
    if (pidfile) assertEquals(service.main, old);
    else {
      const last = await service.toldOf((told) =>
        told.pid === pid && told.text.endsWith(`=${old}`)
      );
      assertEquals(last.text, `MAINPID=${old}`);
    }
  });
}
