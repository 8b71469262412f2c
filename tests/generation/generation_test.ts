/**
 * Generations: what one gets from the other, what happens when one of them fails, and what stays.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  connect,
  type Fd,
  fdConn,
  fdHandler,
  type Generation,
  HandoverError,
  listen,
  listenAndServe,
  listenerHandler,
  sendListener,
  sequenceHandler,
} from "../../mod.ts";
import { pathStatus, readLink, readText } from "../../ffi/file.ts";
import { hasEnded, identify, isRunning, type ProcessId } from "../../ffi/proc.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { encodeFrame, type Frame } from "../../lib/generation/protocol.ts";
import { asked, begin, here, portOf, saying } from "../support/begin.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { KeptLog } from "../support/kept_log.ts";
import { Sockets } from "../support/raw.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";
import { installDeno, versions } from "../support/deno_versions.ts";

const canUnshare = await succeeds(["unshare", "--pid", "--fork", "--mount-proc", "true"]);
if (!canUnshare) {
  console.log("generation_test.ts: without a PID namespace, process 1 is not tested");
}

test("the first generation serves from ready() on, and stop() leaves nothing behind", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  assertEquals(app.generation, 1);
  const server = app.serve(here, saying("first"));
  const early = asked(portOf(server));
  let answered = false;
  early.finally(() => answered = true);
  assertEquals(app.status().state, "starting");
  await new Promise((resolve) => setTimeout(resolve, 20));
  assertEquals(answered, false, "it accepts before it is ready");
  await app.ready();
  assertEquals(await early, "first");
  assertEquals(app.status().state, "serving");
  assertEquals(directory.names(), ["app.sock"]);
  await app.stop();
  await app.finished;
  assertEquals(app.status().state, "stopped");
  assertEquals(directory.names(), []);
  await assertRejects(() => asked(portOf(server)));
  // Once more does no harm.
  await app.stop();
});

test("the next generation takes the listener over, and the one before leaves", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const port = portOf(old.serve(here, saying("old")));
  await old.ready();
  const next = await begin(path);
  assertEquals(next.generation, 2);
  const server = next.serve(here, saying("next"));
  assertEquals(portOf(server), port);
  // Whoever is not ready accepts nothing.
  for (let i = 0; i < 10; i++) assertEquals(await asked(port), "old");
  await next.ready();
  for (let i = 0; i < 10; i++) assertEquals(await asked(port), "next");
  await old.finished;
  for (let i = 0; i < 10; i++) assertEquals(await asked(port), "next");
  await next.stop();
  assertEquals(directory.names(), []);
});

test("what listens is matched by where; what is new is bound, what is gone is closed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [one, two] = [directory.join("one.sock"), directory.join("two.sock")];
  const old = await begin(path);
  const both = [1, 2].map(() => old.listen({ ...here, reusePort: true }));
  const tcp = old.listen(here);
  const unix = old.listen({ path: one, mode: 0o660 });
  old.listen({ path: two });
  const gone = old.listen({ hostname: "127.0.0.2", port: 0 });
  await old.ready();
  assertEquals(Deno.statSync(one).mode! & 0o777, 0o660);

  const log = new KeptLog();
  const next = await begin(path, { logger: log });
  const again = [1, 2].map(() => next.listen({ ...here, reusePort: true }));
  assertEquals(again.map(portOf), both.map(portOf), "two of one address stay two, in order");
  assertEquals(portOf(next.listen(here)), portOf(tcp));
  const unixAgain = next.listen({ path: one, mode: 0o660 });
  assertEquals(unixAgain.addr, unix.addr);
  const fresh = next.listen({ hostname: "127.0.0.3", port: 0 });
  assert(portOf(fresh) > 0);
  await next.ready();
  await old.finished;
  const [swapped] = log.warnings.splice(0, 1);
  assertStringIncludes(String(swapped[0]), "2 listeners at 127.0.0.1:0");
  await until(() => log.warnings.length > 0);
  const named = `: the listener at "${two}", the listener at 127.0.0.2:${portOf(gone)}. `;
  assertStringIncludes(String(log.warnings[0][0]), named);
  assertEquals(directory.names(), ["app.sock", "one.sock"]);
  await assertRejects(
    () => Deno.connect({ hostname: "127.0.0.2", port: portOf(gone) }),
    Deno.errors.ConnectionRefused,
  );
  const accepting = unixAgain.accept();
  using _client = await Deno.connect({ transport: "unix", path: one });
  (await accepting).close();
  await next.stop();
  assertEquals(directory.names(), []);
});

test("datagram sockets, files, descriptors and state go along", async () => {
  using directory = new Directory();
  using sockets = new Sockets(1);
  const path = directory.join("app.sock");
  const old = await begin(path);
  const udp = old.listenDatagram(here);
  const file = old.open(directory.join("log"), { create: true, append: true });
  await file.write(new TextEncoder().encode("old "));
  let count = 1;
  old.keep("count", () => Uint8Array.of(count));
  old.keep("fixed", Uint8Array.of(7, 7));
  old.keep("socket", sockets.raws[0]);
  old.keep("replaced", new Uint8Array(1));
  old.keep("replaced", new Uint8Array(0));
  await old.ready();
  assertEquals(old.status().kept, [
    "count",
    "fixed",
    "socket",
    "replaced",
    directory.join("log"),
  ]);
  count = 2;

  const next = await begin(path);
  assertEquals(next.take("count"), Uint8Array.of(2), "state is that of the handover");
  assertEquals(next.take("count"), undefined, "once");
  assertEquals(next.take("fixed"), Uint8Array.of(7, 7));
  assertEquals(next.take("replaced"), new Uint8Array(0));
  assertEquals(next.take("nothing"), undefined);
  using socket = next.take("socket") as Fd;
  assertEquals(Sockets.cookie(socket.raw), sockets.cookies[0]);
  const udpAgain = next.listenDatagram(here);
  assertEquals(udpAgain.addr, udp.addr);
  using fileAgain = next.open(directory.join("log"), { create: true, append: true });
  await fileAgain.write(new TextEncoder().encode("next"));
  assertEquals(Deno.readTextFileSync(directory.join("log")), "old next");
  await next.ready();
  const receiving = udpAgain.receive();
  await udpAgain.send(Uint8Array.of(5), udpAgain.addr);
  assertEquals([...(await receiving)[0]], [5]);
  await old.finished;
  file.close();
  await next.stop();
});

test("a file is the very same one: its offset is shared", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const name = directory.join("data");
  Deno.writeTextFileSync(name, "one two");
  const old = await begin(path);
  using file = old.open(name, { read: true });
  await file.read(new Uint8Array(4));
  await old.ready();
  const next = await begin(path);
  using again = next.open(name, { read: true });
  const rest = new Uint8Array(10);
  assertEquals(await again.read(rest), 3);
  await next.ready();
  await old.finished;
  await next.stop();
});

test("connections move with what was read of them", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const listener = old.listen(here);
  await old.ready();
  const accepting = listener.accept();
  using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(listener) });
  const conn = await accepting;
  await client.write(new TextEncoder().encode("hello"));
  assertEquals(await conn.read(new Uint8Array(2)), 2);
  const reading = conn.read(new Uint8Array(2));
  await reading;
  const moved = Promise.withResolvers<boolean>();
  old.draining.addEventListener("abort", () => {
    moved.resolve(old.move("greeting", conn, Uint8Array.of(1, 2)));
  });
  assertEquals(await old.move("too early", conn), false);

  const next = await begin(path);
  next.listen(here);
  await next.ready();
  const names: string[] = [];
  for await (const { name, fd, state } of next.arrivals()) {
    names.push(name);
    assertEquals(state, Uint8Array.of(1, 2));
    const again = await fdConn(fd);
    const rest = new Uint8Array(10);
    assertEquals(await again.read(rest), 1);
    assertEquals(rest[0], "o".charCodeAt(0));
    await again.write(new TextEncoder().encode("!"));
    again.close();
  }
  assertEquals(names, ["greeting"]);
  assertEquals(await moved.promise, true);
  assertEquals(await client.read(new Uint8Array(2)), 1);
  await old.finished;
  await next.stop();
});

test("connections that arrive and that nobody asks for are closed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const listener = old.listen(here);
  await old.ready();
  const accepting = listener.accept();
  using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(listener) });
  const conn = await accepting;
  old.draining.addEventListener("abort", () => void old.move("unwanted", conn));
  const next = await begin(path);
  next.listen(here);
  await next.ready();
  await old.finished;
  await next.stop();
  assertEquals(await client.read(new Uint8Array(1)), null);
});

test("a generation that fails before it is ready changes nothing", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const old = await begin(path, { logger: log });
  const port = portOf(old.serve(here, saying("old")));
  await old.ready();
  for (let i = 0; i < 3; i++) {
    const next = await begin(path);
    next.serve(here, saying("next"));
    await next.stop();
    await until(() => log.errors.length === i + 1);
    assertMatch(String(log.errors[i][1]), /ended before it was ready/);
    assertEquals(await asked(port), "old");
    assertEquals(old.status().state, "serving");
    assertEquals(directory.names(), ["app.sock"]);
  }
  const next = await begin(path);
  next.serve(here, saying("next"));
  await next.ready();
  await old.finished;
  assertEquals(await asked(port), "next");
  await next.stop();
});

test("a generation that is not ready in time is told, and the one before goes on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path, { readyTimeout: 20 });
  const port = portOf(old.serve(here, saying("old")));
  await old.ready();
  const next = await begin(path);
  next.serve(here, saying("next"));
  await until(() => old.status().state === "serving");
  const error = await assertRejects(() => next.ready(), HandoverError, "was not ready after 20 ms");
  assertEquals(error.code, "ERR_HANDOVER_ROLLED_BACK");
  await assertRejects(() => next.finished, HandoverError);
  for (let i = 0; i < 5; i++) assertEquals(await asked(port), "old");
  assertEquals(directory.names(), ["app.sock"]);
  await old.stop();
});

test("a generation that does not live through its probation is taken back", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const unix = directory.join("http.sock");
  await using old = new Child("./generation.ts", [path]);
  const [port] = await numbers(old, "port");
  await line(old, "serving: 1");
  await using next = new Child("./generation.ts", [path, "--probation", "60000"]);
  await line(next, "serving: 2");
  assertMatch(await asked(port), /^2 /);
  Deno.kill(next.pid, "SIGKILL");
  await line(old, /^error: The handover failed; this generation goes on: .* before it was healthy/);
  for (let i = 0; i < 5; i++) assertMatch(await asked(port), /^1 /);
  assertEquals(directory.names(), ["app.sock"]);
  // And the next one takes over as if nothing had been.
  await using third = new Child("./generation.ts", [path]);
  await line(third, "serving: 2");
  await line(old, "finished");
  assertEquals((await old.ended()).code, 0);
  assertMatch(await asked(port), /^2 /);
  assert(!directory.names().includes(unix));
});

test("restart() starts the same command again, which writes where this one did", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using first = new Child("./generation.ts", [path, "--say", "a word on stderr"]);
  const [port] = await numbers(first, "port");
  await line(first, "serving: 1");
  await first.tell("restart");
  await line(first, "serving: 2");
  await line(first, "restarted: 2");
  await line(first, "finished");
  const [, pid] = (await asked(port)).split(" ").map(Number);
  assert(pid !== first.pid);
  // The first one has ended: what is said now, the second one says itself.
  Deno.kill(pid, "SIGTERM");
  await line(first, "phase: left");
  await line(first, "finished");
  const { stderr, code } = await first.ended();
  assertEquals(code, 0);
  assertEquals(stderr, "a word on stderr\n".repeat(2));
  await until(() => !directory.names().includes("app.sock"));
});

test("restart() starts in the directory that this one was started in, by the name that it had", async () => {
  using directory = new Directory();
  const module = new URL("../../mod.ts", import.meta.url);
  for (const release of ["one", "two"]) {
    Deno.mkdirSync(directory.join(release));
    Deno.writeTextFileSync(
      directory.join(`${release}/main.ts`),
      `import { start } from "${module}";
       const app = await start("${
        directory.join("app.sock")
      }", { restartOn: ["SIGHUP"], probation: 10 });
       Deno.chdir("/");
       await app.ready();
       console.log(app.generation, "is of release ${release}, process", Deno.pid);
       await app.finished;`,
    );
  }
  const current = directory.join("current");
  Deno.symlinkSync("one", current);
  const enter = ["sh", "-c", `cd ${current} && exec "$0" run -A main.ts`];
  await using first = new Child("", [], { through: enter });
  await line(first, /^1 is of release one/);
  Deno.removeSync(current);
  Deno.symlinkSync("two", current);
  Deno.kill(first.pid, "SIGHUP");
  const second = Number((await line(first, /^2 is of release two/)).split(" ").at(-1));
  Deno.kill(second, "SIGTERM");
  assertEquals((await first.ended()).code, 0);
});

test("the process that takes over may be one that the command has started", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const fixture = new URL("../programs/generation.ts", import.meta.url).pathname;
  const app = await begin(path);
  await app.ready();
  // A shell that stays, as the parent of the process that matters.
  const script = `"$0" run -A "$1" "$2" <&-; echo "it has ended"`;
  const args = ["-c", script, Deno.execPath(), fixture, path];
  const { generation, pid } = await app.restart({ program: "sh", args });
  assertEquals(generation, 2);
  await app.finished;
  Deno.kill(pid, "SIGTERM");
  await until(() => !directory.names().includes("app.sock"));
});

test("a command that goes on when the process that it has started fails is known by it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const fixture = new URL("../programs/generation.ts", import.meta.url).pathname;
  const app = await begin(path, { readyTimeout: 5000 });
  await app.ready();
  const script = `"$0" run -A "$1" "$2" --fail "out of luck" <&-; exec sleep 600`;
  const args = ["-c", script, Deno.execPath(), fixture, path];
  const restarting = app.restart({ program: "sh", args });
  // It might start another one.
  await assertRejects(
    () => restarting,
    HandoverError,
    "was not ready after 5000 ms; when it tried: The next generation ended before it was ready",
  );
  assertEquals(app.status().state, "serving");
  await app.stop();
});

test("generations of HTTP over TCP need the C library and a new port of loopback", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const deno = ["run", "--no-prompt", "--allow-ffi", "--allow-net=127.0.0.1:0"];
  await using first = new Child("./generation.ts", [path], { deno });
  await line(first, "serving: 1");
  // Starting the next one oneself needs one permission more.
  await first.tell("restart");
  await line(first, /^failed: .*--allow-run/);
  const running = [...deno, "--allow-run=/bin/sh"];
  await using second = new Child("./generation.ts", [path], { deno: running });
  const [port] = await numbers(second, "port");
  await line(second, "serving: 2");
  await line(first, "finished");
  await second.tell("restart");
  await line(second, "restarted: 3");
  Deno.kill(Number((await asked(port)).split(" ")[1]), "SIGTERM");
  assertEquals((await second.ended()).code, 0);
});

test("a restart on a signal, and a failed one with its reason", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const args = [path, "--restartOn", "SIGUSR2", "--fail", "out of luck"];
  await using first = new Child("./generation.ts", args);
  const [port] = await numbers(first, "port");
  await line(first, "serving: 1");
  Deno.kill(first.pid, "SIGUSR2");
  await line(first, /^error: The restart failed; .* has ended; .*out of luck/);
  await first.tell("restart");
  await line(first, /^failed: ERR_HANDOVER_FAILED The next generation, .* out of luck/);
  assertMatch(await asked(port), /^1 /);
  Deno.kill(first.pid, "SIGTERM");
  await line(first, "finished");
  assertEquals((await first.ended()).code, 0);
});

test("when restart() has failed, the next one may begin", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  app.serve(here, saying("here"));
  await app.ready();
  const linger = new URL("../programs/linger.ts", import.meta.url).pathname;
  const command = { program: Deno.execPath(), args: ["run", "-A", linger, path] };
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => app.restart(command), HandoverError, "ended with code 3");
    assertEquals(app.status().state, "serving");
  }
  await app.stop();
});

for (const version of new Set([versions[0], Deno.version.deno])) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  test(
    `on Deno ${version} what restart() started goes on when this process has ended by itself`,
    { ignore },
    async () => {
      if ("skipped" in runtime) return;
      using directory = new Directory();
      const path = directory.join("app.sock");
      const deno = ["run", "-A", "--no-check"];
      const options = { program: runtime.command, deno };
      await using first = new Child("../system/soak_start.ts", ["first", path], options);
      await first.line();
      const cli = async (word: string) => {
        await using child = new Child("../../lib/cli.ts", [word, path]);
        return await child.ended();
      };
      assertEquals((await cli("restart")).code, 0);
      await until(() => !isRunning(first.pid));
      assertMatch((await cli("status")).stdout.join(), /^generation +2, process \d+, serving/);
      assertEquals((await cli("stop")).code, 0);
      assertEquals((await first.ended()).code, 0);
    },
  );
}

test("a process that another one started takes over, though that one has ended", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const enough = directory.join("enough");
  const app = await begin(path);
  const port = portOf(app.serve(here, saying("first")));
  await app.ready();
  const starter = `"$@" & until [ -e "$0" ]; do sleep 0.01; done`;
  const generation = new URL("../programs/generation.ts", import.meta.url).pathname;
  const started = [Deno.execPath(), "run", "-A", generation, path, "--probation", "1000"];
  const restarting = app.restart({ program: "sh", args: ["-c", starter, enough, ...started] });
  await until(() => app.status().state === "handing over");
  Deno.writeTextFileSync(enough, "");
  const { pid } = await restarting;
  assertEquals(await asked(port), `2 ${pid}`);
  await app.finished;
  Deno.kill(pid, "SIGTERM");
  await until(() => pathStatus(path) === undefined);
});

test("what restart() starts is no child, and gets its arguments, environment and signals as they are", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const cwd = directory.join("a directory");
  Deno.mkdirSync(cwd);
  const args = [
    "",
    "two words",
    "two\nlines",
    `"double" and 'single'`,
    "$HOME",
    "`id`",
    "*",
    "\\",
    "ä",
  ];
  const env = { PLAIN: "two\nlines", LONG_1: "=" };
  await using first = new Child("./started.ts", [path, cwd, ...args], { env });
  const before = JSON.parse(await first.line());
  const after = JSON.parse(await first.line());
  assertEquals(before.parent, Deno.pid);
  assert(after.parent !== before.pid, "it is a child of the generation before");
  assert(after.parentThen !== after.parent, "it is no orphan after start()");
  assertEquals(after.args, [path, cwd, ...args]);
  assertEquals(after.cwd, cwd);
  assertEquals(after.environment["PWD"], cwd);
  for (const [name, value] of Object.entries(env)) {
    assertEquals(after.environment[name], value);
  }
  // SIGINT and SIGQUIT are those that a shell sets aside for what it starts beside itself.
  assertEquals(after.signals, before.signals);
  assertEquals(after.stdin, "/dev/null");
  assertEquals(after.program, before.program);
  await line(first, "restarted");
  Deno.kill(after.pid, "SIGTERM");
  assertEquals((await first.ended()).code, 0);
});

test("as process 1, a generation leaves no zombie of a restart that failed", {
  ignore: !canUnshare,
}, async () => {
  const through = ["unshare", "--pid", "--fork", "--mount-proc"];
  await using child = new Child("./zombies.ts", [], { through });
  assertEquals(JSON.parse(await child.line()), [1, 2, []]);
});

test("start() says so when it waits for a generation of its own process that is not ready", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const first = await begin(path);
  const log = new KeptLog();
  const second = begin(path, { logger: log });
  await until(() => log.errors.length > 0);
  assertMatch(
    String(log.errors[0][0]),
    /this process has started a generation there that is not ready/,
  );
  await first.stop();
  await (await second).stop();
  assertEquals(log.errors.length, 1);
});

for (const refused of [[], ["900000"]]) {
  const fails = refused.length > 0 ? "whose ready() is refused" : "that fails before it is ready";
  test(`a program ${fails}, and that tries again, is waited for`, () => triesAgain(refused));
}

async function triesAgain(refused: string[]): Promise<void> {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const tries = new URL("../programs/tries.ts", import.meta.url).pathname;
  const app = await begin(path, { readyTimeout: 60_000 });
  const port = portOf(app.serve(here, saying("first")));
  await app.ready();
  // Longer than a process that has failed took to end.
  const args = ["run", "-A", "--no-check", tries, path, "3", "1500", ...refused];
  const { pid, generation } = await app.restart({ program: Deno.execPath(), args });
  assertEquals(generation, 2);
  await app.finished;
  assertEquals(await asked(port), `${pid}, in try 3`);
  Deno.kill(pid, "SIGTERM");
  await until(() => pathStatus(path) === undefined);
}

test("a program that fails again and again is ended when its time is over", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const tries = new URL("../programs/tries.ts", import.meta.url).pathname;
  const app = await begin(path, { readyTimeout: 3000 });
  await app.ready();
  const args = ["run", "-A", "--no-check", tries, path, "1000000", "0"];
  const error = await assertRejects(
    () => app.restart({ program: Deno.execPath(), args }),
    HandoverError,
    "was not ready after 3000 ms; when it tried: ",
  );
  assertEquals(error.code, "ERR_HANDOVER_TIMEOUT");
  const pid = Number(/process (\d+)/.exec(error.message)![1]);
  await until(() => !isRunning(pid));
  await until(() => app.status().state === "serving");
  await app.stop();
});

test("when the time of a restart is over in its handover, the next one may begin", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { readyTimeout: 2000 });
  await app.ready();
  const fixture = new URL("../programs/generation.ts", import.meta.url).pathname;
  const args = ["run", "-A", "--no-check", fixture, path, "--say", "wait"];
  for (let i = 0; i < 3; i++) {
    const restarting = app.restart({ program: Deno.execPath(), args });
    await until(() => app.status().state === "handing over");
    await assertRejects(() => restarting, HandoverError, "was not ready after 2000 ms");
    assertEquals(app.status().state, "serving");
  }
  await app.stop();
});

test("a stranger that names the process that restart() has started is not taken for it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const enough = directory.join("enough");
  const app = await begin(path);
  const port = portOf(app.serve(here, saying("first")));
  await app.ready();
  const generation = new URL("../programs/generation.ts", import.meta.url).pathname;
  // It waits, and then becomes the next generation: with the same number, by which alone it is known.
  const script = `echo "$$" >"$0.new"; mv "$0.new" "$0.pid"
    until [ -e "$0" ]; do sleep 0.01; done; exec env -u GRACEFUL_TOKEN "$@"`;
  const started = [Deno.execPath(), "run", "-A", generation, path];
  const restarting = app.restart({ program: "sh", args: ["-c", script, enough, ...started] });
  await until(() => pathStatus(`${enough}.pid`) !== undefined);
  const pid = Number(Deno.readTextFileSync(`${enough}.pid`));
  {
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: 1, pid });
    const offer = await channel.receive() as Frame & { type: "offer" };
    assertEquals(offer.items.map(({ kind }) => kind), ["control", "listener"]);
  }
  await until(() => app.status().state === "serving");
  // What it does is not held against the other one, which was ended after a second.
  await new Promise((resolve) => setTimeout(resolve, 1500));
  Deno.writeTextFileSync(enough, "");
  assertEquals(await restarting, { pid, generation: 2 });
  // It is offered this one's output.
  assertEquals(readLink(`/proc/${pid}/fd/1`), readLink("/proc/self/fd/1"));
  assertEquals(await asked(port), `2 ${pid}`);
  await app.finished;
  Deno.kill(pid, "SIGTERM");
  await until(() => pathStatus(path) === undefined);
});

test("a probation has a limit: a longer one is refused, and the generation that runs goes on", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log });
  const port = portOf(app.serve(here, saying("first")));
  await app.ready();
  const next = await begin(path, { probation: 300_001 });
  next.serve(here, saying("next"));
  await assertRejects(() => next.ready(), HandoverError, "asks for a probation of 300001 ms");
  await assertRejects(() => next.finished, HandoverError);
  assertEquals(app.status().state, "serving");
  assertEquals(await asked(port), "first");
  // One that is longer than that of the generation that runs is usual.
  const third = await begin(path, { probation: 300_000 });
  third.serve(here, saying("third"));
  await third.ready();
  assertEquals(await asked(port), "third");
  await third.stop();
  await app.finished;
});

test("a handover that succeeded has not failed when the generation is stopped in the probation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log });
  await app.ready();
  const next = await begin(path, { probation: 60_000 });
  await next.ready();
  assertEquals(app.status().state, "handing over");
  await app.stop();
  await until(() => next.status().predecessor === undefined);
  await next.stop();
  const phases = log.lines.map(([, line]) => /^Generation 1: (.*) after/.exec(String(line))?.[1]);
  assertEquals(phases.filter((phase) => phase === "failed" || phase === "left"), ["left"]);
});

test("a generation with a long probation of its own accepts as long a one", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { probation: 1e9 });
  await app.ready();
  const next = await begin(path, { probation: 1e9 });
  await next.ready();
  await next.stop();
  await app.finished;
});

/** A command whose process waits for another one, which prints its number into `file`, and would wait for long. */
function wrapped(file: string, rest = "sleep 600"): { program: string; args: string[] } {
  const script = `sh -c 'echo "$$" >"$0.new"; mv "$0.new" "$0"; exec ${rest}' "$0" "$@"; :`;
  return { program: "sh", args: ["-c", script, file] };
}

