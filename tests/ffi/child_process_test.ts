import { assert, assertEquals, assertThrows } from "@std/assert";
import { endedChild, type Exit, reapChild, spawn } from "../../ffi/child_process.ts";
import { closeAll, isKeptOnExec } from "../../ffi/fd.ts";
import { openToWrite } from "../../ffi/file.ts";
import { describeDescriptor } from "../../ffi/proc.ts";
import { socketPair } from "../../ffi/socket.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";

const env = new Map([["PATH", "/usr/bin:/bin"]]);

/** Waits for the end of a child. */
async function ended(pid: number): Promise<Exit> {
  let exit: Exit | undefined;
  await until(() => (exit = reapChild(pid)) !== undefined);
  return exit!;
}

test("spawn() places descriptors at 3, 4, ..., also where they have these numbers in another order", async () => {
  using directory = new Directory();
  const file = directory.join("out");
  Deno.writeTextFileSync(file, "");
  const pair = socketPair();
  const out = openToWrite(file);
  try {
    // The numbers that the child fills are the sources of others: each is overwritten before it is read, but for the
    // duplicates that spawn() makes.
    const order = [pair[1], out, pair[0], 0];
    const script =
      'for n in 3 4 5 6; do readlink "/proc/$$/fd/$n"; done >&4; test ! -e /proc/$$/fd/7';
    const args = ["sh", "-c", script];
    const pid = spawn("/bin/sh", { args, env, descriptors: order });
    assertEquals(await ended(pid), { code: 0 });
    const named = Deno.readTextFileSync(file).trimEnd().split("\n");
    assertEquals(named, order.map((raw) => describeDescriptor(raw)));
    assert(!isKeptOnExec(pair[0]));
  } finally {
    closeAll([...pair, out]);
  }
});

test("spawn() passes arguments and environment as they are, and SIGPIPE has its default action", async () => {
  using directory = new Directory();
  const file = directory.join("out");
  const binary = "\xff\xc3";
  const script = 'printf "%s|" "$@" "$B" > "$0"; grep SigIgn /proc/$$/status >> "$0"';
  const args = ["sh", "-c", script, file, "ä b", ""];
  const pid = spawn("/bin/sh", { args, env: new Map([...env, ["B", binary]]), descriptors: [] });
  assertEquals(await ended(pid), { code: 0 });
  const bytes = Deno.readFileSync(file);
  const text = new TextDecoder("latin1").decode(bytes);
  assertEquals(text.split("|").slice(0, 3), ["\xc3\xa4 b", "", "ÿÃ"]);
  const ignored = BigInt(`0x${/SigIgn:\s+([\da-f]+)/.exec(text)![1]}`);
  assertEquals(ignored & 1n << 12n, 0n);
});

test("spawn() throws for a program that there is not", () => {
  const nowhere = { args: ["x"], env, descriptors: [] };
  assertThrows(() => spawn("/nonexistent/program", nowhere), Deno.errors.NotFound, "Cannot start");
});

test("reapChild() gives the code, or the signal as a shell does", async () => {
  const run = (script: string) =>
    ended(spawn("/bin/sh", { args: ["sh", "-c", script], env, descriptors: [] }));
  assertEquals(await run("exit 7"), { code: 7 });
  assertEquals(await run("kill -9 $$"), { code: 137, signal: "SIGKILL" });
  assertEquals(await run("kill -34 $$"), { code: 162, signal: "signal 34" });
  assertEquals(reapChild(Deno.pid), undefined);
});

test("looking for ended children steals none of those that Deno has started", async () => {
  const looked: number[] = [];
  const looking = setInterval(() => looked.push(endedChild() ?? 0), 0);
  try {
    for (let round = 0; round < 10; round++) {
      const codes = [1, 2, 3, 4];
      const denos = codes.map((code) =>
        new Deno.Command("sh", { args: ["-c", `exit ${code}`] }).output()
      );
      const script = `exit ${10 + round}`;
      const own = spawn("/bin/sh", { args: ["sh", "-c", script], env, descriptors: [] });
      assertEquals((await Promise.all(denos)).map(({ code }) => code), codes);
      assertEquals(await ended(own), { code: 10 + round });
    }
  } finally {
    clearInterval(looking);
  }
  assert(looked.some((pid) => pid > 0), "no ended child was ever seen");
  assertEquals(endedChild(), undefined);
});

test("control: waitpid(-1) steals a child of Deno, whose status is never known", async () => {
  const program = `
    import { libc } from "${new URL("../../ffi/libc.ts", import.meta.url)}";
    const child = new Deno.Command("sh", { args: ["-c", "exit 3"] }).spawn();
    // Without a turn of the event loop, Deno cannot wait for it before.
    let stolen = 0;
    while (stolen === 0) stolen = libc().waitpid(-1, new Uint8Array(4), 1);
    const status = await child.status.catch(() => undefined);
    console.log(stolen === child.pid, status?.code === 3);
  `;
  // In a process of its own: Deno keeps the pidfd of that child open for good.
  const args = ["eval", "--no-config", program];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  assertEquals(decoder.decode(stdout), "true false\n", decoder.decode(stderr));
});
