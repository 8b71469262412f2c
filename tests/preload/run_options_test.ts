import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { FlagError } from "../../lib/preload/deno_flags.ts";
import {
  parseRun,
  type RunCommand,
  type RunContext,
  usages,
} from "../../lib/preload/run_options.ts";
import { test } from "../support/guard.ts";

const context: RunContext = {
  preload: "auto.ts",
  isAllAllowed: true,
  isServeAddressSet: false,
  lookUp: (name) => ({ localhost: "127.0.0.1", six: "::1" })[name] ?? `of ${name}`,
};

function parse(command: RunCommand, words: string[], changes: Partial<RunContext> = {}) {
  return parseRun(command, words, { ...context, ...changes });
}

/** The words behind `run`, and the arguments of Deno that follow `run --preload=auto.ts`. */
const runs: [string, string][] = [
  ["main.ts", "-A main.ts"],
  ["main.ts a -b --port 1 --help -- c", "-A main.ts a -b --port 1 --help -- c"],
  ["-- main.ts a", "-A main.ts a"],
  ["-A main.ts", "-A main.ts"],
  ["-q main.ts", "-A -q main.ts"],
  ["-qA main.ts", "-qA main.ts"],
  ["-RN=localhost main.ts", "-RN=localhost main.ts"],
  ["-P main.ts", "-P main.ts"],
  ["--permission-set=x main.ts", "--permission-set=x main.ts"],
  ["--allow-net main.ts", "--allow-net main.ts"],
  ["--deny-run=sh main.ts", "--deny-run=sh main.ts"],
  ["--ignore-env main.ts", "--ignore-env main.ts"],
  ["--allow-scripts --no-prompt main.ts", "-A --allow-scripts --no-prompt main.ts"],
  ["-c deno.json main.ts", "-A -c deno.json main.ts"],
  ["-cdeno.json main.ts", "-A -cdeno.json main.ts"],
  ["-qc deno.json main.ts", "-A -qc deno.json main.ts"],
  ["-c=deno.json main.ts", "-A -c=deno.json main.ts"],
  ["-AL debug main.ts", "-AL debug main.ts"],
  ["--config deno.json --seed 1 main.ts", "-A --config deno.json --seed 1 main.ts"],
  ["--config=deno.json main.ts", "-A --config=deno.json main.ts"],
  ["--import-map a.json main.ts", "-A --import-map a.json main.ts"],
  ["--preload a.ts --import b.ts main.ts", "-A --preload a.ts --import b.ts main.ts"],
  ["--env-file main.ts a", "-A --env-file main.ts a"],
  ["--env-file=.env main.ts", "-A --env-file=.env main.ts"],
  ["--lock lock.json main.ts", "-A --lock lock.json main.ts"],
  ["--lock -q main.ts", "-A --lock -q main.ts"],
  [
    "--node-modules-dir --v8-flags=--expose-gc main.ts",
    "-A --node-modules-dir --v8-flags=--expose-gc main.ts",
  ],
  ["--unstable-kv --unstable-later main.ts", "-A --unstable-kv --unstable-later main.ts"],
  ["--later=1 main.ts", "-A --later=1 main.ts"],
  ["--later -q main.ts", "-A --later -q main.ts"],
  ["--later -- main.ts", "-A --later main.ts"],
  ["jsr:@a/b@1 c", "-A jsr:@a/b@1 c"],
  ["npm:cowsay@1.6.0 c", "-A npm:cowsay@1.6.0 c"],
  ["https://example.com/main.ts", "-A https://example.com/main.ts"],
  ["main:80", "-A main:80"],
];

for (const [words, wanted] of runs) {
  test(`run ${words}: deno run --preload=auto.ts ${wanted}`, () => {
    const command = parse("run", words.split(" "));
    // Without a permission flag, -A is the first one.
    const args = ["run", "--preload=auto.ts", ...wanted.split(" ")];
    assertEquals(command, { args, variables: {}, watch: undefined });
  });
}

