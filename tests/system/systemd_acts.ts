/**
 * What an operator, or a crash, does to a unit under load, and what has to hold at once.
 *
 * @module
 */

import { assert, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { pause } from "../../lib/time.ts";
import type { Output } from "../support/systemd.ts";
import { soon } from "../support/until.ts";
import { probation, type Service } from "./systemd_service.ts";

export const restartCommand =
  "/usr/bin/deno run -A /srv/app/graceful/lib/cli.ts restart /run/app/app.sock"
    .split(" ");

export const reloads = (count: number) => async (service: Service) => {
  await service.nextAnswers();
  for (let i = 0; i < count; i++) await service.reload();
};

/** Reloads, and resolves when the new generation has answered. */
export async function inProbation(
  service: Service,
): Promise<{ old: number; next: number; reloading: Promise<Output> }> {
  const old = await service.nextAnswers();
  const reloading = service.control("reload");
  return { old, next: await service.nextAnswers(), reloading };
}

/** Kills the new generation so many milliseconds after its first answer: the old one goes on. */
export const killNew = (after: number) => async (service: Service) => {
  const { old, next, reloading } = await inProbation(service);
  await pause(after);
  await service.clients.kill(next);
  assertNotEquals((await reloading).code, 0, "systemctl reload reports the failure");
  await service.alone(old);
  await service.reload();
};

/** Kills the old generation so many milliseconds after the first answer of the new one, which goes on. */
export const killOld = (after: number) => async (service: Service) => {
  const { old, next, reloading } = await inProbation(service);
  await pause(after);
  await service.clients.kill(old);
  await reloading;
  await service.alone(next);
  await service.reload();
};

/** Stops while a request of so many milliseconds is under way. */
async function stopWith(service: Service, pending: number, ms = 1500): Promise<void> {
  const answer = await service.clients.slow(ms);
  const stopped = service.control("stop");
  assertEquals(await answer(), pending, "the request under way is answered");
  assertEquals((await stopped).code, 0);
  assertEquals(await service.bed.systemd.property(service.unit, "Result"), "success");
}

export async function stopAlone(service: Service): Promise<void> {
  const only = await service.nextAnswers();
  await service.clients.quiet();
  await stopWith(service, only);
}

/** Stops when the old generation has left. */
export async function stopAfter(service: Service): Promise<void> {
  await service.nextAnswers();
  const next = await service.reload();
  await service.clients.quiet();
  await stopWith(service, next);
}

/** Stops while the old generation still answers a request. */
export async function stopDraining(service: Service): Promise<void> {
  const old = await service.nextAnswers();
  // It takes longer than the new generation does to stop: the main process ends first.
  const answer = await service.clients.slow(probation + 3000);
  const reloading = service.control("reload");
  const next = await service.nextAnswers();
  assertEquals((await reloading).code, 0);
  assert(service.processes().includes(old), "the old generation drains");
  await service.clients.quiet();
  await stopWith(service, next, 500);
  assertEquals(await answer(), old, "the draining generation answers its request");
}

/** Stops while two generations still answer a request each. */
export async function stopTwoDraining(service: Service): Promise<void> {
  // The first one's is the last to be answered: the generations that end before it must not end it.
  const [first, second] = [2 * probation + 7000, probation + 4500];
  const one = await service.nextAnswers();
  const answerOfOne = await service.clients.slow(first);
  assertEquals((await service.control("reload")).code, 0);
  const two = await service.nextAnswers();
  const answerOfTwo = await service.clients.slow(second);
  assertEquals((await service.control("reload")).code, 0);
  const three = await service.nextAnswers();
  assert([one, two, three].every((each) => service.processes().includes(each)), "two drain");
  await service.clients.quiet();
  await stopWith(service, three, 500);
  assertEquals([await answerOfOne(), await answerOfTwo()], [one, two]);
}

/** Stops in the probation: neither generation goes on. */
export async function stopInProbation(service: Service): Promise<void> {
  const { next, reloading } = await inProbation(service);
  await service.clients.quiet();
  await stopWith(service, next);
  await reloading;
}

export async function restartOnly(service: Service): Promise<void> {
  await service.nextAnswers();
  await service.succeed("restart");
  await service.alone(await service.nextAnswers());
}

export async function restart(service: Service): Promise<void> {
  await restartOnly(service);
  await service.reload();
}

/** A reload whose new version fails is reported, and changes nothing. */
export async function brokenRelease(service: Service): Promise<void> {
  const old = await service.nextAnswers();
  service.bed.program("throws");
  const { code } = await service.control("reload");
  assertNotEquals(code, 0, "systemctl reload reports the failure");
  await service.alone(old);
  assertStringIncludes(
    await service.bed.journal(service.unit),
    "This release is broken",
  );
  service.bed.program("example");
  await service.reload();
}

export async function killOnly(service: Service, only?: number): Promise<void> {
  await service.clients.kill(only ?? await service.nextAnswers());
  await service.alone(await service.nextAnswers());
}

/** A program that kills itself at its next five starts. */
export async function crashLoop(service: Service): Promise<void> {
  const first = await service.nextAnswers();
  service.bed.program("crashes", 5);
  await service.clients.kill(first);
  await soon(async () => await service.restarts() === 6);
  await service.becomes("active");
  await service.alone(await service.mainPid());
  await service.clients.killedAt(service.bed.crashTimes());
}

export async function killTwice(service: Service): Promise<void> {
  await killOnly(service);
  await killOnly(service, service.processes()[0]);
}

/** systemd reads its units again, and then executes itself again, between reloads. */
export async function reexec(service: Service): Promise<void> {
  await service.nextAnswers();
  for (const command of ["daemon-reload", "daemon-reexec"]) {
    await service.reload();
    await service.bed.systemd.systemctl(command);
  }
  await service.reload();
  await killOnly(service, service.processes()[0]);
}

/** The watchdog lets a reload pass, and ends a process that hangs. */
export async function hang(service: Service): Promise<void> {
  await service.nextAnswers();
  const only = await service.reload();
  await pause(2500);
  service.bed.systemd.kill(service.unit, only, "SIGSTOP");
  await service.clients.killedAt([Date.now()]);
  await soon(async () => await service.restarts() === 1);
  await service.clients.killedAt([Date.now()]);
  await service.alone(await service.nextAnswers());
}

/** From app@a to app@b and back. */
export async function otherUnit(service: Service): Promise<void> {
  await service.nextAnswers();
  for (const next of ["app@b.service", "app@a.service"]) {
    const left = service.unit;
    await service.bed.systemd.systemctl("start", next);
    service.unit = left;
    await service.becomes("inactive");
    service.unit = next;
    await service.alone(await service.nextAnswers());
  }
}

/** Kills app@b in its probation: app@a goes on, until systemd has started app@b again. */
export async function killOtherUnit(service: Service): Promise<void> {
  await service.nextAnswers();
  await service.bed.systemd.systemctl("start", "app@b.service");
  await service.clients.kill(await service.nextAnswers());
  await service.becomes("inactive");
  service.unit = "app@b.service";
  await service.alone(await service.nextAnswers());
}

/** A unit that cannot have two generations refuses a restart, and stays as it is. */
export async function refuses(service: Service): Promise<void> {
  const only = await service.nextAnswers();
  const { code, stderr } = await service.bed.systemd.run(...restartCommand);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "systemd");
  await service.alone(only);
}
