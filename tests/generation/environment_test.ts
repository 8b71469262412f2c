/**
 * The environment of what restart() starts: that which this process was started with, and what the command says.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { fromBinary, toBinary } from "../../ffi/proc.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

/** Every byte that a variable may have. */
const everyByte = Uint8Array.from({ length: 255 }, (_, i) => i + 1);

/** What one generation was started with. */
interface Printed {
  started: Record<string, string>;
  seen?: string;
}

/** Runs three generations, one started by the other; gives what each was started with, but for the library's own. */
async function generations(
  args: string[],
  options: { deno?: string[]; env?: Record<string, string>; through?: string[] } = {},
): Promise<Printed[]> {
  await using child = new Child("./environment.ts", args, options);
  const { stdout, stderr } = await child.ended();
  assertEquals(stderr, "");
  return stdout.map((line) => JSON.parse(line)).map(({ started, seen }) => {
    const own = ["GRACEFUL_TOKEN", "GRACEFUL_OUTPUT"];
    // A shell sets these itself.
    const left = Object.entries<string>(started).filter(([name]) =>
      ![...own, "_", "SHLVL"].includes(name)
    );
    return { started: Object.fromEntries(left), seen };
  });
}

test("what a program makes of its environment does not reach the next generation, and what it deletes does", async () => {
  using directory = new Directory();
  const env = {
    CHANGED: 'it\'s "quoted" $HOME `id` \\\n',
    DELETED: "no",
    EMPTY: "",
    SAME: "ä\n",
  };
  // A text of any bytes, which Deno.env cannot give.
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

/** As printf(1) writes bytes. */
function escapes(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
}

test("a file of variables is read anew by the next generation", async () => {
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

test("variables of the command reach the next generation, beside the others and in their place", async () => {
  using directory = new Directory();
  const env = { CHANGED: "at the start", KEPT: "at the start" };
  const said = { CHANGED: "by the 'command'\n", NEW: "ä", LD_BIND_NOT: "1" };
  const args = [directory.join("app.sock"), JSON.stringify(said)];
  const [first, second, third] = await generations(args, { env });
  assertEquals(first.started.CHANGED, "at the start");
  const expected = { ...first.started, ...said, NEW: toBinary(new TextEncoder().encode("ä")) };
  assertEquals(second.started, expected);
  assertEquals(third.started, expected);
});

test("the environment passes with the permissions that restart() needs, variables of the loader too", async () => {
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

test("a variable of the command that /bin/sh does not pass on is refused", async () => {
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

test("the program is looked for by the PATH that it gets", async () => {
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

/** What the service prints that sets the title of its process at that time. */
async function titled(directory: Directory, when: string, ...args: string[]): Promise<string[]> {
  await using child = new Child("./titled.ts", [directory.join("app.sock"), when, ...args]);
  return (await child.ended()).stdout;
}

test("a title of the process that was set before start() is a warning that says what to do, and an error of restart()", async () => {
  using directory = new Directory();
  const [warning, error, failed] = await titled(directory, "before");
  assertMatch(warning, /^warning: restart\(\) cannot start .* process\.title, .*after start\(\)/);
  assertMatch(error, /^error: The restart failed; this generation goes on$/);
  assertMatch(failed, /^failed: Cannot read the command .* process\.title, /);
  // With arguments of its own it is started all the same.
  const path = directory.join("app.sock");
  const args = ["run", "-A", import.meta.resolve("../programs/titled.ts"), path, "after"];
  assertEquals(await titled(directory, "before", JSON.stringify(args)), ["restarted: 2"]);
});

test("a title of the process that was set after start() is of no account", async () => {
  using directory = new Directory();
  assertEquals(await titled(directory, "after"), ["restarted: 2"]);
});
