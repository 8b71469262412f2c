/**
 * Warnings of a generation: ready() is missing or too early, inherited items are closed because the program has
 * not asked for them, another service has the control path.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { type Generation, HandoverError, start, type StartOptions } from "../../mod.ts";
import { hasEnded, identify } from "../../ffi/proc.ts";
import { begin, here, portOf, quietly, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { KeptLog } from "../support/kept_log.ts";
import { Sockets } from "../support/raw.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** Starts a generation, and keeps its log. */
async function logged(
  path: string,
  options: StartOptions = {},
): Promise<{ app: Generation; log: KeptLog }> {
  const log = new KeptLog();
  return { app: await begin(path, { ...options, logger: log }), log };
}

/** The messages of the warnings. */
function warnings({ warnings }: KeptLog): string[] {
  return warnings.map(([message]) => String(message));
}

test("a generation warns with its addresses when ready() is not called, and not otherwise", async () => {
  using directory = new Directory();
  const readyTimeout = 50;
  const called = await logged(directory.join("a.sock"), { readyTimeout });
  called.app.serve(quietly, saying("called"));
  await called.app.ready();
  const idle = await logged(directory.join("b.sock"), { readyTimeout });
  const stopped = await logged(directory.join("c.sock"), { readyTimeout });
  stopped.app.serve(quietly, saying("stopped"));
  await stopped.app.stop();
  // The other generations would warn before this one.
  const { app, log } = await logged(directory.join("d.sock"), { readyTimeout });
  const server = app.serve(quietly, saying("forgotten"));
  const path = directory.join("e.sock");
  app.listen({ path });
  await until(() => log.warnings.length > 0);
  assertMatch(
    warnings(log)[0],
    /^The program has not called ready\(\) for \d+ ms since it made its /,
  );
  const where = `at 127.0.0.1:${portOf(server)}, "${path}", and until then what connects `;
  assertStringIncludes(warnings(log)[0], where);
  for (const { log } of [called, idle, stopped]) assertEquals(log.warnings, []);
  for (const { app: other } of [called, idle]) await other.stop();
  await app.stop();
});

test("both generations log that ready() was not called within readyTimeout", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path, { readyTimeout: 300 });
  const port = portOf(old.app.serve(quietly, saying("old")));
  await old.app.ready();
  const next = await logged(path, { readyTimeout: 20 });
  next.app.serve(quietly, saying("next"));
  await until(() => next.log.warnings.length > 1);
  const [forgotten, tooLate] = warnings(next.log);
  const accepting =
    `until then process ${Deno.pid}, the previous generation, is the one that accepts`;
  assertStringIncludes(forgotten, accepting);
  const late = `it has the offer, of 127.0.0.1:${port}, and has not called ready()`;
  assertStringIncludes(tooLate, "cannot take over any more, and its ready() is going to reject: ");
  assertStringIncludes(tooLate, late);
  assertStringIncludes(String(old.log.errors[0][1]), late);
  await assertRejects(() => next.app.ready(), HandoverError, late);
  await old.app.stop();
});

test("the error of restart() after readyTimeout names the call that is missing, start() or ready()", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const { app } = await logged(path, { readyTimeout: 300 });
  await app.ready();
  await assertRejects(
    () => app.restart({ program: "sleep", args: ["60"] }),
    HandoverError,
    `was not ready after 300 ms: it has not called start() with "${path}"`,
  );
  await app.stop();
});

test("ready() warns when the program has asked for no inherited listener", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path);
  const port = portOf(old.app.serve(quietly, saying("old")));
  await old.app.ready();
  const next = await logged(path, { probation: 60_000 });
  await next.app.ready();
  const [early] = warnings(next.log);
  assertMatch(
    early,
    /^The program has called ready\(\), and asked for no listener: nobody accepts at /,
  );
  assertStringIncludes(early, `at 127.0.0.1:${port}, where generation 1, process ${Deno.pid}, did`);
  assertEquals(portOf(next.app.serve(quietly, saying("next"))), port);
  assertEquals(next.log.warnings.length, 1, "the warning was logged twice");
  await next.app.stop();
  await old.app.finished;
});

test("serve() and listen() after ready() warn where clients wait at the address, or will at the next restart", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path);
  await old.app.ready();
  const port = portOf(old.app.serve(quietly, saying("old")));
  assertEquals(old.log.warnings.length, 1);
  assertStringIncludes(warnings(old.log)[0], `asked for 127.0.0.1:${port} `);
  assertStringIncludes(warnings(old.log)[0], "at the next restart no generation accepts there");
  // A further address is usual at any time.
  old.app.listen({ hostname: "127.0.0.2", port: 0 });
  assertEquals(old.log.warnings.length, 1);
  const next = await logged(path, { probation: 60_000 });
  next.app.listen({ hostname: "127.0.0.3", port: 0 });
  await next.app.ready();
  assertEquals(next.log.warnings, []);
  next.app.listen({ hostname: "127.0.0.4", port: 0 });
  assertEquals(next.log.warnings, []);
  next.app.serve(quietly, saying("next"));
  assertMatch(
    warnings(next.log)[0],
    /^The program asked for 127\.0\.0\.1:\d+ \d+ ms after it had called ready\(\): for as long, no /,
  );
  await next.app.stop();
  await old.app.finished;
});

