/**
 * The report of a soak: tables, failures and errors, in words.
 *
 * @module
 */

import { type ClassOutcome, type Outcome, quantile } from "./soak_results.ts";

/** Aligns rows in columns: the first one on the left, the others on the right. */
export function columns(rows: string[][]): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ")
      .trimEnd()
  ).join("\n");
}

function figures({ name, requests, failures, hungUp, refused, steady, restarting }: ClassOutcome) {
  const milliseconds = (value: number) => Number.isNaN(value) ? "-" : value.toFixed(1);
  const before = quantile(steady, 0.99);
  const during = quantile(restarting, 0.99);
  return [
    name,
    String(requests),
    String(failures.length),
    String(hungUp),
    String(refused),
    milliseconds(quantile(steady, 0.5)),
    milliseconds(before),
    milliseconds(quantile(restarting, 0.5)),
    milliseconds(during),
    milliseconds(during / before),
  ];
}

/** Failures in words: the kind, how long after the start of a restart, and how often. */
function failuresOf({ classes, began }: Outcome): string[] {
  const counts = new Map<string, number>();
  for (const { class: name, kind, at } of classes.flatMap(({ failures }) => failures)) {
    const index = began.findLastIndex((time) => time <= at);
    const when = index < 0 ? "before the first restart" : intervalOf(at - began[index]);
    const what = `${name}: ${kind}, ${when}`;
    counts.set(what, (counts.get(what) ?? 0) + 1);
  }
  return [...counts].sort(([, a], [, b]) => b - a).map(([what, count]) => `${count} x ${what}`);
}

/** The errors of the service in words; the first line of each stack. */
function errorsOf({ errors }: Outcome): string[] {
  const heads = [...new Set(errors.filter((line) => !line.startsWith("    at ")))];
  const shown = heads.slice(0, mostLines).map((line) => `ERROR: ${line}`);
  return heads.length > mostLines ? [...shown, `and ${heads.length - mostLines} more`] : shown;
}

function intervalOf(milliseconds: number): string {
  const from = 250 * Math.floor(milliseconds / 250);
  return `${from} to ${from + 250} ms after a restart began`;
}

/** The number of lines about failures that are printed; there may be thousands. */
const mostLines = 25;

/** A table of the results, and the failures in words. */
export function report(outcome: Outcome): string {
  const { control, restarts, seconds, requests, failed, classes, quick } = outcome;
  const names = ["p50", "p99", "p50 in restarts", "p99 in restarts", "ratio"];
  const rows = [
    ["clients", "requests", "failed", "hung up idle", "refused by GOAWAY", ...names],
    ...[...classes, quick].map(figures),
  ];
  const failures = failuresOf(outcome);
  const lines = [
    `${
      control ? "With server.shutdown() alone: " : ""
    }${restarts} restarts, ${requests} requests, ` +
    `${seconds.toFixed(0)} s: ${failed} failed`,
    "",
    columns(rows),
    "",
    ...failures.slice(0, mostLines).map((line) => `FAILED: ${line}`),
    ...failures.length > mostLines ? [`and ${failures.length - mostLines} more kinds`] : [],
    ...errorsOf(outcome),
  ];
  return lines.join("\n").trimEnd();
}
