import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  attempt,
  attemptAll,
  type AttemptOptions,
  ends,
  failOften,
  growth,
  named,
  restartOften,
  type Scenario,
  scenarios,
  steps,
} from "./faults.ts";
import type { Figures } from "./fault_service.ts";
import { test } from "../support/guard.ts";
import { native, versions } from "./matrix.ts";

/** More at the same time where they wait most of it. */
const [forKills, forStops] = [4, 8];

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

test("every step of a handover is one to end in every way and to be stopped at, on either side", () => {
  for (const { side, step } of steps) {
    const tried = scenarios.filter((each) => each.side === side && each.step === step);
    const endings = new Set(tried.map(({ ending }) => ending));
    endings.delete("next try");
    assertEquals(endings.size, ends.length + 3, `${side} ${step}`);
  }
  assert(scenarios.some(({ ending }) => ending === "next try"));
});

test("whoever is killed at whatever step, one generation accepts and loses nothing", async () => {
  await assertAll(scenarios.filter(({ ending }) => ending === "killed"), forKills);
});

/** Where what the old generation started depends on it most, and where it depends on what it started. */
const tellingSteps = ["asked", "withdrawn", "probation"];

/** In other ways than by SIGKILL, where one of the two has started the other one. */
const otherEnds = scenarios.filter(({ ending, step, via }) =>
  via === "restart" && ends.some((each) => each === ending && each !== "killed") &&
  (ending === "uncaught error" || tellingSteps.includes(step))
);

test("in whatever way a process ends at whatever step, one generation accepts and loses nothing", async () => {
  await assertAll(otherEnds, forKills);
});

for (const version of [versions[0], "2.5.6"]) {
  const runtime = await native(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  test(
    `on Deno ${version}, in whatever way a process ends, one generation accepts and loses nothing`,
    { ignore },
    async () => {
      if ("skipped" in runtime) return;
      const chosen = otherEnds.filter(({ step }) => tellingSteps.includes(step));
      await assertAll(chosen, forKills, { deno: runtime.command });
    },
  );
}

test("a next generation that fails, and tries again, takes over, and nothing is lost", async () => {
  await assertAll(scenarios.filter(({ ending }) => ending === "next try"), forKills);
});

test("whoever stops at whatever step and goes on, one generation accepts and nothing is lost", async () => {
  const chosen = scenarios.filter(({ ending, via, step }) =>
    ending === "continued" && (via === "command" || step === "restarted")
  );
  await assertAll(chosen, forStops);
});

test("whoever stops and goes on after the next restart, one generation accepts and nothing is lost", async () => {
  const chosen = scenarios.filter(({ ending, via }) =>
    ending === "continued late" && via === "restart"
  );
  await assertAll(chosen, forStops);
});

test("whoever stops and is killed, one generation accepts and loses nothing", async () => {
  const chosen = scenarios.filter(({ ending, via, step }) =>
    ending === "killed later" && (via === "command" || step === "restarted")
  );
  await assertAll(chosen, forStops);
});

test("the control: without a probation nobody is left, and a fault shows it", async () => {
  const scenario = { side: "new", step: "probation", ending: "killed", via: "command" } as const;
  assertEquals((await attempt(scenario)).wrong, []);
  const { accepts, wrong } = await attempt(scenario, { probation: 0 });
  assertEquals(accepts, "neither");
  assertMatch(wrong[0], /^It is to be the old one that accepts, and is the neither$/);
  assertMatch(wrong.join("\n"), /^A request failed .*ConnectionRefused/m);
});

test("the control: a generation that does not drain lets requests fail that nobody killed", async () => {
  const scenario = { side: "new", step: "connected", ending: "killed", via: "command" } as const;
  const { accepts, wrong } = await attempt(scenario, { defect: "leaves at once" });
  assertEquals(accepts, "old");
  for (const each of wrong) assertMatch(each, /^A request failed /);
  assertMatch(wrong.join("\n"), / served by \d+ before: /);
});

test("restarts in a row do not grow descriptors, memory, threads or files", async () => {
  const figures = await restartOften(20);
  assertEquals(figures.length, 21);
  assertEquals(growth(figures), []);
});

test("restarts that fail do not grow the descriptors, threads or files of who goes on", async () => {
  const figures = await failOften(20);
  // The first ones still warm it up, and it has collected no garbage yet.
  assertEquals(growth(figures).filter((what) => !what.startsWith("memory")), []);
});

test("the control: one more descriptor in each generation shows", async () => {
  const [grown, ...others] = growth(await restartOften(10, { defect: "leaks" }));
  assertMatch(grown, /^descriptors: from \d+ to \d+$/);
  assertEquals(others, []);
});

test("what grows is told by name, and what varies does not grow", () => {
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

test("faults prints its usage, and refuses what it does not know", async () => {
  const help = await faults("--help");
  assertEquals(help.code, 0);
  assertMatch(help.text, /^Usage: /);
  for (
    const args of [
      ["--bogus"],
      ["new"],
      ["--step", "bogus"],
      ["--side", "new", "--step", "left"],
      ["--repeat", "0"],
      ["--restarts", "many"],
    ]
  ) {
    const { code, text } = await faults(...args);
    assertEquals(code, 2, text);
    assertMatch(text, /^Usage: /m);
  }
});

test("faults tells what came of it in a table, by its exit code", async () => {
  const { code, text } = await faults("--side", "new", "--step", "served", "--ending", "killed");
  assertEquals(code, 0, text);
  assertMatch(text, /^new served +old 2$/m);
  assertMatch(text, /^2 faults in .*: 0 were not as they are to be; \d+ requests answered/m);
  const often = await faults("--restarts", "2");
  assertEquals(often.code, 0, often.text);
  assertMatch(often.text, /^2 restarts in .*: 0 figures have grown$/m);
});

async function faults(...args: string[]): Promise<{ code: number; text: string }> {
  const path = new URL("./faults.ts", import.meta.url).pathname;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", path, ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}
