/**
 * `doctor` with a real systemd, which starts the services that it examines.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import type { Diagnosis } from "../../lib/doctor/doctor.ts";
import type { Level } from "../../lib/doctor/finding.ts";
import { test } from "../support/guard.ts";
import { systemdMissing } from "../support/systemd.ts";
import { inside, Shared } from "./systemd.ts";

const missing = await systemdMissing();

if (missing !== undefined) {
  console.log(`doctor/systemd_test.ts: doctor is not tested with a real systemd: ${missing}`);
}

/** A diagnosis of the script, and the exit code of the command. */
interface Outcome extends Diagnosis {
  code: number;
}

const service = (path: string, port: number, rest = "") =>
  `$PWD/deno run -A $PWD/tests/programs/notify_service.ts ${path} ${port} ${rest}`;

const twice = service("/run/twice/app.sock", 8003, "/run/twice/web.sock stay");

const script = `

unit() { cat > /run/units/$1; }
export NO_COLOR=1
doctor() {
  name=$1; shift; code=0
  ./deno run -A lib/cli.ts doctor --json "$@" > $name.json 2> $name.err || code=$?
  echo $code > $name.code
}

unit good.service << END
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
ExecStart=${service("/run/good/app.sock", 8001, "/srv/web/web.sock")}
TemporaryFileSystem=/srv/web
ExecReload=$PWD/deno run -A $PWD/lib/cli.ts restart /run/good/app.sock
PIDFile=/run/good/app.pid
RuntimeDirectory=good
FileDescriptorStoreMax=64
TimeoutStartSec=120
Restart=on-failure
OOMPolicy=continue
END
unit bad.service << END
[Service]
ExecStart=/bin/sh -c '${service("/run/bad/app.sock", 8002)}; true'
RuntimeDirectory=bad
KillMode=mixed
END
unit twice.service << END
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c '(${twice}) & until [ -S /run/twice/app.sock ]; do sleep 0.1; done; exec ${twice}'
RuntimeDirectory=twice
END
unit alien.service << END
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'sleep 1000 & systemd-notify --ready MAINPID=\\$!; wait'
END
unit self.service << END
[Service]
Type=oneshot
WorkingDirectory=$PWD
ExecStart=-/bin/sh -c './deno run -A lib/cli.ts doctor --json > self.json; echo \\$? > self.code'
END
systemctl daemon-reload
systemctl start good bad alien self twice
# A service of Type=simple is started before it listens.
for try in $(seq 100); do [ ! -S /run/bad/app.sock ] || break; sleep 0.1; done
until ./deno run -A lib/cli.ts status /run/bad/app.sock | grep -q serving; do sleep 0.1; done
# Two generations: the first one has ended, and its process has not.
status() { ./deno run -A lib/cli.ts status /run/twice/app.sock > status; }
until status && grep -q "^generation  2, .* serving" status && ! grep -q previous status; do
  sleep 0.1
done

doctor good good
doctor good_path /run/good/app.sock
doctor bad bad.service
doctor bad_path /run/bad/app.sock
doctor alien alien
doctor twice twice
doctor missing missing
echo '# changed' >> /run/units/good.service
doctor changed good
`;

test("doctor examines services of a real systemd", { ignore: missing !== undefined }, async () => {
  using shared = new Shared();
  await shared.run(script);
  const outcome = (name: string): Outcome => ({
    ...JSON.parse(shared.read(`${name}.json`)),
    code: Number(shared.read(`${name}.code`)),
  });
  const level = ({ findings }: Outcome, about: string): Level | undefined =>
    findings.find((each) => each.about === about)?.level;

  const good = outcome("good");
  assertEquals(good.findings.filter(({ level }) => level === "warning" || level === "problem"), []);
  assertEquals([good.code, good.socket?.path], [0, "/run/good/app.sock"]);
  assertEquals(good.unit?.MainPID, String(good.socket?.pid));
  assertEquals([level(good, "PIDFile"), level(good, "MainPID")], ["ok", "ok"]);

  // The same unit is found from the path.
  const byPath = outcome("good_path");
  assertEquals([byPath.code, byPath.unit?.Id], [0, "good.service"]);
  assertEquals(byPath.findings, good.findings);

  for (const name of ["bad", "bad_path"]) {
    const bad = outcome(name);
    assertEquals([bad.code, bad.socket?.path], [1, "/run/bad/app.sock"]);
    for (const about of ["Type", "NotifyAccess", "KillMode", "Restart"]) {
      assertEquals(level(bad, about), "problem", about);
    }
    // The main process is the shell.
    for (const about of ["ExecStart", "MainPID", "PIDFile", "OOMPolicy"]) {
      assertEquals(level(bad, about), "warning", about);
    }
  }

  // systemd accepts the line of the advice.
  const { advice } = outcome("bad").findings.find(({ about }) => about === "ExecReload")!;
  const command = `${inside}/deno run -A ${inside}/lib/cli.ts`;
  assertEquals(advice, `Write ExecReload=${command} restart /run/bad/app.sock into [Service]`);

  // The path is in a file system that the unit alone sees.
  assertEquals(good.listeners.map(({ address }) => address), [
    "127.0.0.1:8001",
    '"/srv/web/web.sock"',
  ]);
  assertEquals(level(good, 'listener "/srv/web/web.sock"'), "ok");

  // The process of the first generation runs the same command, in the same unit.
  const two = outcome("twice");
  assertEquals([two.socket?.generation?.generation, two.process?.others.length], [2, 1]);
  assertEquals(level(outcome("good"), "process"), "ok");
  const beside = two.findings.filter(({ text }) => text.includes("runs beside the generation"));
  assertEquals(beside.map(({ level }) => level), ["warning"]);

  const alien = outcome("alien");
  assertEquals([alien.code, level(alien, "MainPID")], [1, "problem"]);
  assertEquals(level(outcome("changed"), "NeedDaemonReload"), "warning");
  const self = outcome("self");
  assertEquals([self.code, self.unit?.Id, level(self, "Type")], [1, "self.service", "problem"]);
  assertEquals(Number(shared.read("missing.code")), 2);
  assertMatch(shared.read("missing.err"), /^There is no unit missing\.service: /);
});
