/**
 * What generations tell a service manager, and the PID file of their unit.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { readText } from "../../ffi/file.ts";
import { isRunning } from "../../ffi/proc.ts";
import { hasPython } from "../support/activation.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { askOnce } from "../support/http1_client.ts";
import { Load } from "../support/load.ts";
import { ManagedService } from "../support/managed_service.ts";
import { tcp } from "../support/unit_service.ts";
import { until } from "../support/until.ts";

const ignore = !hasPython;
if (ignore) console.log("service_manager_test.ts: without python3, there is no service manager");

/** The argument for a listener. */
function serve(port: number): string[] {
  return ["--serve", JSON.stringify({ hostname: "127.0.0.1", port })];
}

/** The variables of a process, as it was started. */
function variablesOf(pid: number): Map<string, string> {
  const entries = readText(`/proc/${pid}/environ`)!.split("\0").map((each) => each.split("="));
  return new Map(entries.map(([name, ...value]) => [name, value.join("=")]));
}

test("the PID file names each generation before READY=1, and the last alone says STOPPING=1", {
  ignore,
}, async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new ManagedService(directory, serve(port));
  const pids: number[] = [];
  for (const generation of [1, 2, 3]) {
    if (generation > 1) await service.command("restart");
    const ready = await service.toldOf(/^READY=1\n/);
    const { pid } = ready;
    const old = pids.at(-1);
    const meanwhile = old ? `; generation ${generation - 1}, process ${old}, stands by` : "";
    assertEquals(
      ready.text,
      `READY=1\nSTATUS=Generation ${generation}, process ${pid}, accepts${meanwhile}`,
    );
    assertEquals(ready.pidfile, `${pid}\n`);
    assertEquals(await service.serving(generation), pid);
    await service.heard(new RegExp(`^STATUS=Generation ${generation}, .* serves$`));
    if (old) await service.until(`finished: ${generation - 1}`);
    assertEquals(service.main, pid);
    assertEquals(service.of(pid, "STATUS=").map(({ text }) => text), [
      `STATUS=Generation ${generation}, process ${pid}, serves`,
    ]);
    pids.push(pid);
  }
  assertEquals(Deno.statSync(service.pidfile!).mode! & 0o777, 0o644);
  // Nothing is left of the files that were renamed.
  assertEquals(directory.names().filter((name) => name.startsWith("app.pid")), ["app.pid"]);
  await service.command("stop");
  await service.until(`ended: ${pids[2]} 0`);
  const stopping = service.told.filter(({ text }) => text.includes("STOPPING"));
  assertEquals(stopping.map(({ pid, text }) => [pid, text]), [[
    pids[2],
    `STOPPING=1\nSTATUS=Generation 3, process ${pids[2]}, drains`,
  ]]);
  assertEquals(service.told.filter(({ text }) => /MAINPID|RELOADING/.test(text)), []);
  assertEquals(new Set(service.told.map(({ pid }) => pid)), new Set(pids));
});

test(
  "a successor has the manager's variables, and none of the descriptors'",
  { ignore },
  async () => {
    using directory = new Directory();
    const port = freePort();
    const manager = ["--watchdog", "60000000", "--socket", `tcp:127.0.0.1:${port}=web`];
    await using service = new ManagedService(directory, serve(port), { manager });
    const first = variablesOf(await service.serving());
    await service.command("restart");
    const next = variablesOf(await service.serving(2));
    for (const name of ["NOTIFY_SOCKET", "PIDFILE", "INVOCATION_ID", "WATCHDOG_USEC"]) {
      assert(first.has(name));
      assertEquals(next.get(name), first.get(name), name);
    }
    assert(first.has("LISTEN_FDS"));
    assertEquals([...next.keys()].filter((name) => name.startsWith("LISTEN_")), []);
  },
);

test("a successor that fails before it is ready changes nothing, and the PID file least of all", {
  ignore,
}, async () => {
  using directory = new Directory();
  const port = freePort();
  const [fail, stopEarly] = [directory.join("fail"), directory.join("stop")];
  const args = [...serve(port), "--fail", fail, "--stopEarly", stopEarly];
  await using service = new ManagedService(directory, args);
  const pid = await service.serving();
  await service.heard(/^FDSTORE=1/);
  for (const file of [fail, stopEarly]) {
    Deno.writeTextFileSync(file, "");
    const before = service.told.length;
    assertEquals((await cli("restart", service.control)).code, 1);
    const { pidfile, text } = await service.toldOf(/has failed$/);
    assertEquals(pidfile, `${pid}\n`);
    assertEquals(
      text,
      `STATUS=Generation 1, process ${pid}, serves; generation 2 has failed`,
    );
    await service.until(/^ended: /);
    // STOPPING=1 of a process that was never ready would end the whole unit.
    assertEquals(service.told.slice(before).map((each) => [each.pid, each.text]), [[pid, text]]);
    Deno.removeSync(file);
  }
  await service.command("restart");
  const next = await service.serving(2);
  assertEquals(service.main, next);
});