test("a generation names what it closes because the program has not asked for it, and its predecessor names the listeners", async () => {
  using directory = new Directory();
  using sockets = new Sockets(1);
  const path = directory.join("app.sock");
  const old = await logged(path);
  const listener = old.app.listen(here);
  const udp = old.app.listenDatagram(here);
  old.app.keep("state", new Uint8Array(1));
  old.app.keep("socket", sockets.raws[0]);
  using _file = old.app.open(directory.join("log"), { create: true, append: true });
  await old.app.ready();
  const next = await logged(path);
  next.app.listen({ hostname: "127.0.0.9", port: 0 });
  await next.app.ready();
  await old.app.finished;
  await until(() => next.log.warnings.length > 0);
  const addresses = [listener, udp].map((socket) => `127.0.0.1:${portOf(socket)}`);
  const [closed] = warnings(next.log);
  const start =
    `Closed what generation 1, process ${Deno.pid}, had handed over and this generation has `;
  assertStringIncludes(closed, start);
  for (
    const words of [
      `the listener at ${addresses[0]}`,
      `the datagram socket at ${addresses[1]}`,
      'the state "state"',
      'the descriptor "socket"',
      `control path, "${path}"`,
    ]
  ) assertStringIncludes(closed, words);
  // A file of another name is usual: no warning names it.
  assert(!closed.includes("file"));
  assert(next.log.lines.some(([, line]) => String(line).includes(`"${directory.join("log")}"`)));
  assertStringIncludes(
    warnings(old.log)[0],
    `has asked for none of the listeners of this one, and closes them: ${addresses.join(", ")}. `,
  );
  await next.app.stop();
});

test("a predecessor does not take a release that asks for one of two listeners for another service", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path);
  old.app.serve(quietly, saying("old"));
  old.app.listen({ hostname: "127.0.0.2", port: 0 });
  await old.app.ready();
  const next = await logged(path);
  next.app.serve(quietly, saying("next"));
  await next.app.ready();
  await old.app.finished;
  await until(() => next.log.warnings.length > 0);
  assertMatch(warnings(next.log)[0], /not asked for: the listener at 127\.0\.0\.2:\d+\. /);
  assertEquals(old.log.warnings, []);
  await next.app.stop();
});

test("state alone that is not asked for does not hint at another service", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path);
  old.app.keep("state", new Uint8Array(1));
  await old.app.ready();
  const next = await logged(path);
  await next.app.ready();
  await old.app.finished;
  await until(() => next.log.warnings.length > 0);
  assertStringIncludes(warnings(next.log)[0], 'not asked for: the state "state". ');
  assert(!warnings(next.log)[0].includes("another service"));
  assertEquals(old.log.warnings, []);
  await next.app.stop();
});

test("a generation refuses a service of another name, and both sides log the reason", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const billing = await logged(path, { service: "billing" });
  billing.app.serve(quietly, saying("billing"));
  await billing.app.ready();
  assertEquals(billing.app.status().service, "billing");
  const error = await assertRejects(() => begin(path, { service: "search" }), HandoverError);
  const why = `it is of the service "search", and the generation that runs there of "billing": ` +
    "give each service a control path of its own";
  assertEquals(
    [error.code, error.message],
    ["ERR_HANDOVER_SERVICE", `Cannot take over at "${path}": ${why}`],
  );
  assertEquals(warnings(billing.log), [`Refused process ${Deno.pid} at "${path}": ${why}`]);
  assertEquals(billing.app.status().state, "serving");
  assertMatch((await cli("status", path)).stdout, /^service {5}"billing"\ngeneration {2}1, /);
  assertEquals(JSON.parse((await cli("status", path, "--json")).stdout).service, "billing");
  await billing.app.stop();
});

test("a release may introduce, keep or drop the name of its service", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  let before: Generation | undefined;
  for (const service of [undefined, "billing", "billing", undefined, "search"]) {
    const { app, log } = await logged(path, { service });
    app.serve(quietly, saying("any"));
    await app.ready();
    await before?.finished;
    assertEquals(app.status().service, service);
    assertEquals([log.warnings, log.errors], [[], []]);
    // The probation is over: the next generation may take over.
    await until(() => !app.status().predecessor);
    before = app;
  }
  assertEquals(before!.generation, 5);
  await before!.stop();
});

test("start() rejects an invalid name of a service before it opens anything", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (const [service, make] of [["", RangeError], ["s".repeat(256), RangeError], [7, TypeError]]) {
    const options = { service: service as string };
    await assertRejects(
      () => start(path, options),
      make as ErrorConstructor,
      "`service` is a name",
    );
  }
  assertEquals(directory.names(), []);
});

test("start, restart and stop without errors print nothing with the default logger", async () => {
  using directory = new Directory();
  const args = [directory.join("app.sock"), directory.join("log")];
  await using child = new Child("./default_logger.ts", args);
  let process = (await child.line()).split(" ");
  assertEquals(process.slice(0, 2), ["ready:", "1"]);
  for (const generation of ["2", "3"]) {
    Deno.kill(Number(process[2]), "SIGHUP");
    const before = identify(Number(process[2]));
    process = (await child.line()).split(" ");
    assertEquals(process.slice(0, 2), ["ready:", generation]);
    await until(() => hasEnded(before));
  }
  Deno.kill(Number(process[2]), "SIGTERM");
  const { stdout, stderr } = await child.ended();
  assertEquals([stdout, stderr], [[], ""]);
});
