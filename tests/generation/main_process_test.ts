/**
 * Restarts of the main process of a container or of a systemd unit are refused.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { readText } from "../../ffi/file.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { succeeds } from "../support/succeeds.ts";
import { test } from "../support/guard.ts";
import { NotifySocket } from "../support/notify_socket.ts";

const unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
const ignore = !await succeeds([...unshare, "true"]);
if (ignore) {
  console.log("main_process_test.ts: without unshare(1) and root, containers are not tested");
}

/** Reads to the next line with this beginning. */
async function line(child: Child, beginning: string): Promise<string> {
  for (;;) {
    const said = await child.line();
    if (said.startsWith(beginning)) return said;
  }
}

/** A service that is ready. */
async function serving(
  path: string,
  options: { through: string[]; args?: string[] },
): Promise<Child> {
  const { through, args = [] } = options;
  const child = new Child("./generation.ts", [path, "--restartOn", "SIGHUP", ...args], { through });
  await line(child, "serving: 1");
  return child;
}

/** Restarts; resolves to "restarted: 2", or to "failed: " and the error. */
async function restarted(child: Child): Promise<string> {
  await child.tell("restart");
  for (;;) {
    const said = await child.line();
    if (/^(restarted|failed): /.test(said)) return said;
  }
}

/** The child of a process, by its number in this PID namespace. */
function childOf(pid: number): number {
  return Number(readText(`/proc/${pid}/task/${pid}/children`));
}

for (const shell of [[], ["sh", "-c", '"$@"; exit', "sh"]]) {
  const of = shell.length > 0 ? "the shell that is process 1" : "process 1";
  test(`${of} of a container is the main process, without SYSTEMD_EXEC_PID`, {
    ignore,
  }, async () => {
    using directory = new Directory();
    // As `podman run --sdnotify=container` passes it.
    using manager = new NotifySocket(directory.join("notify"));
    const clean = ["env", "-u", "SYSTEMD_EXEC_PID", "-u", "INVOCATION_ID"];
    const through = [...clean, ...unshare, ...shell];
    await using child = await serving(directory.join("app.sock"), { through });
    assertStringIncludes(manager.received()[0]?.text ?? "nothing", "READY=1");
    await child.tell("stop");
    await child.ended();
    assert(manager.received().some(({ text }) => text.startsWith("STOPPING=1")));
  });
}

test(
  "process 1 of a container is replaced neither by restart(), a signal, the command line nor another start()",
  {
    ignore,
  },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    await using service = await serving(path, { through: unshare });
    const why =
      "process 1, this one, is process 1 of its container (PID namespace): when it ends, the kernel ends";
    assert(
      (await restarted(service)).startsWith(
        `failed: ERR_HANDOVER_MAIN_PROCESS Cannot restart: ${why}`,
      ),
    );
    const one = childOf(service.pid);
    Deno.kill(one, "SIGHUP");
    assertStringIncludes(await line(service, "error: Cannot restart"), why);
    await using cli = new Child("../../lib/cli.ts", ["restart", path]);
    const { code, stdout, stderr } = await cli.ended();
    assertEquals([code, stdout], [1, []]);
    assert(stderr.startsWith(`The restart failed: Cannot restart: ${why}`), stderr);
    assertMatch(
      stderr,
      /`cli\.ts hold PATH -- command`, .* in a container of its own\. .*`restartAsMain: true`/,
    );
    const enter = ["nsenter", "--target", String(one), "--pid", "--mount"];
    await using beside = new Child("./generation.ts", [path], { through: enter });
    const refused = await beside.ended();
    assertEquals(refused.code, 1);
    assertStringIncludes(
      refused.stderr,
      ": process 1, which runs, is process 1 of its container",
    );
    // A process outside of the container does not end with process 1.
    await using outside = new Child("./generation.ts", [path]);
    await line(outside, "serving: 2");
    await service.ended();
  },
);

test("process 1 of a container is replaced with `restartAsMain: true`", { ignore }, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = await serving(path, { through: unshare, args: ["--restartAsMain"] });
  assertEquals(await restarted(service), "restarted: 2");
});

