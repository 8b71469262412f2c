/**
 * Deploys by release directories: restart() starts the program by the names of the first start, which lead through a
 * symbolic link to the current release.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { asked } from "../support/in_process.ts";
import { Child, type Ended } from "../support/child.ts";
import { isComplaint, ready, Releases, type Said, type Start } from "../support/releases.ts";
import { test } from "../support/guard.ts";

/** The command line's restart. */
async function restart(control: string): Promise<Ended> {
  await using child = new Child("../../lib/cli.ts", ["restart", control]);
  return await child.ended();
}

/** Ends the running generation; resolves to the warnings and errors that were not read yet. */
async function end(first: Child, { pid }: Said): Promise<string[]> {
  Deno.kill(pid, "SIGTERM");
  const { stdout, stderr } = await first.ended();
  assertEquals(stderr, "");
  return stdout.filter(isComplaint);
}

/** The next warning or error. */
async function complaint(child: Child): Promise<string> {
  for (;;) {
    const line = await child.line();
    if (isComplaint(line)) return line;
  }
}

const unknown = /^warn: restart\(\) starts the next generation in "/;

/** How a release is named at the start. */
const ways: [string, (releases: Releases) => Omit<Start, "named">][] = [
  ["relative names", ({ current }) => ({ cwd: current, program: "./deno", script: "main.ts" })],
  ["absolute names", ({ current }) => ({
    cwd: current,
    program: `${current}/deno`,
    script: `${current}/main.ts`,
  })],
  ["a program of PATH", ({ current }) => ({
    cwd: current,
    program: "deno",
    path: current,
    script: "main.ts",
  })],
];

/** Deploys by every means, and asserts that the new release runs, and is reached by `ask`. */
async function deploys(
  releases: Releases,
  way: Start,
  ask: (said: Said) => Promise<string>,
): Promise<void> {
  const expect = async (said: Said, release: number) => {
    const of = String(release);
    const { generation, script, program, directory } = said;
    assertEquals({ generation, script, program, directory }, {
      generation: release,
      script: of,
      program: of,
      directory: of,
    });
    assertEquals(await ask(said), `release ${of}`);
  };
  releases.deploy();
  await using first = releases.start(way);
  let said = await ready(first);
  await expect(said, 1);
  for (const release of [2, 3, 4, 5]) {
    releases.deploy();
    if (release % 2 === 0) {
      const { code, stderr } = await restart(releases.control);
      assertEquals([code, stderr], [0, ""]);
    } else Deno.kill(said.pid, "SIGHUP");
    said = await ready(first);
    await expect(said, release);
  }
  releases.deploy();
  await using beside = releases.start(way);
  said = await ready(beside);
  await expect(said, 6);
  releases.deploy();
  Deno.kill(said.pid, "SIGHUP");
  said = await ready(beside);
  await expect(said, 7);
  assertEquals(await end(beside, said), []);
}

for (const named of [true, false]) {
  for (const [how, way] of ways) {
    const pwd = named ? "with PWD" : "without PWD";
    test(`each restart and each start runs the current release, by ${how} behind a link, ${pwd}`, async () => {
      using releases = new Releases();
      const ask = ({ at }: Said) => asked((at as Deno.NetAddr).port);
      await deploys(releases, { ...way(releases), named }, ask);
    });
  }

  test(`a unix path through the link reaches the service after each restart, ${named ? "with" : "without"} PWD`, async () => {
    using releases = new Releases({ unix: true });
    const way = { ...ways[0][1](releases), named };
    await deploys(releases, way, () => askedAtPath(releases.socket));
  });
}

/** The answer of the server at a unix path. */
async function askedAtPath(path: string): Promise<string> {
  using conn = await Deno.connect({ transport: "unix", path });
  const request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
  await conn.write(new TextEncoder().encode(request));
  const answer = await new Response(conn.readable).text();
  return answer.split("\r\n\r\n")[1];
}

test("a link in another directory is found by the paths in the command", async () => {
  using releases = new Releases({ current: "live/now" });
  const way = { cwd: releases.current, program: "deno", script: `${releases.current}/main.ts` };
  releases.deploy();
  await using first = releases.start({ ...way, program: Deno.execPath(), named: false });
  await ready(first);
  releases.deploy();
  assertEquals((await restart(releases.control)).code, 0);
  const said = await ready(first);
  assertEquals([said.script, said.directory], ["2", "2"]);
  await end(first, said);
});

test("a service whose command or PWD names one release stays with it", async () => {
  for (const named of [true, false]) {
    using releases = new Releases();
    releases.deploy();
    const cwd = releases.directory(1);
    const script = named ? "main.ts" : `${cwd}/main.ts`;
    await using first = releases.start({ cwd, named, program: "deno", path: cwd, script });
    await ready(first);
    releases.deploy();
    assertEquals((await restart(releases.control)).code, 0);
    const said = await ready(first);
    assertEquals([said.script, said.directory], ["1", "1"]);
    await end(first, said);
  }
});

