/**
 * README.md says what the code has: its options, names, messages and links.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import * as graceful from "../mod.ts";
import { Child } from "./support/child.ts";
import { cli } from "./support/cli.ts";
import { Directory } from "./support/directory.ts";
import { freePort } from "./support/free_port.ts";
import { test } from "./support/guard.ts";

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
  const [table] = section("Options of `start`").split("\n\n");
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
  const files = ["README.md", "lib/README.md", "tests/README.md", "examples/README.md"];
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

test("the whole service of README.md is replaced by a second start and by SIGHUP, and is stopped", async () => {
  using directory = new Directory();
  const [, program = ""] = /```ts ignore\n([^]*?)```/.exec(section("A whole service")) ?? [];
  const main = directory.join("main.ts");
  // A test listens on loopback alone.
  Deno.writeTextFileSync(main, program.replace("{ port:", '{ hostname: "127.0.0.1", port:'));
  const config = JSON.parse(Deno.readTextFileSync(new URL("deno.json", root)));
  const imports = { "@graceful/deno": new URL("mod.ts", root).href, hono: config.imports.hono };
  Deno.writeTextFileSync(directory.join("deno.json"), JSON.stringify({ imports }));
  const port = freePort();
  const control = directory.join("app.sock");
  const env = { CONTROL: control, LOG: directory.join("shop.log"), PORT: String(port) };
  const deno = ["run", "-A", "--no-lock", "--config", directory.join("deno.json")];
  const asked = async () =>
    await (await fetch(`http://127.0.0.1:${port}`, { headers: { connection: "close" } })).text();
  await using first = new Child(main, [], { deno, env });
  await first.until("generation 1 accepts");
  assertEquals(await asked(), "hello from generation 1");
  await using second = new Child(main, [], { deno, env });
  await second.until("generation 2 accepts");
  assertEquals(await asked(), "hello from generation 2");
  assertEquals((await first.ended()).code, 0);
  Deno.kill(second.pid, "SIGHUP");
  await second.until("generation 3 accepts");
  assertEquals(await asked(), "hello from generation 3");
  assertEquals((await cli("stop", control)).code, 0);
  // Its stdout is that of generation 3 as well, and ends with that.
  assertEquals((await second.ended()).code, 0);
});
