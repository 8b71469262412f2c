import { assert, assertEquals, assertMatch } from "@std/assert";
import { listenFds } from "../../mod.ts";
import { activated, hasPython } from "../support/activation.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { MessageLog } from "../support/kept_log.ts";

const ignore = !hasPython;
if (ignore) console.log("listen_fds_test.ts: without python3, no process gets descriptors");

/** What `listen_fds.ts` prints. */
interface Printed {
  pid: number;
  milliseconds: number;
  taken: {
    raw: number;
    name: string;
    senderPid?: number;
    address?: Deno.NetAddr | Deno.UnixAddr;
    keptOnExec: boolean;
    nonblocking: boolean;
  }[];
  again: number;
  warnings: string[];
  variables: string[];
  childVariables: number;
  childSockets: number;
  lost: unknown[];
  closed: unknown[];
}

/**
 * Runs the program with descriptors; checks what holds for every start.
 *
 * @param options.untaken The number of sockets that are not taken, and stay as they are.
 */
async function run(through: string[], { untaken = 0 } = {}): Promise<Printed> {
  await using child = new Child("./listen_fds.ts", [], { through });
  const printed: Printed = JSON.parse(await child.line());
  const { code, stderr } = await child.ended();
  assertEquals([code, stderr], [0, ""]);
  const { again, variables, childVariables, childSockets, lost, closed } = printed;
  assertEquals({ again, variables, childVariables, childSockets, lost, closed }, {
    again: 0,
    variables: [],
    childVariables: 0,
    childSockets: untaken,
    lost: [],
    closed: [],
  });
  for (const { keptOnExec } of printed.taken) assertEquals(keptOnExec, false);
  return printed;
}

/** The numbers and names of the descriptors. */
function named({ taken }: Printed): [number, string][] {
  return taken.map(({ raw, name }) => [raw, name]);
}

test("without LISTEN_FDS there are none, and nothing is warned about", () => {
  const logger = new MessageLog();
  assertEquals([listenFds({ logger }), logger.warnings], [[], []]);
});

test("descriptors have their numbers, names and sockets", { ignore }, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  const printed = await run(
    activated(`tcp:127.0.0.1:${port}=web`, `unix:${path}=app.socket`, `udp:127.0.0.1:${port}=web`),
  );
  assertEquals(named(printed), [[3, "web"], [4, "app.socket"], [5, "web"]]);
  const [tcp, unix, udp] = printed.taken.map(({ address }) => address!);
  assertEquals([(tcp as Deno.NetAddr).port, (unix as Deno.UnixAddr).path], [port, path]);
  assertEquals((udp as Deno.NetAddr).transport, "udp");
  assertEquals(printed.warnings, []);
  // Processes of the manager may clear O_NONBLOCK.
  assertEquals(printed.taken.map(({ senderPid }) => senderPid), [0, 0, 0]);
});

test(
  "missing names are `unknown`, and names beyond the count are ignored",
  { ignore },
  async () => {
    const sockets = ["tcp:127.0.0.1:0", "tcp:127.0.0.1:0"];
    assertEquals(named(await run(activated("--unnamed", ...sockets))), [[3, "unknown"], [
      4,
      "unknown",
    ]]);
    const few = await run(activated(...sockets.map((each, i) => i === 0 ? `${each}=one` : each)));
    assertEquals(named(few), [[3, "one"], [4, "unknown"]]);
    const set = [...activated("--unnamed", ...sockets), "env", "LISTEN_FDNAMES=a::c:d"];
    assertEquals(named(await run(set)), [[3, "a"], [4, ""]]);
  },
);

test("a pipe and a file are taken as they are", { ignore }, async () => {
  using directory = new Directory();
  const printed = await run(activated("pipe:text=p", `file:${directory.join("f")}=f`));
  assertEquals(named(printed), [[3, "p"], [4, "f"]]);
  assertEquals(printed.taken.map(({ senderPid }) => senderPid), [undefined, undefined]);
  assertEquals(printed.warnings, []);
});