test("the PID file names the old generation again when the new one is killed in its probation", {
  ignore,
}, async () => {
  using directory = new Directory();
  const port = freePort();
  const args = [...serve(port), "--probation", "60000"];
  await using service = new ManagedService(directory, args);
  const old = await service.serving();
  const load = new Load(tcp(port));
  for (let kills = 0; kills < 2; kills++) {
    const restart = cli("restart", service.control);
    const pid = await service.serving(2);
    assertEquals(service.main, pid);
    await load.more(20);
    Deno.kill(pid, "SIGKILL");
    const { pid: teller, pidfile } = await service.toldOf(/serves; generation 2 has failed$/);
    assertEquals([teller, pidfile], [old, `${old}\n`]);
    assertEquals((await restart).code, 1);
    await load.more(20);
  }
  // What the killed processes held is reset; nobody is refused.
  assertEquals(await load.stop(/Refused/), 0);
  assertEquals(service.told.filter(({ text }) => /MAINPID|STOPPING/.test(text)), []);
});

test("a generation that is stopped in its probation says STOPPING=1, its predecessor nothing", {
  ignore,
}, async () => {
  using directory = new Directory();
  const args = [...serve(freePort()), "--probation", "60000"];
  await using service = new ManagedService(directory, args);
  const old = await service.serving();
  const restart = cli("restart", service.control);
  const pid = await service.serving(2);
  // As KillMode=control-group does it.
  for (const each of [old, pid]) Deno.kill(each, "SIGTERM");
  assertEquals((await service.toldOf(/^STOPPING=1/)).pid, pid);
  const ended = [await service.until(/^ended: /), await service.until(/^ended: /)];
  assert(
    ended.every((line) => line.startsWith(`ended: ${old} `) || line.startsWith(`ended: ${pid} `)),
  );
  assertEquals(service.of(old, "STOPPING"), []);
  await restart;
});

test(
  "EXTEND_TIMEOUT_USEC comes again and again while a slow request drains",
  { ignore },
  async () => {
    using directory = new Directory();
    const port = freePort();
    const slow = directory.join("slow");
    await using service = new ManagedService(directory, [...serve(port), "--slow", slow]);
    const pid = await service.serving();
    const answer = askOnce(tcp(port), "/slow");
    await service.until("slow: 1");
    Deno.kill(pid, "SIGTERM");
    await service.toldOf(/^STOPPING=1/);
    for (let i = 0; i < 3; i++) await service.toldOf(/^EXTEND_TIMEOUT_USEC=10000000$/);
    Deno.writeTextFileSync(slow, "");
    assertMatch((await answer).body, /^1 /);
    await service.until(`ended: ${pid} 0`);
  },
);

test("only the generation that accepts pings the watchdog", { ignore }, async () => {
  using directory = new Directory();
  const args = [...serve(freePort()), "--probation", "60000"];
  const manager = ["--watchdog", "200000"];
  await using service = new ManagedService(directory, args, { manager });
  const old = await service.serving();
  const pings = async (count: number) => {
    const pids = new Set<number>();
    for (let i = 0; i < count; i++) pids.add((await service.toldOf(/^WATCHDOG=1$/)).pid);
    return [...pids];
  };
  assertEquals(await pings(5), [old]);
  const restart = cli("restart", service.control);
  const pid = await service.serving(2);
  // The last one of the old generation may be on its way.
  await pings(2);
  assertEquals(await pings(6), [pid]);
  Deno.kill(pid, "SIGKILL");
  await service.toldOf(/has failed$/);
  assertEquals(await pings(6), [old]);
  await restart;
  // Twice in the time of the watchdog.
  const began = performance.now();
  await pings(10);
  assert(performance.now() - began < 2000);
});

