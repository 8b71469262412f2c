/**
 * `deno task test`: runs each test file in a process of its own, and the examples of the documentation in
 * one more; several at a time. Prints the output of a file when the file
 * has ended.
 *
 * One process a file: the descriptor guard (`support/guard.ts`) counts the descriptors of its process, so
 * tests of two files cannot run in one process at the same time, as `deno test --parallel` does it.
 *
 * @module
 */

import { runTool, UsageError, wholeNumber } from "./support/command_line.ts";

/** One more than processors: the tests wait for half of the time that they take. */
const defaultJobs = navigator.hardwareConcurrency + 1;

const usage = `Usage: deno task test [options] [file ...]

Runs the tests of the project, several files at a time.

  file ...       run these files alone, and not the examples of the documentation
  --filter TEXT  run the tests whose names contain TEXT, as deno test does
  --jobs N       run N files at a time (${defaultJobs}, one more than this machine has processors)
  --times        print at the end how long each file took, the longest first
  --help         print this

Exits with 0 when all tests passed, with 1 when one failed, with 2 for wrong arguments.`;

/**
 * The files that take longest, the longest first. They start first: a long file that started last would
 * leave the other processors idle. (`--times` prints the order.)
 */
const longFiles = [
  "system/faults_test.ts",
  "generation/generation_test.ts",
  "systemd/units_test.ts",
  "generation/departure_versions_test.ts",
  "preload/programs_test.ts",
  "node/load_test.ts",
  "examples/examples_test.ts",
  "examples/behind_haproxy_test.ts",
  "system/fuzz_test.ts",
  "generation/lying_peer_test.ts",
];

/** The files and folders whose code blocks are run. */
const documented = [
  "mod.ts",
  "lib",
  "ffi",
  "README.md",
  "tests/README.md",
  "examples/README.md",
  "examples/from_go/README.md",
];

/** What one process ran. */
interface Outcome {
  /** The file, or "the examples of the documentation". */
  name: string;
  success: boolean;
  passed: number;
  failed: number;
  ignored: number;
  milliseconds: number;
}

/** Runs `deno test` with these arguments, and prints its output when it has ended. */
async function test(name: string, args: string[]): Promise<Outcome> {
  const began = performance.now();
  const command = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
  const { success, stdout, stderr } = await command.output();
  for (let bytes of [stdout, stderr]) {
    while (bytes.length > 0) bytes = bytes.subarray(Deno.stdout.writeSync(bytes));
  }
  // deno-lint-ignore no-control-regex -- colors
  const text = new TextDecoder().decode(stdout).replaceAll(/\x1b\[[\d;]*m/g, "");
  const [summary = ""] = text.match(/^(ok|FAILED) \| .*$/mg)?.slice(-1) ?? [];
  const count = (word: string) => Number(summary.match(new RegExp(`(\\d+) ${word}`))?.[1] ?? 0);
  return {
    name,
    success,
    passed: count("passed"),
    failed: count("failed"),
    ignored: count("ignored"),
    milliseconds: performance.now() - began,
  };
}

/** The files of a directory and of the directories in it. */
function filesIn(directory: string): string[] {
  return [...Deno.readDirSync(directory)].flatMap(({ name, isDirectory }) => {
    const path = `${directory}/${name}`;
    return isDirectory ? filesIn(path) : [path];
  });
}

/** All test files, in the order in which they start: the long ones first, then by size. */
function testFiles(): string[] {
  const size = (file: string) => Deno.statSync(file).size;
  const rank = (file: string) => {
    const at = longFiles.indexOf(file.slice("tests/".length));
    return at < 0 ? longFiles.length : at;
  };
  return filesIn("tests")
    .filter((file) => file.endsWith("_test.ts"))
    .sort((a, b) => rank(a) - rank(b) || size(b) - size(a));
}

/** Runs `jobs` of them at a time; the results are in the order in which they ended. */
async function runAll(
  waiting: (() => Promise<Outcome>)[],
  jobs: number,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const work = async () => {
    for (let next; (next = waiting.shift());) outcomes.push(await next());
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return outcomes;
}

/** The last line, which `.ci/run` reads: as that of deno test. */
function summary(outcomes: Outcome[], began: number): string {
  const sum = (field: "passed" | "failed" | "ignored") =>
    outcomes.reduce((total, outcome) => total + outcome[field], 0);
  const seconds = Math.round((performance.now() - began) / 1000);
  const word = outcomes.every(({ success }) => success) ? "ok" : "FAILED";
  return `${word} | ${sum("passed")} passed | ${sum("failed")} failed | ${
    sum("ignored")
  } ignored (${Math.floor(seconds / 60)}m${seconds % 60}s)`;
}

await runTool(usage, {
  options: {
    filter: { type: "string" },
    jobs: { type: "string", default: String(defaultJobs) },
    times: { type: "boolean", default: false },
  },
  allowPositionals: true,
}, async ({ values, positionals: files }) => {
  const jobs = wholeNumber("jobs", values.jobs, { least: 1 });
  const strange = files.find((file) => !file.endsWith(".ts"));
  if (strange !== undefined) throw new UsageError(`Not a test file: "${strange}"`);

  const began = performance.now();
  // Once for all files, which then start without it.
  const check = new Deno.Command(Deno.execPath(), { args: ["check", "-q", "."], stdin: "null" });
  if (!(await check.spawn().status).success) return false;

  const filter = values.filter === undefined ? [] : ["--filter", values.filter];
  const runs = (files.length > 0 ? files : testFiles())
    .map((file) => () => test(file, [...filter, file]));
  if (files.length === 0) {
    runs.push(() => test("the examples of the documentation", [...filter, "--doc", ...documented]));
  }
  const outcomes = await runAll(runs, jobs);

  if (values.times) {
    for (const { name, milliseconds } of outcomes.sort((a, b) => b.milliseconds - a.milliseconds)) {
      console.log(`${(milliseconds / 1000).toFixed(1).padStart(6)} s  ${name}`);
    }
  }
  for (const { name, success } of outcomes) if (!success) console.log(`FAILED in ${name}`);
  console.log(summary(outcomes, began));
  return outcomes.every(({ success }) => success);
});
