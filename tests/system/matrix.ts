/**
 * `deno task matrix`: what works on which version of Deno, seen by running matrix_kinds.ts on each.
 *
 * @module
 */

import { Progress, runTool, UsageError } from "../support/command_line.ts";
import {
  cacheDirectory,
  emulated,
  errorOf,
  installDeno,
  installEmulatedDeno,
  versions,
} from "../support/deno_versions.ts";
import type { Seen } from "./matrix_kind.ts";
import { kinds } from "./matrix_kinds.ts";
import {
  type Column,
  differences,
  hasFailed,
  rowNames,
  table,
  tableFile,
  withTable,
} from "./matrix_table.ts";

const usage = `Usage: deno task matrix [options]

Runs every check of tests/system/matrix_kinds.ts on several versions of Deno, which npm installs, and
prints what works on which. Exits with 0 when every check passed or failed for a stated reason, with 1
when one failed without a reason or a version could not be installed, with 2 for wrong arguments.

  --versions a,b   run these versions instead of all
  --aarch64        run a version for aarch64 as well, under qemu-user (installed with apt-get, as root)
  --readme         write the table into lib/README.md
  --check-readme   exit with 1 when the table in lib/README.md differs for the versions that were run
  --help           print this`;

/** Milliseconds; an emulated processor takes about twenty seconds, and each check has a limit of its own. */
const longestRun = 300_000;

const root = new URL("../../", import.meta.url);
const readme = new URL(tableFile, root);

/** Runs all checks on one version. */
async function runChecks(name: string, command: string[]): Promise<Column> {
  const [program, ...args] = command;
  const script = new URL("matrix_kinds.ts", import.meta.url).pathname;
  const { code, signal, stdout, stderr } = await new Deno.Command(program, {
    // --no-check: TypeScript before 5.9 has no Uint8Array<ArrayBuffer>.
    args: [...args, "run", "-A", "--unstable-net", "--no-check", script],
    cwd: root,
    env: {
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
      // A directory for each version: their caches differ.
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
  const detail = `not reached: the process ended with ${signal ?? code}, and printed "${last}"`;
  const seen = kinds.map(({ kind, direction }) =>
    printed.find((one) => one.kind === kind && one.direction === direction) ??
      { kind, direction, ok: false, detail }
  );
  return { name, seen };
}

async function writeReadme(columns: Column[]): Promise<void> {
  await Deno.writeTextFile(readme, withTable(await Deno.readTextFile(readme), columns));
  const error = await errorOf(Deno.execPath(), "fmt", "--quiet", readme.pathname);
  if (error !== undefined) throw new Error(`Cannot format ${tableFile}: ${error}`);
}

interface Options {
  chosen: string[];
  aarch64: boolean;
  readme: boolean;
  checkReadme: boolean;
}

async function matrix(options: Options): Promise<boolean> {
  const wanted = options.chosen.map((name) => ({ name, install: () => installDeno(name) }));
  if (options.aarch64) wanted.push({ name: emulated, install: installEmulatedDeno });
  const columns: Column[] = [];
  let failures = 0;
  {
    let current = "";
    using progress = new Progress(() =>
      `${columns.length} of ${wanted.length}, ${current} is running`
    );
    for (const { name, install } of wanted) {
      current = name;
      const runtime = await install();
      if ("skipped" in runtime) {
        progress.print(`${name}: skipped, ${runtime.skipped}`);
        // The emulated version is an extra; a version that was asked for has to run.
        if (name !== emulated) failures++;
        continue;
      }
      const began = performance.now();
      const column = await runChecks(name, runtime.command);
      columns.push(column);
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      const works = column.seen.filter(({ ok }) => ok).length;
      progress.print(`${name}: ${works} of ${kinds.length} work, ${seconds} s`);
      for (const one of column.seen.filter(hasFailed)) {
        progress.print(`  ${rowNames(one).join(" ")} fails: ${one.detail}`);
        failures++;
      }
    }
  }
  console.log(`\n${table(columns)}`);

  if (options.readme && failures > 0) console.log(`\n${tableFile} is not written: a check failed`);
  else if (options.readme) await writeReadme(columns);
  if (!options.checkReadme) return failures === 0;
  const found = differences(await Deno.readTextFile(readme), columns);
  for (const difference of found) console.log(difference);
  return failures + found.length === 0;
}

if (import.meta.main) {
  await runTool(usage, {
    options: {
      versions: { type: "string" },
      aarch64: { type: "boolean", default: false },
      readme: { type: "boolean", default: false },
      "check-readme": { type: "boolean", default: false },
    },
  }, async ({ values }) => {
    const chosen = [...new Set(values.versions?.split(",") ?? versions)];
    const strange = chosen.find((version) => !/^\d+\.\d+\.\d+$/.test(version));
    if (strange !== undefined) throw new UsageError(`Not a version: "${strange}"`);
    if (values.readme && values.versions !== undefined) {
      throw new UsageError("--readme writes the whole table: it does not go with --versions");
    }
    const { aarch64, readme, "check-readme": checkReadme } = values;
    return await matrix({ chosen, aarch64, readme, checkReadme });
  });
}
