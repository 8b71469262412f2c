/**
 * The rules about a unit, on what systemd 252 shows of units that ran: each rule has a setting that it finds, and one
 * that it lets pass.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Finding, Level } from "../../lib/doctor/finding.ts";
import { parseProperties, type UnitProperties } from "../../lib/doctor/unit.ts";
import type { UnitContext } from "../../lib/doctor/unit_context.ts";
import { unitFindings } from "../../lib/doctor/unit_rules.ts";
import { test } from "../support/guard.ts";

const recorded = new URL("../data/systemd_252/", import.meta.url);

/** The properties of a unit that ran: app.service has the recommended settings. */
function unit(name: string): UnitProperties {
  return parseProperties(Deno.readTextFileSync(new URL(`${name}.txt`, recorded)));
}

const app = unit("app");
const main = Number(app.MainPID);
const healthy: UnitContext = {
  path: "/run/app/app.sock",
  generation: { pid: main },
  isInUnit: true,
  isMainChild: true,
  recorded: { pid: main, isInUnit: true },
};

/** The finding about a setting; undefined where there is none. */
function about(
  name: string,
  properties: UnitProperties,
  context: UnitContext = {},
): Finding | undefined {
  const found = unitFindings(properties, context).filter((finding) => finding.about === name);
  assert(found.length <= 1, name);
  return found[0];
}

const level = (...args: Parameters<typeof about>): Level | undefined => about(...args)?.level;

test("ExecReload= by SIGHUP is a problem where the generation does not listen to that", () => {
  for (
    const line of ["/bin/kill -HUP $MAINPID", "/usr/bin/kill -s HUP $MAINPID", "kill -1 $MAINPID"]
  ) {
    const path = line.split(" ")[0];
    const reload = { ...app, ExecReload: `{ path=${path} ; argv[]=${line} ; ignore_errors=no }` };
    assertEquals(level("ExecReload", reload, { ...healthy, listensToHangup: false }), "problem");
    assertEquals(level("ExecReload", reload, { ...healthy, listensToHangup: true }), "note");
  }
  const other = { ...app, ExecReload: "{ path=/bin/true ; argv[]=/bin/true ; ignore_errors=no }" };
  assertEquals(level("ExecReload", other, { ...healthy, listensToHangup: false }), "note");
});

test("a unix listener in a RuntimeDirectory= that is not preserved is a warning", () => {
  const removed = { ...app, RuntimeDirectory: "app", RuntimeDirectoryPreserve: "no" };
  const inside = { ...healthy, unixPaths: ["/run/app/http.sock"] };
  assertEquals(level("RuntimeDirectory", removed, inside), "warning");
  assertEquals(
    level("RuntimeDirectory", removed, { ...healthy, unixPaths: ["/srv/http.sock"] }),
    undefined,
  );
  const kept = { ...removed, RuntimeDirectoryPreserve: "restart" };
  assertEquals(level("RuntimeDirectory", kept, inside), undefined);
});

test("a unit with the recommended settings has no warning", () => {
  const findings = unitFindings(app, healthy);
  assertEquals(findings.filter(({ level }) => level !== "ok"), []);
  const names = ["Type", "NotifyAccess", "PIDFile", "KillMode", "ExecReload", "MainPID", "Restart"];
  for (const name of names) assertEquals(level(name, app, healthy), "ok", name);
});