async function printed(file: string): Promise<ProcessId> {
  await until(() => pathStatus(file) !== undefined);
  return identify(Number(Deno.readTextFileSync(file)));
}

test("a restart that is given up ends every process that its command has started", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  // Longer than the output of a process that has ended is read.
  const app = await begin(path, { readyTimeout: 2000 });
  await app.ready();
  const [late, ended, stopped] = ["late", "ended", "stopped"].map((name) => directory.join(name));
  await assertRejects(() => app.restart(wrapped(late)), HandoverError, "was not ready after");
  const process = await printed(late);
  await until(() => hasEnded(process));
  // Its command ends, and leaves a process behind.
  const { program, args: [, script] } = wrapped(ended);
  const left = { program, args: ["-c", script.replace("; :", " &"), ended] };
  await assertRejects(() => app.restart(left), HandoverError, "ended with code 0");
  // It may have been ended before it had printed its number.
  await until(() => !processesOf(ended).length);
  const restarting = app.restart(wrapped(stopped));
  const last = await printed(stopped);
  const rejected = assertRejects(() => restarting, HandoverError, "was stopped meanwhile");
  await app.stop();
  await rejected;
  await until(() => hasEnded(last));
});

/** The processes that were started with this argument. */
function processesOf(argument: string): number[] {
  return Array.from(Deno.readDirSync("/proc"), ({ name }) => Number(name)).filter((pid) =>
    pid > 0 && readText(`/proc/${pid}/cmdline`)?.split("\0").includes(argument)
  );
}

