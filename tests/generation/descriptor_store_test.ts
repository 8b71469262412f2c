/**
 * The sockets that generations put into the store of a service manager, and start with after a crash.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { pathStatus, readLink } from "../../ffi/file.ts";
import { parseStoreName } from "../../lib/systemd/store_name.ts";
import { hasPython } from "../support/activation.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { freePort, reachable } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { Load } from "../support/load.ts";
import { ManagedService, type Told } from "../support/managed_service.ts";
import { asked, tcp } from "../support/unit_service.ts";
import { until } from "../support/until.ts";

const ignore = !hasPython;
if (ignore) console.log("descriptor_store_test.ts: without python3, there is no service manager");

/** The argument for a listener. */
function listener(
  port: number,
  { option = "serve", name }: { option?: string; name?: string } = {},
) {
  return [`--${option}`, JSON.stringify({ hostname: "127.0.0.1", port, name })];
}

/** Whether a process has a socket (proc(5)). */
function hasSocket(pid: number, inode: number): boolean {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].some(({ name }) =>
    readLink(`/proc/${pid}/fd/${name}`) === `socket:[${inode}]`
  );
}

/** The keys and names in the store after a message. */
function stored({ store }: Told): (string | undefined)[][] {
  return store.map((name) => {
    const { key, name: given } = parseStoreName(name)!;
    return given === undefined ? [key] : [key, given];
  }).sort();
}

/** The messages about the store. */
function ofStore({ told }: ManagedService): Told[] {
  return told.filter(({ text }) => text.startsWith("FDSTORE"));
}

test("a first generation stores its sockets when it is ready, those of a socket unit excepted", {
  ignore,
}, async () => {
  using directory = new Directory();
  const [web, dns, activated] = [freePort(), freePort(), freePort()];
  const path = directory.join("a:b.sock");
  const args = [
    ...listener(web, { name: "the web" }),
    ...listener(activated),
    ...["--serve", JSON.stringify({ path })],
    ...["--datagram", JSON.stringify({ transport: "udp", hostname: "127.0.0.1", port: dns })],
  ];
  const manager = ["--socket", `tcp:127.0.0.1:${activated}=app.socket`];
  await using service = new ManagedService(directory, args, { manager });
  const pid = await service.serving();
  while (ofStore(service).length < 3) await service.until(/^notify: /);
  const first = service.told.findIndex(({ text }) => text.startsWith("FDSTORE"));
  assert(service.told.slice(0, first).some(({ text }) => text.startsWith("READY=1")));
  for (const { text, sockets } of ofStore(service)) {
    assertMatch(text, /^FDSTORE=1\nFDNAME=graceful\?[!-9;-~]{1,240}\nFDPOLL=0$/);
    assertEquals(sockets.length, 1);
    assert(hasSocket(pid, sockets[0].inode));
  }
  const addresses = ofStore(service).map(({ sockets }) => sockets[0].address);
  // A path is bound under another name first.
  const [one, bound, other] = addresses;
  assertEquals([one, other], [["127.0.0.1", web], ["127.0.0.1", dns]]);
  assert((bound as string).startsWith(path));
  assertEquals(
    stored(service.told.at(-1)!),
    [
      [`127.0.0.1 ${dns}`],
      [`127.0.0.1 ${web}`, "the web"],
      [`unix ${path}`],
    ].sort(),
  );
  // A restart changes nothing in it.
  const count = ofStore(service).length;
  await service.command("restart");
  await service.serving(2);
  await service.heard(/^STATUS=Generation 2, .* serves$/);
  await service.command("stop");
  await service.toldOf(/^STOPPING=1/);
  assertEquals(ofStore(service).length, count);
});

test("a successor changes the store at the end of its probation, and not if it is rolled back", {
  ignore,
}, async () => {
  using directory = new Directory();
  const [both, former, later] = [freePort(), freePort(), freePort()];
  const args = [
    ...listener(both),
    ...listener(former, { option: "serveFirst" }),
    ...listener(later, { option: "serveLater" }),
    ...["--probation", "500"],
  ];
  await using service = new ManagedService(directory, args);
  await service.serving();
  const initial = [[`127.0.0.1 ${both}`], [`127.0.0.1 ${former}`]].sort();
  while (ofStore(service).length < 2) await service.until(/^notify: /);
  assertEquals(stored(service.told.at(-1)!), initial);
  const killed = cli("restart", service.control);
  Deno.kill(await service.serving(2), "SIGKILL");
  await service.toldOf(/has failed$/);
  await killed;
  assertEquals(stored(service.told.at(-1)!), initial);
  assertEquals(ofStore(service).length, 2);
  await service.command("restart");
  const next = await service.serving(2);
  await service.toldOf(/^FDSTORE=1/);
  const [remove, add, ...rest] = ofStore(service).slice(2);
  assertEquals([remove.pid, add.pid, rest], [next, next, []]);
  assertMatch(remove.text, new RegExp(`^FDSTOREREMOVE=1\nFDNAME=.*${former}`));
  assertEquals(add.sockets.map(({ address }) => address), [["127.0.0.1", later]]);
  assertEquals(stored(add), [[`127.0.0.1 ${both}`], [`127.0.0.1 ${later}`]].sort());
  const proven = service.told.findIndex(({ pid, text }) => pid === next && / serves$/.test(text));
  assert(service.told.indexOf(remove) > proven);
  // Nothing holds the dropped address any more.
  await service.until("finished: 1");
  await until(async () => !await reachable(former));
});

