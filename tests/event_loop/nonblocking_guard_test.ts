import { assertEquals } from "@std/assert";
import { isRunning } from "../../ffi/proc.ts";
import { pause } from "../../lib/time.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { Fd, fdListener } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const ignore = !await hasPython();
if (ignore) console.log("nonblocking_guard_test.ts: skipped, for python3 is not installed");

// A blocking listener freezes the event loop of whoever accepts on it.
test(
  "a listener that its donor makes blocking again is made non-blocking again",
  { ignore },
  async () => {
    using directory = new Directory();
    const path = directory.join("donor.sock");
    await using senderPid = new Child("./donor.py", [path], { command: "python3" });
    await senderPid.line();
    await using holder = new Child("./hold.ts", [path]);
    assertEquals(await holder.line(), "holding");
    for (let i = 0; i < 3; i++) {
      await senderPid.tell("block");
      assertEquals(await senderPid.line(), "blocking");
      await until(async () => {
        await senderPid.tell("how is it?");
        return await senderPid.line() === "nonblocking";
      });
    }
  },
);

for (const senderPid of ["known", "unknown"]) {
  test(
    `accept() on a blocking listener holds nobody up: its senderPid is ${senderPid}`,
    { ignore },
    async () => {
      using directory = new Directory();
      const path = directory.join("donor.sock");
      const at = directory.join("app.sock");
      await using python = new Child("./donor.py", [path, at], { command: "python3" });
      await python.line();
      await using child = new Child("./accept_on.ts", [path, senderPid]);
      // A process whose event loop is frozen says nothing any more.
      const limit = setTimeout(() => Deno.kill(child.pid, "SIGKILL"), 30_000);
      try {
        assertEquals(await child.line(), "holding");
        // What a donor that is known does again is seen to.
        if (senderPid === "known") await python.tell("block");
        await child.tell("accept");
        assertEquals(await child.line(), "enough");
      } finally {
        clearTimeout(limit);
      }
    },
  );
}

test("a number that no process can have is none that runs, and none is asked for by it", async () => {
  for (const pid of [2 ** 31, 2 ** 40, Infinity, NaN, 1.5]) assertEquals(isRunning(pid), false);
  // One of another PID namespace; and what kill(2) takes for groups is never given to it.
  for (const pid of [0, -1, Deno.pid]) assertEquals(isRunning(pid), true);
  // A listener whose donor is none is looked after once, and no timer fails.
  const native = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using sent = listenerDescriptor(native);
  using fd = new Fd(sent.dup().take(), 2 ** 40);
  using adopted = fdListener(fd);
  // Three looks are due by then; on a slow machine it may be none.
  await pause(300);
  const accepting = adopted.accept();
  using _client = await Deno.connect({ hostname: "127.0.0.1", port: native.addr.port });
  (await accepting).close();
  native.close();
});

async function hasPython(): Promise<boolean> {
  try {
    return (await new Deno.Command("python3", { args: ["--version"] }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