test("a process of a restart that has failed cannot take over later, and is told so", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const file = directory.join("pid");
  const app = await begin(path, { readyTimeout: 500 });
  await app.ready();
  const restarting = app.restart(wrapped(file));
  const failed = assertRejects(() => restarting, HandoverError);
  const { pid } = await printed(file);
  const isToken = (each: string) => each.startsWith("GRACEFUL_TOKEN=");
  const [, token] = readText(`/proc/${pid}/environ`)!.split("\0").find(isToken)!.split("=");
  await failed;
  const env = { GRACEFUL_TOKEN: token };
  await using escaped = new Child("./generation.ts", [path], { env });
  const { code, stderr } = await escaped.ended();
  assertEquals(code, 1);
  assertMatch(stderr, /HandoverError: Cannot take over at ".*": the restart that .* has failed/);
  assertEquals(app.status().state, "serving");
  // One that any other generation has started is welcome.
  await using other = new Child("./generation.ts", [path], { env: { GRACEFUL_TOKEN: "another" } });
  await line(other, "serving: 2");
  await app.finished;
});

test("a restart fails when a process that it did not start takes over, and its own does not follow", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const file = directory.join("pid");
  const log = new KeptLog();
  const app = await begin(path, { logger: log });
  app.serve(here, saying("first"));
  await app.ready();
  const restarting = app.restart(wrapped(file));
  const process = await printed(file);
  await using other = new Child("./generation.ts", [path]);
  const error = await assertRejects(() => restarting, HandoverError);
  assertEquals(error.message, `Another process, ${other.pid}, has taken over`);
  await line(other, "serving: 2");
  await until(() => hasEnded(process));
  await app.finished;
  assertEquals(log.errors.map(([message]) => message), ["The restart failed"]);
  assert(isRunning(other.pid));
});

