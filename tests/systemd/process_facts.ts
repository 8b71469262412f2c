/**
 * The rules of messages, main processes, stops and reloads.
 *
 * @module
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { pathStatus, readText } from "../../ffi/file.ts";
import { soon } from "../support/until.ts";
import type { Fact } from "./actor.ts";

/** Messages, and the main process of a unit. */
export const mainProcessFacts: Fact[] = [
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
export const stopFacts: Fact[] = [
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
      assertEquals((await main.passed()).map(({ name }) => name), ["fails.socket"]);
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
