/**
 * The table of the matrix in Markdown: written, and compared with what was seen.
 *
 * @module
 */

import { emulated, versions } from "../support/deno_versions.ts";
import type { Seen } from "./matrix_kind.ts";
import { kinds } from "./matrix_kinds.ts";

/** The file that has the table, relative to the root of the project. */
export const tableFile = "lib/README.md";

const marks = ["<!-- matrix -->", "<!-- /matrix -->"];

/** The columns of the file. */
const promised = [...versions, emulated];

/** The results of one version, in the order of `kinds`. */
export interface Column {
  name: string;
  seen: Seen[];
}

/** The cells that name a row. */
export const rowNames = (seen: { kind: string; direction: string }) => [seen.direction, seen.kind];

/** Whether a check failed without a stated reason. */
export function hasFailed(seen: Seen): boolean {
  return !seen.ok && seen.reason === undefined;
}

/** The content of a cell: "ok", or the reason why it does not work. */
function meaning(seen: Seen): string {
  return seen.ok ? "ok" : seen.reason ?? "fails";
}

/** The table in Markdown, with the reasons below it. */
export function table(columns: Column[]): string {
  const reasons: string[] = [];
  const cell = (seen: Seen) => {
    if (seen.ok || hasFailed(seen)) return meaning(seen);
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

/** Reads a table that `table` has written: by column and row, the content of the cell. */
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

/** The differences between the table in a file and the results, in words. */
export function differences(text: string, columns: Column[]): string[] {
  const { inside } = split(text);
  const table = readTable(inside);
  return columns.flatMap(({ name, seen }) => {
    const cells = table.get(name);
    // Other versions may be run, too: the table has no column for them.
    if (!cells) return promised.includes(name) ? [`${tableFile} has no column ${name}`] : [];
    const rows = new Set([...cells.keys(), ...seen.map((one) => rowNames(one).join(" "))]);
    return [...rows].flatMap((row) => {
      const one = seen.find((one) => rowNames(one).join(" ") === row);
      const [written, is] = [cells.get(row) ?? "nothing", one ? meaning(one) : "nothing"];
      return written === is
        ? []
        : [`${name}, ${row}: ${tableFile} has "${written}", the check gave "${is}"`];
    });
  });
}

/** The file with another table. */
export function withTable(text: string, columns: Column[]): string {
  const { before, after } = split(text);
  return `${before}\n\n${table(columns)}\n\n${after}`;
}

/** Splits a file at the marks, which go to the parts before and after the table. */
function split(text: string): { before: string; inside: string; after: string } {
  const [start, end] = marks.map((mark) => text.indexOf(mark));
  if (start < 0 || end < start) throw new Error(`${tableFile} has no ${marks.join(" ... ")}`);
  const at = start + marks[0].length;
  return { before: text.slice(0, at), inside: text.slice(at, end), after: text.slice(end) };
}