test("a shell that has LISTEN_PID passes sockets on to the program", { ignore }, async () => {
  const shell = ["sh", "-c", '"$@"; exit', "sh"];
  const printed = await run([...activated("tcp:127.0.0.1:0=web", "tcp:127.0.0.1:0=b"), ...shell]);
  assertEquals(named(printed), [[3, "web"], [4, "b"]]);
  assertEquals(printed.warnings, []);
});

test("variables without descriptors give none and one warning", { ignore }, async () => {
  // As npx does it: 3 and 4 are Deno's own by then, and stay open.
  for (const pid of ["1", "x", ""]) {
    const printed = await run(activated("--pid", pid, "--count", "2", "none"));
    assertEquals(printed.taken, []);
    assertEquals(printed.warnings.length, 1);
    assertMatch(
      printed.warnings[0],
      /^Not taking .* LISTEN_FDS=2, .* not open here\. Have .* not npx/,
    );
  }
});

test("of another LISTEN_PID, all are taken or none", { ignore }, async () => {
  const printed = await run(activated("--pid", "1", "--count", "2", "tcp:127.0.0.1:0"), {
    untaken: 1,
  });
  assertEquals([printed.taken, printed.warnings.length], [[], 1]);
});

test("descriptors that Deno has opened itself are never taken", { ignore }, async () => {
  // LISTEN_PID is right, and LISTEN_FDS wrong: 4 and 5 are Deno's.
  const printed = await run(activated("--count", "3", "tcp:127.0.0.1:0=web"));
  assertEquals(named(printed), [[3, "web"]]);
  assertEquals(printed.warnings.length, 1);
  assertMatch(printed.warnings[0], /^Not taking all .*LISTEN_FDS=3.*: 4, 5 were not/);
});

test("counts that are no numbers give none and one warning", { ignore }, async () => {
  for (const count of ["", "-1", "1.5", "0x1", "one", " 1", "1e1", "99999999999999999999"]) {
    const printed = await run(activated("--count", count, "tcp:127.0.0.1:0"), { untaken: 1 });
    assertEquals([printed.taken, printed.warnings.length], [[], 1], count);
    assertMatch(printed.warnings[0], /that is no number of descriptors$/);
  }
});

test("0 descriptors are no reason for a warning", { ignore }, async () => {
  const printed = await run(activated("none"));
  assertEquals([printed.taken, printed.warnings], [[], []]);
});

test("a count that is far too high costs neither time nor a long warning", { ignore }, async () => {
  const one = await run(activated("tcp:127.0.0.1:0"));
  const printed = await run(activated("--count", "999999", "tcp:127.0.0.1:0=web"));
  assertEquals(named(printed), [[3, "web"]]);
  assert(printed.warnings.length === 1 && printed.warnings[0].length < 300);
  assert(printed.milliseconds < 100 * one.milliseconds + 1000, `${printed.milliseconds} ms`);
});

test("only sockets that the store has not kept are guarded", { ignore }, async () => {
  const name = "graceful?kind=listener&key=127.0.0.1+0";
  const printed = await run(activated("tcp:127.0.0.1:0=web", `tcp:127.0.0.1:0=${name}`));
  assertEquals(printed.taken.map(({ senderPid }) => senderPid), [0, undefined]);
});

test(
  "O_NONBLOCK of a native listener is set again; a stored one keeps its flags",
  { ignore },
  async () => {
    for (const [name, isGuarded] of [["web", true], ["graceful?kind=listener", false]] as const) {
      const through = activated(`tcp:127.0.0.1:0=${name}`);
      await using child = new Child("./listen_fds.ts", ["--hold"], { through });
      await child.until("held");
      await child.tell("block");
      assertEquals(await child.line(), "false");
      if (isGuarded) {
        do await child.tell("how is it?"); while (await child.line() !== "true");
      } else {
        // The guard looks ten times a second.
        await new Promise((resolve) => setTimeout(resolve, 500));
        await child.tell("how is it?");
        assertEquals(await child.line(), "false");
      }
      await child.tell("end");
      assertEquals((await child.ended()).code, 0);
    }
  },
);
