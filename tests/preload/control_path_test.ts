/**
 * Where the control socket of a preloaded program is, and which processes take it over.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { serviceName } from "../../lib/preload/control_path.ts";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { cli } from "../support/cli.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { answerAt, auto, firstAnswerAt, Preloaded } from "../support/preloaded.ts";
import { Child } from "../support/child.ts";
import { soon } from "../support/until.ts";

const server = `
  const port = Number(Deno.env.get("PORT"));
  Deno.serve({ hostname: "127.0.0.1", port, onListen() {} }, () => new Response(String(Deno.pid)));
`;

test("without GRACEFUL_CONTROL two copies of a program are two services, each restarted by SIGHUP", async () => {
  using directory = new Directory();
  const [one, other] = [freePort(), freePort()];
  Deno.chmodSync(directory.path, 0o700);
  const env = (port: number) => ({
    GRACEFUL_CONTROL: "",
    XDG_RUNTIME_DIR: directory.path,
    PORT: String(port),
  });
  await using first = new Preloaded(directory, server, { env: env(one) });
  await using second = new Preloaded(directory, server, { env: env(other) });
  const before = [await firstAnswerAt(one), await firstAnswerAt(other)];
  assertEquals(before, [String(first.pid), String(second.pid)]);
  const sockets = () => directory.names().filter((name) => name.endsWith(".sock"));
  assertEquals(sockets().length, 2);
  for (let i = 0; i < 2; i++) {
    const pid = Number(await answerAt(one));
    Deno.kill(pid, "SIGHUP");
    await soon(async () => await answerAt(one) !== String(pid));
    // The next SIGHUP is for the generation that serves alone.
    await soon(() => !isRunning(pid));
  }
  assertEquals(await answerAt(other), before[1]);
  Deno.kill(Number(await answerAt(one)), "SIGTERM");
  await soon(() => sockets().length === 1);
});

function isRunning(pid: number): boolean {
  try {
    // A zombie that nobody waits for has ended too.
    return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}

test("a runtime directory that others may write to is not used", async () => {
  using directory = new Directory();
  const port = freePort();
  Deno.mkdirSync(directory.join("open"));
  Deno.chmodSync(directory.join("open"), 0o777);
  Deno.mkdirSync(directory.join("temporary"));
  await using _service = new Preloaded(directory, server, {
    env: {
      GRACEFUL_CONTROL: "",
      XDG_RUNTIME_DIR: directory.join("open"),
      TMPDIR: directory.join("temporary"),
      PORT: String(port),
    },
  });
  await firstAnswerAt(port);
  assertEquals([...Deno.readDirSync(directory.join("open"))], []);
  const uid = Deno.uid();
  const usual = `/run/user/${uid}`;
  const made = [...Deno.readDirSync(directory.join("temporary"))].map(({ name }) => name);
  // Where the system has a directory of the user, that is used.
  if (made.length === 0) assert(Deno.statSync(usual).isDirectory);
  else {
    assertEquals(made, [`graceful-${uid}`]);
    const { mode } = Deno.statSync(directory.join(`temporary/graceful-${uid}`));
    assertEquals(mode! & 0o777, 0o700);
  }
});

test("with GRACEFUL_CONTROL a second start takes over", async () => {
  using directory = new Directory();
  const port = freePort();
  const env = { PORT: String(port) };
  await using _first = new Preloaded(directory, server, { env });
  const first = await firstAnswerAt(port);
  await using second = new Preloaded(directory, server, { env });
  await soon(async () => await answerAt(port) !== first);
  assertEquals(await answerAt(port), String(second.pid));
});

test("with GRACEFUL_CONTROL another program at the same path is refused, by its command", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Preloaded(directory, server, { env: { PORT: String(port) } });
  const first = await firstAnswerAt(port);
  Deno.writeTextFileSync(directory.join("other.ts"), server);
  await using other = new Child(directory.join("other.ts"), [], {
    deno: ["run", "-A", "--preload", auto],
    env: { GRACEFUL_CONTROL: service.control, PORT: String(freePort()) },
  });
  const { code, stderr } = await other.ended();
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /it is of the service ".*other\.ts", and the generation that runs there of ".*main\.ts"/,
  );
  assertEquals(await answerAt(port), first);
});

test("the variables of --env-file count, for each generation", async () => {
  using directory = new Directory();
  const port = freePort();
  const file = directory.join("variables");
  Deno.writeTextFileSync(
    file,
    `GRACEFUL_CONTROL=${directory.join("other.sock")}\nGRACEFUL_PROBATION=100\nPORT=${port}\n`,
  );
  const main = directory.join("main.ts");
  Deno.writeTextFileSync(main, server);
  const deno = ["run", "-A", `--env-file=${file}`, "--preload", auto];
  await using service = new Generations(main, [], { deno });
  for (let i = 0, last = ""; i < 3; i++) {
    const pid = i === 0 ? String(service.pid) : last;
    assertEquals(await firstAnswerAt(port), pid);
    const { stdout, stderr } = await cli("restart", directory.join("other.sock"));
    last = /process (\d+)/.exec(stdout)?.[1] ?? stderr;
  }
});

test("processes that a program starts do not get its control path", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `${server}
    const { stdout } = new Deno.Command("env").outputSync();
    console.log("path: " + new TextDecoder().decode(stdout).includes("GRACEFUL_CONTROL"));
    console.log("own: " + Deno.env.has("GRACEFUL_CONTROL"));`;
  await using service = new Preloaded(directory, source, { env: { PORT: String(port) } });
  await service.until("path: false");
  await service.until("own: false");
  await service.next();
  await service.until("path: false");
});

test("the name of the service is the program's path without what names a release", () => {
  const name = (...args: string[]) =>
    serviceName(["run", "-A", ...args], "/srv/app/releases/20261128");
  assertEquals(name("main.ts"), "/srv/app/releases/*/main.ts");
  assertEquals(name("./src/main.ts"), "/srv/app/releases/*/src/main.ts");
  assertEquals(name("/srv/shop/v1.2.3/main.ts"), "/srv/shop/*/main.ts");
  assertEquals(name("/srv/shop/current/main.ts"), "/srv/shop/current/main.ts");
  assertEquals(name("https://example.com/main.ts"), "https://example.com/main.ts");
  assertEquals(name("npm:cowsay@1.6.0"), "npm:cowsay@1.6.0");
  assertEquals(name(`/${"x".repeat(300)}/main.ts`).length, 255);
});

test("without a directory for the control socket, or with one whose path is too long, the error says what to set", async () => {
  using directory = new Directory();
  // With the usual directory no other one is needed.
  if (hasUsual()) return;
  const long = directory.join("x".repeat(90));
  Deno.mkdirSync(long);
  for (const TMPDIR of [directory.join("none"), long]) {
    const env = { GRACEFUL_CONTROL: "", XDG_RUNTIME_DIR: "", TMPDIR };
    await using service = new Preloaded(directory, server, { env });
    const { code, stderr } = await service.ended();
    assertEquals(code, 1);
    assertMatch(stderr, /set GRACEFUL_CONTROL to a path in a writable directory/);
  }
});

function hasUsual(): boolean {
  try {
    return Deno.statSync(`/run/user/${Deno.uid()}`).isDirectory;
  } catch {
    return false;
  }
}
