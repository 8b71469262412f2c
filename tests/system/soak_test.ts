import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { leftOut, type Outcome, quantile, report, reportStarts, soak, starts } from "./soak.ts";
import { test } from "../support/guard.ts";

const small = { requests: 0, busy: 12, idle: 100, idleFor: 1000 };
const without = leftOut();
for (const line of without) console.log(`soak_test.ts: ${line}`);

/** Classes of which none was answered: their clients see nothing. */
function silent({ classes }: Outcome): string[] {
  return classes.filter(({ requests }) => requests === 0).map(({ name }) => name);
}

test("no request fails while a service is restarted under all kinds of load", async () => {
  const outcome = await soak({ ...small, restarts: 6, control: false });
  const { restarts, failed, complaints, classes, requests } = outcome;
  assertEquals({ failed, complaints }, { failed: 0, complaints: [] }, report(outcome));
  assertEquals(silent(outcome), []);
  assertEquals(restarts, 6);
  assertEquals(classes.length, without.length === 0 ? 15 : classes.length);
  assertEquals(requests, classes.reduce((sum, { requests }) => sum + requests, 0));
  assert(classes.every(({ restarting }) => restarting.length > 0), report(outcome));
});

test("the same clients notice what server.shutdown() alone loses", async () => {
  const outcome = await soak({ ...small, restarts: 3, control: true });
  const { restarts, failed, classes } = outcome;
  assertEquals(silent(outcome), []);
  assertEquals(restarts, 3);
  assert(failed > 0, report(outcome));
  const busy = classes.find(({ name }) => name === "busy")!;
  assert(busy.failures.length > 0, report(outcome));
  assertMatch(report(outcome), /^FAILED: \d+ x busy: .+ ms after a restart began$/m);
});

test("the soak measures every step of a start", async () => {
  const { medians } = await starts(1);
  assert(Object.values(medians.next).every((step) => step > 0), JSON.stringify(medians));
  assert(medians.next.sum > medians.next["import"], JSON.stringify(medians));
  assertStringIncludes(reportStarts({ medians, count: 1 }), "beyond Deno.serve");
});

test("a quantile is one of the values", () => {
  const values = Float64Array.from({ length: 200 }, (_, i) => i + 1);
  const parts = [0, 0.5, 0.99, 1].map((part) => quantile(values, part));
  assertEquals(parts, [1, 100, 198, 200]);
  assertEquals(quantile(new Float64Array(), 0.5), NaN);
});

test("deno task soak says what its arguments are", async () => {
  const run = async (...args: string[]) => {
    const script = new URL("./soak.ts", import.meta.url).pathname;
    const command = new Deno.Command(Deno.execPath(), { args: ["run", "-A", script, ...args] });
    const { code, stdout, stderr } = await command.output();
    const decoder = new TextDecoder();
    return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
  };
  const help = await run("--help");
  assertEquals(help.code, 0);
  assertStringIncludes(help.stdout, "--restarts N");
  const wrong = await run("--restarts", "many");
  assertEquals(wrong.code, 2);
  assertStringIncludes(wrong.stderr, '--restarts is a whole number from 0 on, not "many"');
});
