/**
 * The environment of the process that restart() starts: that of this process at its start, and the `env` of the command.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { fromBinary, toBinary } from "../../ffi/proc.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

/** Every byte that a variable may contain. */
const everyByte = Uint8Array.from({ length: 255 }, (_, i) => i + 1);

/** The environment that a generation was started with. */
interface Printed {
  started: Record<string, string>;
  seen?: string;
}

/** Runs three generations, each started by the previous one; resolves to their environments, without the library's own. */
async function generations(
  args: string[],
  options: { deno?: string[]; env?: Record<string, string>; through?: string[] } = {},
): Promise<Printed[]> {
  await using child = new Child("./environment.ts", args, options);
  const { stdout, stderr } = await child.ended();
  assertEquals(stderr, "");
  return stdout.map((line) => JSON.parse(line)).map(({ started, seen }) => {
    const own = ["GRACEFUL_TOKEN", "GRACEFUL_OUTPUT"];
    // A shell sets "_" and SHLVL itself.
    const left = Object.entries<string>(started).filter(([name]) =>
      ![...own, "_", "SHLVL"].includes(name)
    );
    return { started: Object.fromEntries(left), seen };
  });
}

test("variables that the program sets do not reach the next generation, and variables that it deletes do", async () => {
  using directory = new Directory();
  const env = {
    CHANGED: 'it\'s "quoted" $HOME `id` \\\n',
    DELETED: "no",
    EMPTY: "",
    SAME: "ä\n",
  };
  // A value of all bytes, which Deno.env cannot set.
  const through = [
    "sh",
    "-c",
    `BYTES=$(printf '${
      escapes(everyByte)
    }.'); BYTES=\${BYTES%.} LD_BYTES=\${BYTES%.}; export BYTES LD_BYTES; exec "$0" "$@"`,
  ];
  const printed = await generations([directory.join("app.sock")], { env, through });
  assertEquals(printed.length, 3);
  const [first, second, third] = printed;
  assertEquals(fromBinary(first.started.BYTES), everyByte);
  assertEquals(first.started.LD_BYTES, first.started.BYTES);
  assertEquals(first.started.DELETED, "no");
  assertEquals(first.started.CHANGED, env.CHANGED);
  assertEquals("ADDED" in first.started, false);
  assertEquals(second, first);
  assertEquals(third, first);
});

/** The escapes of printf(1) for bytes. */
function escapes(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
}

test("the next generation reads the file of --env-file anew", async () => {
  using directory = new Directory();
  const file = directory.join(".env");
  Deno.writeTextFileSync(file, "FROM_FILE=1\n");
  const deno = ["run", "-A", `--env-file=${file}`];
  await using child = new Child("./environment.ts", [directory.join("app.sock")], { deno });
  for (const expected of ["1", "2", "3"]) {
    const { started, seen } = JSON.parse(await child.line());
    assertEquals([seen, "FROM_FILE" in started], [expected, false]);
    Deno.writeTextFileSync(file, `FROM_FILE=${Number(expected) + 1}\n`);
  }
  assertEquals((await child.ended()).code, 0);
});

test("`env` of the command adds variables and replaces others in the next generation", async () => {
  using directory = new Directory();
  const env = { CHANGED: "at the start", KEPT: "at the start" };
  const given = { CHANGED: "by the 'command'\n", NEW: "ä", LD_BIND_NOT: "1" };
  const args = [directory.join("app.sock"), JSON.stringify(given)];
  const [first, second, third] = await generations(args, { env });
  assertEquals(first.started.CHANGED, "at the start");
  const expected = { ...first.started, ...given, NEW: toBinary(new TextEncoder().encode("ä")) };
  assertEquals(second.started, expected);
  assertEquals(third.started, expected);
});

test("the environment reaches the next generation under the permissions of restart(), LD_ variables too", async () => {
  using directory = new Directory();
  const file = directory.join(".env");
  Deno.writeTextFileSync(file, "FROM_FILE=1\nHOME=/nonexistent\n");
  const deno = [
    "run",
    "--no-prompt",
    "--allow-ffi",
    "--allow-net=127.0.0.1:0",
    "--allow-run=/bin/sh",
    `--env-file=${file}`,
  ];
  const env = { LD_LIBRARY_PATH: "/nonexistent", LD_BIND_NOT: "" };
  const printed = await generations([directory.join("app.sock")], { deno, env });
  assertEquals(printed.length, 3);
  const [first, second, third] = printed;
  assertEquals(first.started.LD_LIBRARY_PATH, "/nonexistent");
  assertEquals("FROM_FILE" in first.started, false);
  assertEquals(second, first);
  assertEquals(third, first);
});

test("restart() refuses variables in `env` that /bin/sh does not pass on", async () => {
  using directory = new Directory();
  await using app = await begin(directory.join("app.sock"));
  await app.ready();
  for (
    const [name, value, why] of [
      ["with-dash", "", "the name of a variable is of letters"],
      ["", "", "the name of a variable is of letters"],
      ["A=B", "", "the name of a variable is of letters"],
      ["NUL", "a\0b", "the value of a variable is a string without NUL"],
    ]
  ) {
    await assertRejects(
      () => app.restart({ program: "true", env: { [name]: value } }),
      TypeError,
      `Cannot start "true" in ${JSON.stringify(Deno.cwd())} with ${
        JSON.stringify(name)
      } in \`env\`: ${why}`,
    );
  }
  assertEquals(app.status().state, "serving");
});

test("restart() looks for the program in the PATH of `env`", async () => {
  using directory = new Directory();
  await using app = await begin(directory.join("app.sock"));
  await app.ready();
  const program = "a-program-of-this-test";
  Deno.writeTextFileSync(directory.join(program), "#!/bin/sh\necho found >&2\nexit 3\n", {
    mode: 0o755,
  });
  await assertRejects(() => app.restart({ program }), Deno.errors.NotFound, "no such program");
  const env = { PATH: `${directory.path}:/usr/bin:/bin` };
  await assertRejects(
    () => app.restart({ program, env }),
    Error,
    "ended with code 3; the last it said was: found",
  );
});

/** Runs a service that sets the title of its process before or after start(); resolves to its output. */
async function titled(directory: Directory, when: string, ...args: string[]): Promise<string[]> {
  await using child = new Child("./titled.ts", [directory.join("app.sock"), when, ...args]);
  return (await child.ended()).stdout;
}

test("a process.title that was set before start() is a warning with advice, and makes restart() fail", async () => {
  using directory = new Directory();
  const [warning, error, failed] = await titled(directory, "before");
  assertMatch(warning, /^warning: restart\(\) cannot start .* process\.title, .*after start\(\)/);
  assertMatch(error, /^error: The restart failed; this generation goes on$/);
  assertMatch(failed, /^failed: Cannot read the command .* process\.title, /);
  // With `args` restart() works all the same.
  const path = directory.join("app.sock");
  const args = ["run", "-A", import.meta.resolve("../programs/titled.ts"), path, "after"];
  assertEquals(await titled(directory, "before", JSON.stringify(args)), ["restarted: 2"]);
});

test("a process.title that was set after start() does not affect restart()", async () => {
  using directory = new Directory();
  assertEquals(await titled(directory, "after"), ["restarted: 2"]);
});
