/**
 * The rules of socket units, and of the store of descriptors.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { soon } from "../support/until.ts";
import type { Actor, Fact } from "./actor.ts";

/** A store of so many descriptors. */
const store = (size = 10) => [`FileDescriptorStoreMax=${size}`, "Restart=on-failure"];

async function put(actor: Actor, name: string): Promise<void> {
  await actor.ask("listen", name);
  await actor.notify(`FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`, name);
}

const names = async (actor: Actor) => (await actor.passed()).map(({ name }) => name);

/** Socket units and the store. */
export const storeFacts: Fact[] = [
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
