/**
 * A service under `deno run --watch`: each run of it is in the same process, however the one before ended.
 *
 * @module
 */

import { asked } from "./fixtures/begin.ts";
import { Directory } from "./fixtures/directory.ts";
import { freePort } from "./fixtures/free_port.ts";
import { Generations } from "./fixtures/generations.ts";
import { until } from "./fixtures/until.ts";
import { test } from "./guard.ts";
import { native, versions } from "./matrix.ts";

/** What a run does, and the line by which it shows that it has come to that. */
const ways: Record<string, RegExp | undefined> = {
  "serves": /^version: 1$/,
  "rejects": /Process failed/,
  "fails in a timer": /Process failed/,
  "is not ready": undefined,
};

for (const version of new Set([versions[0], Deno.version.deno])) {
  const runtime = await native(version);
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
