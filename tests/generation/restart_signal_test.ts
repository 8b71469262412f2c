/**
 * Signals that ask for a restart while none can begin.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Channel } from "../../lib/generation/channel.ts";
import { type OfferedItem, protocolVersion } from "../../lib/generation/protocol.ts";
import { listen } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";

/** Sends SIGHUP, and waits until the log of a process mentions it. */
async function hangUp(service: Generations): Promise<void> {
  Deno.kill(service.pid, "SIGHUP");
  await service.until(/^asked: Restarting on SIGHUP/);
}

/** Waits until the next generation serves; returns its PID. */
async function serving(service: Generations, generation: number): Promise<number> {
  const pid = await service.number("pid");
  await service.until(new RegExp(`^serving: ${generation}$`));
  return pid;
}

/** Stops the process that serves; returns how many more generations have started. */
async function end(service: Generations, pid: number): Promise<number> {
  Deno.kill(pid, "SIGTERM");
  const { code, stdout } = await service.ended();
  assertEquals(code, 0);
  return stdout.filter((line) => line.startsWith("pid: ")).length;
}

/** Starts a service that restarts on SIGHUP; its next generations wait while the file "hold" exists. */
function begin(directory: Directory, ...args: string[]): Generations {
  const all = ["--restartOn", "SIGHUP", "--hold", directory.join("hold"), ...args];
  return new Generations("./generation.ts", [directory.join("app.sock"), ...all]);
}

/** Connects a client that keeps the first generation draining; its request is complete if `whole`. */
async function busy(service: Generations, whole: boolean): Promise<Deno.TcpConn> {
  const port = await service.number("port");
  await service.until(/^serving: 1$/);
  const client = await Deno.connect({ hostname: "127.0.0.1", port });
  const head = whole ? "GET / HTTP/1.1" : "POST / HTTP/1.1\r\nContent-Length: 9";
  await client.write(new TextEncoder().encode(`${head}\r\nHost: localhost\r\n\r\n`));
  if (whole) await client.read(new Uint8Array(1000));
  return client;
}

test("signals during a restart start one more restart, of the next generation", async () => {
  using directory = new Directory();
  await using service = begin(directory);
  await service.until(/^serving: 1$/);
  Deno.writeTextFileSync(directory.join("hold"), "");
  await hangUp(service);
  await service.until(/^held$/);
  for (let i = 0; i < 3; i++) await hangUp(service);
  Deno.removeSync(directory.join("hold"));
  await serving(service, 2);
  const third = await serving(service, 3);
  await service.until(/^phase: healthy$/);
  assertEquals(await end(service, third), 0);
});

test("signals during a restart that fails start one more attempt, and no third", async () => {
  using directory = new Directory();
  await using service = begin(directory, "--fail", "out of luck");
  await service.until(/^serving: 1$/);
  Deno.writeTextFileSync(directory.join("hold"), "");
  await hangUp(service);
  await service.until(/^held$/);
  for (let i = 0; i < 2; i++) await hangUp(service);
  Deno.removeSync(directory.join("hold"));
  for (let i = 0; i < 2; i++) await service.until(/^error: The restart failed; .*out of luck/);
  // restart() would reject as busy if a third attempt were under way.
  await service.tell("restart");
  await service.until(/^failed: ERR_HANDOVER_FAILED .*out of luck/);
  assertEquals(await end(service, service.pid), 0);
});

test("a draining generation passes a signal on to the next generation", async () => {
  using directory = new Directory();
  await using service = begin(directory);
  using client = await busy(service, true);
  await hangUp(service);
  await serving(service, 2);
  await service.until(/^phase: healthy$/);
  await hangUp(service);
  const third = await serving(service, 3);
  client.close();
  await service.until(/^phase: stopped$/);
  await end(service, third);
});

test("a signal before ready() starts a restart after it", async () => {
  using directory = new Directory();
  await using service = begin(directory, "--say", "wait for the word");
  await service.number("port");
  await hangUp(service);
  await service.tell("ready");
  await service.until(/^serving: 1$/);
  // The next generation waits for the line `ready` as well.
  Deno.kill(await service.number("pid"), "SIGTERM");
  await service.until(/^error: The restart failed/);
  await end(service, service.pid);
});

test("signals to a generation during the probation of its successor start one restart after it", async () => {
  using directory = new Directory();
  await using service = begin(directory, "--probation", "1000");
  await service.until(/^serving: 1$/);
  await hangUp(service);
  await serving(service, 2);
  for (let i = 0; i < 2; i++) await hangUp(service);
  await service.until(/^phase: healthy$/);
  const third = await serving(service, 3);
  await service.until(/^phase: healthy$/);
  assertEquals(await end(service, third), 0);
});

test("a signal to restart a service that is being stopped is logged as a warning", async () => {
  using directory = new Directory();
  await using service = begin(directory);
  using _client = await busy(service, false);
  Deno.kill(service.pid, "SIGTERM");
  await service.until(/^asked: Stopping on SIGTERM/);
  Deno.kill(service.pid, "SIGHUP");
  await service.until(/^warning: Not restarting on SIGHUP: this generation is being stopped/);
});

test("signals to restart a generation that is rolled back are logged as warnings that name the predecessor", async () => {
  using directory = new Directory();
  const listener = listen(directory.join("app.sock"));
  await using service = begin(directory, "--probation", "20000");
  // The test is the predecessor: it controls the moment of the rollback.
  using channel = new Channel(await listener.accept());
  assertEquals((await channel.receive())?.type, "hello");
  const items: OfferedItem[] = [{ kind: "control", key: "" }];
  const offer = {
    type: "offer",
    version: protocolVersion,
    generation: 1,
    pid: Deno.pid,
    items,
  } as const;
  await channel.send(offer, { descriptors: [{ fd: listener.fd }] });
  listener[Symbol.dispose]();
  const port = await service.number("port");
  assertEquals((await channel.receive())?.type, "ready");
  await channel.send({ type: "withdrawn" });
  await service.until(/^serving: 2$/);
  // A client that the generation waits for.
  using client = await Deno.connect({ hostname: "127.0.0.1", port });
  const begun = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
  await client.write(new TextEncoder().encode(begun));
  await hangUp(service);
  await channel.send({ type: "rollback", reason: "on second thoughts" });
  const where =
    `this generation was rolled back, and the previous one, process ${Deno.pid}, goes on`;
  await service.until(new RegExp(`^warning: Not restarting, as a signal has asked for: ${where}`));
  Deno.kill(service.pid, "SIGHUP");
  await service.until(new RegExp(`^warning: Not restarting on SIGHUP: ${where}`));
});
