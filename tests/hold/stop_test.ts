/**
 * Stops and restarts of a held service, and the death of hold itself.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { hasEnded, identify } from "../../ffi/proc.ts";
import { expiring, unlessAborted } from "../../lib/time.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { ask, FreshLoad } from "./fresh_load.ts";
import { deno, Held, noContainer } from "./held.ts";

if (noContainer) console.log(`hold/stop_test.ts: hold is not tested as process 1: ${noContainer}`);

const noPython = !await succeeds(["python3", "--version"]);
if (noPython) {
  console.log("hold/stop_test.ts: python3 is not installed: EXTEND_TIMEOUT_USEC= is not tested");
}

const containers = noContainer ? [false] : [false, true];

/** Requests under way at a time. */
const clients = 4;

for (const container of containers) {
  const where = container ? "as process 1" : "as an ordinary process";
  test(`SIGTERM drains the service, and hold ends with 0 (${where})`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const port = freePort();
    await using held = new Held([path, "--", ...deno("held.ts", path, port)], { container });
    const pid = await held.serving();
    const slow = ask(port, "/slow?ms=800");
    // The slow one has come first, and was accepted before.
    await ask(port);
    held.signal("SIGTERM");
    assertEquals(await slow, pid);
    assertEquals((await held.ended()).code, 0);
    assertEquals(directory.names(), []);
  });

  test(`SIGHUP restarts by generations under load: no request fails (${where})`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const port = freePort();
    await using held = new Held([path, "--", ...deno("held.ts", path, port)], { container });
    const pids = [await held.serving()];
    const load = new FreshLoad(port, clients);
    for (let i = 0; i < 3; i++) {
      await until(() => (load.answers.get(pids.at(-1)!) ?? 0) > 20);
      held.signal("SIGHUP");
      pids.push(await held.serving());
    }
    await until(() => (load.answers.get(pids.at(-1)!) ?? 0) > 20);
    await load.end();
    assertEquals(load.failures, []);
    assertEquals([...load.answers.keys()], pids);
    await until(() => held.children().length === 1);
    held.signal("SIGTERM");
    const { code, stdout } = await held.ended();
    assertEquals(code, 0, stdout.join("\n"));
  });

  test(`a new generation is killed in its probation: its predecessor goes on (${where})`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const port = freePort();
    const flags = ["--probation", "3000"];
    await using held = new Held([path, "--", ...deno("held.ts", path, port, ...flags)], {
      container,
    });
    const first = await held.serving();
    held.signal("SIGHUP");
    const line = await held.until(/^hold: process \d+ is the main process$/);
    held.kill(Number(line.match(/\d+/)![0]));
    await held.until(`hold: process ${first} is the main process`);
    await held.until(/^hold: the restart failed: /);
    assertEquals(await ask(port), first);
    assertEquals(held.children().map(({ inner }) => inner), [first]);
    held.signal("SIGTERM");
    assertEquals((await held.ended()).code, 0);
  });
}

test("an old generation is killed while its successor proves itself: that one is the main process", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  const flags = ["--probation", "1000"];
  await using held = new Held([path, "--", ...deno("held.ts", path, port, ...flags)]);
  const first = await held.serving();
  held.signal("SIGHUP");
  await held.until(/^hold: process \d+ is the main process$/);
  held.kill(first);
  const second = await held.serving();
  assert(second !== first);
  assertEquals(await ask(port), second);
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 0);
});

test("a new generation is killed while the old one drains: the command is started again", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  await using held = new Held([path, "--", ...deno("held.ts", path, port)]);
  const first = await held.serving();
  const slow = ask(port, "/slow?ms=4000");
  // The slow one has come first, and was accepted before.
  await ask(port);
  held.signal("SIGHUP");
  const second = await held.serving();
  held.kill(second);
  const third = await held.serving();
  assertEquals(await ask(port), third);
  assertEquals(await slow, first);
  held.signal("SIGTERM");
  const { code, stdout } = await held.ended();
  assertEquals(code, 0, stdout.join("\n"));
});