test("a restart by a signal that cannot even begin is logged", async () => {
  using directory = new Directory();
  const cwd = directory.join("release");
  Deno.mkdirSync(cwd);
  const args = ["../app.sock", "--restartOn", "SIGUSR2"];
  const through = ["sh", "-c", `cd ${cwd} && exec "$0" "$@"`];
  await using service = new Child("./generation.ts", args, { through });
  const [port] = await numbers(service, "port");
  await line(service, "serving: 1");
  Deno.removeSync(cwd);
  Deno.kill(service.pid, "SIGUSR2");
  await line(
    service,
    /^error: The restart failed; this generation goes on: Cannot start .*: the directory .* is gone/,
  );
  assertMatch(await asked(port), /^1 /);
});

test("the last words of a program that was killed are its own, and not those of a shell", async () => {
  using directory = new Directory();
  const script = "echo my last words >&2; kill -KILL $$";
  await using service = new Child("./fails.ts", [directory.join("app.sock"), script]);
  const { code, stdout, stderr } = await service.ended();
  assertEquals([code, stderr], [0, "my last words\n"]);
  assertMatch(stdout[0], /ended with code 137; the last it said was: my last words$/);
});

test("a program that writes more than a pipe holds, before it calls start(), is not held up", async () => {
  using directory = new Directory();
  const script = "yes | head -n 100000; exit 3";
  await using service = new Child("./fails.ts", [directory.join("app.sock"), script]);
  const { code, stdout } = await service.ended();
  assertEquals([code, stdout.length], [0, 100_001]);
  assertMatch(stdout.at(-1)!, /ended with code 3$/);
});

