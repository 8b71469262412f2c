/**
 * Arguments, errors and exit codes of `cli.ts hold`.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";
import { deno, Held } from "./held.ts";

const noPython = !await succeeds(["python3", "--version"]);
if (noPython) console.log("hold/start_test.ts: python3 is not installed: STATUS= is not tested");

test("hold --help prints the usage; behind -- the option is that of the command", async () => {
  const help = await cli("hold", "--help");
  assertEquals([help.code, help.stderr], [0, ""]);
  assertMatch(help.stdout, /^Starts a service, .*\n\nUsage: deno run -A cli.ts hold PATH/);
  for (const line of help.stdout.split("\n")) assert(line.length <= 120, line);
  using directory = new Directory();
  const print = ["--", "sh", "-c", 'echo "$1"', "sh", "--help"];
  const other = await cli("hold", directory.join("app.sock"), ...print);
  assertEquals([other.code, other.stdout], [0, "--help"]);
});

/** Wrong arguments, and what the error says. */
const wrong: [string[], string][] = [
  [[], "The path of the control socket is missing"],
  [["app.sock"], "The command is missing"],
  [["app.sock", "--"], "The command is missing"],
  [["app.sock", "true"], 'The command stands behind "--"'],
  [["app.sock", "--what", "--", "true"], "There is no option --what"],
  [
    ["app.sock", "--stop-timeout", "soon", "--", "true"],
    '--stop-timeout takes seconds, not "soon"',
  ],
  [["app.sock", "--stop-timeout", "--", "true"], "--stop-timeout takes seconds, not nothing"],
  [["app.sock", "--listen", "--", "true"], "--listen takes a port"],
  [["app.sock", "--listen=web", "--", "true"], "--listen takes a port"],
  [["app.sock", "--listen=70000", "--", "true"], "--listen takes a port"],
  [["app.sock", "--listen=a:b=8000", "--", "true"], "--listen takes a port"],
];

test("hold ends with 2 for a wrong argument", async () => {
  const runs = wrong.map(async ([args, words]) => {
    const { code, stderr } = await cli("hold", ...args);
    assertEquals([code, stderr.includes(words)], [2, true], `${args.join(" ")}: ${stderr}`);
    assertStringIncludes(stderr, "See hold --help");
  });
  await Promise.all(runs);
});

test("hold ends with 1 where it cannot start, and leaves nothing behind", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (const name of ["file", "no.notify"]) Deno.writeTextFileSync(directory.join(name), "");
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const cases: [string[], string][] = [
    [[`${directory.path}/none/app.sock`, "--", "true"], `there is no directory "${directory.path}`],
    [[path, "--", "no-such-program"], 'Cannot start "no-such-program": there is no such program'],
    [[directory.join("no"), "--", "true"], 'no.notify" is no socket; move it away'],
    [[path, "--", `${directory.path}/file`], "it is no program that may run"],
    [[path, `--listen=127.0.0.1:${taken.addr.port}`, "--", "true"], "Cannot listen on 127.0.0.1:"],
    [[`${directory.path}/${"a".repeat(120)}`, "--", "true"], "a unix socket address holds 107"],
  ];
  for (const [args, words] of cases) {
    const { code, stderr } = await cli("hold", ...args);
    assertEquals([code, stderr.includes(words)], [1, true], stderr);
  }
  assertEquals(directory.names(), ["file", "no.notify"]);
});

test("two holds of one service: the second one ends with 1", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using held = new Held([path, "--", "sleep", "600"]);
  await held.started();
  const { code, stderr } = await cli("hold", path, "--", "true");
  assertEquals(code, 1);
  assertStringIncludes(stderr, "another `cli.ts hold` does");
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 143);
});

test("hold ends with the code of a command whose first start fails, or that is done", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (const [script, expected] of [["exit 0", 0], ["exit 3", 3], ["kill -9 $$", 137]] as const) {
    const { code, stderr } = await cli("hold", path, "--", "sh", "-c", script);
    assertEquals(code, expected, stderr);
  }
  const generation = await cli("hold", path, "--", ...deno("held.ts", path, 0, "--fail", "7"));
  assertEquals(generation.code, 7, generation.stderr);
  // `app.sock` is that of the process that has exited without a stop.
  assertEquals(directory.names().filter((name) => name !== "app.sock"), []);
});

test("a command that says STATUS=, and fails later than after a second, has failed to start too", {
  ignore: noPython,
}, async () => {
  using directory = new Directory();
  const script = `
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"STATUS=loading", os.environ["NOTIFY_SOCKET"])
time.sleep(1.2)
os._exit(4)`;
  const { code, stderr } = await cli(
    ...["hold", directory.join("app.sock"), "--", "python3", "-c", script],
  );
  assertEquals(code, 4, stderr);
  assertStringIncludes(stderr, "hold: loading");
});

test("a command that dies again and again is started at once, and then less and less often", async () => {
  using directory = new Directory();
  // It lives for more than a second the first time.
  const script = 'test -e "$0" && exit 5; touch "$0"; sleep 1.1; exit 5';
  const args = ["--", "sh", "-c", script, directory.join("started")];
  await using held = new Held([directory.join("app.sock"), ...args]);
  await held.until(/started process \d+ \(start 2\)/);
  for (const most of [100, 200, 400, 800]) {
    const line = await held.until(/^hold: starting it again in \d+ ms/);
    const wait = Number(line.match(/\d+/)![0]);
    assert(wait > most / 2 && wait <= most, line);
  }
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 5);
});

test("the environment of the command is that of a service manager, without the one of hold", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  const env = {
    WATCHDOG_USEC: "1",
    PIDFILE: "/other",
    NOTIFY_SOCKET: "/other",
    GRACEFUL_TOKEN: "a",
    MINE: "ä",
    "MY-OWN": "1",
  };
  await using held = new Held(
    [path, `--listen=web=127.0.0.1:${port}`, "--", "sh", "-c", "env; echo pid=$$; sleep 600"],
    { env },
  );
  const lines: string[] = [];
  const isThere = (start: string) => lines.some((line) => line.startsWith(start));
  // The process may print before hold has logged its start.
  while (!isThere("pid=") || !isThere("hold: started ")) lines.push(await held.line());
  const [{ pid: started }] = held.children();
  const has = (line: string) => assert(lines.includes(line), `${line}: ${lines.join("\n")}`);
  has(`pid=${started}`);
  has(`LISTEN_PID=${started}`);
  has(`SYSTEMD_EXEC_PID=${started}`);
  has("LISTEN_FDS=1");
  has("LISTEN_FDNAMES=web");
  has(`NOTIFY_SOCKET=${path}.notify`);
  has(`PIDFILE=${path}.pid`);
  has("MINE=ä");
  assert(lines.some((line) => /^INVOCATION_ID=[\da-f]{32}$/.test(line)));
  assertEquals(lines.filter((line) => /^(WATCHDOG|GRACEFUL)_/.test(line)), [
    `GRACEFUL_CONTROL=${path}`,
  ]);
});