test("with two links to the release, start() warns that the right one is not known, and restart() fails when one has changed", async () => {
  using releases = new Releases();
  releases.deploy();
  const { current } = releases;
  const other = releases.join("blue");
  releases.link(releases.directory(1), other);
  const way = { cwd: current, named: false, program: Deno.execPath() };
  await using first = releases.start({ ...way, script: "main.ts" });
  const warning = await complaint(first);
  assertMatch(warning, unknown);
  for (const word of [current, other, releases.directory(1), "Environment=PWD="]) {
    assertStringIncludes(warning, word);
  }
  await ready(first);
  // Both links still lead to the same release: the next generation warns as well.
  assertEquals((await restart(releases.control)).code, 0);
  assertMatch(await complaint(first), unknown);
  const said = await ready(first);
  releases.deploy();
  const { code, stderr } = await restart(releases.control);
  assertEquals(code, 1);
  assertStringIncludes(stderr, `"${current}" led to "${releases.directory(1)}"`);
  assertEquals(await asked((said.at as Deno.NetAddr).port), "release 1");
  await end(first, said);
});

test("with two links to the release, the one in the path of the script is used", async () => {
  using releases = new Releases();
  releases.deploy();
  const { current } = releases;
  releases.link(releases.directory(1), releases.join("blue"));
  const script = `${current}/main.ts`;
  await using first = releases.start({
    cwd: current,
    named: false,
    program: Deno.execPath(),
    script,
  });
  await ready(first);
  releases.deploy();
  assertEquals((await restart(releases.control)).code, 0);
  const said = await ready(first);
  assertEquals([said.script, said.directory], ["2", "2"]);
  assertEquals(await end(first, said), []);
});

test("start() warns of a release directory without a link, and not of a directory with another name", async () => {
  using releases = new Releases({ current: "elsewhere/now" });
  releases.deploy();
  const program = Deno.execPath();
  const way = { cwd: releases.current, named: false, program };
  {
    await using first = releases.start({ ...way, script: "main.ts" });
    const warning = await complaint(first);
    assertMatch(warning, unknown);
    assertMatch(warning, /no symbolic link that leads there was found/);
    await end(first, await ready(first));
  }
  const plain = releases.join("service");
  Deno.renameSync(releases.directory(1), plain);
  await using second = releases.start({ ...way, cwd: plain, script: "main.ts" });
  const said = await ready(second);
  assertEquals(await end(second, said), []);
});

test('a removed directory is entered again by its name, replaced by "/" if it is not needed, or makes restart() fail', async () => {
  using releases = new Releases();
  releases.deploy();
  const program = Deno.execPath();
  const cwd = releases.directory(1);
  const script = `${releases.current}/main.ts`;
  const work = releases.join("work");
  Deno.mkdirSync(work);
  await using first = releases.start({ cwd: work, named: true, program, script });
  await ready(first);
  Deno.removeSync(work);
  Deno.mkdirSync(work);
  assertEquals((await restart(releases.control)).code, 0);
  assertEquals((await ready(first)).directory, work);
  Deno.removeSync(work);
  releases.deploy();
  assertEquals((await restart(releases.control)).code, 0);
  assertMatch(
    await complaint(first),
    /^warn: The directory .* is gone: the next generation starts in "\/"/,
  );
  const last = await ready(first);
  assertEquals([last.script, last.directory], ["2", "/"]);
  await end(first, last);

  await using second = releases.start({ cwd, named: true, program, script: "main.ts" });
  const said = await ready(second);
  Deno.removeSync(cwd, { recursive: true });
  const { code, stderr } = await restart(releases.control);
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    `in "${cwd}": the directory in which this process was started is gone`,
  );
  await end(second, said);

  releases.deploy();
  await using third = releases.start({
    cwd: releases.current,
    named: true,
    program,
    script: "main.ts",
  });
  const running = await ready(third);
  Deno.removeSync(releases.current);
  Deno.symlinkSync("releases/none", releases.current);
  const dangling = await restart(releases.control);
  assertEquals(dangling.code, 1);
  assertStringIncludes(dangling.stderr, 'it is a symbolic link to "releases/none", where there is');
  await end(third, running);
});

test("restart() fails when the program was removed, and the running generation goes on", async () => {
  using releases = new Releases();
  releases.deploy();
  const { current } = releases;
  const program = `${current}/deno`;
  await using first = releases.start({
    cwd: "/",
    named: true,
    program,
    script: `${current}/main.ts`,
  });
  const said = await ready(first);
  Deno.removeSync(program);
  const { code, stderr } = await restart(releases.control);
  assertEquals(code, 1);
  assertStringIncludes(stderr, `Cannot start "${program}" in "/": there is no such program`);
  assert((await asked((said.at as Deno.NetAddr).port)) === "release 1");
  await end(first, said);
});
