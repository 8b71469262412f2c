import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Child } from "../support/child.ts";
import { test } from "../support/guard.ts";
import { type Outcome, quantile } from "./soak_results.ts";
import { report } from "./soak_report.ts";
import { missingTools, soak } from "./soak_run.ts";
import { measureStarts, reportStarts } from "./soak_starts.ts";

const small = { requests: 0, busy: 12, idle: 100, idleFor: 1000, seed: 1 };
const missing = await missingTools();
for (const line of missing) console.log(`soak_test.ts: ${line}`);

/** The classes without an answered request, whose clients would not notice a failure. */
function unanswered({ classes }: Outcome): string[] {
  return classes.filter(({ requests }) => requests === 0).map(({ name }) => name);
}

test("no request fails while a service is restarted under all kinds of load", async () => {
  const outcome = await soak({ ...small, restarts: 6, control: false });
  const { restarts, failed, errors, classes, requests } = outcome;
  assertEquals({ failed, errors }, { failed: 0, errors: [] }, report(outcome));
  assertEquals(unanswered(outcome), []);
  assertEquals(restarts, 6);
  assertEquals(classes.length, missing.length === 0 ? 15 : classes.length);
  assertEquals(requests, classes.reduce((sum, { requests }) => sum + requests, 0));
  assert(classes.every(({ restarting }) => restarting.length > 0), report(outcome));
});

test("a control: the same clients count the requests that server.shutdown() alone loses", async () => {
  const outcome = await soak({ ...small, restarts: 3, control: true });
  const { restarts, failed, classes } = outcome;
  assertEquals(unanswered(outcome), []);
  assertEquals(restarts, 3);
  assert(failed > 0, report(outcome));
  const busy = classes.find(({ name }) => name === "busy")!;
  assert(busy.failures.length > 0, report(outcome));
  assertMatch(report(outcome), /^FAILED: \d+ x busy: .+ ms after a restart began$/m);
});

test("the soak measures every step of a start", async () => {
  const { medians } = await measureStarts(1);
  assert(Object.values(medians.next).every((step) => step > 0), JSON.stringify(medians));
  assert(medians.next.sum > medians.next["import"], JSON.stringify(medians));
  assertStringIncludes(reportStarts({ medians, count: 1 }), "beyond Deno.serve");
});

test("quantile() gives one of the values, and NaN without values", () => {
  const values = Float64Array.from({ length: 200 }, (_, i) => i + 1);
  const parts = [0, 0.5, 0.99, 1].map((part) => quantile(values, part));
  assertEquals(parts, [1, 100, 198, 200]);
  assertEquals(quantile(new Float64Array(), 0.5), NaN);
});

test("deno task soak prints its usage, and exits with 2 for wrong arguments", async () => {
  const run = async (...args: string[]) => {
    await using child = new Child("../system/soak.ts", args);
    const { code, stdout, stderr } = await child.ended();
    return { code, stdout: stdout.join("\n"), stderr };
  };
  const help = await run("--help");
  assertEquals(help.code, 0);
  assertStringIncludes(help.stdout, "--restarts N");
  const wrong = await run("--restarts", "many");
  assertEquals(wrong.code, 2);
  assertStringIncludes(wrong.stderr, '--restarts takes a whole number of at least 0, not "many"');
});