/** A setting with which `app` gets a finding, and the level of that; all else is as recommended. */
const settings: [about: string, change: UnitProperties, level: Level][] = [
  ["ActiveState", { ActiveState: "failed", Result: "exit-code" }, "problem"],
  ["ActiveState", { ActiveState: "inactive" }, "problem"],
  ["ActiveState", { ActiveState: "activating" }, "note"],
  ["LoadState", { LoadState: "bad-setting" }, "problem"],
  ["NeedDaemonReload", { NeedDaemonReload: "yes" }, "warning"],
  ["Type", { Type: "simple" }, "problem"],
  ["Type", { Type: "exec" }, "problem"],
  ["Type", { Type: "notify-reload" }, "warning"],
  ["NotifyAccess", { NotifyAccess: "main" }, "problem"],
  ["NotifyAccess", { NotifyAccess: "none" }, "problem"],
  ["PIDFile", { PIDFile: "" }, "warning"],
  ["KillMode", { KillMode: "mixed" }, "problem"],
  ["KillMode", { KillMode: "process" }, "problem"],
  ["KillSignal", { KillSignal: "10" }, "warning"],
  ["FileDescriptorStoreMax", { FileDescriptorStoreMax: "0" }, "warning"],
  ["FileDescriptorStoreMax", { NFileDescriptorStore: "64" }, "warning"],
  ["FileDescriptorStoreMax", { NFileDescriptorStore: "0" }, "note"],
  ["ExecReload", { ExecReload: undefined }, "warning"],
  ["ExecReload", { ExecReload: unit("wrong").ExecReload }, "note"],
  ["TimeoutStopSec", { TimeoutStopUSec: "1min 29s" }, "note"],
  ["TimeoutStartSec", { TimeoutStartUSec: "1min 14.500s" }, "warning"],
  ["OOMPolicy", { OOMPolicy: "stop" }, "warning"],
  ["Restart", { Restart: "no" }, "problem"],
  ["Restart", { Restart: "on-success" }, "problem"],
  ["StartLimitIntervalSec", { StartLimitIntervalUSec: "10s" }, "warning"],
  ["SystemCallFilter", { SystemCallFilter: unit("wrong").SystemCallFilter }, "problem"],
  ["SystemCallFilter", { SystemCallFilter: unit("denied").SystemCallFilter }, "problem"],
  ["MemoryDenyWriteExecute", { MemoryDenyWriteExecute: "yes" }, "problem"],
  ["RestrictAddressFamilies", { RestrictAddressFamilies: "AF_INET AF_INET6" }, "problem"],
  ["RestrictAddressFamilies", { RestrictAddressFamilies: "~AF_UNIX" }, "problem"],
  ["PrivatePIDs", { PrivatePIDs: "yes" }, "problem"],
  ["InaccessiblePaths", { InaccessiblePaths: "/home -/proc" }, "warning"],
];

for (const [name, change, expected] of settings) {
  const [[property, value]] = Object.entries(change);
  const shown = `${property}=${value?.split(" ").slice(0, 3).join(" ")}`;
  test(`${shown} is a ${expected}, and the recommended value is none`, () => {
    const finding = about(name, { ...app, ...change }, healthy);
    assertEquals(finding?.level, expected);
    if (expected !== "note") assertMatch(finding!.advice!, /^[A-Z].{10}/);
    const good = level(name, app, healthy);
    assert(good === undefined || good === "ok", good);
  });
}

/** Values beside the recommended ones that are as good. */
const others: [about: string, change: UnitProperties][] = [
  ["TimeoutStopSec", { TimeoutStopUSec: "1min 30s" }],
  ["TimeoutStopSec", { TimeoutStopUSec: "infinity" }],
  ["TimeoutStartSec", { TimeoutStartUSec: "1min 15s" }],
  ["TimeoutStartSec", { TimeoutStartUSec: "15s", ExecReload: "" }],
  ["StartLimitIntervalSec", { StartLimitIntervalUSec: "10s", StartLimitBurst: "0" }],
  ["Restart", { Restart: "always" }],
  ["SystemCallFilter", { SystemCallFilter: unit("sandboxed").SystemCallFilter }],
  [
    "SystemCallFilter",
    { SystemCallFilter: unit("wrong").SystemCallFilter, SystemCallErrorNumber: "1" },
  ],
  [
    "MemoryDenyWriteExecute",
    { MemoryDenyWriteExecute: "yes", Environment: "A=1 DENO_V8_FLAGS=--jitless" },
  ],
  ["RestrictAddressFamilies", { RestrictAddressFamilies: "AF_INET AF_UNIX" }],
  ["RestrictAddressFamilies", { RestrictAddressFamilies: "~AF_NETLINK" }],
  ["InaccessiblePaths", { InaccessiblePaths: "/proc/sys /home" }],
  ["FileDescriptorStoreMax", { FileDescriptorStoreMax: "0", TriggeredBy: "app.socket" }],
];

test("other values that do are no findings", () => {
  for (const [name, change] of others) {
    const found = level(name, { ...app, ...change }, healthy);
    assert(found === undefined || found === "ok", `${JSON.stringify(change)}: ${found}`);
  }
});

