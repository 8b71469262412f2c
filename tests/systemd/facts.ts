/**
 * What the library relies on in systemd, tried without the library.
 *
 * @module
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { pathStatus, readText } from "../../ffi/file.ts";
import { soon } from "../support/until.ts";
import type { Actor, Stage } from "./actor.ts";

/** A rule of systemd. */
export interface Fact {
  rule: string;
  check: (stage: Stage) => Promise<void>;
}

/** A store of so many descriptors. */
const store = (size = 10) => [`FileDescriptorStoreMax=${size}`, "Restart=on-failure"];

async function put(actor: Actor, name: string): Promise<void> {
  await actor.ask("listen", name);
  await actor.notify(`FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`, name);
}

const names = async (actor: Actor) => (await actor.passed()).map(({ name }) => name);

/** Messages, and the main process of a unit. */
const mainProcessFacts: Fact[] = [
  {
    rule: "NotifyAccess=main drops the messages of a child, NotifyAccess=all reads them",
    check: async (stage) => {
      for (const access of ["main", "all"]) {
        const name = `access-${access}`;
        const main = await stage.start(name, [`NotifyAccess=${access}`]);
        const pid = await main.ask("spawn", `${name}-child`);
        const child = stage.actor(`${name}-child`);
        await child.notify(`MAINPID=${pid}`);
        if (access === "main") await stage.heard(name, main);
        else await stage.heard(name, child);
        const expected = access === "main" ? await main.pid() : pid;
        assertEquals(await stage.property(name, "MainPID"), String(expected));
      }
    },
  },
  {
    rule: "with NotifyAccess=main the old main process is not heard after MAINPID=, the new one is",
    check: async (stage) => {
      const main = await stage.start("moved", ["NotifyAccess=main"]);
      const pid = await main.ask("spawn", "moved-child");
      await main.notify(`MAINPID=${pid}`);
      await main.notify("STOPPING=1");
      await stage.heard("moved", stage.actor("moved-child"));
      assertEquals(await stage.property("moved", "ActiveState"), "active");
    },
  },
  {
    rule: "the last message of a process that ends at once is heard",
    check: async (stage) => {
      const main = await stage.start("last-word");
      for (const number of [1, 2, 3]) {
        await main.ask("spawn", `last-word-${number}`);
        await stage.actor(`last-word-${number}`).ask("last_word", `STATUS=word ${number}`);
        await stage.is("last-word", "StatusText", `word ${number}`);
      }
    },
  },
  {
    rule: "STOPPING=1 of a process that is not the main one ends the whole unit",
    check: async (stage) => {
      const main = await stage.start("stopping", ["TimeoutStopSec=1"]);
      await main.ask("orphan", "stopping-next");
      const next = stage.actor("stopping-next");
      await main.notify(`MAINPID=${await next.pid()}`);
      await main.notify("STOPPING=1");
      await stage.is("stopping", "ActiveState", "deactivating");
      await next.notify("READY=1");
      await stage.is("stopping", "Result", "timeout");
    },
  },
  {
    rule: "stop does not wait for a main process that is no child of systemd",
    check: async (stage) => {
      const main = await stage.start("alien");
      const pid = await main.ask("spawn", "alien-child");
      const child = stage.actor("alien-child");
      await child.ask("term", { delay: 1 });
      await child.notify(`MAINPID=${pid}`);
      await stage.heard("alien", child);
      assert(await stage.isAlien("alien"));
      await main.ask("exit", 0);
      await soon(() => stage.systemd.processes("alien.service").length === 1);
      const took = await stage.stop("alien");
      assert(took < 500, `it took ${took} ms`);
      assertEquals(child.terms(), []);
    },
  },
  {
    rule: "MAINPID= of another process, and then of itself, makes the orphan a child",
    check: async (stage) => {
      const main = await stage.start("dance");
      const pid = await main.ask("spawn", "dance-child");
      const child = stage.actor("dance-child");
      await child.ask("term", { delay: 1 });
      await child.notify(`MAINPID=${pid}`);
      await stage.heard("dance", child);
      await main.ask("exit", 0);
      await soon(() => stage.systemd.processes("dance.service").length === 1);
      const other = await child.ask("spawn", "dance-other");
      await child.notify(`MAINPID=${other}`);
      await child.notify(`MAINPID=${pid}`);
      await stage.heard("dance", child);
      await stage.actor("dance-other").ask("exit", 0);
      const took = await stage.stop("dance");
      assert(took > 900, `it took ${took} ms`);
      assertEquals(child.terms().length, 1);
    },
  },
  {
    rule: "an orphan is a child of systemd from the start: stop waits for it",
    check: async (stage) => {
      const main = await stage.start("orphan");
      await main.ask("orphan", "orphan-next");
      const next = stage.actor("orphan-next");
      await next.ask("term", { delay: 1 });
      await main.notify(`MAINPID=${await next.pid()}`);
      await stage.heard("orphan", next);
      await main.ask("exit", 0);
      await soon(() => stage.systemd.processes("orphan.service").length === 1);
      assert(!await stage.isAlien("orphan"));
      const took = await stage.stop("orphan");
      assert(took > 900, `it took ${took} ms`);
    },
  },
  {
    rule: "when the main process ends, the process in the PID file takes its place",
    check: async (stage) => {
      for (const how of ["exit", "kill"]) {
        const name = `pid-file-${how}`;
        const file = `${stage.path}/${name}.pid`;
        const main = await stage.start(name, [`PIDFile=${file}`, "Restart=on-failure"]);
        await main.ask("orphan", `${name}-next`);
        const next = stage.actor(`${name}-next`);
        const pid = await next.pid();
        await Deno.writeTextFile(file, `${pid}\n`);
        const before = await main.pid();
        if (how === "exit") await main.ask("exit", 0);
        else stage.systemd.kill(`${name}.service`, before, "SIGKILL");
        await stage.is(name, "MainPID", String(pid));
        assertEquals(await stage.property(name, "ActiveState"), "active");
        assertEquals(await stage.property(name, "NRestarts"), "0");
        assert(!await stage.isAlien(name));
        await stage.stop(name);
        assertEquals(pathStatus(file), undefined);
      }
    },
  },
  {
    rule: "the PID file is read when ExecReload= ends: an orphan there is no alien",
    check: async (stage) => {
      const file = `${stage.path}/reload.pid`;
      const settings = [`PIDFile=${file}`, "ExecReload=/bin/true"];
      const main = await stage.start("reload", settings);
      await main.ask("orphan", "reload-next");
      const next = await stage.actor("reload-next").pid();
      await Deno.writeTextFile(file, `${next}\n`);
      await stage.systemd.systemctl("reload", "reload.service");
      await stage.is("reload", "MainPID", String(next));
      assert(!await stage.isAlien("reload"));
    },
  },
  {
    rule: "a main process that is killed without a PID file takes the others with it",
    check: async (stage) => {
      const main = await stage.start("together");
      await main.ask("orphan", "together-next");
      await stage.actor("together-next").pid();
      stage.systemd.kill("together.service", await main.pid(), "SIGKILL");
      await stage.is("together", "ActiveState", "failed");
      assertEquals(stage.systemd.processes("together.service"), []);
    },
  },
];