test(
  "a listener that the program closes is taken out of the store at once",
  { ignore },
  async () => {
    using directory = new Directory();
    const [closed, other, added] = [freePort(), freePort(), freePort()];
    const args = [...listener(closed), ...listener(other)];
    await using service = new ManagedService(directory, args);
    await service.serving();
    while (ofStore(service).length < 2) await service.until(/^notify: /);
    const began = performance.now();
    await service.tell("close");
    const removed = await service.toldOf(/^FDSTOREREMOVE=1/);
    // Not by the timer that looks after the paths: until then clients would wait in its queue.
    assert(performance.now() - began < 5000);
    assertEquals(stored(removed), [[`127.0.0.1 ${other}`]]);
    await until(async () => !await reachable(closed));
    // A new one is stored at once too, and the same address again.
    for (const port of [added, closed]) {
      await service.tell(`bind {"hostname":"127.0.0.1","port":${port}}`);
      const told = await service.toldOf(/^FDSTORE=1/);
      assertEquals(told.sockets.map(({ address }) => address), [["127.0.0.1", port]]);
    }
  },
);

test(
  "an address is bound again in the turn in which its listener was closed",
  { ignore },
  async () => {
    using directory = new Directory();
    const port = freePort();
    await using service = new ManagedService(directory, listener(port, { option: "listen" }));
    await service.serving();
    const first = await service.heard(/^FDSTORE=1/);
    await service.tell(`rebind {"hostname":"127.0.0.1","port":${port}}`);
    await service.until(/^bound: /);
    while (ofStore(service).length < 3) await service.until(/^notify: /);
    const { sockets, store } = ofStore(service)[2];
    assertEquals([sockets[0].address, store.length], [["127.0.0.1", port], 1]);
    assert(sockets[0].inode !== first.sockets[0].inode);
  },
);

test("sockets that were asked for by the same words are all stored", { ignore }, async () => {
  using directory = new Directory();
  const args = [...listener(0), ...listener(0), ...listener(0, { name: "third" })];
  await using service = new ManagedService(directory, args);
  const bound: number[] = [];
  for (let i = 0; i < 3; i++) {
    bound.push(JSON.parse((await service.until(/^bound: /)).slice(7)).port);
  }
  const pid = await service.serving();
  while (ofStore(service).length < 3) await service.until(/^notify: /);
  const ports = ofStore(service).map(({ sockets }) => (sockets[0].address as [string, number])[1]);
  assertEquals(ports.sort(), bound.toSorted());
  Deno.kill(pid, "SIGKILL");
  await service.until(`ended: ${pid} -9`);
  await service.tell("start");
  await service.serving();
  await service.heard(/serves$/);
  for (const port of bound) assert(await reachable(port));
  assertEquals(await asked(tcp(bound[2])), "1 third");
  assertEquals(service.told.at(-1)!.store.length, 3);
});

test("of two sockets with one name in the store, the closed one is taken out", {
  ignore,
}, async () => {
  using directory = new Directory();
  await using service = new ManagedService(directory, [...listener(0), ...listener(0)]);
  await service.serving();
  while (ofStore(service).length < 2) await service.until(/^notify: /);
  const [closed, left] = ofStore(service).map(({ sockets }) => sockets[0].inode);
  await service.tell("close");
  const { store, sockets } = await service.toldOf(/^FDSTORE=1/);
  assertEquals([store.length, sockets[0].inode], [1, left]);
  assert(closed !== left);
});

