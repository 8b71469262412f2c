/**
 * Programs that know only LISTEN_FDS, under hold: each main process is killed under load.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort, reachable } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { pause } from "../../lib/time.ts";
import { ask, FreshLoad } from "./fresh_load.ts";
import { deno, Held } from "./held.ts";

const programs = new URL("../programs/", import.meta.url).pathname;

/** The reason why a command is not tested; undefined if it is installed. */
async function missing(command: string[]): Promise<string | undefined> {
  if (await succeeds(command)) return undefined;
  const why = `${command[0]} is not installed`;
  console.log(`hold/programs_test.ts: ${why}`);
  return why;
}

const noPython = await missing(["python3", "--version"]);
const noNode = await missing(["node", "--version"]);
const noNginx = await missing(["nginx", "-v"]);

/** Requests under way at a time. */
const clients = 4;

/** Kills the main process three times under load; then stops hold. */
async function killThrice(held: Held, port: number): Promise<{ code: number; load: FreshLoad }> {
  let pid = await held.started();
  await until(() => reachable(port));
  const load = new FreshLoad(port, clients);
  // The first start of a program that says nothing has succeeded after a second.
  await pause(1100);
  for (let i = 0; i < 3; i++) {
    const before = load.answered;
    await until(() => load.answered > before + 20);
    held.kill(pid);
    pid = await held.started();
  }
  const before = load.answered;
  await until(() => load.answered > before + 20);
  await load.end();
  assertEquals(load.of("refused"), []);
  assert(load.failures.length <= 3 * clients, JSON.stringify(load.failures));
  await held.withoutZombies();
  held.signal("SIGTERM");
  return { code: (await held.ended()).code, load };
}

test("Python serves on a held listener", { ignore: noPython !== undefined }, async () => {
  using directory = new Directory();
  const port = freePort();
  const command = ["python3", `${programs}held_plain.py`];
  const address = `127.0.0.1:${port}`;
  await using held = new Held([directory.join("app.sock"), "--listen", address, "--", ...command]);
  const { code, load } = await killThrice(held, port);
  // It has no handler for SIGTERM.
  assertEquals(code, 143);
  assertEquals(load.answers.size, 4);
  assertEquals(directory.names(), []);
});

/** Node's server, by Node and by Deno, whose own Deno.listen has no `fd`. */
const nodes: [string, string[], boolean][] = [
  ["node", ["node"], noNode !== undefined],
  ["node:http of Deno", [Deno.execPath(), "run", "-A"], false],
];

for (const [name, runtime, ignore] of nodes) {
  test(`${name} serves on a held listener`, { ignore }, async () => {
    using directory = new Directory();
    const port = freePort();
    await using held = new Held([
      directory.join("app.sock"),
      `--listen=web=127.0.0.1:${port}`,
      ...["--", ...runtime, `${programs}held_plain.mjs`],
    ]);
    const { code, load } = await killThrice(held, port);
    assertEquals(code, 0);
    assertEquals(load.answers.size, 4);
  });
}

test(
  "the main process gets SIGUSR2, SIGWINCH and SIGQUIT",
  { ignore: noNode !== undefined },
  async () => {
    using directory = new Directory();
    const port = freePort();
    const command = ["node", `${programs}held_plain.mjs`];
    const address = `127.0.0.1:${port}`;
    await using held = new Held([
      directory.join("app.sock"),
      "--listen",
      address,
      "--",
      ...command,
    ]);
    await held.started();
    await ask(port);
    for (const signal of ["SIGUSR2", "SIGWINCH", "SIGQUIT"] as const) {
      held.signal(signal);
      await held.until(`got ${signal}`);
    }
    held.signal("SIGINT");
    // Node ends by it.
    assertEquals((await held.ended()).code, 130);
  },
);

