/**
 * `cli.ts run` and `cli.ts serve` as processes.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { replaceProcess } from "../../ffi/exec.ts";
import { commandLine } from "../../ffi/proc.ts";
import { Child, programPath } from "../support/child.ts";
import { cli } from "../support/cli.ts";
import { installDeno } from "../support/deno_versions.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { soon } from "../support/until.ts";

const cliPath = "../../lib/cli.ts";
const auto = programPath("../../lib/auto.ts");

/** The line that `print_process.ts` prints. */
interface Printed {
  pid: number;
  isMain: boolean;
  args: string[];
  command: string[];
  environment: string[];
  signals: string[];
  limits: string;
  inherited: string[];
  preloaded?: string;
  isGeneration: boolean;
}

async function printed(child: Child): Promise<Printed> {
  return JSON.parse(await child.line());
}

/** Does not let the preload module start a generation, whose descriptors and signals differ from those of a plain start. */
const off = { GRACEFUL: "off" };

/**
 * A shell that executes the command with a descriptor, an ignored signal, a limit, and variables that are no UTF-8 or have
 * names that a shell does not pass on.
 */
const unusual = [
  "sh",
  "-c",
  `trap "" USR2; ulimit -n 500; ODD="$(printf 'a\\377=b')"; export ODD; ` +
  `exec env "$(printf 'no\\376name')=1" odd.name=2 EMPTY= "$@" 7</dev/null`,
  "sh",
];

for (const version of new Set(["2.4.4", Deno.version.deno])) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  const program = "skipped" in runtime ? [] : runtime.command;

  test(
    `on Deno ${version}, the process of \`run\` is that of a plain start: number, environment, descriptors, signals`,
    { ignore },
    async () => {
      const options = { env: off, through: unusual, program };
      const args = ["two words", "", "'\"$(x)\\", "grüße \u{1f980}", "--", "-A", "--help"];
      const script = programPath("print_process.ts");
      await using started = new Child(cliPath, ["run", script, ...args], options);
      const process = await printed(started);
      const deno = ["run", "-A", `--preload=${auto}`];
      await using plain = new Child("print_process.ts", args, { ...options, deno });
      const { pid, command, ...wanted } = await printed(plain);
      const { pid: _, command: __, ...found } = process;
      assertEquals(process.pid, started.pid);
      assertEquals(pid, plain.pid);
      assertEquals(found, wanted);
      assertEquals([found.isMain, found.args], [true, args]);
      assert(found.environment.includes("ODD=a\xff=b"), "the variable that is no UTF-8");
      assertEquals(found.inherited.filter((line) => line.startsWith("7 ")).length, 1);
      // The program by the name that it was started with, and one flag more in the other order.
      assertEquals(process.command, [command[0], "run", command[3], "-A", ...command.slice(4)]);
    },
  );

  test(
    `on Deno ${version}, \`run\` passes stdin and stdout on, and its exit code is that of the program`,
    { ignore },
    async () => {
      const args = ["run", programPath("print_process.ts")];
      await using child = new Child(cliPath, args, { env: off, program });
      await child.line();
      await child.tell("77");
      assertEquals(await child.ended(), { code: 77, stdout: ["read: 77"], stderr: "" });
    },
  );

  test(
    `on Deno ${version}, \`serve\` has a default export serve in its own process, at the named address`,
    { ignore },
    async () => {
      const script = programPath("exported_fetch.ts");
      for (const host of [undefined, "localhost", "::1"]) {
        const flags = host === undefined ? [] : ["--host", host];
        const args = ["serve", "--port", "0", ...flags, script, "--port", "1"];
        const through = ["sh", "-c", 'exec "$@" 2>&1', "sh"];
        await using child = new Child(cliPath, args, { env: off, program, through });
        const url = (await child.until(/Listening on/)).match(/http:\S+/)![0];
        const { hostname } = new URL(url);
        const wanted = { localhost: "127.0.0.1", "::1": "[::1]" }[host ?? ""] ?? "0.0.0.0";
        assertEquals(hostname, wanted);
        const answer = await (await fetch(url)).json();
        assertEquals(answer, { pid: child.pid, isMain: true, args: ["--port", "1"] });
      }
    },
  );
}

test("`run` keeps the channel to a parent that has started it by node's fork()", async () => {
  const args = [programPath(cliPath), "run", programPath("send_message.ts")];
  await using child = new Child("fork_run.ts", args, { env: off });
  const { stdout, stderr } = await child.ended();
  assertEquals(stdout, ["message: hello", "exit: 7"], stderr);
});

test("the preload module is loaded before those of the program, and has the program be a generation", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  const args = ["run", `--preload=${programPath("preloaded.ts")}`, programPath("print_process.ts")];
  await using child = new Child(cliPath, args, { env: { GRACEFUL_CONTROL: control } });
  const { preloaded, isGeneration } = await printed(child);
  assertEquals([preloaded, isGeneration], ["after auto.ts", true]);
});

test("`run` adds no -A to permission flags, and refuses without them if it has not all permissions", async () => {
  const state = 'Deno.permissions.querySync({ name: "write" }).state';
  const script = `data:text/javascript,console.log(${encodeURIComponent(state)})`;
  const flags = ["--allow-read", "--allow-ffi", "--deny-write"];
  await using child = new Child(cliPath, ["run", ...flags, script], { env: off });
  assertEquals(await child.line(), "denied");
  const deno = ["run", "--allow-ffi", "--allow-read", "--no-prompt"];
  await using limited = new Child(cliPath, ["run", script], { env: off, deno });
  const { code, stderr } = await limited.ended();
  assertEquals(code, 2);
  assertStringIncludes(stderr, "The permissions of the program are missing");
  await using named = new Child(cliPath, ["run", ...flags, script], { env: off, deno });
  assertEquals(await named.line(), "denied");
});

