/**
 * The scenarios of `deno task systemd`: what an operator, or a crash, does to a unit under load.
 *
 * @module
 */

import { assert, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { pause } from "../../lib/time.ts";
import { dropIn, exampleUnit, probation, type Service, type Units } from "./systemd_service.ts";
import type { Output } from "../support/systemd.ts";
import { soon } from "../support/until.ts";

/** One row of the table. */
export interface Scenario {
  name: string;
  units: Units;
  /** The unit that is started. */
  unit: string;
  /** Acts, and checks at once what has to hold. */
  act: (service: Service) => Promise<void>;
  /** How many processes are left at the end. */
  left: 0 | 1;
  /** How long the slow requests of the clients take, in milliseconds. @default {1500} */
  slow?: number;
  /** NRestarts at the end. */
  restarts: number;
  /** A control without a part of the mechanism: what has to be counted more than zero times. */
  control?: "refused" | "lost";
}

/** The drop-in of the tests. @param probation How long the previous generation stands by, in milliseconds. */
const probationOf = (probation: number) => dropIn(`Environment=PROBATION=${probation}`);
const alone = (standBy = probation): Units => ({
  "app.service": exampleUnit("alone/app.service"),
  "app.service.d/test.conf": probationOf(standBy),
});
const socket = (standBy = probation): Units => ({
  "app.socket": exampleUnit("socket/app.socket"),
  "app.service": exampleUnit("socket/app.service"),
  "app.service.d/test.conf": probationOf(standBy),
});
const hardened = (units: Units): Units => ({
  ...units,
  "app.service.d/hardened.conf": exampleUnit("hardened/app.service.d/hardened.conf"),
});
/** MAINPID= takes the place of the PID file. */
const noPidFile: Units = { ...alone(), "app.service.d/pid.conf": dropIn("PIDFile=") };
const template: Units = {
  "app@.service": exampleUnit("template/app@.service"),
  "app@.service.d/test.conf": probationOf(probation),
};

/** A unit as a beginner writes it. */
const simple = dropIn(
  "ExecStart=/usr/bin/deno run -A /srv/app/main.ts",
  "RuntimeDirectory=app",
  "Restart=on-failure",
);

const restartCommand = "/usr/bin/deno run -A /srv/app/graceful/lib/cli.ts restart /run/app/app.sock"
  .split(" ");

const reloads = (count: number) => async (service: Service) => {
  await service.nextAnswers();
  for (let i = 0; i < count; i++) await service.reload();
};

/** Reloads, and resolves when the new generation has answered. */
async function inProbation(
  service: Service,
): Promise<{ old: number; next: number; reloading: Promise<Output> }> {
  const old = await service.nextAnswers();
  const reloading = service.control("reload");
  return { old, next: await service.nextAnswers(), reloading };
}

/** Kills the new generation so many milliseconds after its first answer: the old one goes on. */
const killNew = (after: number) => async (service: Service) => {
  const { old, next, reloading } = await inProbation(service);
  await pause(after);
  await service.clients.kill(next);
  assertNotEquals((await reloading).code, 0, "systemctl reload reports the failure");
  await service.alone(old);
  await service.reload();
};

/** Kills the old generation so many milliseconds after the first answer of the new one, which goes on. */
const killOld = (after: number) => async (service: Service) => {
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

async function stopAlone(service: Service): Promise<void> {
  const only = await service.nextAnswers();
  await service.clients.quiet();
  await stopWith(service, only);
}

/** Stops when the old generation has left. */
async function stopAfter(service: Service): Promise<void> {
  await service.nextAnswers();
  const next = await service.reload();
  await service.clients.quiet();
  await stopWith(service, next);
}

/** Stops while the old generation still answers a request. */
async function stopDraining(service: Service): Promise<void> {
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
async function stopTwoDraining(service: Service): Promise<void> {
  const [first, second] = [2 * probation + 5000, probation + 4500];
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
async function stopInProbation(service: Service): Promise<void> {
  const { next, reloading } = await inProbation(service);
  await service.clients.quiet();
  await stopWith(service, next);
  await reloading;
}

async function restart(service: Service): Promise<void> {
  await service.nextAnswers();
  await service.succeed("restart");
  await service.alone(await service.nextAnswers());
  await service.reload();
}

/** A reload whose new version fails is reported, and changes nothing. */
async function brokenRelease(service: Service): Promise<void> {
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

async function killOnly(service: Service, only?: number): Promise<void> {
  await service.clients.kill(only ?? await service.nextAnswers());
  await service.alone(await service.nextAnswers());
}

/** A program that kills itself at its next five starts. */
async function crashLoop(service: Service): Promise<void> {
  const first = await service.nextAnswers();
  service.bed.program("crashes", 5);
  await service.clients.kill(first);
  await soon(async () => await service.restarts() === 6);
  await service.becomes("active");
  await service.alone(await service.mainPid());
  await service.clients.killedAt(service.bed.crashTimes());
}

async function killTwice(service: Service): Promise<void> {
  await killOnly(service);
  await killOnly(service, service.processes()[0]);
}

/** systemd reads its units again, and then executes itself again, between reloads. */
async function reexec(service: Service): Promise<void> {
  await service.nextAnswers();
  for (const command of ["daemon-reload", "daemon-reexec"]) {
    await service.reload();
    await service.bed.systemd.systemctl(command);
  }
  await service.reload();
  await killOnly(service, service.processes()[0]);
}

/** The watchdog lets a reload pass, and ends a process that hangs. */
async function hang(service: Service): Promise<void> {
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
async function otherUnit(service: Service): Promise<void> {
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
async function killOtherUnit(service: Service): Promise<void> {
  await service.nextAnswers();
  await service.bed.systemd.systemctl("start", "app@b.service");
  await service.clients.kill(await service.nextAnswers());
  await service.becomes("inactive");
  service.unit = "app@b.service";
  await service.alone(await service.nextAnswers());
}

/** A unit that cannot have two generations refuses a restart, and stays as it is. */
async function refuses(service: Service): Promise<void> {
  const only = await service.nextAnswers();
  const { code, stderr } = await service.bed.systemd.run(...restartCommand);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "systemd");
  await service.alone(only);
}

/** The scenarios of a unit that starts its own generations. */
function common(prefix: string, units: Units, count: number): Scenario[] {
  const row = (
    name: string,
    act: Scenario["act"],
    { left = 1, restarts = 0 }: { left?: 0 | 1; restarts?: number } = {},
  ): Scenario => ({ name: `${prefix}: ${name}`, units, unit: "app.service", act, left, restarts });
  return [
    row(`${count} reload${count > 1 ? "s" : ""}`, reloads(count)),
    row("kill -9 of the new one, 0.05 s after ready", killNew(50)),
    row("kill -9 of the new one, 0.9 s after ready", killNew(900)),
    row("kill -9 of the old one, 0.05 s after ready", killOld(50)),
    row("kill -9 of the old one, 0.9 s after ready", killOld(900)),
    row("stop without a reload before", stopAlone, { left: 0 }),
    row("stop after the old one has left", stopAfter, { left: 0 }),
    row("stop while the old one drains", stopDraining, { left: 0 }),
    row("stop while two old ones drain", stopTwoDraining, { left: 0 }),
    row("stop in the probation", stopInProbation, { left: 0 }),
    row("restart", restart),
    row("reload of a release that throws", brokenRelease),
    row("kill -9 of the only one, twice", killTwice, { restarts: 2 }),
    row("crash loop of five", crashLoop, { restarts: 6 }),
  ];
}

const templateRow = (name: string, act: Scenario["act"], restarts: number): Scenario => ({
  name: `template: ${name}`,
  units: template,
  unit: "app@a.service",
  act,
  left: 1,
  restarts,
});

/** All scenarios, in the order of the table. */
export const scenarios: Scenario[] = [
  ...common("alone", alone(), 20),
  {
    name: "alone: daemon-reload and daemon-reexec between reloads, then kill -9",
    units: alone(),
    unit: "app.service",
    act: reexec,
    left: 1,
    restarts: 1,
  },
  {
    name: "alone: WatchdogSec=1, a process that hangs",
    units: {
      ...alone(),
      "app.service.d/watchdog.conf": dropIn("WatchdogSec=1", "TimeoutAbortSec=1"),
    },
    unit: "app.service",
    act: hang,
    left: 1,
    restarts: 1,
  },
  ...common("socket", socket(), 5),
  ...common("no PIDFile", noPidFile, 5),
  ...common("hardened", hardened(alone()), 3)
    .filter(({ name }) => /reloads|new one, 0.05|stop after|only one/.test(name)),
  ...common("hardened, PrivateNetwork, socket", {
    ...hardened(socket()),
    "app.service.d/network.conf": dropIn("PrivateNetwork=yes"),
  }, 3)
    .filter(({ name }) => /reloads|only one/.test(name)),
  templateRow("from a to b and back", otherUnit, 0),
  templateRow("kill -9 of b in its probation", killOtherUnit, 1),
  templateRow("kill -9 of the only one, twice", killTwice, 2),
  {
    name: "Type=simple: restart is refused",
    units: { "app.service": simple },
    unit: "app.service",
    act: refuses,
    left: 1,
    restarts: 0,
  },
  {
    name: "control: kill -9 of the only one, no FileDescriptorStoreMax",
    units: { ...alone(), "app.service.d/store.conf": dropIn("FileDescriptorStoreMax=0") },
    unit: "app.service",
    act: (service) => killOnly(service),
    left: 1,
    restarts: 1,
    control: "refused",
  },
  {
    // Only the old generation, which is the main process, gets SIGTERM; the new one serves until it is killed.
    name: "control: stop in the probation, KillMode=mixed",
    units: { ...alone(), "app.service.d/kill.conf": dropIn("KillMode=mixed", "TimeoutStopSec=3") },
    unit: "app.service",
    act: async (service) => {
      const { reloading } = await inProbation(service);
      await service.clients.quiet();
      const answer = await service.clients.slow(9000);
      await service.control("stop");
      assertEquals(await answer(), null, "the request under way is lost");
      assertEquals(await service.bed.systemd.property(service.unit, "Result"), "timeout");
      await reloading;
    },
    left: 0,
    restarts: 0,
    control: "lost",
  },
  {
    name: "control: restartAsMain in a unit as a beginner writes it",
    units: { "app.service": simple },
    unit: "app.service",
    act: async (service) => {
      await service.nextAnswers();
      service.bed.program("asMain");
      await service.succeed("restart");
      await service.nextAnswers();
      await service.bed.systemd.run(...restartCommand);
      await service.becomes("inactive");
    },
    left: 0,
    restarts: 0,
    control: "refused",
  },
];

/** The short form, for the tests: the scenarios of each kind that take the least time. */
export const shortScenarios: Scenario[] = [
  ...common("alone", alone(500), 3),
  ...common("socket", socket(500), 1),
  ...scenarios,
].filter(({ name }) =>
  [
    "alone: 3 reloads",
    "alone: kill -9 of the new one, 0.05 s after ready",
    "alone: kill -9 of the old one, 0.05 s after ready",
    "alone: stop while the old one drains",
    "alone: restart",
    "alone: reload of a release that throws",
    "alone: kill -9 of the only one, twice",
    "socket: 1 reload",
    "socket: kill -9 of the only one, twice",
    "Type=simple: restart is refused",
    "control: kill -9 of the only one, no FileDescriptorStoreMax",
  ].includes(name)
).filter(({ name }, i, all) => all.findIndex((other) => other.name === name) === i)
  .map((scenario) => ({ ...scenario, slow: 400 }));