test("a unit without PIDFile= is told by MAINPID=, and told back", { ignore }, async () => {
  using directory = new Directory();
  const args = [...serve(freePort()), "--probation", "300"];
  await using service = new ManagedService(directory, args, { pidfile: null });
  const old = await service.serving();
  const killed = cli("restart", service.control);
  const pid = await service.serving(2);
  Deno.kill(pid, "SIGKILL");
  await service.toldOf(/has failed$/);
  await killed;
  const mainPids = (from = 0) =>
    service.told.slice(from).filter(({ text }) => text.startsWith("MAINPID=")).map((each) => [
      each.pid,
      Number(each.text.slice(8)),
    ]);
  // The new one itself, its predecessor (heard with NotifyAccess=main), and the predecessor again.
  assertEquals(mainPids(), [[pid, pid], [old, pid], [old, old]]);
  const before = service.told.length;
  await service.command("restart");
  const next = await service.serving(2);
  await service.toldOf(/^BARRIER=1/);
  const [own, by, helper, last] = mainPids(before);
  assertEquals([own, by, last], [[next, next], [old, next], [next, next]]);
  assertEquals(helper[0], next);
  assert(![old, pid, next].includes(helper[1]));
  await until(() => !isRunning(helper[1]));
  assertEquals(service.told.filter(({ text }) => text.includes("STOPPING")), []);
});

test("of two services in one process the last that stops says STOPPING=1", { ignore }, async () => {
  using directory = new Directory();
  const args = [directory.join("second.sock")];
  await using service = new ManagedService(directory, args, { program: "two_services.ts" });
  const pid = await service.serving();
  await service.tell("stop");
  await service.until("stopped: 1 are left");
  await service.tell("stop");
  await service.toldOf(/^EXTEND_TIMEOUT_USEC=/);
  const stopping = service.told.filter(({ text }) => text.startsWith("STOPPING=1"));
  assertEquals(stopping.map((each) => each.pid), [pid]);
});

test(
  "of two services in one process the first to get SIGTERM extends the stop until it has drained",
  {
    ignore,
  },
  async () => {
    using directory = new Directory();
    const args = [directory.join("second.sock")];
    await using service = new ManagedService(directory, args, { program: "two_services.ts" });
    const [port] = await service.numbers("ports");
    const pid = await service.serving();
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    const head = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    await conn.write(new TextEncoder().encode(head));
    // The request has come.
    assertEquals(await conn.read(new Uint8Array(100)), 25);
    Deno.kill(pid, "SIGTERM");
    await service.toldOf(/^STOPPING=1/);
    for (let i = 0; i < 3; i++) await service.toldOf(/^EXTEND_TIMEOUT_USEC=/);
    assertEquals(service.of(pid, "STOPPING=1").length, 1);
    await conn.write(new TextEncoder().encode("x"));
    assertEquals(await conn.read(new Uint8Array(1)), 1);
  },
);

test("a helper that a service starts says nothing, and does not write the PID file", {
  ignore,
}, async () => {
  using directory = new Directory();
  const control = directory.join("helper.sock");
  const args = [...serve(freePort()), "--helper", control];
  await using service = new ManagedService(directory, args);
  const helper = await service.until(/^helper serving: 1 /);
  const pids = [Number(helper.split(" ")[3])];
  // Its next generation neither.
  assertEquals((await cli("restart", control)).code, 0);
  const next = await service.until(/^helper serving: 2 /);
  pids.push(Number(next.split(" ")[3]));
  await service.command("restart");
  const pid = await service.serving(2);
  assertEquals((await cli("stop", control)).code, 0);
  await service.until("finished: 1");
  assertEquals(service.main, pid);
  assertEquals(service.told.filter((each) => pids.includes(each.pid)), []);
  assertEquals(service.told.filter((each) => pids.includes(Number(each.pidfile))), []);
});

test(
  "a PID file that cannot be written is an error, and the service goes on",
  { ignore },
  async () => {
    using directory = new Directory();
    const port = freePort();
    const pidfile = "missing/app.pid";
    await using service = new ManagedService(directory, serve(port), { pidfile });
    const error = await service.until(/^error: /);
    assertMatch(
      error,
      /^error: Cannot write the PID file ".*missing\/app\.pid" of this unit: its directory has to belong to the user/,
    );
    const first = await service.serving();
    const load = new Load(tcp(port));
    await service.command("restart");
    const pid = await service.serving(2);
    await load.more(20);
    assertEquals([await load.stop(), [...load.failures]], [0, []]);
    // The manager is told in the other way.
    const told = service.told.filter(({ text }) => text.startsWith("MAINPID=")).map(({ text }) =>
      text
    );
    assertEquals(told, [`MAINPID=${first}`, `MAINPID=${pid}`]);
  },
);
