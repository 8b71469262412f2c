/**
 * `cli.ts serve` as the main process of a unit of a real systemd.
 *
 * @module
 */

import { assertEquals, assertNotEquals } from "@std/assert";
import { Shared } from "../doctor/systemd.ts";
import { test } from "../support/guard.ts";
import { systemdMissing } from "../support/systemd.ts";

const missing = await systemdMissing();
if (missing !== undefined) console.log(`preload/run_systemd_test.ts: it is not tested: ${missing}`);

const script = `
cat > /run/units/web.service << END
[Service]
Type=notify
NotifyAccess=all
Environment=GRACEFUL_CONTROL=/run/web/app.sock GRACEFUL_PROBATION=100
ExecStart=$PWD/deno run -A $PWD/lib/cli.ts serve --port 8001 $PWD/tests/programs/exported_fetch.ts
ExecReload=$PWD/deno run -A $PWD/lib/cli.ts restart /run/web/app.sock
PIDFile=/run/web/app.pid
RuntimeDirectory=web
END
show() {
  systemctl show --value -p "$1" web
}
ask() {
  ./deno eval 'console.log((await (await fetch("http://127.0.0.1:8001")).json()).pid)'
}
systemctl daemon-reload
systemctl start web
echo "$(show MainPID) $(show ExecMainPID) $(ask)" > started
systemctl reload web
# systemd takes the process of its PID file as the main one when the first process has ended.
until [ "$(show MainPID)" = "$(ask)" ]; do sleep 0.1; done
echo "$(show MainPID) $(show NRestarts) $(show ActiveState)" > reloaded
systemctl stop web
show Result > stopped
`;

test("a unit of Type=notify with `cli.ts serve` is ready, reloads and stops", {
  ignore: missing !== undefined,
}, async () => {
  using shared = new Shared();
  await shared.run(script);
  const [main, exec, asked] = shared.read("started").trim().split(" ");
  assertEquals([main, exec], [asked, asked]);
  const [next, restarts, state] = shared.read("reloaded").trim().split(" ");
  assertNotEquals(next, main);
  assertEquals([restarts, state], ["0", "active"]);
  assertEquals(shared.read("stopped").trim(), "success");
});
