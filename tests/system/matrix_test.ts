import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { kinds } from "./kinds.ts";
import { type Column, differences, table, versions, withTable } from "./matrix.ts";
import { test } from "../support/guard.ts";

const ignore = !await hasNpm();
if (ignore) console.log("npm is not installed: the oldest Deno is not tested");

test(
  "every kind works on the oldest Deno and on this one, as README.md says",
  { ignore },
  async () => {
    const chosen = [versions[0], Deno.version.deno].join(",");
    const { code, text } = await matrix("--versions", chosen, "--check-readme");
    assertEquals(code, 0, text);
    assertMatch(text, new RegExp(`^${versions[0]}: ${kinds.length} of ${kinds.length} work`, "m"));
  },
);

const reason = "this version has no such thing";

/** Two columns, the second without its first kind. */
function columns(): Column[] {
  const seen = kinds.map(({ kind, direction }) => ({ kind, direction, ok: true, detail: "" }));
  const limited = [{ ...seen[0], ok: false, reason }, ...seen.slice(1)];
  return [{ name: "2.0.6", seen }, { name: "2.9.6", seen: limited }];
}

const written = (text: string) => `# graceful\n\n<!-- matrix -->\n\n${text}\n\n<!-- /matrix -->\n`;

test("the table has a row for every kind, and reasons below", () => {
  const text = table(columns());
  assertEquals(text.match(/^\| (in|out) /gm)?.length, kinds.length);
  assertMatch(text, /^\| in +\| TCP listener, IPv4 +\| ok +\| \(1\) +\|$/m);
  assertStringIncludes(text, `\n\n1. ${reason}`);
});

test("a table is written between the marks, whatever was there, and the rest stays", () => {
  const text = table(columns());
  for (const old of ["", "| | kind | 2.0.6 |\n| --- | --- | --- |\n| in | file | ok |"]) {
    assertEquals(withTable(written(old), columns()), written(text));
  }
});

test("a table that says what was seen has no differences, however its reasons are wrapped", () => {
  const wrapped = table(columns()).replace("version has", "version\n   has");
  assertEquals(differences(written(wrapped), columns()), []);
  assertEquals(differences(written(wrapped), columns().slice(1)), []);
});

test("a table that says otherwise is told by version and kind", () => {
  const [all, limited] = columns();
  assertEquals(differences(written(table([all, { ...limited, seen: all.seen }])), [limited]), [
    `2.9.6, in TCP listener, IPv4: README.md says "ok", seen was "${reason}"`,
  ]);
  assertEquals(differences(written(table([all])), [limited]), ["README.md has no column 2.9.6"]);
  const rows = table([all]).split("\n");
  const without = rows.filter((row) => !row.includes("`Deno.FsFile`")).join("\n");
  assertEquals(differences(written(without), [all]), [
    '2.0.6, out `Deno.FsFile`: README.md says "nothing", seen was "ok"',
  ]);
  const renamed = table([all]).replace("`Deno.FsFile`", "`Deno.File`");
  assertEquals(differences(written(renamed), [all]).length, 2);
});

test("matrix prints its usage, and refuses what it does not know", async () => {
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
  const path = new URL("./matrix.ts", import.meta.url).pathname;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", path, ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}

async function hasNpm(): Promise<boolean> {
  try {
    return (await new Deno.Command("npm", { args: ["--version"] }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
