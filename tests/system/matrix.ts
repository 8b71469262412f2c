/**
 * `deno task matrix`: what works on which version of Deno, seen by running kinds.ts on each.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { kinds, type Seen } from "./kinds.ts";

const usage = `Usage: deno task matrix [options]

Runs every check of tests/system/kinds.ts on several versions of Deno, which npm installs, and
prints what works where. Exits with 1 when a check failed without a stated reason.

  --versions a,b   run these instead of all
  --aarch64        run one for aarch64 as well, under qemu-user (installed with apt-get, as root)
  --readme         write the table into README.md
  --check-readme   exit with 1 when README.md says otherwise of the versions that were run
  --help           print this`;

/**
 * The first and the last release of Deno 2 that it is known to work on, and one of each between; of 2.8
 * two: 2.8.3, a patch release, replaced the server of HTTP/1.
 */
export const versions = [
  "2.0.6",
  "2.1.14",
  "2.2.15",
  "2.3.7",
  "2.4.4",
  "2.5.6",
  "2.6.8",
  "2.7.14",
  "2.8.2",
  "2.8.3",
  "2.9.6",
];

const emulatedVersion = "2.9.5";
const emulated = `${emulatedVersion} aarch64`;

/** The columns of README.md. */
const promised = [...versions, emulated];

/** One version, and what each check saw there, in the order of `kinds`. */
export interface Column {
  name: string;
  seen: Seen[];
}

/** How to start a Deno; or why it cannot be. */
export type Runtime = { command: string[] } | { skipped: string };

/** An emulated processor needs about twenty seconds for all checks, which are bounded themselves. */
const longestRun = 300_000;

const root = new URL("../../", import.meta.url);
const readme = new URL("README.md", root);
const marks = ["<!-- matrix -->", "<!-- /matrix -->"];

// Installing.

function cacheDirectory(): string {
  const base = Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME")}/.cache`;
  return `${base}/graceful-matrix`;
}