/** Scripts of process 1, which start "$@"; and whether process 1 waits for it. */
const firsts: [program: string, script: string, waits: boolean][] = [
  ["tini", `"$@"; exit`, true],
  ["docker-init", `"$@"; exit`, true],
  ["dumb-init", `"$@"; exit`, true],
  ["catatonit", `setsid -w "$@"; exit`, true],
  ["sh", `"$@"; exit`, true],
  ["bash", `true; sh -c '"$@"; exit' sh "$@"; exit`, true],
  ["npm", `"$@"; exit`, true],
  // The init program has started another process first: the service is beside it, or an orphan.
  ["tini", `sleep 600 & "$@"; exit`, false],
  ["sh", `setsid "$@"; sleep 600`, false],
  ["init", `"$@"; exit`, false],
  ["sh", `timeout 600 "$@"; exit`, true],
  ["sh", `./other -c '"$@"; exit' sh "$@"; sleep 600`, false],
];

for (const [program, script, waits] of firsts) {
  const what = waits ? "is not replaced" : "is replaced";
  test(`a process that process 1, ${program} with the script ${script}, has started ${what}`, {
    ignore,
  }, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    for (const name of [program, "other"]) Deno.copyFileSync("/bin/sh", directory.join(name));
    const enter = ["sh", "-c", `cd ${directory.path} && exec "$@"`, "sh"];
    const through = [...enter, ...unshare, directory.join(program), "-c", script, program];
    await using service = await serving(path, { through });
    const said = await restarted(service);
    if (!waits) {
      assertEquals(said, "restarted: 2");
      if (!script.endsWith("; sleep 600")) return;
      // The new generation is a child of process 1 by now, which stays.
      await using cli = new Child("../../lib/cli.ts", ["restart", path]);
      const { code, stderr } = await cli.ended();
      return assertEquals([code, stderr], [0, ""]);
    }
    const why =
      `is the process that process 1 of its container, "${program}", seems to wait for: when it ends, process 1 does`;
    assertMatch(said, /^failed: ERR_HANDOVER_MAIN_PROCESS Cannot restart: process \d+, this one, /);
    assertStringIncludes(said, why);
  });
}

/** Stops the service at the end of its block: killing the shell that waits for it would not end it. */
class Stop implements AsyncDisposable {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await using stop = new Child("../../lib/cli.ts", ["stop", this.#path]);
    await stop.ended();
  }
}

/** A kind of process, a script with its variables of systemd, and whether the service is a main process. */
const units: [what: string, script: string, isMain: boolean][] = [
  ["the main process of a plain unit", `export SYSTEMD_EXEC_PID=$$; exec "$@"`, true],
  ["a process that the main process waits for", `export SYSTEMD_EXEC_PID=$$; "$@"; exit`, true],
  ["a process that is started in a terminal", `export SYSTEMD_EXEC_PID=$PPID; exec "$@"`, false],
  ["a process that is started in a terminal under an older systemd", `exec "$@"`, false],
  [
    "the main process of a unit that can announce another one",
    `export SYSTEMD_EXEC_PID=$$ NOTIFY_SOCKET=/nonexistent; exec "$@"`,
    false,
  ],
];

for (const [what, script, isMain] of units) {
  test(`${what} ${isMain ? "is not replaced" : "is replaced"}`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const set = `unset NOTIFY_SOCKET SYSTEMD_EXEC_PID; export INVOCATION_ID=1; ${script}`;
    const through = ["sh", "-c", set, "sh"];
    await using service = await serving(path, { through });
    const said = await restarted(service);
    await using _stop = new Stop(path);
    if (isMain) {
      assertMatch(
        said,
        /^failed: ERR_HANDOVER_MAIN_PROCESS Cannot restart: process \d+, this one, is (the main process of a systemd unit|the process that the main process of a systemd unit seems to wait for): .*`systemctl start app@b` takes over from app@a/,
      );
      // What makes `systemctl reload` restart it.
      for (const line of ["Type=notify", "NotifyAccess=all", "PIDFile=", "ExecReload="]) {
        assertStringIncludes(said, line);
      }
      return;
    }
    assertEquals(said, "restarted: 2");
    await line(service, "finished");
    await using cli = new Child("../../lib/cli.ts", ["restart", path]);
    assertEquals((await cli.ended()).code, 0);
  });
}
