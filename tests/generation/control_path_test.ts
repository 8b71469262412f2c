/**
 * A control path that is removed, or bound by another process, while its generation runs.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { pathStatus } from "../../ffi/file.ts";
import { isRunning } from "../../ffi/proc.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { begin, here, saying } from "../support/in_process.ts";
import { MessageLog } from "../support/kept_log.ts";
import { askedAt, modeOf, restored, servingAt } from "../support/unix_paths.ts";
import { until } from "../support/until.ts";

const { AddrInUse } = Deno.errors;

test("a restart by signal binds a removed control path anew, and the next generation takes over", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  await using first = new Child("./generation.ts", [control, "--restartOn", "SIGHUP"]);
  let generation = 0;
  await first.until("serving: 1");
  Deno.removeSync(control);
  Deno.kill(first.pid, "SIGHUP");
  const rest = first.ended();
  await until(() => pathStatus(control) !== undefined);
  await until(async () => {
    const app = await begin(control, { probation: 10 }).catch(() => undefined);
    if (!app) return false;
    generation = app.generation;
    await app.ready();
    await app.stop();
    return true;
  });
  // The generation that the signal started takes over before this one, or after it.
  assert(generation >= 2, `generation ${generation}`);
  await until(() => !isRunning(first.pid));
  await rest;
});

/** Makes a directory, and starts a generation whose control path is in it. */
async function readyIn(directory: string, log: MessageLog) {
  Deno.mkdirSync(directory);
  const control = `${directory}/app.sock`;
  const app = await begin(control, { logger: log });
  await app.ready();
  return { app, control };
}

test("a timer binds a removed control path anew with its mode, and logs a warning", async () => {
  using directory = new Directory();
  const log = new MessageLog();
  const { app, control } = await readyIn(directory.join("run"), log);
  Deno.chmodSync(control, 0o666);
  using waiting = await Deno.connect({ transport: "unix", path: control });
  // The next check of the paths reads the mode.
  await until(async () => (await restored(app), true));
  Deno.removeSync(control);
  // The timer checks the path every 10 s.
  await until(() => pathStatus(control) !== undefined);
  assertEquals(modeOf(control), 0o666);
  assertMatch(log.warnings.join(), /^The control path "[^"]+" was removed: it was bound anew/);
  const next = await begin(control);
  assertEquals(next.generation, 2);
  await next.ready();
  await app.finished;
  waiting.close();
  await next.stop();
  assertEquals(directory.names(), ["run"]);
  assertEquals([...Deno.readDirSync(directory.join("run"))], []);
});

test("a control path whose directory was removed is bound anew once the directory exists, after one error in the log", async () => {
  using directory = new Directory();
  const log = new MessageLog();
  const { app, control } = await readyIn(directory.join("run"), log);
  Deno.removeSync(directory.join("run"), { recursive: true });
  await restored(app);
  await until(() => log.errors.some((line) => /no directory for the control socket/.test(line)));
  Deno.mkdirSync(directory.join("run"));
  await until(() => pathStatus(control) !== undefined);
  assertEquals(log.errors.filter((line) => /no directory/.test(line)).length, 1);
  await app.stop();
});

test("a generation leaves its removed control path to another generation that has bound it, and logs an error", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  const log = new MessageLog();
  const app = await begin(control, { logger: log });
  await app.ready();
  Deno.removeSync(control);
  const other = await begin(control);
  assertEquals(other.generation, 1);
  const { ino } = pathStatus(control)!;
  await restored(app);
  await until(() => log.errors.some((line) => line.includes("another instance is serving there")));
  assertEquals(pathStatus(control)!.ino, ino);
  await other.stop();
  await until(() => pathStatus(control) !== undefined);
  assert(pathStatus(control)!.ino !== undefined);
  await app.stop();
  assertEquals(directory.names(), []);
});

test("the error of a first start whose unix path is in use names a removed control path as a possible cause", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const app = await servingAt(control, { path: web }, "here");
  Deno.removeSync(control);
  const other = await begin(control);
  const again = () => other.serve({ path: web }, saying("no"));
  assertThrows(again, AddrInUse, `nothing listened at the control path "${control}"`);
  await other.stop();
  assertEquals(await askedAt(web), "here");
  await app.stop();
});

test("the error of a first start whose address is in use names a removed control path as a possible cause", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  const port = freePort();
  const app = await begin(control);
  app.serve({ ...here, port }, saying("here"));
  await app.ready();
  Deno.removeSync(control);
  const other = await begin(control);
  const error = assertThrows(() => other.serve({ ...here, port }, saying("no")), AddrInUse);
  assertMatch(
    error.message,
    new RegExp(
      `^Cannot listen on 127.0.0.1:${port}: .*; nothing listened at the control ` +
        `path "${control}"\\. If that was removed from under a generation of this service, it puts it back`,
    ),
  );
  await other.stop();
  await app.stop();
});