/** Stop and reload. */
const stopFacts: Fact[] = [
  {
    rule: "KillMode=mixed kills the others the moment that the main process has ended",
    check: async (stage) => {
      const main = await stage.start("mixed", ["KillMode=mixed"]);
      await main.ask("orphan", "mixed-other");
      const other = stage.actor("mixed-other");
      await other.ask("term", { delay: 1 });
      const took = await stage.stop("mixed");
      assert(took < 500, `it took ${took} ms`);
      assertEquals(other.terms(), []);
    },
  },
  {
    rule:
      "KillMode=control-group waits for all, and sends SIGTERM again when the main process has ended",
    check: async (stage) => {
      const main = await stage.start("group");
      await main.ask("term", { delay: 0.3 });
      await main.ask("orphan", "group-other");
      const other = stage.actor("group-other");
      await other.ask("term", { delay: 1 });
      const took = await stage.stop("group");
      assert(took > 900, `it took ${took} ms`);
      assertEquals(main.terms().length, 1);
      assertEquals(other.terms().length, 2);
    },
  },
  {
    rule: "EXTEND_TIMEOUT_USEC extends a stop beyond TimeoutStopSec=",
    check: async (stage) => {
      const main = await stage.start("extend", ["TimeoutStopSec=1"]);
      await main.ask("term", { delay: 2, extend: 1_000_000 });
      const took = await stage.stop("extend");
      assert(took > 1900, `it took ${took} ms`);
      assertEquals(await stage.property("extend", "Result"), "success");
    },
  },
  {
    rule:
      "a reload fails with its command, which has NOTIFY_SOCKET and MAINPID, and not LISTEN_FDS",
    check: async (stage) => {
      const command = `ExecReload=/bin/sh -c 'env > ${stage.path}/reload.env; exit 3'`;
      const sockets = { "fails.socket": ["ListenStream=127.0.0.1:7001"] };
      const main = await stage.start("fails", [command], { sockets });
      assertEquals(await names(main), ["fails.socket"]);
      const { code } = await stage.systemd.run("systemctl", "reload", "fails.service");
      assertNotEquals(code, 0);
      assertEquals(await stage.property("fails", "ActiveState"), "active");
      const text = readText(`${stage.path}/reload.env`);
      const variables = new Map(
        text!.split("\n").map((line) => line.split(/=(.*)/) as [string, string]),
      );
      assert(variables.has("NOTIFY_SOCKET"));
      assertEquals(variables.get("MAINPID"), String(await main.pid()));
      assert(!variables.has("LISTEN_FDS"));
    },
  },
];

