import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Child } from "../support/child.ts";
import { versions } from "../support/deno_versions.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";
import { kinds } from "./matrix_kinds.ts";
import { type Column, differences, table, withTable } from "./matrix_table.ts";

const ignore = !await succeeds(["npm", "--version"]);
if (ignore) console.log("matrix_test.ts: the oldest Deno is not tested: npm is not installed");

test(
  "every kind works on the oldest Deno and on this one, as the table in lib/README.md has it",
  { ignore },
  async () => {
    const chosen = [versions[0], Deno.version.deno].join(",");
    const { code, text } = await matrix("--versions", chosen, "--check-readme");
    assertEquals(code, 0, text);
    // The oldest Deno has no --preload.
    const works = kinds.filter(({ direction }) => direction !== "preload").length;
    assertMatch(text, new RegExp(`^${versions[0]}: ${works} of ${kinds.length} work`, "m"));
  },
);

const reason = "this version does not support it";

/** Two columns; the first kind does not work in the second. */
function columns(): Column[] {
  const seen = kinds.map(({ kind, direction }) => ({ kind, direction, ok: true, detail: "" }));
  const limited = [{ ...seen[0], ok: false, reason }, ...seen.slice(1)];
  return [{ name: "2.0.6", seen }, { name: "2.9.6", seen: limited }];
}

const file = (text: string) => `# graceful\n\n<!-- matrix -->\n\n${text}\n\n<!-- /matrix -->\n`;

test("table() gives a row for every kind, and the reasons below", () => {
  const text = table(columns());
  assertEquals(text.match(/^\| (in|out|preload) /gm)?.length, kinds.length);
  assertMatch(text, /^\| in +\| TCP listener, IPv4 +\| ok +\| \(1\) +\|$/m);
  assertStringIncludes(text, `\n\n1. ${reason}`);
});

test("withTable() replaces the table between the marks, and nothing else", () => {
  const text = table(columns());
  for (const old of ["", "| | kind | 2.0.6 |\n| --- | --- | --- |\n| in | file | ok |"]) {
    assertEquals(withTable(file(old), columns()), file(text));
  }
});

test("differences() finds none in a table of the same results, however its reasons are wrapped", () => {
  const wrapped = table(columns()).replace("version does", "version\n   does");
  assertEquals(differences(file(wrapped), columns()), []);
  assertEquals(differences(file(wrapped), columns().slice(1)), []);
});

test("differences() names the version and the kind of a cell that differs", () => {
  const [all, limited] = columns();
  assertEquals(differences(file(table([all, { ...limited, seen: all.seen }])), [limited]), [
    `2.9.6, in TCP listener, IPv4: lib/README.md has "ok", the check gave "${reason}"`,
  ]);
  assertEquals(differences(file(table([all])), [limited]), ["lib/README.md has no column 2.9.6"]);
  const rows = table([all]).split("\n");
  const without = rows.filter((row) => !row.includes("`Deno.FsFile`")).join("\n");
  assertEquals(differences(file(without), [all]), [
    '2.0.6, out `Deno.FsFile`: lib/README.md has "nothing", the check gave "ok"',
  ]);
  const renamed = table([all]).replace("`Deno.FsFile`", "`Deno.File`");
  assertEquals(differences(file(renamed), [all]).length, 2);
});

test("deno task matrix prints its usage, and exits with 2 for unknown arguments", async () => {
  const help = await matrix("--help");
  assertEquals(help.code, 0);
  assertMatch(help.text, /^Usage: /);
  for (
    const args of [
      ["--bogus"],
      ["2.0.6"],
      ["--versions", "latest"],
      ["--versions", ""],
      ["--versions", "2.0.6", "--readme"],
    ]
  ) {
    const { code, text } = await matrix(...args);
    assertEquals(code, 2, text);
    assertMatch(text, /^Usage: /m);
  }
});

async function matrix(...args: string[]): Promise<{ code: number; text: string }> {
  await using child = new Child("../system/matrix.ts", args);
  const { code, stdout, stderr } = await child.ended();
  return { code, text: [...stdout, stderr].join("\n") };
}
