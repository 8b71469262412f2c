/**
 * What is at a control path, with real sockets and processes.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { closeRaw, Fd } from "../../ffi/fd.ts";
import { lockFile, unlockFile } from "../../ffi/file.ts";
import { processStat } from "../../ffi/proc.ts";
import { bindUnixDatagram, connectUnix, listenUnix } from "../../ffi/socket.ts";
import { start, type StartOptions } from "../../mod.ts";
import { Child, programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { attempt } from "../support/foreign.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { bad, examine, finding } from "./support.ts";

const quiet: StartOptions = { logger: {}, stopOn: [], exitTimeout: false };

const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const cliPath = programPath("../../lib/cli.ts");
const nobody = await succeeds([...asNobody, Deno.execPath(), "run", cliPath, "--help"]);
if (!nobody) console.log("control_socket_test.ts: doctor is not tested as another user");

const unshare = ["unshare", "--pid", "--fork", "--kill-child"];
const namespaces = await succeeds([...unshare, "true"]);
if (!namespaces) console.log("control_socket_test.ts: no PID namespace can be made");

test("nothing at the path, no directory, and a file that is no socket are problems", async () => {
  using directory = new Directory();
  const nothing = await examine(directory.join("app.sock"));
  assertEquals([nothing.socket?.kind, bad(nothing).length], ["nothing", 1]);
  finding(nothing, /^Nothing is at ".*app\.sock": a running service/);
  finding(await examine(directory.join("none/app.sock")), /there is no directory ".*none"$/);
  Deno.writeTextFileSync(directory.join("file"), "");
  const file = await examine(directory.join("file"));
  assertEquals(file.socket?.kind, "file");
  assertEquals(finding(file, /^A file is at .* no socket/).level, "problem");
});

test("the socket of a killed generation is stale, and is not while it runs", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path]);
  await service.until("serving: 1");
  const running = await examine(path);
  assertEquals(running.socket?.kind, "generation");
  assertEquals(bad(running), []);
  Deno.kill(service.pid, "SIGKILL");
  await service.ended();
  const killed = await examine(path);
  assertEquals(killed.socket?.kind, "stale");
  assertEquals(bad(killed), [finding(killed, /^No process listens at /)]);
});

test("a generation is reported with its number, process, state and predecessor", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using first = new Generations("./generation.ts", [path]);
  const port = await first.number("port");
  await first.until("serving: 1");
  const one = await examine(path);
  assertEquals([one.socket?.pid, one.process?.pid], [first.pid, first.pid]);
  assertMatch(
    finding(one, /^Generation 1, /).text,
    new RegExp(`^Generation 1, process ${first.pid}, is serving since 20`),
  );
  // A client keeps the first generation while it drains.
  using client = await Deno.connect({ hostname: "127.0.0.1", port });
  await client.write(new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
  await client.read(new Uint8Array(1000));
  await first.tell("restart");
  await first.until("phase: healthy");
  const drains = `; generation 1, process ${first.pid}, drains, connections left: 1`;
  await until(async () => {
    const { text } = finding(await examine(path), /^Generation 2, /);
    return text.endsWith(drains);
  });
  const two = await examine(path);
  assertEquals(two.socket?.generation?.predecessor?.pid, first.pid);
  assertEquals(bad(two), []);
});

test("a generation in another PID namespace is found by its socket", {
  ignore: !namespaces,
}, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path], { through: unshare });
  await service.until("serving: 1");
  const { socket, process } = await examine(path);
  // It has the number 1 there.
  assertEquals(socket?.generation?.pid, 1);
  assertEquals(processStat(socket!.pid!)?.parent, service.pid);
  assertEquals(process?.pid, socket?.pid);
});

test("a starting generation is a note", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, quiet);
  const diagnosis = await examine(path);
  assertEquals(finding(diagnosis, /is starting since/).level, "note");
  await app.ready();
});

test("a listener of another program is named", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  await using _server = Deno.serve({ path, onListen() {} }, () => new Response());
  const diagnosis = await examine(path);
  assertEquals([diagnosis.socket?.kind, diagnosis.socket?.pid], ["foreign", Deno.pid]);
  const { level, text } = finding(diagnosis, /and is no generation: /);
  assertEquals(level, "problem");
  assertMatch(text, new RegExp(`^Process ${Deno.pid} \\(".*deno`));
});

test("a listener that accepts nothing does not answer, and its full queue is a warning", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using _listener = new Fd(listenUnix(path, attempt, { backlog: 2 }));
  using _first = new Fd(connectUnix(path, attempt));
  // The connection of an examination stays in the queue, too.
  const some = await examine(path, 200);
  assertEquals(some.socket?.kind, "silent");
  assertEquals(finding(some, /does not answer: its event loop/).level, "problem");
  using _second = new Fd(connectUnix(path, attempt));
  const full = await examine(path, 200);
  assertEquals(full.socket?.kind, "silent");
  const queue = finding(full, /^3 of 2 wait in the accept queue: it is full/);
  assertEquals([queue.about, queue.level], ["control socket", "warning"]);
});

test("a generation that was stopped by SIGSTOP is named, with the way to continue it", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path]);
  await service.until("serving: 1");
  Deno.kill(service.pid, "SIGSTOP");
  await until(() => processStat(service.pid)?.state === "T");
  const stopped = await examine(path, 200);
  assertEquals([stopped.socket?.kind, stopped.socket?.pid], ["silent", service.pid]);
  const { advice } = finding(stopped, /was stopped \(SIGSTOP\)$/);
  assertEquals(advice, `Run \`kill -CONT ${service.pid}\``);
  // A process without descriptors does not answer either.
  assertEquals(stopped.process?.pid, service.pid);
  finding(stopped, /^\d+ of \d+ descriptors are open$/);
  Deno.kill(service.pid, "SIGCONT");
  await until(async () => (await examine(path)).socket?.kind === "generation");
});

test("a generation whose `allow` refuses this user is a problem", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, { ...quiet, allow: () => false });
  await app.ready();
  const diagnosis = await examine(path);
  assertEquals(diagnosis.socket?.kind, "refusing");
  assertMatch(finding(diagnosis, /and refuses this one: .*`allow`/).advice!, /change `allow`$/);
});

test("the mode of the socket and its directories tell which users may connect", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, { ...quiet, mode: 0o600 });
  await app.ready();
  assertEquals(finding(await examine(path), /has mode 0600: .* may connect$/).level, "ok");
  Deno.chmodSync(path, 0o660);
  assertEquals(
    finding(await examine(path), /0660: .* and group \d+.* may connect, /).level,
    "note",
  );
  Deno.chmodSync(path, 0o666);
  finding(await examine(path), /0666: .* and users that ".*" admits may connect, /);
  assertEquals(bad(await examine(path)), []);
  Deno.chmodSync(directory.path, 0o777);
  const open = bad(await examine(path));
  assertEquals(open.length, 1);
  assertEquals([open[0].level, open[0].advice], [
    "problem",
    `Run \`chmod o-w "${directory.path}"\``,
  ]);
  Deno.chmodSync(directory.path, 0o1777);
  const sticky = await examine(path);
  assertEquals(bad(sticky), []);
  assertEquals(finding(sticky, /^Every user may create files in /).level, "note");
  Deno.chmodSync(directory.path, 0o755);
  finding(await examine(path), /0666: .* and every other user may connect, /);
});

test("another user may not look at the path, or not connect", { ignore: !nobody }, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, quiet);
  await app.ready();
  const outcome = async () => {
    const env = { DENO_DIR: directory.join("cache") };
    await using child = new Child("../../lib/cli.ts", ["doctor", path], { env, through: asNobody });
    const { code, stdout } = await child.ended();
    return [code, stdout[0]];
  };
  assertEquals(await outcome(), [
    1,
    `problem  socket: This user may not look at "${path}": a directory of the path refuses it. ` +
    "Run doctor as root, or as the user of the service",
  ]);
  Deno.chmodSync(directory.path, 0o755);
  assertEquals(await outcome(), [
    1,
    `problem  socket: This user may not connect to "${path}". Run doctor as its user, or root`,
  ]);
  Deno.chmodSync(path, 0o666);
  const [code, line] = await outcome();
  assertEquals(code, 1);
  assertMatch(String(line), /refuses this one: .*`allow` refuses process \d+ of user 65534\. Run /);
});

test("a symbolic link to the socket is a note", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, quiet);
  await app.ready();
  const link = directory.join("link.sock");
  Deno.symlinkSync(path, link);
  assertEquals(finding(await examine(link), /is a symbolic link to ".*app\.sock"$/).level, "note");
  assertEquals((await examine(link)).socket?.pid, Deno.pid);
});

test("files of ended processes beside the socket are found, and those in use are not", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, quiet);
  await app.ready();
  const files = async () =>
    (await examine(path)).findings.filter(({ about }) => about === "files").map(({ text }) =>
      text.replaceAll(directory.path, "")
    );
  assertEquals(await files(), []);
  // Each of them is used first, and then left.
  const notify = new Fd(bindUnixDatagram(`${path}.notify`, attempt));
  const bound = new Fd(listenUnix(`${path}.0123abcd`, attempt));
  Deno.writeTextFileSync(`${path}.pid`, `${Deno.pid}\n`);
  Deno.writeTextFileSync(`${path}.other`, "");
  const lock = lockFile(`${path}.lock`, attempt)!;
  const [held, ...rest] = await files();
  assertMatch(held, new RegExp(`^Process ${Deno.pid} .* has locked "/app\\.sock\\.lock"`));
  assertEquals(rest, []);
  closeRaw(lock);
  notify.close();
  bound.close();
  Deno.writeTextFileSync(`${path}.pid`, "2147483646\n");
  assertEquals(await files(), [
    '"/app.sock.0123abcd" is the socket of a process that has ended',
    '"/app.sock.lock" is left of a process that was killed: the next one locks it',
    '"/app.sock.notify" is the socket of a process that has ended',
    '"/app.sock.pid" names a process that has ended',
  ]);
  assertEquals(bad(await examine(path)), []);
  unlockFile(`${path}.lock`, lockFile(`${path}.lock`, attempt)!);
  Deno.mkdirSync(`${path}.lock`);
  const [wrong] = bad(await examine(path));
  assertEquals(wrong?.level, "problem");
  assert(wrong.text.includes("is a directory: no generation can bind"));
  Deno.removeSync(`${path}.lock`);
});