/** Socket units and the store. */
const storeFacts: Fact[] = [
  {
    rule: "the store gives its descriptors after those of socket units, the last stored one first",
    check: async (stage) => {
      const sockets = { "order.socket": ["ListenStream=127.0.0.1:7002"] };
      const main = await stage.start("order", store(), { sockets });
      for (const name of ["a", "b", "c"]) await put(main, name);
      await stage.heard("order", main);
      await stage.crash("order", main);
      assertEquals(await names(main), ["order.socket", "c", "b", "a"]);
      const kept = await main.passed();
      assertEquals(kept.map(({ cloexec }) => cloexec), [false, false, false, false]);
    },
  },
  {
    rule:
      'a descriptor without a name, with ":" in it or with more than 255 bytes is called "stored"',
    check: async (stage) => {
      const main = await stage.start("called", store());
      for (
        const fdname of ["", "FDNAME=a:b", `FDNAME=${"x".repeat(256)}`, `FDNAME=${"y".repeat(255)}`]
      ) {
        await main.ask("listen", "one");
        await main.notify(`FDSTORE=1\nFDPOLL=0\n${fdname}`, "one");
      }
      await stage.heard("called", main);
      await stage.crash("called", main);
      assertEquals((await names(main)).sort(), ["stored", "stored", "stored", "y".repeat(255)]);
    },
  },
  {
    rule: "without FileDescriptorStoreMax= nothing is stored",
    check: async (stage) => {
      const main = await stage.start("no-store");
      await put(main, "a");
      await stage.heard("no-store", main);
      assertEquals(await stage.property("no-store", "NFileDescriptorStore"), "0");
    },
  },
  {
    rule: "the same open file is stored once, under its first name, until FDSTOREREMOVE",
    check: async (stage) => {
      const main = await stage.start("same", store());
      await put(main, "first");
      await main.notify("FDSTORE=1\nFDNAME=second\nFDPOLL=0", "first");
      await stage.heard("same", main);
      assertEquals(await stage.property("same", "NFileDescriptorStore"), "1");
      await stage.crash("same", main);
      assertEquals(await names(main), ["first"]);
      await main.notify("FDSTOREREMOVE=1\nFDNAME=first");
      await stage.heard("same", main);
      assertEquals(await stage.property("same", "NFileDescriptorStore"), "0");
    },
  },
  {
    rule: "a pipe whose other end is closed leaves the store, unless FDPOLL=0",
    check: async (stage) => {
      const main = await stage.start("poll", store());
      await main.ask("pipe", "polled");
      await main.ask("pipe", "kept");
      await main.notify("FDSTORE=1\nFDNAME=polled", "polled");
      await main.notify("FDSTORE=1\nFDNAME=kept\nFDPOLL=0", "kept");
      await stage.heard("poll", main);
      await stage.is("poll", "NFileDescriptorStore", "1");
      await stage.crash("poll", main);
      assertEquals(await names(main), ["kept"]);
    },
  },
  {
    rule: "the store survives a crash, restart and daemon-reexec, and not stop and start",
    check: async (stage) => {
      const main = await stage.start("survives", store());
      await put(main, "a");
      await stage.heard("survives", main);
      await stage.crash("survives", main);
      assertEquals(await names(main), ["a"]);
      const restarting = stage.systemd.systemctl("restart", "survives.service");
      const before = await main.pid();
      await soon(async () => {
        const now = Number(await stage.property("survives", "MainPID"));
        return now !== 0 && now !== before;
      });
      await main.notify("READY=1");
      await restarting;
      assertEquals(await names(main), ["a"]);
      await stage.systemd.systemctl("daemon-reexec");
      await stage.crash("survives", main);
      assertEquals(await names(main), ["a"]);
      await stage.stop("survives");
      await stage.systemd.systemctl("start", "--no-block", "survives.service");
      await main.notify("READY=1");
      assertEquals(await names(main), []);
    },
  },
  {
    rule: "a crash loop that reaches StartLimitBurst= drops the store",
    check: async (stage) => {
      const unit = ["StartLimitIntervalSec=100", "StartLimitBurst=1"];
      const main = await stage.start("burst", store(), { unit });
      await put(main, "a");
      await stage.heard("burst", main);
      stage.systemd.kill("burst.service", await main.pid(), "SIGKILL");
      await stage.is("burst", "ActiveState", "failed");
      assertEquals(await stage.property("burst", "NFileDescriptorStore"), "0");
    },
  },
  {
    rule: "a crash loop that reaches StartLimitBurst= fails the socket unit as well",
    check: async (stage) => {
      const sockets = { "gives-up.socket": ["ListenStream=127.0.0.1:7004"] };
      const unit = ["StartLimitIntervalSec=100", "StartLimitBurst=1"];
      const main = await stage.start("gives-up", ["Restart=on-failure"], { sockets, unit });
      stage.systemd.kill("gives-up.service", await main.pid(), "SIGKILL");
      await stage.is("gives-up", "ActiveState", "failed");
      await soon(async () =>
        await stage.systemd.property("gives-up.socket", "Result") === "service-start-limit-hit"
      );
      const connect = ["bash", "-c", ": < /dev/tcp/127.0.0.1/7004"];
      assertEquals((await stage.systemd.run(...connect)).code, 1);
    },
  },
  {
    rule: "a message has 253 descriptors at most, 4000 bytes pass, and 5000 are dropped",
    check: async (stage) => {
      const main = await stage.start("large", [...store(300), "LimitNOFILE=2000"]);
      await main.ask("files", "many", 253);
      await main.notify("FDSTORE=1\nFDNAME=many\nFDPOLL=0", "many");
      await stage.is("large", "NFileDescriptorStore", "253");
      const passes = `STATUS=${"p".repeat(4000 - 7)}`;
      await main.notify(passes);
      await stage.is("large", "StatusText", passes.slice(7));
      await main.notify(`STATUS=${"d".repeat(5000 - 7)}`);
      await main.notify("FDSTOREREMOVE=1\nFDNAME=many");
      await stage.is("large", "NFileDescriptorStore", "0");
      assertEquals(await stage.property("large", "StatusText"), passes.slice(7));
    },
  },
  {
    rule:
      "a start of any service of a socket unit clears O_NONBLOCK of the socket, unless it has NonBlocking=yes",
    check: async (stage) => {
      const sockets = {
        "shared.socket": ["ListenStream=127.0.0.1:7003", "Service=shared.service"],
      };
      const main = await stage.start("shared", [], { sockets });
      assertEquals((await main.passed())[0].blocking, true);
      for (const nonBlocking of ["yes", "no"]) {
        await main.ask("blocking", 3, false);
        const settings = ["Sockets=shared.socket", `NonBlocking=${nonBlocking}`];
        await stage.start(`sharing-${nonBlocking}`, settings);
        assertEquals(await main.ask("is_blocking", 3), nonBlocking === "no");
      }
    },
  },
  {
    rule: "stored descriptors keep O_NONBLOCK",
    check: async (stage) => {
      const main = await stage.start("flag", store());
      await main.ask("listen", "a");
      await main.notify("FDSTORE=1\nFDNAME=a\nFDPOLL=0", "a");
      await stage.heard("flag", main);
      await stage.crash("flag", main);
      await main.ask("blocking", 3, false);
      await stage.crash("flag", main);
      assertEquals((await main.passed())[0].blocking, false);
    },
  },
  {
    rule:
      "the unix path of a socket unit stays after a stop of the service, and activates it again",
    check: async (stage) => {
      const path = `${stage.path}/activated.socket`;
      await stage.start("path", [], { sockets: { "path.socket": [`ListenStream=${path}`] } });
      const { ino } = await Deno.stat(path);
      await stage.stop("path");
      assertEquals((await Deno.stat(path)).ino, ino);
      using _conn = await Deno.connect({ transport: "unix", path });
      await stage.actor("path").notify("READY=1");
      await stage.is("path", "ActiveState", "active");
    },
  },
];

/** All rules, in the order in which they are tried. */
export const facts: Fact[] = [...mainProcessFacts, ...stopFacts, ...storeFacts];
