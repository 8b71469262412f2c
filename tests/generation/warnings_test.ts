/**
 * What a generation warns of: a program that forgets `ready()`, or calls it too early, what is closed
 * because it is not asked for, and another service on the same control path.
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
import { begin, here, portOf, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { KeptLog } from "../support/kept_log.ts";
import { Sockets } from "../support/raw.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** A generation, and what it logs. */
async function logged(
  path: string,
  options: StartOptions = {},
): Promise<{ app: Generation; log: KeptLog }> {
  const log = new KeptLog();
  return { app: await begin(path, { ...options, logger: log }), log };
}

/** What was warned of. */
function warnings({ warnings }: KeptLog): string[] {
  return warnings.map(([message]) => String(message));
}

test("ready() that is not called is warned of, with the addresses; one that is called is not", async () => {
  using directory = new Directory();
  const readyTimeout = 50;
  const called = await logged(directory.join("a.sock"), { readyTimeout });
  called.app.serve(here, saying("called"));
  await called.app.ready();
  const idle = await logged(directory.join("b.sock"), { readyTimeout });
  const stopped = await logged(directory.join("c.sock"), { readyTimeout });
  stopped.app.serve(here, saying("stopped"));
  await stopped.app.stop();
  // Those before would warn before this one does.
  const { app, log } = await logged(directory.join("d.sock"), { readyTimeout });
  const server = app.serve(here, saying("forgotten"));
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

test("ready() that is not called in time is named on both sides", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path, { readyTimeout: 300 });
  const port = portOf(old.app.serve(here, saying("old")));
  await old.app.ready();
  const next = await logged(path, { readyTimeout: 20 });
  next.app.serve(here, saying("next"));
  await until(() => next.log.warnings.length > 1);
  const [forgotten, tooLate] = warnings(next.log);
  const accepting =
    `until then process ${Deno.pid}, the generation before, is the one that accepts`;
  assertStringIncludes(forgotten, accepting);
  const late = `it has the offer, of 127.0.0.1:${port}, and has not called ready()`;
  assertStringIncludes(tooLate, "cannot take over any more, and its ready() is going to reject: ");
  assertStringIncludes(tooLate, late);
  assertStringIncludes(String(old.log.errors[0][1]), late);
  await assertRejects(() => next.app.ready(), HandoverError, late);
  await old.app.stop();
});

test("a restart that is not ready in time says whether start() or ready() was not called", async () => {
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

test("ready() before what was inherited is asked for is warned of at once", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path);
  const port = portOf(old.app.serve(here, saying("old")));
  await old.app.ready();
  const next = await logged(path, { probation: 60_000 });
  await next.app.ready();
  const [early] = warnings(next.log);
  assertMatch(
    early,
    /^The program has called ready\(\), and asked for no listener: nobody accepts at /,
  );
  assertStringIncludes(early, `at 127.0.0.1:${port}, where generation 1, process ${Deno.pid}, did`);
  assertEquals(portOf(next.app.serve(here, saying("next"))), port);
  assertEquals(next.log.warnings.length, 1, "it is said once");
  await next.app.stop();
  await old.app.finished;
});

test("what is asked for after ready() is warned of where clients wait for it, or would", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path);
  await old.app.ready();
  const port = portOf(old.app.serve(here, saying("old")));
  assertEquals(old.log.warnings.length, 1);
  assertStringIncludes(warnings(old.log)[0], `asked for 127.0.0.1:${port} `);
  assertStringIncludes(warnings(old.log)[0], "at the next restart no generation accepts there");
  // A second address may come at any time.
  old.app.listen({ hostname: "127.0.0.2", port: 0 });
  assertEquals(old.log.warnings.length, 1);
  const next = await logged(path, { probation: 60_000 });
  next.app.listen({ hostname: "127.0.0.3", port: 0 });
  await next.app.ready();
  assertEquals(next.log.warnings, []);
  next.app.listen({ hostname: "127.0.0.4", port: 0 });
  assertEquals(next.log.warnings, []);
  next.app.serve(here, saying("next"));
  assertMatch(
    warnings(next.log)[0],
    /^The program asked for 127\.0\.0\.1:\d+ \d+ ms after it had called ready\(\): for as long, no /,
  );
  await next.app.stop();
  await old.app.finished;
});

test("what is not asked for is closed with a warning that names it, and both sides tell of listeners", async () => {
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
  // A file of another name is usual.
  assert(!closed.includes("file"));
  assert(next.log.lines.some(([, line]) => String(line).includes(`"${directory.join("log")}"`)));
  assertStringIncludes(
    warnings(old.log)[0],
    `has asked for none of the listeners of this one, and closes them: ${addresses.join(", ")}. `,
  );
  await next.app.stop();
});

test("a release that asks for one of two listeners is not taken for another service by its predecessor", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await logged(path);
  old.app.serve(here, saying("old"));
  old.app.listen({ hostname: "127.0.0.2", port: 0 });
  await old.app.ready();
  const next = await logged(path);
  next.app.serve(here, saying("next"));
  await next.app.ready();
  await old.app.finished;
  await until(() => next.log.warnings.length > 0);
  assertMatch(warnings(next.log)[0], /not asked for: the listener at 127\.0\.0\.2:\d+\. /);
  assertEquals(old.log.warnings, []);
  await next.app.stop();
});

test("state alone that is not asked for says nothing of another service", async () => {
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

test("a service of another name is refused, and both sides say so", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const billing = await logged(path, { service: "billing" });
  billing.app.serve(here, saying("billing"));
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
  assertMatch(await asked("status", path), /^service {5}"billing"\ngeneration {2}1, /);
  assertEquals(JSON.parse(await asked("status", path, "--json")).service, "billing");
  await billing.app.stop();
});

test("a name of a service may be introduced, kept and dropped by releases", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  let before: Generation | undefined;
  for (const service of [undefined, "billing", "billing", undefined, "search"]) {
    const { app, log } = await logged(path, { service });
    app.serve(here, saying("any"));
    await app.ready();
    await before?.finished;
    assertEquals(app.status().service, service);
    assertEquals([log.warnings, log.errors], [[], []]);
    // Its probation is over: the next one may come.
    await until(() => !app.status().predecessor);
    before = app;
  }
  assertEquals(before!.generation, 5);
  await before!.stop();
});

test("a name that is none is refused before anything is opened", async () => {
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

test("on a good day, start, restart and stop log nothing that is shown by default", async () => {
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

async function asked(...args: string[]): Promise<string> {
  const cli = new URL("../../lib/cli.ts", import.meta.url).pathname;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-config", cli, ...args],
  }).output();
  return new TextDecoder().decode(stdout);
}