test("a variable that /bin/sh does not pass on is named in the log, and is no argument of a process", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const hold = directory.join("hold");
  const secret = crypto.randomUUID();
  const env = { "with.dot": secret, "with-dash": secret, PLAIN: secret };
  await using first = new Child("./generation.ts", [path, "--hold", hold], { env });
  await line(first, "serving: 1");
  Deno.writeTextFileSync(hold, "");
  await first.tell("restart");
  const passes = new Deno.Command("/bin/sh", { args: ["-c", "env"], env }).outputSync();
  const isPassedOn = new TextDecoder().decode(passes.stdout).includes("with.dot=");
  if (!isPassedOn) {
    await line(first, /^error: The next generation does not get .*: "with-dash", "with.dot"; it/);
  }
  await line(first, "held");
  for (const { name } of Deno.readDirSync("/proc")) {
    if (/^\d+$/.test(name)) assert(!readText(`/proc/${name}/cmdline`)?.includes(secret));
  }
  Deno.removeSync(hold);
  const [pid] = await numbers(first, "pid");
  await line(first, "serving: 2");
  Deno.kill(pid, "SIGTERM");
  assertEquals((await first.ended()).code, 0);
});

test("what restart() has started writes where this process did that is killed before the handover", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const hold = directory.join("hold");
  const args = [path, "--hold", hold, "--say", "a word on stderr"];
  await using first = new Child("./generation.ts", args);
  await line(first, "serving: 1");
  Deno.writeTextFileSync(hold, "");
  await first.tell("restart");
  await line(first, "held");
  Deno.kill(first.pid, "SIGKILL");
  const old = identify(first.pid);
  await until(() => hasEnded(old));
  Deno.removeSync(hold);
  const [port] = await numbers(first, "port");
  await line(first, "serving: 1");
  const [, pid] = (await asked(port)).split(" ");
  // A program that it starts gets no other descriptor of it than its standard streams.
  const stdout = readLink(`/proc/${pid}/fd/1`);
  const passedOn = Array.from(Deno.readDirSync(`/proc/${pid}/fd`), ({ name }) => name)
    .filter((name) => readLink(`/proc/${pid}/fd/${name}`) === stdout)
    .filter((name) => {
      const flags = /^flags:\s*(\d+)$/m.exec(readText(`/proc/${pid}/fdinfo/${name}`) ?? "")?.[1];
      // O_CLOEXEC, which Deno's own duplicates have (open(2)).
      return (parseInt(flags ?? "", 8) & 0o2000000) === 0;
    });
  assertEquals(passedOn, ["1"]);
  Deno.kill(Number(pid), "SIGTERM");
  await line(first, "finished");
  assertEquals((await first.ended()).stderr, "a word on stderr\n".repeat(2));
});

