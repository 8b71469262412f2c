/**
 * The variables of the preload module: what is wrong in them is said with their names.
 *
 * @module
 */

import { assertEquals, assertThrows } from "@std/assert";
import { readOptions } from "../../lib/preload/options.ts";
import { test } from "../support/guard.ts";

const read = (variables: Record<string, string>) => readOptions((name) => variables[name]);

test("the variables give the options of start()", () => {
  const { control, isExplicit, settle, start } = read({
    GRACEFUL_CONTROL: "/run/app.sock",
    GRACEFUL_READY: "explicit",
    GRACEFUL_SETTLE: "20",
    GRACEFUL_PROBATION: "100",
    GRACEFUL_EXIT_TIMEOUT: "false",
    GRACEFUL_STOP_ON: "SIGTERM",
    GRACEFUL_RESTART_ON: "SIGHUP, SIGUSR2",
    GRACEFUL_MODE: "0660",
    GRACEFUL_SERVICE: "shop",
  });
  assertEquals([control, isExplicit, settle], ["/run/app.sock", true, 20]);
  const { probation, exitTimeout, stopOn, restartOn, mode, service } = start;
  assertEquals([probation, exitTimeout, mode, service], [100, false, 0o660, "shop"]);
  assertEquals([stopOn, restartOn], [["SIGTERM"], ["SIGHUP", "SIGUSR2"]]);
});

test("an empty variable is none, and without any the defaults count", () => {
  const { control, isExplicit, start } = read({ GRACEFUL_CONTROL: "", GRACEFUL_PROBATION: "" });
  assertEquals([control, isExplicit, start.probation], [undefined, false, undefined]);
  assertEquals([start.stopOn, start.restartOn], [["SIGTERM", "SIGINT"], undefined]);
});

for (
  const [name, value] of [
    ["GRACEFUL", "Off"],
    ["GRACEFUL_READY", "yes"],
    ["GRACEFUL_SETTLE", "1s"],
    ["GRACEFUL_PROBATION", "5s"],
    ["GRACEFUL_PROBATION", "Infinity"],
    ["GRACEFUL_STOP_DELAY", "Infinity"],
    ["GRACEFUL_STOP_ON", "TERM"],
    ["GRACEFUL_STOP_ON", "SIGFOO"],
    ["GRACEFUL_RESTART_ON", "SIGKILL"],
    ["GRACEFUL_RESTART_ON", "SIGTERM"],
    ["GRACEFUL_SERVICE", "x".repeat(300)],
    ["GRACEFUL_MODE", "rw"],
    ["GRACEFUL_RESTART_AS_MAIN", "yes"],
    ["GRACEFUL_LOG", "trace"],
  ]
) {
  test(`${name}=${value.slice(0, 10)} is refused by its name`, () => {
    const error = assertThrows(() => read({ [name]: value }), Error, `The variable ${name} `);
    assertEquals(error instanceof TypeError || error instanceof RangeError, true);
  });
}
