/**
 * README.md says what the code has: its options, names, messages and links.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import * as graceful from "../mod.ts";
import { preloadVariables } from "../lib/preload/options.ts";
import { Held, noContainer } from "./hold/held.ts";
import { Child } from "./support/child.ts";
import { cli } from "./support/cli.ts";
import { Directory } from "./support/directory.ts";
import { freePort } from "./support/free_port.ts";
import { test } from "./support/guard.ts";
import { until } from "./support/until.ts";

if (noContainer) {
  console.log(`readme_test.ts: the container of README.md is not tried: ${noContainer}`);
}

const root = new URL("../", import.meta.url);
const readme = Deno.readTextFileSync(new URL("README.md", root));

/** The lines of a section, to the next heading of its level. */
function section(heading: string): string {
  const [, body = ""] = readme.split(`\n## ${heading}\n`);
  assert(body !== "", `README.md has no section "${heading}"`);
  return body.split("\n## ")[0];
}

/** The code of lib/, with each literal in one piece and a zero byte in place of each expression in it. */
function messagesOf(directory: string): string {
  return [...Deno.readDirSync(new URL(directory, root))].map(({ name, isDirectory }) => {
    if (isDirectory) return messagesOf(`${directory}${name}/`);
    if (!name.endsWith(".ts")) return "";
    return Deno.readTextFileSync(new URL(directory + name, root))
      .replaceAll(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, "\0")
      .replaceAll(/["'`]\s*\+\s*["'`]/g, "");
  }).join("\n");
}

test("README.md has at most 250 lines", () => {
  const { length } = readme.trimEnd().split("\n");
  assert(length <= 250, `${length} lines`);
});

test("every message of README.md is one of the library", () => {
  const sources = messagesOf("lib/");
  const messages = [...section("Messages").matchAll(/^- \*\*`([^`]+)`\*\*/gm)].map(([, text]) =>
    text
  );
  assert(messages.length >= 6, `${messages.length} messages`);
  for (const message of messages) {
    const parts = message.split(/…|: |"[^"]*"|\d[\d.:]*|\bSIG\w+/).map((part) => part.trim());
    for (const part of parts.filter(({ length }) => length > 8)) {
      assert(sources.includes(part), `"${part}", of "${message}", is not in lib/`);
    }
  }
});

test("the table of options has every option of start()", () => {
  const [table] = section("Options, limits, security").split("\n\n");
  const named = [...table.matchAll(/`(\w+)`/g)].map(([, name]) => name);
  const source = Deno.readTextFileSync(new URL("lib/generation/options.ts", root));
  const [, kinds] = /const kinds: Record<keyof StartOptions, string> = \{\n([^]*?)\n\};/.exec(
    source,
  )!;
  for (const [, option] of kinds.matchAll(/^ {2}(\w+):/gm)) {
    assert(named.includes(option), `${option} is missing`);
  }
});

test("every name that README.md imports or has in its changes is exported", () => {
  const types = Deno.readTextFileSync(new URL("mod.ts", root));
  const imported = [...readme.matchAll(/import \{ ([^}]+) \} from "@graceful\/deno"/g)]
    .flatMap(([, names]) => names.split(", "));
  const [, changes] = readme.split("### CHANGELOG");
  const renamed = [...changes.matchAll(/`([A-Z]\w+)` is `([A-Z]\w+)`/g)].map(([, , name]) => name);
  assert(imported.length > 0 && renamed.length > 0);
  for (const name of [...imported, ...renamed]) {
    const plain = name.replace("type ", "");
    assert(
      plain in graceful || new RegExp(`\\b${plain}\\b`).test(types),
      `${plain} is not exported`,
    );
  }
});

test("every relative link of the READMEs leads to a file", () => {
  const files = [
    "README.md",
    "lib/README.md",
    "lib/passing/README.md",
    "tests/README.md",
    "examples/README.md",
    "examples/from_go/README.md",
    "examples/systemd/README.md",
    "examples/behind_haproxy/README.md",
  ];
  const broken: string[] = [];
  for (const file of files) {
    const here = new URL(file, root);
    for (const [, link] of Deno.readTextFileSync(here).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(link)) continue;
      const target = new URL(link, here);
      const heading = target.hash.slice(1);
      target.hash = "";
      try {
        if (Deno.statSync(target).isDirectory || heading === "") continue;
        const headings = [...Deno.readTextFileSync(target).matchAll(/^#+ (.*)$/gm)];
        const anchors = headings.map(([, text]) =>
          text.toLowerCase().replaceAll(/[^\w\- ]/g, "").replaceAll(" ", "-")
        );
        if (!anchors.includes(heading)) broken.push(`${file}: ${link}`);
      } catch {
        broken.push(`${file}: ${link}`);
      }
    }
  }
  assertEquals(broken, []);
});

/** The code block of a section. */
function block(heading: string): string {
  const [, code] = /```ts(?: ignore)?\n([^]*?)```/.exec(section(heading)) ?? [];
  assert(code !== undefined, `"${heading}" has no code block`);
  return code;
}

/** A project of a user: a `main.ts` of README.md, and a `deno.json` that names the library. */
class Project implements Disposable {
  readonly control: string;
  readonly port: number = freePort();
  readonly #directory = new Directory();
  /** Its connections are not kept: a draining generation would wait for them. */
  readonly #client = Deno.createHttpClient({ poolMaxIdlePerHost: 0 });

  /** Takes the program of README.md with its control path, its port and its database. */
  constructor(program: string, { control, database = "" }: { control: string; database?: string }) {
    this.control = this.join("app.sock");
    const replacements = [
      ["{ port:", '{ hostname: "127.0.0.1", port:'],
      ["8000", String(this.port)],
      [control, this.control],
      [database, this.join("shop.db")],
    ];
    for (const [before, after] of replacements.filter(([before]) => before !== "")) {
      assert(program.includes(before), before);
      program = program.replaceAll(before, after);
    }
    Deno.writeTextFileSync(this.join("main.ts"), program);
    const imports = { "@graceful/deno": new URL("mod.ts", root).href };
    Deno.writeTextFileSync(this.join("deno.json"), JSON.stringify({ imports }));
  }

  join(name: string): string {
    return this.#directory.join(name);
  }

  /** Starts the program. */
  start(): Child {
    const deno = ["run", "-A", "--no-lock", "--config", this.join("deno.json")];
    return new Child(this.join("main.ts"), [], { deno });
  }

  async ask(path: string): Promise<Response> {
    return await fetch(`http://127.0.0.1:${this.port}${path}`, { client: this.#client });
  }

  [Symbol.dispose](): void {
    this.#client.close();
    this.#directory[Symbol.dispose]();
  }
}

test("the unit of README.md has the settings of the example that runs under systemd", () => {
  const [, unit] = /```ini\n([^]*?)```/.exec(section("systemd and containers"))!;
  const example = new URL("examples/systemd/alone/app.service", root);
  const lines = Deno.readTextFileSync(example).split("\n");
  const settings = unit.trim().split("\n");
  assertEquals(settings.filter((line) => !lines.includes(line)), []);
  assert(settings.length > 10);
});

test(
  "the container of README.md starts the program again after kill -9, and restarts it on SIGHUP",
  {
    ignore: noContainer !== undefined,
  },
  async () => {
    using project = new Project(block("Three lines to change"), { control: "/tmp/hello.sock" });
    const [, words] = /^ +CMD (\[.*\])$/m.exec(section("systemd and containers"))!;
    const replacements: Record<string, string> = {
      "deno": Deno.execPath(),
      "/run/app.sock": project.control,
      "main.ts": project.join("main.ts"),
    };
    const [, , , , , ...args] = (JSON.parse(words) as string[]).map((word) =>
      replacements[word] ?? word
    );
    const run = args.indexOf("run");
    const config = ["--no-lock", "--config", project.join("deno.json")];
    await using held = new Held(args.toSpliced(run + 1, 0, ...config), { container: true });
    const first = await held.serving();
    const answer = `hello from process ${first}\n`;
    assertEquals(await (await project.ask("/")).text(), answer);
    held.kill(first);
    // The listener is that of hold: the request waits for the next process.
    assertNotEquals(await (await project.ask("/")).text(), answer);
    const second = await held.serving();
    held.signal("SIGHUP");
    await held.until(/^hold: Generation 2, .* serves/);
    assertNotEquals(await (await project.ask("/")).text(), `hello from process ${second}\n`);
    held.signal("SIGTERM");
    assertEquals((await held.ended()).code, 0);
  },
);

test("the three lines of README.md make a program that a second start replaces", async () => {
  using project = new Project(block("Three lines to change"), { control: "/tmp/hello.sock" });
  const answeredBy = async () => {
    // Before its first generation is ready, connections are refused.
    const response = await project.ask("/").catch(() => undefined);
    return Number(/^hello from process (\d+)\n$/.exec(await response?.text() ?? "")?.[1]);
  };
  await using first = project.start();
  await until(async () => await answeredBy() === first.pid);
  await using second = project.start();
  await until(async () => await answeredBy() === second.pid);
  // The probation of the second generation ends with it: the first one does not accept again.
  assertEquals((await cli("stop", project.control)).code, 0);
  assertEquals([(await first.ended()).code, (await second.ended()).code], [0, 0]);
});

test("the whole service of README.md is replaced by a second start and by SIGHUP, ends its event streams, and is stopped", async () => {
  const library = Deno.readTextFileSync(new URL("lib/README.md", root));
  const program = [library.split("\n### Event streams\n")[1], section("A whole service")]
    .map((text) => /```ts(?: ignore)?\n([^]*?)```/.exec(text)![1]).join("\n");
  using project = new Project(program, {
    control: "/run/shop/control.sock",
    database: "/var/lib/shop/shop.db",
  });
  const generation = async () => (await (await project.ask("/")).json()).generation;
  await using first = project.start();
  await first.until(/^Generation 1: serving /);
  assertEquals(await generation(), 1);
  const events = await project.ask("/events");
  await using second = project.start();
  await second.until(/^Generation 2: withdrawn /);
  assertEquals(await generation(), 2);
  assertMatch(await events.text(), /^(data: [\d:.TZ-]+\n\n){2,}$/);
  assertEquals((await first.ended()).code, 0);
  Deno.kill(second.pid, "SIGHUP");
  await second.until(/^Generation 3: withdrawn /);
  assertEquals(await generation(), 3);
  assertEquals((await cli("stop", project.control)).code, 0);
  // The stdout of generation 3 is that of generation 2, and ends with both.
  assertEquals((await second.ended()).code, 0);
});

test("the table of lib/README.md has every variable of the preload module, and no other", () => {
  const text = Deno.readTextFileSync(new URL("lib/README.md", root));
  const [, table] = text.split("\n### No code\n");
  const named = [...table.split("\n### ")[0].matchAll(/^\| `(GRACEFUL\w*)`/gm)].map(([, name]) =>
    name
  );
  assertEquals(named.sort(), [...preloadVariables].sort());
});