test("restart() with another command, that cannot be started or does not take over", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path, { readyTimeout: 300 });
  const port = portOf(app.serve(here, saying("first")));
  await app.ready();
  const { NotFound, PermissionDenied } = Deno.errors;
  for (
    const [program, cwd, error, message] of [
      ["/nonexistent/program", undefined, NotFound, "there is no such program"],
      ["no-program-of-that-name", undefined, NotFound, "there is no such program"],
      ["./nonexistent", directory.path, NotFound, "there is no such program"],
      ["/etc/passwd", undefined, PermissionDenied, "it is no program that may run"],
      [directory.path, undefined, PermissionDenied, "it is no program that may run"],
      ["true", directory.join("none"), NotFound, "there is no such directory"],
    ] as const
  ) {
    const where = JSON.stringify(cwd ?? Deno.cwd());
    await assertRejects(
      () => app.restart({ program, args: [], cwd }),
      error,
      `Cannot start ${JSON.stringify(program)} in ${where}: ${message}`,
    );
  }
  const failed = await assertRejects(
    () => app.restart({ program: "sh", args: ["-c", "echo never mind >&2; exit 3"] }),
    HandoverError,
    "ended with code 3; the last it said was: never mind",
  );
  assertEquals(failed.code, "ERR_HANDOVER_FAILED");
  const late = await assertRejects(
    () => app.restart({ program: "sleep", args: ["1000"] }),
    HandoverError,
    "was not ready after 300 ms",
  );
  assertEquals(late.code, "ERR_HANDOVER_TIMEOUT");
  assertEquals(await asked(port), "first");
  const busy = app.restart({ program: "sleep", args: ["1000"] });
  const refused = await assertRejects(() => app.restart(), HandoverError, "under way");
  assertEquals(refused.code, "ERR_HANDOVER_BUSY");
  await assertRejects(() => busy, HandoverError);
  await app.stop();
});

