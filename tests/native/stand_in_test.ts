/**
 * What an object stands on for an instant, before it gets the descriptor that is adopted, needs no more
 * than the kind that it stands in for.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { Child, type Ended } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

/** Runs a command where something is missing. */
interface Sandbox {
  through: string[];
  /** Why it cannot be had here, if so. */
  missing: string | undefined;
}

/** A network namespace of its own, in which `setup` ran before. */
function network(setup: string[] = []): Sandbox {
  const through = (command: string[]) => [
    "unshare",
    "--net",
    "sh",
    "-c",
    [...command, 'exec "$0" "$@"'].join(" && "),
  ];
  return { through: through(setup), missing: failure([...through(setup), "true"]) };
}

/** A process that can make no socket of these families. */
function without(...families: number[]): Sandbox {
  const script = new URL("../programs/without_family.py", import.meta.url).pathname;
  const through = ["python3", script, families.join()];
  return { through, missing: failure([...through, "true"]) };
}

function failure([program, ...args]: string[]): string | undefined {
  try {
    const { success, stderr } = new Deno.Command(program, { args, stdout: "null" }).outputSync();
    return success ? undefined : new TextDecoder().decode(stderr).trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return `${program} is not installed`;
    throw error;
  }
}

const up = "ip link set lo up";
const elsewhere = "ip addr add 10.9.9.1/32 dev lo";
const link = "ip link add v0 type veth peer name v1";
const ownInterface = [link, "ip addr add 10.9.9.1/32 dev v0", "ip link set v0 up"];
const filter = (target: string) => `iptables -A OUTPUT -d 127.0.0.0/8 ${target}`;
const fewPorts = "echo 40000 40031 > /proc/sys/net/ipv4/ip_local_port_range";

const isolated = network();
const filtered = network([up, elsewhere, filter("-j DROP")]);
const refused = network([up, elsewhere, filter("-j REJECT")]);
const reset = network([up, elsewhere, filter("-p tcp -j REJECT --reject-with tcp-reset")]);
const elsewhereOnly = network([up, elsewhere, "ip addr del 127.0.0.1/8 dev lo"]);
const linked = network([up, ...ownInterface]);
const crowded = network([up, fewPorts]);

async function sandboxed(
  { through }: Sandbox,
  args: string[],
  permissions = ["-A"],
): Promise<Ended> {
  const deno = ["run", ...permissions, "--no-prompt", "--unstable-net", "--no-check"];
  await using child = new Child("./stand_ins.ts", args, { deno, through });
  return await child.ended();
}

function seenIn({ code, stdout, stderr }: Ended): unknown {
  assertEquals([code, stderr], [0, ""], stderr);
  return JSON.parse(stdout[0]);
}

const uses = { listener: "hello", http: "hello", conn: "hello" };
const unixUses = { ...uses, datagram: "unixpacket" };
const ipUses = { ...uses, datagram: "udp" };

const adopted: [string, Sandbox, string[], Record<string, string>][] = [
  ["unix sockets with no interface up", isolated, ["unix"], unixUses],
  ["unix sockets where no socket of IP can be made", without(2, 10), ["unix"], unixUses],
  ["unix sockets with packets to loopback dropped", filtered, ["unix"], unixUses],
  ["TCP and UDP with packets to loopback dropped", filtered, ["10.9.9.1"], ipUses],
  ["TCP and UDP with packets to loopback refused", refused, ["10.9.9.1"], ipUses],
  ["TCP and UDP with connections to loopback reset", reset, ["10.9.9.1"], ipUses],
  ["TCP and UDP with the loopback interface down", linked, ["10.9.9.1", "loopback"], ipUses],
  ["TCP and UDP where 127.0.0.1 is no address", elsewhereOnly, ["10.9.9.1"], ipUses],
  ["TCP and UDP over IPv6 where no IPv4 socket can be made", without(2), ["::1"], ipUses],
  ["TCP and UDP with no port of 127.0.0.1 free", crowded, ["127.0.0.1", "ports"], ipUses],
];

for (const [what, sandbox, args, expected] of adopted) {
  check(`adopts ${what}`, sandbox, async () => {
    assertEquals(seenIn(await sandboxed(sandbox, args)), expected);
  });
}

const refusedIn = without(1);
check("adopts TCP and UDP where no unix socket can be made to try it", refusedIn, async () => {
  assertEquals(seenIn(await sandboxed(refusedIn, ["127.0.0.1"])), ipUses);
});

check(
  "with no port free, and no other address permitted, the error says what to do",
  crowded,
  async () => {
    const permissions = ["--allow-ffi", "--allow-net=127.0.0.1"];
    const { code, stderr } = await sandboxed(crowded, ["127.0.0.1", "ports"], permissions);
    assertEquals(code, 1);
    assertMatch(stderr, /AddrInUse: Cannot adopt a descriptor: .*Free a port of 127\.0\.0\.1/);
  },
);

const handedOver: [string, Sandbox, string[]][] = [
  ["a unix path with no interface up", isolated, ["unix", ""]],
  ["a unix path where no socket of IP can be made", without(2, 10), ["unix", ""]],
  ["TCP with packets to loopback dropped", filtered, ["10.9.9.1", ""]],
  ["TCP with packets to loopback refused", refused, ["10.9.9.1", ""]],
];

for (const [what, sandbox, args] of handedOver) {
  check(`generations hand over ${what}`, sandbox, async () => {
    using directory = new Directory();
    const seen = seenIn(await sandboxed(sandbox, [...args, directory.join("control")]));
    assertEquals(seen, { first: "first", second: "second", conn: "hello" });
  });
}

const alarmless = /^2\.[0-7]\./.test(Deno.version.deno)
  ? { ...isolated, missing: "before Deno 2.8 there is none" }
  : isolated;
check("an alarm needs no interface that is up", alarmless, async () => {
  const deno = ["run", "-A", "--no-check"];
  await using child = new Child("./hastened.ts", [], { deno, through: isolated.through });
  assertEquals(JSON.parse(await child.line()).made, true);
});

test("adopting a connection fails on a runtime that wakes no adopted object", async () => {
  await using child = new Child("./unwoken.ts", ["alone"]);
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stdout, stderr], [0, ["UnsupportedRuntimeError true"], ""]);
});

test("a server that is found to be on such a runtime is told in the log, once, and goes on", async () => {
  await using child = new Child("./unwoken.ts", ["served"]);
  const { code, stdout, stderr } = await child.ended();
  assertEquals([code, stdout], [0, ["UnsupportedRuntimeError true", "HTTP/1.1 200 OK"]], stderr);
  assertEquals(
    stderr.match(/may hang UnsupportedRuntimeError/g)?.length,
    1,
    stderr,
  );
});

function check(name: string, { missing }: Sandbox, fn: () => Promise<void>): void {
  if (missing !== undefined) console.log(`Skipped: ${name}: ${missing}`);
  test(name, { ignore: missing !== undefined }, fn);
}
