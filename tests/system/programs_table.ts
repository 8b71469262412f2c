/**
 * The table of the programs, in Markdown.
 *
 * @module
 */

import type { Outcome } from "./programs_run.ts";

/** Whether nothing was refused or lost, and nothing was printed to stderr. */
export function isFine({ refused, lost, stderr }: Outcome): boolean {
  return refused + lost === 0 && stderr === "";
}

const number = (value: number) => value.toLocaleString("en");

/** A row for each program, with the control, and the sum of all. */
export function table(rows: { outcome: Outcome; control?: Outcome }[]): string {
  const head = [
    "program, unchanged",
    "restarts",
    "requests",
    "refused",
    "lost",
    "stopped and started",
    "requests",
    "refused",
    "lost",
  ];
  const cells = rows.map(({ outcome, control }) => [
    outcome.program.name,
    ...figures(outcome),
    ...control ? figures(control) : ["", "", "", ""],
  ]);
  const underWay = rows.reduce((sum, { outcome }) => sum + outcome.underWay, 0);
  const widths = head.map((name, i) => Math.max(name.length, ...cells.map((row) => row[i].length)));
  const line = (row: string[]) =>
    `| ${
      row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join(" | ")
    } |`;
  const rule = `| ${
    widths.map((width, i) => i === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`).join(" | ")
  } |`;
  const notes = underWay > 0
    ? ["", `${underWay} messages of WebSockets had no answer yet when their Close frame came.`]
    : [];
  return [line(head), rule, ...cells.map(line), ...notes].join("\n");
}

function figures({ restarts, requests, refused, lost }: Outcome): string[] {
  return [restarts.length, requests, refused, lost].map(number);
}