test("a killed generation leaves its path, and the next start takes it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  for (let i = 0; i < 3; i++) {
    await using child = new Child("./generation.ts", [path]);
    await line(child, "serving: 1");
    Deno.kill(child.pid, "SIGKILL");
    await child.ended();
    assertEquals(directory.names(), ["app.sock"]);
  }
});

test("of several that start at once, one is the first and the others follow one another", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using all = new AsyncDisposableStack();
  const children = Array.from(
    { length: 4 },
    () => all.use(new Child("./generation.ts", [path, "--probation", "1"])),
  );
  const generations: string[] = [];
  await Promise.all(children.map(async (child) => {
    for (;;) {
      const said = await child.line();
      if (said.startsWith("serving: ")) return generations.push(said);
    }
  }));
  assertEquals(generations.sort(), [1, 2, 3, 4].map((n) => `serving: ${n}`));
  let finished = 0;
  for (const child of children) {
    void line(child, "finished").then(() => finished++).catch(() => {});
  }
  await until(() => finished === 3);
});

test("while a handover is under way another start waits for its turn", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  await old.ready();
  const second = await begin(path);
  const log = new KeptLog();
  let third: Generation | undefined;
  const starting = begin(path, { logger: log }).then((app) => third = app);
  await until(() => log.lines.some(([, line]) => /another handover is under way/.test(`${line}`)));
  assertEquals(third, undefined);
  await second.ready();
  await starting;
  assertEquals(third!.generation, 3);
  await third!.ready();
  await old.finished;
  await second.finished;
  // One that gives up waiting says why.
  const fourth = await begin(path);
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  assertEquals(await begin(path, { signal }).catch((error) => error), reason);
  const waiting = new AbortController();
  const given = begin(path, { signal: waiting.signal }).catch((error) => error);
  waiting.abort(reason);
  assertEquals(await given, reason);
  await fourth.stop();
  await until(() => third!.status().state === "serving");
  await third!.stop();
});

test("another version is refused, and the running generation is unharmed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  await app.ready();
  const channel = new Channel(await connect(path));
  await channel.send({ type: "hello", version: 2, pid: 1 });
  const answer = await channel.receive();
  assertEquals(answer, {
    type: "refused",
    code: "version",
    reason: "it speaks version 2 of the handover, and the generation that runs version 1",
  });
  channel[Symbol.dispose]();
  assertEquals(app.status().state, "serving");
  await app.stop();
});

test("start() says when what runs there speaks another version, or no handover at all", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const listener = listen(path);
  const other = (async () => {
    using conn = await listener.accept();
    const channel = new Channel(conn);
    await channel.receive();
    await channel.send({ type: "refused", code: "version", reason: "I speak 9" });
  })();
  const error = await assertRejects(() => begin(path), HandoverError, "I speak 9");
  assertEquals(error.code, "ERR_HANDOVER_VERSION");
  await other;
  // The plain protocol sends a record where a frame should be.
  const plain = listenAndServe(directory.join("plain.sock"), fdHandler(0));
  const strange = await assertRejects(() => begin(plain.addr.path!), HandoverError);
  assertEquals(strange.code, "ERR_HANDOVER_PROTOCOL");
  await plain.shutdown();
  // And one that says nothing is not waited for for ever.
  const silent = await assertRejects(() => begin(path, { peerTimeout: 20 }), HandoverError);
  assertEquals(silent.code, "ERR_HANDOVER_TIMEOUT");
  listener.close();
});

test("start() goes on when what runs there dies while it hands over", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const listener = listen(path);
  const items = [{ kind: "control", key: "" }, { kind: "state", key: "a", bytes: 9 }] as const;
  const offer: Frame = { type: "offer", version: 1, generation: 1, pid: 1, items: [...items] };
  const dying = (async () => {
    // Before the answer, in the middle of it, and before what it announces.
    for (const most of [0, 7, Infinity]) {
      using conn = await listener.accept();
      await new Channel(conn).receive();
      await conn.write(encodeFrame(offer).subarray(0, most));
    }
    listener.close();
  })();
  const app = await begin(path);
  assertEquals(app.generation, 1);
  await dying;
  await app.stop();
});

test("start() says for how long it has been waiting, and for what", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  const log = new KeptLog();
  const end = new AbortController();
  const waiting = begin(path, { logger: log, peerTimeout: 100, signal: end.signal });
  const refused = assertRejects(() => waiting, Error, "enough");
  // The first one says that it is a generation of this process that is waited for.
  await until(() => log.errors.length > 1);
  end.abort(new Error("enough"));
  await refused;
  assertMatch(
    String(log.errors[1][0]),
    /^Waiting for \d+ s to take over at ".*": the generation there, process \d+, has not called ready\(\) yet$/,
  );
  await app.stop();
});

test("garbage at the control socket harms nobody", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log, peerTimeout: 50 });
  await app.ready();
  for (
    const bytes of [
      Uint8Array.of(255, 255, 255, 255),
      Uint8Array.of(2, 0, 0, 0, 0x7b, 0x7d),
      Uint8Array.of(1),
      new Uint8Array(0),
    ]
  ) {
    using conn = await connect(path);
    await conn.write(bytes);
    assertEquals(await conn.read(new Uint8Array(1)).catch(() => null), null);
  }
  using offer = await connect(path);
  await new Channel(offer).send({ type: "draining" });
  assertEquals(await offer.read(new Uint8Array(1)), null);
  assertEquals(app.status().state, "serving");
  assert(log.errors.length >= 4);
  await app.stop();
});

