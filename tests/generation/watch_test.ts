/**
 * A service under `deno run --watch`: all runs are in the same process, however the previous one has ended.
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

/** The ways of a run to end, and the line that shows it. */
const ways: Record<string, RegExp | undefined> = {
  "serves": /^version: 1$/,
  "rejects": /Process failed/,
  "fails in a timer": /Process failed/,
  "is not ready": undefined,
};

test("restart() refuses under --watch: the process would stay, and run the program beside the next generation", async () => {
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
    test(
      `on Deno ${version}, the next run under --watch serves at the addresses of a run that ${how}`,
      {
        ignore,
      },
      async () => {
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
          // The messages of Deno are on stderr.
          through: ["sh", "-c", 'exec "$@" 2>&1', "sh"],
        });
        if (shown) await service.until(shown);
        else await until(() => directory.names().includes("app.sock"));
        // Deno may not watch the file yet: save it until it does.
        const saving = setInterval(() => save(2, "serves"), 1000);
        save(2, "serves");
        try {
          await service.until(/^version: 2$/);
        } finally {
          clearInterval(saving);
        }
        await until(async () => await asked(port).catch(() => "") === "version 2");
      },
    );
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
    // Deno may not watch the file yet: save it until it does.
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

test("the next run under --watch serves at the addresses of a generation in a worker of the previous run", async () => {
  using directory = new Directory();
  const { service, run } = watched(directory, "./watched_worker.ts");
  await using _service = service;
  await service.until(/^version: 1$/);
  for (const version of [2, 3]) await run(version);
});

test("runs under --watch do not accumulate open descriptors", async () => {
  using directory = new Directory();
  const { service, run } = watched(directory, "./watched.ts", String(freePort()));
  await using _service = service;
  await service.until(/^version: 1$/);
  const open = () => [...Deno.readDirSync(`/proc/${service.pid}/fd`)].length;
  await run(2);
  const before = open();
  const runs = 6;
  for (let i = 0; i < runs; i++) await run(3 + i);
  // A leak of the two descriptors of a run would be twice as many.
  assertEquals(open() - before < runs, true, `${before} descriptors, and ${open()} in the end`);
});