test("nginx serves on a held listener", { ignore: noNginx !== undefined }, async () => {
  using directory = new Directory();
  const port = freePort();
  const config = directory.join("nginx.conf");
  Deno.writeTextFileSync(
    config,
    `daemon off; master_process on; worker_processes 1; error_log ${directory.join("error.log")};
     pid ${directory.join("nginx.pid")}; user root;
     env TEST_MARK; events {}
     http {
       access_log off; keepalive_timeout 0;
       server { listen 127.0.0.1:${port}; location / { return 200 "$pid"; } }
     }`,
  );
  // nginx finds the listeners that it has inherited by its own variable.
  const script = 'NGINX="3;" exec nginx -p "$0" -c "$0/nginx.conf"';
  const path = directory.join("app.sock");
  const address = `127.0.0.1:${port}`;
  await using held = new Held([
    path,
    "--listen",
    address,
    "--",
    ...["sh", "-c", script, directory.path],
  ]);
  const { code } = await killThrice(held, port);
  assertEquals(code, 0);
});

test(
  "a Python program speaks NOTIFY_SOCKET: READY=1, STATUS=, FDSTORE=1, FDSTOREREMOVE=1, BARRIER=1",
  { ignore: noPython !== undefined },
  async () => {
    using directory = new Directory();
    const port = freePort();
    const path = directory.join("app.sock");
    await using held = new Held([
      path,
      `--listen=web=127.0.0.1:${port}`,
      ...["--", "python3", `${programs}held_plain.py`, "--notify"],
    ]);
    const first = await held.started();
    assertEquals(Deno.statSync(`${path}.notify`).mode! & 0o777, 0o600);
    await held.until("hold: It is\\u001b ready");
    await held.until("names: web starts: 1");
    held.kill(first);
    await held.started();
    // The names that are not valid are "stored"; the broken pipe and the removed one are not there.
    await held.until("names: web count stored starts: 2");
    held.signal("SIGTERM");
    assertEquals((await held.ended()).code, 143);
  },
);

test("a program without generations is restarted by SIGHUP, and nobody is refused", {
  ignore: noNode !== undefined,
}, async () => {
  using directory = new Directory();
  const port = freePort();
  await using held = new Held([
    directory.join("app.sock"),
    `--listen=127.0.0.1:${port}`,
    ...["--", "node", `${programs}held_plain.mjs`],
  ]);
  await held.started();
  await until(() => reachable(port));
  const load = new FreshLoad(port, clients);
  for (let i = 0; i < 3; i++) {
    const before = load.answered;
    await until(() => load.answered > before + 20);
    held.signal("SIGHUP");
    await held.started();
  }
  await load.end();
  assertEquals(load.of("refused"), []);
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 0);
});

test("hold passes on the descriptors that it was passed itself", {
  ignore: noPython !== undefined,
}, async () => {
  using directory = new Directory();
  const port = freePort();
  const script = `
import os, socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", ${port}))
listener.listen()
if listener.fileno() != 3: os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="mine", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[1], sys.argv[1:])`;
  await using held = new Held(
    [directory.join("app.sock"), "--", "python3", `${programs}held_plain.py`, "--notify"],
    { through: ["python3", "-c", script] },
  );
  await held.until("names: mine starts: 1");
  assert(await ask(port) > 0);
});

test("--listen takes a unix path, whose file is removed at the end", {
  ignore: noPython !== undefined,
}, async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  await using held = new Held([
    directory.join("app.sock"),
    `--listen=${path}`,
    ...["--", "python3", `${programs}held_plain.py`, "--notify"],
  ]);
  assertMatch(await held.until(/listening on/), /^hold: listening on ".*\/http.sock" \("hold"\)$/);
  await held.until("names: hold starts: 1");
  using conn = await Deno.connect({ transport: "unix", path });
  await conn.write(new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"));
  assertStringIncludes(await new Response(conn.readable).text(), " 200 OK");
  held.signal("SIGTERM");
  await held.ended();
  assertEquals(directory.names(), []);
});

test("a generation finds a held listener by its address, and by its name", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  await using held = new Held([
    path,
    ...["--listen", `web=127.0.0.1:${port}`, "--"],
    // Port 0: without the listener it would serve at another port.
    ...deno("held.ts", path, 0, "--name", "web"),
  ]);
  const first = await held.serving();
  assertEquals(await ask(port), first);
  held.kill(first);
  const second = await held.serving();
  assertEquals(await ask(port), second);
  held.signal("SIGHUP");
  const third = await held.serving();
  assertEquals(await ask(port), third);
  held.signal("SIGTERM");
  assertEquals((await held.ended()).code, 0);
});
