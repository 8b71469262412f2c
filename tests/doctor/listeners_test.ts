/**
 * The listeners of a generation, and the process around them, with real sockets and processes.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { listeningSockets } from "../../ffi/diag.ts";
import { Fd } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { describeDescriptor, openDescriptors, processStat, reap } from "../../ffi/proc.ts";
import { type Address, formatAddress } from "../../ffi/sockaddr.ts";
import { listenUnix } from "../../ffi/socket.ts";
import { descriptorFinding, passedFinding } from "../../lib/doctor/generation_process.ts";
import { listenerFindings } from "../../lib/doctor/listeners.ts";
import { start, type StartOptions } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { attempt } from "../support/foreign.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";
import { bad, examine, finding } from "./support.ts";

const quiet: StartOptions = { logger: {}, stopOn: [], exitTimeout: false };

test("the kernel's list has the address, queue and backlog of each listener", async () => {
  using directory = new Directory();
  const path = directory.join("a.sock");
  using _unix = new Fd(listenUnix(path, attempt, { backlog: 7 }));
  using ipv4 = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using ipv6 = Deno.listen({ hostname: "::1", port: 0 });
  using _client = await Deno.connect({ transport: "unix", path });
  const all = listeningSockets()!;
  const at = (wanted: Address) =>
    all.filter(({ address }) => formatAddress(address) === formatAddress(wanted));
  const [listener, ...rest] = at({ transport: "unix", path });
  assertEquals([listener.queued, listener.backlog, rest.length], [1, 7, 0]);
  for (const { addr } of [ipv4, ipv6]) {
    assertEquals(at(addr as Address).length, 1, addr.hostname);
  }
});

test("a full accept queue of a listener is a warning", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, quiet);
  // Nothing accepts here.
  const listener = app.listen({ hostname: "127.0.0.1", port: 0 });
  await app.ready();
  const { port } = listener.addr as Deno.NetAddr;
  const empty = await examine(path);
  assertEquals(bad(empty), []);
  const { backlog } = empty.listeners[0];
  assert(backlog! > 0);
  const clients: Deno.Conn[] = [];
  try {
    for (let i = 0; i <= backlog!; i++) clients.push(await Deno.connect({ port }));
    // The last handshake may be under way in the kernel.
    await until(async () => (await examine(path)).listeners[0].queued === backlog! + 1);
    const full = await examine(path);
    const found = finding(full, /it is full, and further clients/);
    assertEquals(bad(full), [found]);
    assertEquals([found.level, found.about], ["warning", `listener 127.0.0.1:${port}`]);
  } finally {
    for (const client of clients) client.close();
  }
});

test("a path of a listener that is missing, or leads to another socket, is a warning", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const web = directory.join("web.sock");
  await using app = await start(path, quiet);
  app.listen({ path: web });
  await app.ready();
  const good = await examine(path);
  assertEquals(bad(good), []);
  assertEquals(good.listeners[0].queued, 0);
  Deno.renameSync(web, `${web}.kept`);
  const missing = bad(await examine(path));
  assertEquals(missing.map(({ level }) => level), ["warning"]);
  assertMatch(missing[0].text, /^Nothing is at ".*web\.sock": clients are refused$/);
  {
    new Fd(listenUnix(web, attempt)).close();
    const wrong = bad(await examine(path));
    assertEquals(wrong.length, 1);
    assertMatch(wrong[0].text, /web\.sock" leads to another file than that of the generation/);
    Deno.removeSync(web);
  }
  Deno.renameSync(`${web}.kept`, web);
  assertEquals(bad(await examine(path)), []);
});

test("datagram sockets are reported, and a missing path of one is a warning", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = directory.join("log.sock");
  await using app = await start(path, quiet);
  app.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  app.listenDatagram({ transport: "unixpacket", path: log });
  await app.ready();
  const good = await examine(path);
  const found = good.findings.filter(({ about }) => about.startsWith("datagram "));
  assertEquals(found.map(({ level, text }) => [level, text]), [
    ["ok", "Receives datagrams"],
    ["ok", "Receives datagrams"],
  ]);
  Deno.renameSync(log, `${log}.kept`);
  const [missing, ...rest] = bad(await examine(path));
  assertEquals([missing.level, missing.about, rest.length], [
    "warning",
    `datagram ${JSON.stringify(log)}`,
    0,
  ]);
  Deno.renameSync(`${log}.kept`, log);
});

test("an address that is no JSON, of a process that is no generation, is not examined", () => {
  const address = '"/run/app';
  const socket = { kind: "listener", address, connections: 0 } as const;
  const { facts, findings } = listenerFindings([socket], undefined, []);
  assertEquals(facts, [socket]);
  const text = "Its accept queue is not seen here";
  assertEquals(findings, [{ level: "note", about: `listener ${address}`, text }]);
});

test("the descriptors of the process are counted against its limit", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Generations("./generation.ts", [path], { openFiles: 500 });
  await service.until("serving: 1");
  // Its runtime opens and closes some of its own.
  await until(async () => {
    const { process } = await examine(path);
    assertEquals(process?.limit, 500);
    return process?.descriptors === [...Deno.readDirSync(`/proc/${service.pid}/fd`)].length;
  });
  assertEquals(descriptorFinding(799, 1000).level, "ok");
  assertEquals(descriptorFinding(800, 1000).level, "warning");
});

test("LISTEN_PID of another process is a warning for the first generation", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const env = { LISTEN_PID: "1", LISTEN_FDS: "1" };
  await using service = new Generations("./generation.ts", [path], { env });
  await service.until("serving: 1");
  const found = finding(await examine(path), /were passed to process 1, and this is process/);
  assertEquals([found.level, found.about], ["warning", "process"]);
  const variables = new Map(Object.entries({ LISTEN_PID: "7", LISTEN_FDS: "2" }));
  assertEquals(passedFinding(variables, 7, 1)?.level, "ok");
  assertEquals(passedFinding(variables, 8, 1)?.level, "warning");
  assertEquals(passedFinding(variables, 8, 2), undefined);
  assertEquals(passedFinding(new Map([["LISTEN_PID", "7"]]), 8, 1), undefined);
  assertEquals(passedFinding(new Map([["LISTEN_FDS", "2"]]), 8, 1), undefined);
});

test("a zombie of the process is a warning", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, quiet);
  await app.ready();
  assertEquals(bad(await examine(path)), []);
  const orphan = await adoptOrphan();
  await until(() => processStat(orphan)?.state === "Z");
  const diagnosis = await examine(path);
  assertEquals(diagnosis.process?.zombies, [orphan]);
  assertEquals(bad(diagnosis), [finding(diagnosis, /^1 ended processes are zombies/)]);
  reap(orphan);
  assertEquals(bad(await examine(path)), []);
});

test("another process with a listener of the generation is a warning", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using app = await start(path, quiet);
  await app.ready();
  const { socket } = await examine(path);
  const name = `socket:[${socket!.inode}]`;
  const raw = openDescriptors().find((each) => describeDescriptor(each) === name)!;
  // The child inherits the listener.
  assertEquals(libc().fcntl(raw, c.F_SETFD, 0), 0);
  const child = new Deno.Command("sleep", { args: ["100"] }).spawn();
  assertEquals(libc().fcntl(raw, c.F_SETFD, c.FD_CLOEXEC), 0);
  try {
    const diagnosis = await examine(path);
    assertEquals(diagnosis.process?.others, [child.pid]);
    const [found] = bad(diagnosis);
    assertMatch(found.text, new RegExp(`^Process ${child.pid} \\(".*sleep 100"\\) runs beside`));
    assertEquals(found.advice, `If it has drained, end it by \`kill ${child.pid}\``);
  } finally {
    child.kill("SIGKILL");
    await child.status;
  }
  assertEquals(bad(await examine(path)), []);
});

/** Becomes the parent of a process that ends at once, and whose own parent has ended; gives its number. */
async function adoptOrphan(): Promise<number> {
  const subreaper = 36; // PR_SET_CHILD_SUBREAPER (prctl(2))
  const library = Deno.dlopen("libc.so.6", {
    prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
  });
  const { prctl } = library.symbols;
  assertEquals(prctl(subreaper, 1n, 0n, 0n, 0n), 0);
  try {
    // A shell gives /dev/null to a process in the background as its standard input.
    const line = "exec 3<&0; (read line <&3) >/dev/null & echo $!";
    const shell = new Deno.Command("sh", { args: ["-c", line], stdin: "piped", stdout: "piped" })
      .spawn();
    const reader = shell.stdout.getReader();
    const { value } = await reader.read();
    await reader.cancel();
    await shell.status;
    await shell.stdin.close();
    return Number(new TextDecoder().decode(value));
  } finally {
    prctl(subreaper, 0n, 0n, 0n, 0n);
    library.close();
  }
}
