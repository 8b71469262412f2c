/**
 * Signals that ask for a restart at a time when none can begin.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Channel } from "../../lib/generation/channel.ts";
import type { OfferedItem } from "../../lib/generation/protocol.ts";
import { listen } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";

/** Sends the signal of a restart, and waits until a process has noticed it. */
async function hangUp(service: Generations): Promise<void> {
  Deno.kill(service.pid, "SIGHUP");
  await service.until(/^asked: Restarting on SIGHUP/);
}

/** The process of the next generation that serves. */
async function serving(service: Generations, generation: number): Promise<number> {
  const pid = await service.number("pid");
  await service.until(new RegExp(`^serving: ${generation}$`));
  return pid;
}

/** Stops the process that serves; gives how many generations have come that nobody waited for. */
async function end(service: Generations, pid: number): Promise<number> {
  Deno.kill(pid, "SIGTERM");
  const { code, stdout } = await service.ended();
  assertEquals(code, 0);
  return stdout.filter((line) => line.startsWith("pid: ")).length;
}

/** A service that restarts on SIGHUP; what that starts waits while there is a file named "hold". */
function begin(directory: Directory, ...args: string[]): Generations {
  const all = ["--restartOn", "SIGHUP", "--hold", directory.join("hold"), ...args];
  return new Generations("./generation.ts", [directory.join("app.sock"), ...all]);
}

/** A client that keeps the generation that serves from leaving; its request has no end unless `whole`. */
async function busy(service: Generations, whole: boolean): Promise<Deno.TcpConn> {
  const port = await service.number("port");
  await service.until(/^serving: 1$/);
  const client = await Deno.connect({ hostname: "127.0.0.1", port });
  const head = whole ? "GET / HTTP/1.1" : "POST / HTTP/1.1\r\nContent-Length: 9";
  await client.write(new TextEncoder().encode(`${head}\r\nHost: localhost\r\n\r\n`));
  if (whole) await client.read(new Uint8Array(1000));
  return client;
}

test("signals that come during a restart make one more, by the generation that follows", async () => {
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

test("signals that come during a restart that fails make one more attempt, and no third one", async () => {
  using directory = new Directory();
  await using service = begin(directory, "--fail", "out of luck");
  await service.until(/^serving: 1$/);
  Deno.writeTextFileSync(directory.join("hold"), "");
  await hangUp(service);
  await service.until(/^held$/);
  for (let i = 0; i < 2; i++) await hangUp(service);
  Deno.removeSync(directory.join("hold"));
  for (let i = 0; i < 2; i++) await service.until(/^error: The restart failed; .*out of luck/);
  // A restart that is under way would refuse this one.
  await service.tell("restart");
  await service.until(/^failed: ERR_HANDOVER_FAILED .*out of luck/);
  assertEquals(await end(service, service.pid), 0);
});

test("a signal to a process that has been replaced, and waits for its clients, goes to the next generation", async () => {
  using directory = new Directory();
  await using service = begin(directory);
  using client = await busy(service, true);
  await hangUp(service);
  await serving(service, 2);
  await service.until(/^phase: handed over$/);
  await hangUp(service);
  const third = await serving(service, 3);
  client.close();
  await service.until(/^phase: left$/);
  await end(service, third);
});

test("a signal that comes before ready() makes a restart after it", async () => {
  using directory = new Directory();
  await using service = begin(directory, "--say", "wait for the word");
  await service.number("port");
  await hangUp(service);
  await service.tell("ready");
  await service.until(/^serving: 1$/);
  // The next generation waits for that word as well.
  Deno.kill(await service.number("pid"), "SIGTERM");
  await service.until(/^error: The restart failed/);
  await end(service, service.pid);
});

test("signals to the old process in the probation of the next generation make one restart after it", async () => {
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

test("a signal to restart a service that is being stopped is a warning", async () => {
  using directory = new Directory();
  await using service = begin(directory);
  using _client = await busy(service, false);
  Deno.kill(service.pid, "SIGTERM");
  await service.until(/^asked: Stopping on SIGTERM/);
  Deno.kill(service.pid, "SIGHUP");
  await service.until(/^warning: Not restarting on SIGHUP: this generation is being stopped/);
});

test("signals to restart a generation that is rolled back are warnings that name the process to send them to", async () => {
  using directory = new Directory();
  const listener = listen(directory.join("app.sock"));
  await using service = begin(directory, "--probation", "20000");
  // A generation before by hand: the only one that takes the service back at this very moment.
  using channel = new Channel(await listener.accept());
  assertEquals((await channel.receive())?.type, "hello");
  const items: OfferedItem[] = [{ kind: "control", key: "" }];
  const offer = { type: "offer", version: 1, generation: 1, pid: Deno.pid, items } as const;
  await channel.send(offer, { descriptors: [{ fd: listener.fd }] });
  listener[Symbol.dispose]();
  const port = await service.number("port");
  assertEquals((await channel.receive())?.type, "ready");
  await channel.send({ type: "draining" });
  await service.until(/^serving: 2$/);
  // A client that it waits for.
  using client = await Deno.connect({ hostname: "127.0.0.1", port });
  const begun = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
  await client.write(new TextEncoder().encode(begun));
  await hangUp(service);
  await channel.send({ type: "rollback", reason: "on second thoughts" });
  const where =
    `this generation was rolled back, and the one before it, process ${Deno.pid}, goes on`;
  await service.until(new RegExp(`^warning: Not restarting, as a signal has asked for: ${where}`));
  Deno.kill(service.pid, "SIGHUP");
  await service.until(new RegExp(`^warning: Not restarting on SIGHUP: ${where}`));
});