test("units as they ran: a plain one, a wrong one, and sandboxes", () => {
  const problems = (name: string) =>
    unitFindings(unit(name), {}).filter(({ level }) => level === "problem").map((each) =>
      each.about
    )
      .sort();
  assertEquals(problems("plain"), ["NotifyAccess", "Restart", "Type"]);
  assertEquals(problems("sandboxed"), ["Restart"]);
  assertEquals(problems("permitted").includes("SystemCallFilter"), false);
  // RestrictAddressFamilies=none is an empty list; where a generation answers, it is an older systemd's for no list.
  assertEquals(level("RestrictAddressFamilies", unit("permitted")), "problem");
  assertEquals(level("RestrictAddressFamilies", unit("permitted"), healthy), undefined);
  assertEquals(problems("denied"), [
    ...["NotifyAccess", "Restart", "RestrictAddressFamilies", "SystemCallFilter", "Type"],
  ]);
  assertEquals(
    problems("wrong"),
    [
      ...["ActiveState", "KillMode", "MemoryDenyWriteExecute", "NotifyAccess", "Restart"],
      ...["RestrictAddressFamilies", "SystemCallFilter", "Type"],
    ].sort(),
  );
});

test("a unit for each generation, from a template, needs neither PIDFile nor control-group", () => {
  const instance = unit("instance");
  assertEquals(instance.Id, "app@a.service");
  for (const name of ["NotifyAccess", "PIDFile", "ExecReload"]) {
    assertEquals(level(name, instance), undefined, name);
  }
  assertEquals([level("Type", instance), level("KillMode", instance)], ["note", "ok"]);
  const notify = { ...instance, Type: "notify" };
  assertEquals(level("NotifyAccess", { ...notify, NotifyAccess: "main" }), undefined);
  assertEquals(level("NotifyAccess", { ...notify, NotifyAccess: "none" }), "problem");
  const path = "/run/instances/app.sock";
  assertEquals(level("RuntimeDirectory", instance, { path }), "problem");
  assertEquals(level("RuntimeDirectory", instance, { path: "/srv/app.sock" }), undefined);
  const preserved = { ...instance, RuntimeDirectoryPreserve: "yes" };
  assertEquals(level("RuntimeDirectory", preserved, { path }), undefined);
  assertEquals(level("RuntimeDirectory", app, healthy), undefined);
});

test("NonBlocking=no is a problem where several units have the socket", () => {
  assertEquals(level("NonBlocking", unit("other")), "problem");
  assertEquals(level("NonBlocking", unit("shared")), "note");
  assertEquals(level("NonBlocking", { ...unit("instance"), TriggeredBy: "app.socket" }), "problem");
  assertEquals(level("NonBlocking", { ...unit("other"), NonBlocking: "yes" }), "ok");
  assertEquals(level("NonBlocking", app), undefined);
});

test("ExecStart= through a shell or a package manager is a warning; env and exec are none", () => {
  const start = (line: string) => ({
    ...app,
    ExecStart: `{ path=/x ; argv[]=${line} ; ignore_errors=no ; pid=1 }`,
  });
  const launchers = [
    ...["/bin/sh -c deno run -A main.ts", "/usr/bin/npx -y deno run main.ts", "npm start"],
    ...["/usr/bin/deno task start", "/usr/bin/env A=b bash -lc deno run main.ts; true"],
    ...["/usr/sbin/runuser -u app -- deno run main.ts"],
  ];
  for (const line of launchers) assertEquals(level("ExecStart", start(line)), "warning", line);
  const direct = [
    ...["/usr/bin/deno run -A /srv/task/main.ts", "/usr/bin/env -S A=b deno run main.ts"],
    ...["/bin/sh -c exec deno run main.ts", "/bin/sh -c cd /srv && exec deno run main.ts"],
  ];
  for (const line of direct) assertEquals(level("ExecStart", start(line)), undefined, line);
  assertEquals(level("ExecStart", unit("plain")), "warning");
});

test("the PID file has to name the generation that answers", () => {
  const states: [UnitContext["recorded"], UnitContext["generation"], Level][] = [
    [undefined, { pid: 7 }, "problem"],
    [{ pid: 7, isInUnit: false }, { pid: 7 }, "problem"],
    [{ pid: 7, isInUnit: true }, { pid: 8 }, "warning"],
    [{ pid: 7, isInUnit: true }, { pid: 8, predecessor: 7 }, "note"],
    [{ pid: 7, isInUnit: true }, { pid: 7 }, "ok"],
    [{ pid: 7, isInUnit: true }, undefined, "ok"],
  ];
  for (const [file, generation, expected] of states) {
    assertEquals(level("PIDFile", app, { recorded: file, generation }), expected);
  }
  assertEquals(level("PIDFile", { ...app, ActiveState: "inactive" }), undefined);
});