test("after a deploy, a relative or linked cli.ts has the preload module of the next release", async () => {
  using directory = new Directory();
  const root = new URL("../../", import.meta.url).pathname;
  Deno.mkdirSync(directory.join("release"));
  for (const name of ["lib", "ffi"]) {
    Deno.symlinkSync(root + name, directory.join(`release/${name}`));
  }
  Deno.symlinkSync("release", directory.join("current"));
  const names = {
    "lib/cli.ts": "--preload=lib/auto.ts",
    "./lib/../lib/cli.ts": "--preload=./lib/../lib/auto.ts",
    [directory.join("current/lib/cli.ts")]: `--preload=${directory.join("current/lib/auto.ts")}`,
    [`file://${root}lib/cli.ts`]: `--preload=file://${root}lib/auto.ts`,
  };
  for (const [name, wanted] of Object.entries(names)) {
    const words = ["run", "-A", name, "run", programPath("print_process.ts")];
    const script = 'cd "$1" && shift && exec "$@"';
    const through = [
      "sh",
      "-c",
      script,
      "sh",
      directory.join("current"),
      Deno.execPath(),
      ...words,
    ];
    await using child = new Child("print_process.ts", [], { env: off, through });
    assertEquals((await printed(child)).command[2], wanted);
  }
});

test("SIGHUP and `restart` replace a program of `serve`, and `stop` ends it", async () => {
  using directory = new Directory();
  const control = directory.join("app.sock");
  const through = ["sh", "-c", 'exec "$@" 2>&1', "sh"];
  const env = { GRACEFUL_CONTROL: control, GRACEFUL_PROBATION: "50" };
  const args = ["serve", "--port", "0", "--host", "127.0.0.1", programPath("exported_fetch.ts")];
  await using child = new Child(cliPath, args, { env, through });
  const url = (await child.until(/Listening on/)).match(/http:\S+/)![0];
  // An idle connection would have `stop` wait for it.
  using client = Deno.createHttpClient({ poolMaxIdlePerHost: 0 });
  const pid = async () => (await (await fetch(url, { client })).json()).pid;
  assertEquals(await pid(), child.pid);
  Deno.kill(child.pid, "SIGHUP");
  let second: number;
  await soon(async () => (second = await pid()) !== child.pid);
  await soon(async () =>
    JSON.parse((await cli("status", "--json", control)).stdout).state === "serving"
  );
  // It is started as the first one was after it had become Deno's.
  const words = commandLine(second!)!;
  assertEquals(words.slice(-4), ["run", `--preload=${auto}`, "-A", args.at(-1)!]);
  assertEquals((await cli("restart", control)).code, 0);
  assert(![child.pid, second!].includes(await pid()));
  assertEquals((await cli("stop", control)).code, 0);
});

test("`run` and `serve` end with 2 for wrong arguments, and print their usage for --help", async () => {
  for (const command of ["run", "serve"]) {
    const wrong = await cli(command, "-A");
    assertEquals([wrong.code, wrong.stdout], [2, ""]);
    assertEquals(
      wrong.stderr,
      `The script is missing: ${command} main.ts\nSee ${command} --help\n`,
    );
    const help = await cli(command, "-A", "--help");
    assertEquals([help.code, help.stderr], [0, ""]);
    assertMatch(help.stdout, new RegExp(`^.*\n\nUsage: deno run -A cli.ts ${command} `));
  }
});

test("`serve` names a host that has no address, and ends with 1", async () => {
  const { code, stderr } = await cli("serve", "--host", "none.invalid", "main.ts");
  assertEquals(code, 1);
  assertMatch(stderr, /^Cannot serve on --host "none\.invalid": .*lookup/);
});

test("a system on which cli.ts cannot replace its process is refused, with the command to use", async () => {
  const deno = ["run", "-A", "--preload", programPath("fake_system.ts")];
  const env = { OTHER_SYSTEM: "darwin aarch64" };
  const args = ["serve", "--port", "80", "-q", "it's.ts", "a b"];
  await using child = new Child(cliPath, args, { env, deno });
  const { code, stderr } = await child.ended();
  assertEquals(code, 1);
  assertEquals(
    stderr,
    "This cli.ts cannot become the program: execve(2) is called on Linux x86_64 and aarch64 alone. Start it by: " +
      `DENO_AUTO_SERVE=1 DENO_SERVE_ADDRESS=tcp:0.0.0.0:80 deno run --preload=file://${auto} -A -q 'it'\\''s.ts' 'a b'\n`,
  );
});

const old = await installDeno("2.3.7");
test(
  "a Deno without --preload is refused, by its version",
  { ignore: "skipped" in old },
  async () => {
    if ("skipped" in old) return;
    await using child = new Child(cliPath, ["run", "main.ts"], { program: old.command });
    const { code, stderr } = await child.ended();
    assertEquals([code, stderr], [
      1,
      "run needs Deno 2.4 or later: Deno 2.3.7 has no --preload\n",
    ]);
  },
);

test("replaceProcess() throws the error of execve(2), and the process goes on", () => {
  using directory = new Directory();
  const text = directory.join("text");
  Deno.writeTextFileSync(text, "no program", { mode: 0o755 });
  const { NotFound, PermissionDenied } = Deno.errors;
  assertThrows(() => replaceProcess("/none", ["none"]), NotFound, '"/none"');
  assertThrows(() => replaceProcess(directory.path, ["x"]), PermissionDenied, "EACCES");
  assertThrows(() => replaceProcess(text, ["text"]), Error, "ENOEXEC");
});
