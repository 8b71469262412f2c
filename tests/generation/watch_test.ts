/**
 * A service under `deno run --watch`: each run of it is in the same process, however the one before ended.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { asked } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";
import { installDeno, versions } from "../support/deno_versions.ts";

/** What a run does, and the line by which it shows that it has come to that. */
const ways: Record<string, RegExp | undefined> = {
  "serves": /^version: 1$/,
  "rejects": /Process failed/,
  "fails in a timer": /Process failed/,
  "is not ready": undefined,
};

test("restart() refuses under --watch: that process would stay, and run the program beside the next one", async () => {
  using directory = new Directory();
  const saved = directory.join("saved.ts");
  Deno.writeTextFileSync(saved, 'export const version = 1; export const how = "restarts";');
  await using service = new Generations("./watched.ts", [directory.path, String(freePort())], {
    deno: ["run", "-A", "--no-check", "--no-lock", `--watch=${saved}`],
    through: ["sh", "-c", 'exec "$@" 2>&1', "sh"],
  });
  await service.until(/^Cannot restart: process \d+, this one, runs under `deno run --watch`/);
  await service.until(/^restart: ERR_HANDOVER_MAIN_PROCESS$/);
});

for (const version of new Set([versions[0], Deno.version.deno])) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  for (const [how, shown] of Object.entries(ways)) {
    test(`on Deno ${version}, the next run under --watch serves where the one before ${how}`, {
      ignore,
    }, async () => {
      if ("skipped" in runtime) return;
      using directory = new Directory();
      const port = freePort();
      const saved = directory.join("saved.ts");
      const save = (version: number, how: string) => {
        const text = `export const version = ${version}; export const how = "${how}";`;
        Deno.writeTextFileSync(saved, text);
      };
      save(1, how);
      await using service = new Generations("./watched.ts", [directory.path, String(port)], {
        deno: ["run", "-A", "--no-check", "--no-lock", `--watch=${saved}`],
        program: runtime.command,
        // Deno's own words are on stderr.
        through: ["sh", "-c", 'exec "$@" 2>&1', "sh"],
      });
      if (shown) await service.until(shown);
      else await until(() => directory.names().includes("app.sock"));
      // Deno may not watch the file yet: what it has not noticed is saved again.
      const saving = setInterval(() => save(2, "serves"), 1000);
      save(2, "serves");
      try {
        await service.until(/^version: 2$/);
      } finally {
        clearInterval(saving);
      }
      await until(async () => await asked(port).catch(() => "") === "version 2");
    });
  }
}

/** A service under --watch, and how to save a version of it until that runs. */
function watched(directory: Directory, fixture: string, ...args: string[]) {
  const saved = directory.join("saved.ts");
  const save = (version: number) => {
    Deno.writeTextFileSync(
      saved,
      `export const version = ${version}; export const how = "serves";`,
    );
  };
  save(1);
  const service = new Generations(fixture, [directory.path, ...args], {
    deno: ["run", "-A", "--no-check", "--no-lock", `--watch=${saved}`],
    through: ["sh", "-c", 'exec "$@" 2>&1', "sh"],
  });
  const run = async (version: number) => {
    // Deno may not watch the file yet: what it has not noticed is saved again.
    const saving = setInterval(() => save(version), 1000);
    save(version);
    try {
      await service.until(new RegExp(`^version: ${version}$`));
    } finally {
      clearInterval(saving);
    }
  };
  return { service, run };
}

test("the next run under --watch serves where the generation of the one before was in a worker", async () => {
  using directory = new Directory();
  const { service, run } = watched(directory, "./watched_worker.ts");
  await using _service = service;
  await service.until(/^version: 1$/);
  for (const version of [2, 3]) await run(version);
});

test("runs under --watch leave no descriptors open", async () => {
  using directory = new Directory();
  const { service, run } = watched(directory, "./watched.ts", String(freePort()));
  await using _service = service;
  await service.until(/^version: 1$/);
  const open = () => [...Deno.readDirSync(`/proc/${service.pid}/fd`)].length;
  await run(2);
  const before = open();
  const runs = 6;
  for (let i = 0; i < runs; i++) await run(3 + i);
  // Two for each run would be twice as many.
  assertEquals(open() - before < runs, true, `${before} descriptors, and ${open()} in the end`);
});