test("the main process is the generation that answers, or the previous one, and a child of systemd", () => {
  const states: [UnitContext, Level | undefined][] = [
    [{ isMainChild: false }, "problem"],
    [{ ...healthy, isMainChild: false }, "problem"],
    [healthy, "ok"],
    [{ ...healthy, generation: { pid: 1234567 } }, "warning"],
    [{ ...healthy, generation: { pid: 1234567, predecessor: main } }, "ok"],
    [{}, undefined],
  ];
  for (const [context, expected] of states) assertEquals(level("MainPID", app, context), expected);
  assertEquals(level("MainPID", { ...app, MainPID: "0" }, healthy), undefined);
});

test("a generation beside the unit is a problem", () => {
  assertEquals(level("ControlGroup", app, { ...healthy, isInUnit: false }), "problem");
  assertEquals(level("ControlGroup", app, healthy), undefined);
});

test("a time that cannot be read is no finding, and a failure has its result", () => {
  const unread = { TimeoutStopUSec: "?", TimeoutStartUSec: "?", StartLimitIntervalUSec: "?" };
  for (const name of ["TimeoutStopSec", "TimeoutStartSec", "StartLimitIntervalSec"]) {
    assertEquals(level(name, { ...app, ...unread }), undefined, name);
  }
  assertEquals(level("StartLimitIntervalSec", { ...app, Restart: "no" }), undefined);
  const text = (Result: string) =>
    about("ActiveState", { ...app, ActiveState: "failed", Result })!.text;
  assertEquals(text("signal"), 'app.service is failed, with the result "signal"');
  assertEquals(text("success"), "app.service is failed");
});

test("ExecReload= with the path of another service is a warning", () => {
  const at = (path: string) => level("ExecReload", app, { ...healthy, path });
  assertEquals([at("/run/app/app.sock"), at("/run/app/b.sock")], ["ok", "warning"]);
  const linked = app.ExecReload!.replaceAll(" /run/", " /var/run/");
  assertEquals(level("ExecReload", { ...app, ExecReload: linked }, healthy), "ok");
  // Without a generation it is not known which path the service has.
  assertEquals(level("ExecReload", app, { path: "/run/app/b.sock" }), "ok");
});

test("systemd 257 shows the same, and what 252 does not know", () => {
  const later = (name: string) => unit(`../systemd_257/${name}`);
  const one = Number(later("app").MainPID);
  const context = { ...healthy, generation: { pid: one }, recorded: { pid: one, isInUnit: true } };
  const findings = unitFindings(later("app"), context);
  assertEquals(findings.filter(({ level }) => level !== "ok"), []);
  const names = (properties: UnitProperties) =>
    unitFindings(properties, {}).map((each) => each.about);
  assertEquals(names(later("wrong")), names(unit("wrong")));
  // 252 takes it for simple.
  assertEquals([level("Type", later("wrong")), level("Type", unit("wrong"))], [
    "warning",
    "problem",
  ]);
  assertEquals([level("PrivatePIDs", later("private")), level("PrivatePIDs", later("app"))], [
    "problem",
    undefined,
  ]);
});

test("advice has the line to write, with the path and the commands of the service", () => {
  const bare = { ...unit("plain"), Id: "shop.service" };
  const advice = (name: string, context: UnitContext) => about(name, bare, context)!.advice;
  assertEquals(advice("PIDFile", {}), "Write PIDFile=/run/shop/shop.pid into [Service]");
  assertMatch(advice("ExecReload", {})!, / restart \/run\/shop\/shop\.sock into /);
  const context = {
    path: "/srv/a.sock",
    restart: "/bin/deno run /cli.ts restart",
    start: "/bin/x",
  };
  assertEquals(advice("PIDFile", context), "Write PIDFile=/srv/a.pid into [Service]");
  const reload = "Write ExecReload=/bin/deno run /cli.ts restart /srv/a.sock into [Service]";
  assertEquals(advice("ExecReload", context), reload);
  assertMatch(advice("ExecStart", context)!, /^Write ExecStart=\/bin\/x into /);
});
