/**
 * `deno task test`: every file of tests in a process of its own, and the examples of the documentation in one
 * more; as many processes at a time as there are processors. A file's output is printed when it has ended.
 *
 * A process a file, for the guard of descriptors counts those of a process (`support/guard.ts`).
 *
 * @module
 */

const usage = `Runs the tests of the project, several files at a time.

Usage: deno task test [options] [file ...]

  file ...           those files alone, without the examples of the documentation
  --filter TEXT      tests whose names have it, as of deno test
  --jobs N           how many at a time (${navigator.hardwareConcurrency}: the processors of this machine)
  -h, --help         this text

Exits with 0 when all passed, 1 when one failed, 2 for a wrong argument.`;

interface Options {
  files: string[];
  filter?: string;
  jobs: number;
}

function parse(args: string[]): Options {
  const options: Options = { files: [], jobs: navigator.hardwareConcurrency };
  for (let i = 0; i < args.length; i++) {
    const [name, value = args[i + 1]] = args[i].split(/=(.*)/s);
    if (name === "--filter" || name === "--jobs") {
      if (!args[i].includes("=")) i++;
      if (name === "--filter") options.filter = value;
      else options.jobs = Number(value);
    } else if (name.startsWith("-")) fail(`There is no option ${name}`);
    else options.files.push(args[i]);
  }
  if (!(Number.isInteger(options.jobs) && options.jobs > 0)) fail("--jobs takes a number");
  return options;
}

function fail(message: string): never {
  console.error(`${message}\nSee --help`);
  Deno.exit(2);
}

/** What one process ran. */
interface Outcome {
  code: number;
  passed: number;
  failed: number;
  ignored: number;
}

/** Runs `deno test` with these arguments. */
async function test(args: string[]): Promise<Outcome> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
  const { code, stdout, stderr } = await command.output();
  for (let bytes of [stdout, stderr]) {
    while (bytes.length > 0) bytes = bytes.subarray(Deno.stdout.writeSync(bytes));
  }
  // deno-lint-ignore no-control-regex -- colors
  const text = new TextDecoder().decode(stdout).replaceAll(/\x1b\[[\d;]*m/g, "");
  const [line = ""] = text.match(/^(ok|FAILED) \| .*$/mg)?.slice(-1) ?? [];
  const count = (what: string) => Number(line.match(new RegExp(`(\\d+) ${what}`))?.[1] ?? 0);
  return { code, passed: count("passed"), failed: count("failed"), ignored: count("ignored") };
}

/** The files of a directory and of those in it. */
function filesIn(directory: string): string[] {
  return [...Deno.readDirSync(directory)].flatMap(({ name, isDirectory }) => {
    const path = `${directory}/${name}`;
    return isDirectory ? filesIn(path) : [path];
  });
}

/** The files of tests, the long ones first: what begins last is not to take longest. */
function testFiles(): string[] {
  const size = (file: string) => Deno.statSync(file).size;
  const first = ["faults", "departure_versions", "generation", "examples", "lying_peer", "fuzz"];
  const rank = (file: string) => {
    const at = first.findIndex((name) => file.endsWith(`/${name}_test.ts`));
    return at < 0 ? first.length : at;
  };
  return filesIn("tests")
    .filter((file) => file.endsWith("_test.ts"))
    .sort((a, b) => rank(a) - rank(b) || size(b) - size(a));
}

async function main(args: string[]): Promise<number> {
  if (args.includes("-h") || args.includes("--help")) {
    console.log(usage);
    return 0;
  }
  const { files, filter, jobs } = parse(args);
  const began = performance.now();
  const check = new Deno.Command(Deno.execPath(), { args: ["check", "-q", "."], stdin: "null" });
  if (!(await check.spawn().status).success) return 1;
  const only = filter === undefined ? [] : ["--filter", filter];
  const left = (files.length > 0 ? files : testFiles()).map((file) => ["--no-check", file]);
  if (files.length === 0) left.push(["--doc", "mod.ts", "README.md", "lib", "ffi"]);
  const all: Outcome = { code: 0, passed: 0, failed: 0, ignored: 0 };
  const failed: string[] = [];
  const work = async () => {
    for (let next; (next = left.shift());) {
      const outcome = await test([...only, ...next]);
      for (const field of ["passed", "failed", "ignored"] as const) all[field] += outcome[field];
      if (outcome.code !== 0) failed.push(next.at(-1)!);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  const seconds = Math.round((performance.now() - began) / 1000);
  for (const file of failed) console.log(`FAILED in ${file}`);
  const { passed, ignored } = all;
  console.log(
    `${
      failed.length > 0 ? "FAILED" : "ok"
    } | ${passed} passed | ${all.failed} failed | ${ignored} ignored ` +
      `(${Math.floor(seconds / 60)}m${seconds % 60}s)`,
  );
  return failed.length > 0 ? 1 : 0;
}

Deno.exit(await main(Deno.args));
