import { assert, assertEquals, assertMatch } from "@std/assert";
import { Child } from "../support/child.ts";
import { installDeno, versions } from "../support/deno_versions.ts";
import { test } from "../support/guard.ts";
import { attempt, attemptAll, type AttemptOptions } from "./faults_attempt.ts";
import { failOften, growth, restartOften } from "./faults_endurance.ts";
import { ends, named, type Scenario, scenarios, steps, stops } from "./faults_scenarios.ts";
import type { Figures } from "./faults_service.ts";

/** Faults at the same time: more for stops, which wait most of the time. */
const [workersForEnds, workersForStops] = [4, 8];

async function assertAll(
  chosen: Scenario[],
  workers: number,
  options: AttemptOptions = {},
): Promise<void> {
  const wrong: string[] = [];
  let answered = 0;
  await attemptAll(chosen, workers, (scenario, outcome) => {
    answered += outcome.answered;
    if (outcome.wrong.length === 0) return;
    wrong.push(`${named(scenario)}:\n${outcome.wrong.join("\n")}\n${outcome.printed}`);
  }, options);
  assert(wrong.length === 0, wrong.join("\n"));
  assert(answered > 20 * chosen.length);
}

test("each side of a handover is ended in every way, and stopped in every way, at each of its steps", () => {
  for (const { side, step } of steps) {
    const tried = scenarios.filter((each) => each.side === side && each.step === step);
    const endings = new Set(tried.map(({ ending }) => ending));
    endings.delete("next try");
    assertEquals(endings.size, ends.length + stops.length, `${side} ${step}`);
  }
  assert(scenarios.some(({ ending }) => ending === "next try"));
});

test("one generation accepts and no request is lost, whichever side is killed at any step", async () => {
  await assertAll(scenarios.filter(({ ending }) => ending === "killed"), workersForEnds);
});

/** The steps at which each of the two generations depends most on the other. */
const dependentSteps = ["hello", "withdrawn", "halfway"];

/** Ends other than by SIGKILL, where the old generation has started the new one. */
const otherEnds = scenarios.filter(({ ending, step, via }) =>
  via === "restart" && ends.some((each) => each === ending && each !== "killed") &&
  (ending === "uncaught error" || dependentSteps.includes(step))
);

test("one generation accepts and no request is lost, in whichever way a side ends", async () => {
  await assertAll(otherEnds, workersForEnds);
});

for (const version of [versions[0], "2.5.6"]) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  test(
    `on Deno ${version} one generation accepts and no request is lost, in whichever way a side ends`,
    { ignore },
    async () => {
      if ("skipped" in runtime) return;
      const chosen = otherEnds.filter(({ step }) => dependentSteps.includes(step));
      await assertAll(chosen, workersForEnds, { deno: runtime.command });
    },
  );
}

test("a new generation whose first try fails takes over at the next, and no request is lost", async () => {
  await assertAll(scenarios.filter(({ ending }) => ending === "next try"), workersForEnds);
});

test("one generation accepts and no request is lost, whichever side is stopped and continued", async () => {
  const chosen = scenarios.filter(({ ending, via, step }) =>
    ending === "continued" && (via === "command" || step === "restarted")
  );
  await assertAll(chosen, workersForStops);
});

test("one generation accepts and no request is lost, when a side is continued after the next restart", async () => {
  const chosen = scenarios.filter(({ ending, via }) =>
    ending === "continued late" && via === "restart"
  );
  await assertAll(chosen, workersForStops);
});

test("one generation accepts and no request is lost, whichever side is stopped and then killed", async () => {
  const chosen = scenarios.filter(({ ending, via, step }) =>
    ending === "killed later" && (via === "command" || step === "restarted")
  );
  await assertAll(chosen, workersForStops);
});