test("a process that ignores SIGTERM is killed: after --stop-timeout, or by a second signal", async () => {
  using directory = new Directory();
  const command = ["--", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"];
  for (const timeout of ["0.3", "60"]) {
    const path = directory.join("app.sock");
    await using held = new Held([path, "--stop-timeout", timeout, ...command]);
    await held.until("ready");
    held.signal("SIGTERM");
    await held.until("hold: stopping on SIGTERM");
    if (timeout === "60") held.signal("SIGTERM");
    assertEquals((await held.ended()).code, 137);
    assertEquals(directory.names(), []);
  }
});

test(
  "a process whose first thread has ended is stopped as any other",
  { ignore: noPython },
  async () => {
    using directory = new Directory();
    const script = `
import ctypes, threading, time
# Not for long: nothing finds it in /proc any more if hold does not end it.
threading.Thread(target=time.sleep, args=(15,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)`;
    const args = [directory.join("app.sock"), "--stop-timeout", "1", "--", "python3", "-c", script];
    await using held = new Held(args);
    await held.until("ready");
    await until(() => held.children().some(({ isZombie }) => isZombie));
    held.signal("SIGTERM");
    using late = expiring(10_000, () => new Error("hold has not ended"));
    assertEquals((await unlessAborted(held.ended(), late.signal)).code, 143);
  },
);

test("EXTEND_TIMEOUT_USEC= extends --stop-timeout", { ignore: noPython }, async () => {
  using directory = new Directory();
  const script = `
import os, signal, socket, sys, time
def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text, os.environ["NOTIFY_SOCKET"])
def stop(*_):
    notify(b"STOPPING=1\\nEXTEND_TIMEOUT_USEC=20000000")
    time.sleep(1)
    os._exit(6)
signal.signal(signal.SIGTERM, stop)
notify(b"READY=1\\nSTATUS=ready")
while True: signal.pause()`;
  const path = directory.join("app.sock");
  await using held = new Held([path, "--stop-timeout=0.4", "--", "python3", "-c", script]);
  await held.until("hold: ready");
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 6);
});

test("an orphan of the service is adopted, gets SIGTERM too, and is waited for", async () => {
  using directory = new Directory();
  const script =
    "sh -c \"trap 'echo orphan ends; exit' TERM; echo orphan; while :; do sleep 0.1; done\" & " +
    "sleep 600";
  await using held = new Held([directory.join("app.sock"), "--", "sh", "-c", script]);
  await held.until("orphan");
  const [{ pid: first }] = held.children();
  held.signal("SIGTERM");
  await held.until("orphan ends");
  const { code } = await held.ended();
  assertEquals(code, 143);
  assert(hasEnded({ pid: first, started: undefined }));
});

test("hold is killed with SIGKILL: the service goes on, and the same hold takes over from it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  const args = [path, "--", ...deno("held.ts", path, port)];
  await using killed = new Held(args);
  const first = await killed.serving();
  const process = identify(first);
  const load = new FreshLoad(port, clients);
  await until(() => (load.answers.get(first) ?? 0) > 20);
  Deno.kill(killed.holdPid, "SIGKILL");
  const before = load.answered;
  await until(() => load.answered > before + 20);
  await using held = new Held(args);
  const second = await held.serving();
  await until(() => (load.answers.get(second) ?? 0) > 20 && hasEnded(process));
  // It supervises again, and has the listener: nobody is refused.
  held.kill(second);
  const third = await held.serving();
  await until(() => (load.answers.get(third) ?? 0) > 20);
  await load.end();
  assertEquals(load.of("refused"), []);
  assert(load.failures.length <= clients);
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 0);
});

test("with --listen, the hold that follows a killed one leaves the listener to the generation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  const args = [path, `--listen=127.0.0.1:${port}`, "--", ...deno("held.ts", path, port)];
  await using killed = new Held(args);
  await killed.serving();
  Deno.kill(killed.holdPid, "SIGKILL");
  await using held = new Held(args);
  assertStringIncludes(await held.until(/not listening on/), "until the next start");
  const second = await held.serving();
  assertEquals(await ask(port), second);
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 0);
});

test("`cli.ts stop` ends the service and hold, with 0", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using held = new Held([path, "--", ...deno("held.ts", path, 0)]);
  await held.serving();
  assertEquals((await cli("stop", path)).code, 0);
  assertEquals((await held.ended()).code, 0);
});
