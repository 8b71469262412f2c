/**
 * A service whose manager does not read.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { askOnce } from "../support/http1_client.ts";
import { NotifySocket } from "../support/notify_socket.ts";
import { tcp } from "../support/unit_service.ts";
import { until } from "../support/until.ts";
import { notify } from "../../mod.ts";

/** How many listeners the service has. */
const count = 30;

function start(directory: Directory, first: number): Generations {
  const file = directory.join("addresses");
  const address = (_: unknown, i: number) => ({
    hostname: "127.0.0.1",
    port: i === 0 ? first : 0,
    name: `${i}`,
  });
  Deno.writeTextFileSync(file, JSON.stringify(Array.from({ length: count }, address)));
  const env = {
    INVOCATION_ID: "0123456789abcdef".repeat(2),
    PIDFILE: directory.join("app.pid"),
    WATCHDOG_USEC: "100000",
  };
  const through = ["sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh"];
  const args = [directory.join("app.sock"), "--serveFile", file];
  return new Generations("unit_service.ts", args, { env, through });
}

for (const isGone of [false, true]) {
  const manager = isGone ? "has ended" : "does not read";
  test(`a manager that ${manager} does not hold up the service, and is warned about once`, async () => {
    using directory = new Directory();
    using socket = new NotifySocket(directory.join("notify"));
    if (isGone) socket.close();
    else while (notify("FILL=1", [], { logger: {} }));
    const port = freePort();
    await using service = start(directory, port);
    const lines: string[] = [];
    for (let line = ""; !line.startsWith("serving: ");) lines.push(line = await service.line());
    // The watchdog is pinged meanwhile.
    for (let asked = 0; asked < 300; asked++) await askOnce(tcp(port), "/");
    assertEquals(Number(Deno.readTextFileSync(directory.join("app.pid"))), service.pid);
    const told: string[] = [];
    if (!isGone) {
      await until(() => {
        told.push(...socket.received().map(({ text }) => text));
        return told.filter((text) => text.startsWith("FDSTORE=1")).length === count;
      });
      assert(told.some((text) => text.startsWith("READY=1")));
    }
    Deno.kill(service.pid, "SIGTERM");
    const { stdout, code } = await service.ended();
    assertEquals(code, 0);
    const warnings = [...lines, ...stdout].filter((line) => line.includes("Cannot tell"));
    assertEquals(warnings.length, 1, warnings.join("\n"));
  });
}