/** Runs a program to its end; gives what it complained of if it failed. */
async function run(program: string, ...args: string[]): Promise<string | undefined> {
  try {
    const { success, stderr } = await new Deno.Command(program, { args, stdout: "null" }).output();
    if (success) return undefined;
    const lines = new TextDecoder().decode(stderr).trim().split("\n");
    // npm and apt-get say what is wrong first, and where to read more about it last.
    return lines.find((line) => /^(npm error (?!code)|E:)/.test(line)) ?? lines.at(-1);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return `${program} is not installed`;
    throw error;
  }
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** The program out of an npm package; installed beside and moved in one step, so never half there. */
async function installed(
  name: string,
  spec: string,
  processor: "x64" | "arm64",
): Promise<Runtime> {
  const cache = cacheDirectory();
  const directory = `${cache}/${name}`;
  const program = `${directory}/node_modules/@deno/linux-${processor}-glibc/deno`;
  if (exists(program)) return { command: [program] };
  await Deno.mkdir(cache, { recursive: true });
  const temporary = await Deno.makeTempDir({ dir: cache });
  try {
    // npm refuses another processor's package unless it is forced.
    const flags = ["--force", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"];
    const failed = await run("npm", "install", "--prefix", temporary, ...flags, spec);
    if (failed !== undefined) return { skipped: `npm install ${spec}: ${failed}` };
    await remove(directory);
    await Deno.rename(temporary, directory);
  } catch (error) {
    // Another run that installs the same may have come first.
    if (!exists(program)) throw error;
  } finally {
    await remove(temporary);
  }
  return exists(program) ? { command: [program] } : { skipped: `${spec} holds no ${program}` };
}

async function remove(directory: string): Promise<void> {
  try {
    await Deno.remove(directory, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** A Deno of that version, for this machine. */
export async function native(version: string): Promise<Runtime> {
  if (version === Deno.version.deno) return { command: [Deno.execPath()] };
  const processor = Deno.build.arch === "aarch64" ? "arm64" : "x64";
  return await installed(version, `deno@${version}`, processor);
}

const sysroot = "/usr/aarch64-linux-gnu";

/** A Deno for aarch64, on whatever processor this is. */
async function foreign(): Promise<Runtime> {
  const deno = await installed(
    emulated.replace(" ", "-"),
    `@deno/linux-arm64-glibc@${emulatedVersion}`,
    "arm64",
  );
  if ("skipped" in deno || Deno.build.arch === "aarch64") return deno;
  const skipped = await prepareEmulator();
  if (skipped !== undefined) return { skipped };
  return { command: ["qemu-aarch64", "-L", sysroot, ...deno.command] };
}

/** Sees to the emulator and the libraries of its processor; gives why it could not. */
async function prepareEmulator(): Promise<string | undefined> {
  const libraries = ["libc.so.6", "libgcc_s.so.1"].map((name) => `${sysroot}/lib/${name}`);
  const complete = libraries.every(exists);
  if (complete && await run("qemu-aarch64", "--version") === undefined) return undefined;
  const packages = ["qemu-user", "libc6-arm64-cross", "libgcc-s1-arm64-cross"];
  if (Deno.uid() !== 0) return `only root can install ${packages.join(", ")}`;
  const install = ["install", "-y", "--no-install-recommends", ...packages];
  return await run("apt-get", "update") ?? await run("apt-get", ...install);
}

// Running.

async function column(name: string, command: string[]): Promise<Column> {
  const [program, ...args] = command;
  const script = new URL("kinds.ts", import.meta.url).pathname;
  const { code, signal, stdout, stderr } = await new Deno.Command(program, {
    // The types are checked elsewhere: before TypeScript 5.9 there is no Uint8Array<ArrayBuffer>.
    args: [...args, "run", "-A", "--unstable-net", "--no-check", script],
    cwd: root,
    env: {
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
      // One version's caches are not another's.
      DENO_DIR: `${cacheDirectory()}/deno_dir/${name.replace(" ", "-")}`,
    },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(longestRun),
  }).output();
  const text = new TextDecoder();
  const lines = text.decode(stdout).split("\n").filter((line) => line.startsWith("{"));
  const printed: Seen[] = lines.map((line) => JSON.parse(line));
  const last = text.decode(stderr).trim().split("\n").at(-1);
  const detail = `not reached: the process ended with ${signal ?? code}, having said "${last}"`;
  const seen = kinds.map(({ kind, direction }) =>
    printed.find((one) => one.kind === kind && one.direction === direction) ??
      { kind, direction, ok: false, detail }
  );
  return { name, seen };
}

const failed = (seen: Seen) => !seen.ok && seen.reason === undefined;

// The table.

const rowNames = (seen: { kind: string; direction: string }) => [seen.direction, seen.kind];

/** What a cell means: that it works, or why it does not. */
function meaning(seen: Seen): string {
  return seen.ok ? "ok" : seen.reason ?? "fails";
}

/** The table in Markdown, with the reasons below. */
export function table(columns: Column[]): string {
  const reasons: string[] = [];
  const cell = (seen: Seen) => {
    if (seen.ok || failed(seen)) return meaning(seen);
    if (!reasons.includes(seen.reason!)) reasons.push(seen.reason!);
    return `(${reasons.indexOf(seen.reason!) + 1})`;
  };
  const rows = [
    ["", "kind", ...columns.map(({ name }) => name)],
    ...kinds.map((kind, i) => [...rowNames(kind), ...columns.map(({ seen }) => cell(seen[i]))]),
  ];
  const widths = rows[0].map((_, i) => Math.max(3, ...rows.map((row) => row[i].length)));
  const line = (row: string[]) => `| ${row.map((name, i) => name.padEnd(widths[i])).join(" | ")} |`;
  const [head, ...body] = rows.map(line);
  const rule = line(widths.map((width) => "-".repeat(width)));
  const notes = reasons.map((reason, i) => `${i + 1}. ${reason}`);
  return [head, rule, ...body, ...(notes.length > 0 ? ["", ...notes] : [])].join("\n");
}

/** What `table` wrote, read again: by column, by row, what the cell means. */
function readTable(text: string): Map<string, Map<string, string>> {
  const [rows, notes] = [[] as string[][], [] as string[]];
  for (const line of text.split("\n").map((line) => line.trim())) {
    const note = /^\d+\. (.*)/.exec(line);
    if (line.startsWith("|")) rows.push(line.slice(1, -1).split("|").map((cell) => cell.trim()));
    else if (note) notes.push(note[1]);
    else if (line) notes.push(`${notes.pop() ?? ""} ${line}`);
  }
  const [head = [], _rule, ...body] = rows;
  const columns = head.slice(2).map((name, i): [string, Map<string, string>] => {
    const cells = body.map((row): [string, string] => {
      const note = /^\((\d+)\)$/.exec(row[i + 2]);
      return [`${row[0]} ${row[1]}`, note ? notes[Number(note[1]) - 1] : row[i + 2]];
    });
    return [name, new Map(cells)];
  });
  return new Map(columns);
}

/** Where a README says otherwise than was seen, in words. */
export function differences(readme: string, columns: Column[]): string[] {
  const { inside } = split(readme);
  const written = readTable(inside);
  return columns.flatMap(({ name, seen }) => {
    const cells = written.get(name);
    // A version that nobody promised anything about may be tried, too.
    if (!cells) return promised.includes(name) ? [`README.md has no column ${name}`] : [];
    const rows = new Set([...cells.keys(), ...seen.map((one) => rowNames(one).join(" "))]);
    return [...rows].flatMap((row) => {
      const one = seen.find((one) => rowNames(one).join(" ") === row);
      const [says, is] = [cells.get(row) ?? "nothing", one ? meaning(one) : "nothing"];
      return says === is ? [] : [`${name}, ${row}: README.md says "${says}", seen was "${is}"`];
    });
  });
}

/** A README with another table. */
export function withTable(readme: string, columns: Column[]): string {
  const { before, after } = split(readme);
  return `${before}\n\n${table(columns)}\n\n${after}`;
}

/** What is between the marks; the marks go with what is around them. */
function split(readme: string): { before: string; inside: string; after: string } {
  const [start, end] = marks.map((mark) => readme.indexOf(mark));
  if (start < 0 || end < start) throw new Error(`README.md has no ${marks.join(" ... ")}`);
  const at = start + marks[0].length;
  return { before: readme.slice(0, at), inside: readme.slice(at, end), after: readme.slice(end) };
}

async function writeReadme(columns: Column[]): Promise<void> {
  await Deno.writeTextFile(readme, withTable(await Deno.readTextFile(readme), columns));
  const failed = await run(Deno.execPath(), "fmt", "--quiet", readme.pathname);
  if (failed !== undefined) throw new Error(`Cannot format README.md: ${failed}`);
}

// The command.

function options() {
  const { values } = parseArgs({
    options: {
      versions: { type: "string" },
      aarch64: { type: "boolean", default: false },
      readme: { type: "boolean", default: false },
      "check-readme": { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const chosen = [...new Set(values.versions?.split(",") ?? versions)];
  const strange = chosen.find((version) => !/^\d+\.\d+\.\d+$/.test(version));
  if (strange !== undefined) throw new TypeError(`Not a version: "${strange}"`);
  if (values.readme && values.versions !== undefined) {
    throw new TypeError("--readme writes the whole table: it does not go with --versions");
  }
  return { ...values, chosen };
}

async function main(): Promise<number> {
  let flags: ReturnType<typeof options>;
  try {
    flags = options();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    console.error(`${error.message}\n\n${usage}`);
    return 2;
  }
  if (flags.help) {
    console.log(usage);
    return 0;
  }

  const wanted = flags.chosen.map((name) => ({ name, find: () => native(name) }));
  if (flags.aarch64) wanted.push({ name: emulated, find: foreign });
  const columns: Column[] = [];
  let failures = 0;
  for (const { name, find } of wanted) {
    const runtime = await find();
    if ("skipped" in runtime) {
      console.log(`${name}: skipped, ${runtime.skipped}`);
      // Emulation is an extra; a version that was asked for and not run is not fine.
      if (name !== emulated) failures++;
      continue;
    }
    const start = performance.now();
    const done = await column(name, runtime.command);
    columns.push(done);
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const works = done.seen.filter(({ ok }) => ok).length;
    console.log(`${name}: ${works} of ${kinds.length} work, ${seconds} s`);
    for (const one of done.seen.filter(failed)) {
      console.log(`  ${rowNames(one).join(" ")} fails: ${one.detail}`);
      failures++;
    }
  }
  console.log(`\n${table(columns)}`);

  if (flags.readme && failures > 0) console.log("\nREADME.md is left as it is");
  else if (flags.readme) await writeReadme(columns);
  if (!flags["check-readme"]) return failures > 0 ? 1 : 0;
  const otherwise = differences(await Deno.readTextFile(readme), columns);
  for (const difference of otherwise) console.log(difference);
  return failures + otherwise.length > 0 ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main());