/** The words behind `serve`, DENO_SERVE_ADDRESS, and the arguments of Deno. */
const serves: [string, string, string][] = [
  ["main.ts", "tcp:0.0.0.0:8000", "-A main.ts"],
  ["--port 0 main.ts --port 3", "tcp:0.0.0.0:0", "-A main.ts --port 3"],
  ["--port=1 --port 2 main.ts", "tcp:0.0.0.0:2", "-A main.ts"],
  ["-q --host 127.0.0.2 -N main.ts", "tcp:127.0.0.2:8000", "-q -N main.ts"],
  ["--host ::1 --port 65535 main.ts", "tcp:[::1]:65535", "-A main.ts"],
  ["--host [::] main.ts", "tcp:[::]:8000", "-A main.ts"],
  ["--host localhost main.ts", "tcp:127.0.0.1:8000", "-A main.ts"],
  ["--host six main.ts", "tcp:[::1]:8000", "-A main.ts"],
  ["--host 127.1 main.ts", "tcp:of 127.1:8000", "-A main.ts"],
];

for (const [words, address, wanted] of serves) {
  test(`serve ${words}: at ${address}`, () => {
    assertEquals(parse("serve", words.split(" ")), {
      args: ["run", "--preload=auto.ts", ...wanted.split(" ")],
      variables: { DENO_AUTO_SERVE: "1", DENO_SERVE_ADDRESS: address },
      watch: undefined,
    });
  });
}

test("serve leaves DENO_SERVE_ADDRESS as it is, unless --host or --port is given", () => {
  const isServeAddressSet = true;
  const kept = parse("serve", ["main.ts"], { isServeAddressSet });
  assertEquals(kept?.variables, { DENO_AUTO_SERVE: "1" });
  const named = parse("serve", ["--port", "1", "main.ts"], { isServeAddressSet });
  assertEquals(named?.variables.DENO_SERVE_ADDRESS, "tcp:0.0.0.0:1");
});

/** Wrong arguments, and what the error says. */
const wrong: [RunCommand, string, string][] = [
  ["run", "", "The script is missing: run main.ts"],
  ["serve", "-A", "The script is missing: serve main.ts"],
  ["run", "--", "The script is missing"],
  ["run", "-c main.ts", "The script is missing"],
  ["run", "-", "not stdin: the next generation reads it again"],
  ["run", "--later main.ts", '--later is not known here, and may take "main.ts" as its value'],
  ["run", "-t main.ts", '-t is not known here, and may take "main.ts" as its value'],
  ["run", "--port 8000 main.ts", "--port is a flag of serve"],
  ["run", "--host=a main.ts", "--host is a flag of serve"],
  ["serve", "--parallel main.ts", "would take over the listener from each other"],
  ["serve", "--open main.ts", "cli.ts is gone when the program listens"],
  ["serve", "--port main.ts", "The script is missing"],
  ["serve", "--port x main.ts", '--port takes a number from 0 to 65535, not "x"'],
  ["serve", "--port 65536 main.ts", 'not "65536"'],
  ["serve", "--port= main.ts", "not nothing"],
  ["serve", "--host= main.ts", "--host takes an address or a name, not nothing"],
  ["serve", "--host http://a main.ts", 'not "http://a"'],
  [
    "serve",
    "localhost:80 main.ts",
    "write serve --host localhost --port 80 in front of the script",
  ],
  ["serve", ":80 main.ts", "write serve --port 80 in front of the script"],
];

for (const [command, words, message] of wrong) {
  test(`${command} ${words}: ${message}`, () => {
    const parsed = () => parse(command, words === "" ? [] : words.split(" "));
    assertStringIncludes(assertThrows(parsed, FlagError).message, message);
  });
}

test("without permission flags the program gets -A only if cli.ts has all permissions", () => {
  const limited = { isAllAllowed: false };
  const error = assertThrows(() => parse("run", ["main.ts"], limited), FlagError);
  assertStringIncludes(error.message, "The permissions of the program are missing");
  assertEquals(parse("run", ["-N", "main.ts"], limited)?.args.slice(2), ["-N", "main.ts"]);
});

test("--watch and --hmr are passed on, and named", () => {
  for (const flag of ["--watch", "--watch=a.ts", "--hmr", "--watch-hmr"]) {
    const command = parse("run", [flag, "main.ts"]);
    assertEquals(command?.args.slice(2), ["-A", flag, "main.ts"]);
    assertEquals(command?.watch, flag.split("=")[0]);
  }
});

test("--help in front of the script has no command; behind it, it is the program's", () => {
  for (const command of ["run", "serve"] as const) {
    assertEquals(parse(command, ["--help"]), undefined);
    assertEquals(parse(command, ["-A", "-h", "main.ts"]), undefined);
    assertEquals(parse(command, ["main.ts", "-h"])?.args.at(-1), "-h");
    for (const line of usages[command].split("\n")) assertEquals(line.slice(120), "");
  }
});
