import { assertEquals } from "@std/assert";
import { serviceIn } from "../../lib/doctor/processes.ts";
import { targetOf } from "../../lib/doctor/target.ts";
import { allows, commandLines, parseProperties, seconds } from "../../lib/doctor/unit.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

test("properties are read with = in their values, and several of one name", () => {
  const properties = parseProperties(
    "Type=notify\nEnvironment=A=1 B=2\nExecReload=a\nExecReload=b\n",
  );
  assertEquals(properties, { Type: "notify", Environment: "A=1 B=2", ExecReload: "a\nb" });
});

test("command lines are found in what systemd shows of a command", () => {
  const start =
    "{ path=/bin/sh ; argv[]=/bin/sh -c a ; b ; ignore_errors=no ; start_time=[n/a] ; pid=0 }";
  assertEquals(commandLines(`${start}\n{ path=/x ; argv[]=/x y ; ignore_errors=yes ; pid=0 }`), [
    "/bin/sh -c a ; b",
    "/x y",
  ]);
  assertEquals(commandLines(undefined), []);
});

test("time spans are read in seconds", () => {
  const spans: [string | undefined, number | undefined][] = [
    ["1min 30s", 90],
    ["infinity", Infinity],
    ["0", 0],
    ["100ms", 0.1],
    ["1h 2min 3.500s", 3723.5],
    ["2d", 172800],
    ["", undefined],
    ["soon", undefined],
    [undefined, undefined],
  ];
  for (const [text, expected] of spans) assertEquals(seconds(text), expected, text);
});

test("a list allows its names, or with ~ all others", () => {
  assertEquals(allows("a b", "b"), true);
  assertEquals(allows("a b", "c"), false);
  assertEquals(allows("~a b", "b"), false);
  assertEquals(allows("~a b:EPERM", "b"), false);
  assertEquals(allows("~a b", "c"), true);
  assertEquals([allows("~", "a"), allows(undefined, "a")], [undefined, undefined]);
});

test("the service of a process is found in its control groups", () => {
  const services: [string, ReturnType<typeof serviceIn>][] = [
    ["0::/system.slice/app.service\n", { unit: "app.service", isOfUser: false }],
    [
      "9:name=systemd:/system.slice/system-app.slice/app@a.service\n8:pids:/\n0::/\n",
      { unit: "app@a.service", isOfUser: false },
    ],
    [
      "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service\n",
      { unit: "app.service", isOfUser: true },
    ],
    ["0::/system.slice/app.service/payload\n", { unit: "app.service", isOfUser: false }],
    ["0::/system.slice/_cpu.service\n", { unit: "cpu.service", isOfUser: false }],
    ["0::/user.slice/user-0.slice/session-3.scope\n", undefined],
    ["0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", undefined],
    ["8:pids:/system.slice/app.service\n0::/\n", undefined],
    ["", undefined],
  ];
  for (const [text, expected] of services) assertEquals(serviceIn(text), expected, text);
});

test("an argument is a path, or the name of a unit", () => {
  using directory = new Directory();
  Deno.writeTextFileSync(directory.join("here"), "");
  const service = (unit: string) => ({ service: { unit, isOfUser: false } });
  assertEquals(targetOf("/run/app.sock"), { path: "/run/app.sock" });
  assertEquals(targetOf("./app.sock"), { path: `${Deno.cwd()}/app.sock` });
  assertEquals(targetOf("app.sock"), { path: `${Deno.cwd()}/app.sock` });
  assertEquals(targetOf(directory.join("here")), { path: directory.join("here") });
  assertEquals(targetOf("app.service"), service("app.service"));
  assertEquals(targetOf("app"), service("app.service"));
  assertEquals(targetOf("app@a"), service("app@a.service"));
});