test("a unix path that is too long for a name in the store is found after a crash", {
  ignore,
}, async () => {
  using directory = new Directory();
  // Nine characters of a name for each "€".
  const path = directory.join("€".repeat(Math.floor((101 - directory.path.length) / 3)));
  await using service = new ManagedService(directory, ["--serve", JSON.stringify({ path })]);
  const pid = await service.serving();
  const { text } = ofStore(service)[0] ?? await service.toldOf(/^FDSTORE=1/);
  assertEquals(parseStoreName(/FDNAME=(.*)/.exec(text)![1])?.key, undefined);
  const { ino } = pathStatus(path)!;
  Deno.kill(pid, "SIGKILL");
  await service.until(`ended: ${pid} -9`);
  await service.tell("start");
  await service.serving();
  assertEquals(await asked({ transport: "unix", path }), "1");
  assertEquals(pathStatus(path)?.ino, ino);
  await service.command("stop");
  assertEquals(service.told.at(-1)!.store.length, 1);
});

/** Kills a service, starts it again, and gives the number of requests that were refused meanwhile. */
async function crashes(service: ManagedService, port: number, times: number): Promise<number> {
  let pid = await service.serving();
  const load = new Load(tcp(port));
  for (let i = 0; i < times; i++) {
    await load.more(50);
    await service.heard(/serves$/);
    Deno.kill(pid, "SIGKILL");
    await service.until(`ended: ${pid} -9`);
    await service.tell("start");
    pid = await service.serving();
  }
  await load.more(50);
  const refused = await load.stop(/ConnectionRefused/);
  assert(load.answers.size > times);
  return refused;
}

test(
  "kill -9 and a start with the stored sockets: no connection is refused",
  { ignore },
  async () => {
    using directory = new Directory();
    const port = freePort();
    const path = directory.join("app.sock");
    const args = [...listener(port), "--serve", JSON.stringify({ path })];
    await using service = new ManagedService(directory, args);
    assertEquals(await crashes(service, port, 3), 0);
    // The same socket, found by its name in the store, and its path is the service's own.
    assertEquals(await asked({ transport: "unix", path }), "1");
    assertEquals(service.told.at(-1)!.store.length, 2);
    const inodes = ofStore(service).flatMap(({ sockets }) => sockets.map(({ inode }) => inode));
    assertEquals(new Set(inodes).size, 2);
    // The path stays as long as the manager listens there: a start finds it again.
    await service.command("restart");
    const pid = await service.serving(2);
    await service.until("finished: 1");
    await service.command("stop");
    await service.until(`ended: ${pid} 0`);
    assertEquals(pathStatus(path)?.kind, "socket");
    await service.tell("start");
    const last = await service.serving();
    assertEquals(await asked({ transport: "unix", path }), "1");
    await service.command("stop");
    await service.until(`ended: ${last} 0`);
    // Without the store it is of no use, and in nobody's way.
    await service.tell("forget");
    await service.until("forgotten");
    await service.tell("start");
    await service.serving();
    assertEquals(await asked({ transport: "unix", path }), "1");
  },
);

test("a control: without the store, connections are refused meanwhile", { ignore }, async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new ManagedService(directory, listener(port), { manager: ["--no-store"] });
  assert(await crashes(service, port, 2) > 0);
});

test("a later generation that is killed leaves the store of its service", { ignore }, async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new ManagedService(directory, listener(port, { name: "web" }));
  await service.serving();
  await service.command("restart");
  const pid = await service.serving(2);
  await service.until("finished: 1");
  const load = new Load(tcp(port));
  await load.more(20);
  Deno.kill(pid, "SIGKILL");
  await service.until(`ended: ${pid} -9`);
  await service.tell("start");
  await service.serving();
  await load.more(20);
  assertEquals(await load.stop(/ConnectionRefused/), 0);
  assertEquals(await asked(tcp(port)), "1 web");
});

test(
  "a stored socket that is not asked for after a crash is closed, and taken out",
  { ignore },
  async () => {
    using directory = new Directory();
    const [kept, former] = [freePort(), freePort()];
    // After a crash, the program asks for another address than before: `serveFirst` is read from a file.
    const asksFor = directory.join("addresses");
    const write = (ports: number[]) =>
      Deno.writeTextFileSync(
        asksFor,
        JSON.stringify(ports.map((port) => ({ hostname: "127.0.0.1", port }))),
      );
    write([kept, former]);
    await using service = new ManagedService(directory, ["--serveFile", asksFor]);
    const pid = await service.serving();
    while (ofStore(service).length < 2) await service.until(/^notify: /);
    write([kept]);
    Deno.kill(pid, "SIGKILL");
    await service.until(`ended: ${pid} -9`);
    await service.tell("start");
    assertMatch(await service.until(/^warning: /), new RegExp(`service manager .*${former}`));
    const removed = await service.toldOf(/^FDSTOREREMOVE=1/);
    assertEquals(stored(removed), [[`127.0.0.1 ${kept}`]]);
    await until(async () => !await reachable(former));
  },
);