test("a generation takes the first listeners from a plain server, which learns that it serves", async () => {
  using directory = new Directory();
  const plain = directory.join("plain.sock");
  using listener = Deno.listen(here);
  using other = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using sockets = new Sockets(1);
  const hungUp = Promise.withResolvers<void>();
  const send = sequenceHandler(
    listenerHandler(listener),
    listenerHandler(other),
    fdHandler(sockets.raws[0], new TextEncoder().encode("socket")),
  );
  await using _server = listenAndServe(plain, async (conn, response) => {
    await send(conn, response);
    await response.flush();
    conn.closeWrite();
    await conn.read(new Uint8Array(1));
    hungUp.resolve();
  });
  const app = await begin(directory.join("app.sock"), { inheritFrom: plain });
  assertEquals(app.generation, 1);
  const server = app.serve({ hostname: "127.0.0.1", port: portOf(listener) }, saying("here"));
  assertEquals(portOf(server), portOf(listener));
  using socket = app.take("socket") as Fd;
  assertEquals(Sockets.cookie(socket.raw), sockets.cookies[0]);
  await app.ready();
  await hungUp.promise;
  assertEquals(await asked(portOf(listener)), "here");
  await app.stop();
});

test("a plain server that waits for a word gets one when its listener is served", async () => {
  using directory = new Directory();
  const plain = directory.join("plain.sock");
  using listener = Deno.listen(here);
  const word = new Uint8Array(5);
  await using _server = listenAndServe(plain, async (conn, response) => {
    await sendListener(response, listener);
    await response.flush();
    await conn.readFull(word);
  });
  const app = await begin(directory.join("app.sock"), { inheritFrom: plain });
  app.serve({ hostname: "127.0.0.1", port: portOf(listener) }, saying("here"));
  assertEquals(word, new Uint8Array(5));
  await app.ready();
  await until(() => new TextDecoder().decode(word) === "ready");
  assertEquals(await asked(portOf(listener)), "here");
  await app.stop();
});

test("a plain server that sends nothing is not waited for for ever", async () => {
  using directory = new Directory();
  const plain = directory.join("plain.sock");
  await using _server = listenAndServe(plain, async (conn) => {
    await conn.read(new Uint8Array(1));
  });
  const path = directory.join("app.sock");
  const options = { inheritFrom: plain, peerTimeout: 50 };
  const error = await assertRejects(() => begin(path, options), HandoverError, "sent nothing");
  assertEquals(error.code, "ERR_HANDOVER_TIMEOUT");
  assertEquals(directory.names(), ["plain.sock"]);
});

test("without that server, or with a generation running, `predecessor` does not matter", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const predecessor = directory.join("nobody.sock");
  const first = await begin(path, { inheritFrom: predecessor });
  await first.ready();
  const second = await begin(path, { inheritFrom: predecessor });
  assertEquals(second.generation, 2);
  await second.ready();
  await first.finished;
  await second.stop();
});

test("status() tells what there is", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const app = await begin(path);
  const server = app.serve(here, saying("hello"));
  const unix = app.listen({ path: directory.join("http.sock") });
  await app.ready();
  using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) });
  await client.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await client.read(new Uint8Array(1000));
  const { generation, pid, since, state, sockets, kept } = app.status();
  assertEquals([generation, pid, state, kept], [1, Deno.pid, "serving", []]);
  assertEquals(since, app.since.getTime());
  assertEquals(sockets, [
    { kind: "listener", address: `127.0.0.1:${portOf(server)}`, connections: 1 },
    { kind: "listener", address: JSON.stringify(directory.join("http.sock")), connections: 0 },
  ]);
  client.close();
  unix.close();
  await until(() => app.status().sockets.length === 1);
  await app.stop();
});

test("what a service is told at the wrong time, it says", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  assertThrows(() => app.serve({} as unknown as () => Response), TypeError, "without a handler");
  await app.ready();
  await assertRejects(() => app.ready(), TypeError, "this generation is serving");
  await app.stop();
  await assertRejects(() => app.restart(), HandoverError, "this generation is stopped");
  for (
    const name of ["probation", "readyTimeout", "drainTimeout", "peerTimeout", "forceCloseAfter"]
  ) {
    await assertRejects(
      () => begin(directory.join("app.sock"), { [name]: -1 }),
      RangeError,
      `${name} is a number of milliseconds, not -1`,
    );
  }
});

test("a path that is in use is refused, and what is made before is let go", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  using _other = listen(path);
  const app = await begin(directory.join("app.sock"));
  assertThrows(() => app.serve({ path }, saying("no")), Deno.errors.AddrInUse, "another instance");
  await app.stop();
});

test("WebSockets are closed with 1012 when their generation leaves", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const options = { drainTimeout: 200 };
  const old = await begin(path, options);
  const server = old.serve(here, (request) => {
    const { socket, response } = old.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  await old.ready();
  const codes: number[] = [];
  const sockets = await Promise.all(Array.from({ length: 5 }, async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${portOf(server)}`);
    socket.onclose = ({ code }) => codes.push(code);
    await new Promise((resolve) => socket.onopen = resolve);
    return socket;
  }));
  const next = await begin(path, options);
  next.serve(here, saying("next"));
  await next.ready();
  await old.finished;
  await until(() => codes.length === sockets.length);
  assertEquals(codes, sockets.map(() => 1012));
  await next.stop();
});

/** Reads lines until one is, or matches, what is wanted. */
async function line(child: Child, wanted: string | RegExp): Promise<string> {
  for (;;) {
    const said = await child.line();
    if (typeof wanted === "string" ? said === wanted : wanted.test(said)) return said;
  }
}

/** The numbers of the next line of that name. */
async function numbers(child: Child, name: string): Promise<number[]> {
  const said = await line(child, new RegExp(`^${name}: `));
  return said.slice(name.length + 2).split(" ").map(Number);
}