test("a control: without a probation no generation is left, and the check reports it", async () => {
  const scenario = { side: "new", step: "halfway", ending: "killed", via: "command" } as const;
  assertEquals((await attempt(scenario)).wrong, []);
  const { accepts, wrong } = await attempt(scenario, { probation: 0 });
  assertEquals(accepts, "neither");
  assertMatch(wrong[0], /^Expected "old" to accept, and "neither" does$/);
  assertMatch(wrong.join("\n"), /^A request failed .*Connection(Refused|Reset)/m);
});

test("a control: a generation that exits without draining loses requests, and the check reports them", async () => {
  const scenario = { side: "new", step: "connected", ending: "killed", via: "command" } as const;
  const { accepts, wrong } = await attempt(scenario, { defect: "exits without draining" });
  assertEquals(accepts, "old");
  for (const each of wrong) assertMatch(each, /^A request failed /);
  assertMatch(wrong.join("\n"), / served by \d+ before: /);
});

test("restarts in a row grow neither descriptors, threads, memory nor files", async () => {
  const figures = await restartOften(20);
  assertEquals(figures.length, 21);
  assertEquals(growth(figures), []);
});

test("failed restarts in a row grow neither descriptors, threads nor files of the process that goes on", async () => {
  const figures = await failOften(20);
  // Memory grows here: so few restarts only warm the process up, without a garbage collection.
  assertEquals(growth(figures).filter((what) => !what.startsWith("memory")), []);
});

test("a control: growth() reports one more descriptor in each generation", async () => {
  const [grown, ...others] = growth(await restartOften(10, { defect: "leaks" }));
  assertMatch(grown, /^descriptors: from \d+ to \d+$/);
  assertEquals(others, []);
});

test("growth() names the figures that grow, and not those that vary", () => {
  const one: Figures = { descriptors: 30, threads: 7, memory: 50e6, files: ["a", "b"] };
  const many = (change: (i: number) => Partial<Figures>) =>
    Array.from({ length: 100 }, (_, i) => ({ ...one, ...change(i) }));
  assertEquals(
    growth(many((i) => ({ memory: 50e6 + (i % 7) * 1e6, threads: i < 50 ? 7 : 8 }))),
    [],
  );
  assertEquals(growth(many((i) => ({ descriptors: 30 + Math.floor(i / 50) }))), [
    "descriptors: from 30 to 31",
  ]);
  assertEquals(growth(many((i) => ({ memory: 50e6 + i * 2e5 }))).length, 1);
  assertEquals(growth(many((i) => ({ threads: 7 + Math.floor(i / 20) }))), [
    "threads: from 8 to 11",
  ]);
  assertEquals(growth(many((i) => ({ files: i < 99 ? ["a", "b"] : ["a", "a.1", "b"] }))), [
    "files: from a b to a a.1 b",
  ]);
});

test("deno task faults prints its usage, and exits with 2 for unknown arguments", async () => {
  const help = await faults("--help");
  assertEquals(help.code, 0);
  assertMatch(help.text, /^Usage: /);
  for (
    const args of [
      ["--bogus"],
      ["new"],
      ["--step", "bogus"],
      ["--side", "new", "--step", "stopped"],
      ["--repeat", "0"],
      ["--restarts", "many"],
    ]
  ) {
    const { code, text } = await faults(...args);
    assertEquals(code, 2, text);
    assertMatch(text, /^Usage: /m);
  }
});

test("deno task faults prints a table, and exits with 0 when every check passed", async () => {
  const { code, text } = await faults("--side", "new", "--step", "served", "--ending", "killed");
  assertEquals(code, 0, text);
  assertMatch(text, /^new served +old 2$/m);
  assertMatch(text, /^2 faults in .*: 0 failed; \d+ requests answered/m);
  const often = await faults("--restarts", "2");
  assertEquals(often.code, 0, often.text);
  assertMatch(often.text, /^2 restarts in .*: 0 figures have grown$/m);
});

async function faults(...args: string[]): Promise<{ code: number; text: string }> {
  await using child = new Child("../system/faults.ts", args);
  const { code, stdout, stderr } = await child.ended();
  return { code, text: [...stdout, stderr].join("\n") };
}
