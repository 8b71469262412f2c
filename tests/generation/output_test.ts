/**
 * The output of a generation that restart() has started, and of its own processes; and the errors of its end that its
 * predecessor reports.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { hasEnded, identify } from "../../ffi/proc.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** A service whose generations start a helper that keeps writing to both streams. */
function service(
  directory: Directory,
  args: string[],
  env: Record<string, string> = {},
): Generations {
  // Both streams are read as one.
  const through = ["sh", "-c", 'exec "$@" 2>&1', "sh"];
  return new Generations("./helped.ts", [directory.join("app.sock"), ...args], { through, env });
}

for (const when of ["before start()", "before ready()", "after ready()"]) {
  test(`a process that a generation has started ${when} can still write after the predecessor has ended`, async () => {
    using directory = new Directory();
    await using first = service(directory, [when]);
    await first.until(/^serving: 1$/);
    await first.tell("restart");
    await first.until(/^serving: 2$/);
    const old = identify(first.pid);
    await until(() => hasEnded(old));
    for (let i = 0; i < 3; i++) await first.until(/^a helper of 2 on stdout$/);
    for (let i = 0; i < 3; i++) await first.until(/^a helper of 2 on stderr$/);
  });
}

test("a process of a generation can still write after the predecessor was killed, and after two restarts", async () => {
  using directory = new Directory();
  await using first = service(directory, ["before start()"]);
  await first.until(/^serving: 1$/);
  await first.tell("restart");
  const second = await first.number("pid of 2");
  await first.until(/^serving: 2$/);
  Deno.kill(first.pid, "SIGKILL");
  const old = identify(first.pid);
  await until(() => hasEnded(old));
  for (let i = 0; i < 3; i++) await first.until(/^a helper of 2 on stdout$/);
  Deno.kill(second, "SIGHUP");
  await first.until(/^serving: 3$/);
  const middle = identify(second);
  await until(() => hasEnded(middle));
  for (const generation of [2, 3]) {
    for (const stream of ["stdout", "stderr"]) {
      await first.until(new RegExp(`^a helper of ${generation} on ${stream}$`));
    }
  }
});

test("Deno.stdout and Deno.stderr of a later generation lead to the streams of the first", async () => {
  using directory = new Directory();
  await using first = service(directory, ["never"]);
  await first.until(/^serving: 1$/);
  await first.tell("restart");
  await first.until(/^serving: 2$/);
  const old = identify(first.pid);
  await until(() => hasEnded(old));
  await first.until(/^a word of 2 to Deno.stdout$/);
  await first.until(/^a word of 2 to Deno.stderr$/);
});

for (const [when, copies] of [["never", false], ["before start()", true]] as const) {
  test(`a copying process is ${copies ? "" : "not "}started for a helper that is started ${when}`, async () => {
    using directory = new Directory();
    const bin = directory.join("bin");
    Deno.mkdirSync(bin);
    // A cat that leaves a file as a trace.
    const cat = `#!/bin/sh\n: >"${directory.join("copies")}"\nPATH=\${PATH#*:} exec cat "$@"\n`;
    Deno.writeTextFileSync(`${bin}/cat`, cat, { mode: 0o755 });
    const env = { PATH: `${bin}:${Deno.env.get("PATH")}` };
    await using first = service(directory, [when], env);
    await first.until(/^serving: 1$/);
    await first.tell("restart");
    await first.until(/^serving: 2$/);
    const old = identify(first.pid);
    await until(() => hasEnded(old));
    const word = copies ? /^a helper of 2 on stdout$/ : /^a word of 2 to Deno.stdout$/;
    for (let i = 0; i < 5; i++) await first.until(word);
    assertEquals(directory.names().includes("copies"), copies);
  });
}

test("a copying process finds cat and sleep when PATH does not have them", async () => {
  using directory = new Directory();
  const bin = directory.join("bin");
  Deno.mkdirSync(bin);
  // The helper itself needs these.
  for (const name of ["sh", "sleep"]) Deno.symlinkSync(`/bin/${name}`, `${bin}/${name}`);
  await using first = service(directory, ["before start()"], { PATH: bin });
  await first.until(/^serving: 1$/);
  await first.tell("restart");
  await first.until(/^serving: 2$/);
  const old = identify(first.pid);
  await until(() => hasEnded(old));
  for (let i = 0; i < 5; i++) await first.until(/^a helper of 2 on stdout$/);
});

const ends: Record<string, RegExp> = {
  "throw":
    /^the handover failed: .* ended before it was ready; the last it said was: Error: out of luck/,
  "reject":
    /^the handover failed: .* ended before it was ready; the last it said was: Error: out of luck/,
  "timer":
    /^the handover failed: .* ended before it was ready; the last it said was: Error: out of luck/,
  "exit":
    /^the handover failed: .* ended before it was ready; the last it said was: it exits with code 3$/,
  "listen": /^the handover failed: .* ended before it was ready; the last it said was: .*AddrInUse/,
  "late":
    /^the handover failed: .* ended before it was healthy; the last it said was: Error: out of luck/,
};

for (const [how, words] of Object.entries(ends)) {
  test(`the predecessor reports the error of a generation that it did not start: ${how}`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    await using first = new Generations("./ending.ts", [path, how]);
    await first.until(/^serving: 1$/);
    await using second = new Child("./ending.ts", [path, how]);
    await second.ended();
    assertMatch(await first.until(/^the handover failed/), words);
    await first.tell("restart");
    assertMatch(
      await first.until(/^failed: /),
      how === "exit" ? /exits with code 3$/ : how === "listen" ? /AddrInUse/ : /out of luck/,
    );
  });
}

test("a program that calls preventDefault() for an error takes over", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using first = new Generations("./ending.ts", [path, "prevented"]);
  await first.until(/^serving: 1$/);
  await using _second = new Generations("./ending.ts", [path, "prevented"]);
  await first.until(/^replaced$/);
});
