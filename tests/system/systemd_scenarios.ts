/**
 * The scenarios of `deno task systemd`: units, and what is done to them.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import {
  brokenRelease,
  crashLoop,
  hang,
  inProbation,
  killNew,
  killOld,
  killOnly,
  killOtherUnit,
  killTwice,
  otherUnit,
  reexec,
  refuses,
  reloads,
  restart,
  restartCommand,
  restartOnly,
  stopAfter,
  stopAlone,
  stopDraining,
  stopInProbation,
  stopTwoDraining,
} from "./systemd_acts.ts";
import { dropIn, exampleUnit, probation, type Service, type Units } from "./systemd_service.ts";

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
  templateRow("restart", restartOnly, 0),
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
    // Without `restartOn: ["SIGHUP"]` the signal ends the process, which systemd counts as a success.
    name: "control: ExecReload=/bin/kill -HUP $MAINPID",
    units: {
      ...alone(),
      "app.service.d/reload.conf": dropIn("ExecReload=", "ExecReload=/bin/kill -HUP $MAINPID"),
    },
    unit: "app.service",
    act: async (service) => {
      await service.nextAnswers();
      await service.succeed("reload");
      await service.becomes("inactive");
      await service.clients.refused();
    },
    left: 0,
    restarts: 0,
    control: "refused",
  },
  {
    // The service moves out of the unit, and nobody starts it again.
    name: "control: a second start by hand, and kill -9",
    units: alone(),
    unit: "app.service",
    act: async (service) => {
      await service.nextAnswers();
      const byHand = service.bed.systemd.run("/usr/bin/deno", "run", "-A", "/srv/app/main.ts");
      const next = await service.nextAnswers();
      await service.becomes("inactive");
      await service.clients.kill(next);
      await byHand;
      await service.clients.refused();
    },
    left: 0,
    restarts: 0,
    control: "refused",
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
      await service.clients.refused();
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
