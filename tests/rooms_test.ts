import { assert, assertEquals } from "@std/assert";
import { test } from "./support/guard.ts";

/**
 * The folders of the library, from the ground up: a file imports from its own folder, without a circle, and
 * from folders on floors below. Folders on one floor do not import from each other.
 */
const floors: string[][] = [
  ["ffi/"],
  ["lib/"],
  ["lib/wire/"],
  ["lib/event_loop/"],
  ["lib/unix/"],
  ["lib/native/"],
  ["lib/passing/", "lib/http/", "lib/systemd/"],
  ["lib/node/"],
  ["lib/generation/"],
  ["lib/doctor/", "lib/hold/", "lib/preload/"],
  ["lib/auto.ts", "lib/cli.ts", "mod.ts"],
];

/** Bytes and nothing else: neither the Deno namespace nor ffi. */
const pure = [
  "ffi/quote.ts",
  "lib/errors.ts",
  "lib/listen_address.ts",
  "lib/wire/",
  "lib/generation/frame.ts",
  "lib/generation/frame_fields.ts",
  "lib/generation/protocol.ts",
  "lib/doctor/finding.ts",
  "lib/doctor/unit",
  "lib/doctor/generation_rules.ts",
  "lib/doctor/crash_rules.ts",
  "lib/doctor/sandbox_rules.ts",
  "lib/hold/notification.ts",
  "lib/preload/deno_flags.ts",
  "lib/systemd/store_name.ts",
];

/** Tests of pure functions, which open nothing that the guard could count. */
const unguarded = [
  "struct_test.ts",
  "quote_test.ts",
  "disposable_stack_test.ts",
  "gob_decode_test.ts",
  "gob_encode_test.ts",
  "gob_random_test.ts",
  "gob_vectors_test.ts",
  "meta_test.ts",
  "protocol_test.ts",
  "store_name_test.ts",
];

const root = new URL("../", import.meta.url);
const files = [...["ffi", "lib"].flatMap((directory) => namesIn(directory)), "mod.ts"].sort();

test("every file of the library is on a floor, and every floor has a file", () => {
  for (const file of files) floorOf(file);
  for (const room of floors.flat()) assert(files.some((file) => roomOf(file) === room), room);
});

for (const file of files) {
  test(`${file} imports from its own folder or from the floors below, by relative paths`, () => {
    for (const specifier of importsOf(file)) {
      assert(/^\.\.?\/[\w./]+\.ts$/.test(specifier), `${file} imports "${specifier}"`);
    }
    for (const imported of importedBy(file)) {
      assert(files.includes(imported), `${file} imports ${imported}, which is not the library's`);
      const [from, to] = [floorOf(file), floorOf(imported)];
      assert(
        roomOf(imported) === roomOf(file) || to < from,
        `${file} imports ${imported}: floor ${from} from floor ${to}`,
      );
    }
    assert(!reachedFrom(file).has(file), `${file} imports itself, by others`);
  });
}

test("the protocol's own files know neither Deno nor ffi", () => {
  const isPure = (file: string) => pure.some((name) => file.startsWith(name));
  for (const file of files.filter(isPure)) {
    assert(!/\bDeno\b/.test(codeOf(file)), `${file} uses Deno`);
    assertEquals(importedBy(file).filter((imported) => !isPure(imported)), [], file);
  }
});

test("the client and the server never import each other", () => {
  assert(!reachedFrom("lib/passing/client.ts").has("lib/passing/server.ts"));
  assert(!reachedFrom("lib/passing/server.ts").has("lib/passing/client.ts"));
});

test("no file has a name that says nothing", () => {
  for (const file of files) {
    const name = /(\w+)\.ts$/.exec(file)![1];
    assert(!["util", "utils", "common", "helpers", "misc", "types"].includes(name), file);
  }
});

test("mod.ts is a door: named exports, and nothing else", () => {
  const rest = codeOf("mod.ts").replaceAll(/export (?:type )?\{[^}]*\} from "[^"]+";/g, "");
  assertEquals(rest.trim(), "");
  assert(!/\*\s+from/.test(codeOf("mod.ts")));
});

test("no file outside ffi/ uses a pointer, a layout or an errno number", () => {
  for (const file of files.filter((file) => !file.startsWith("ffi/"))) {
    const code = codeOf(file);
    for (const word of ["UnsafePointer", "UnsafeFnPointer", "UnsafeCallback", "dlopen", "errno"]) {
      assert(!code.includes(word), `${file} uses ${word}`);
    }
    for (const inner of ["struct", "abi", "libc", "errno"]) {
      assert(!importedBy(file).includes(`ffi/${inner}.ts`), `${file} imports ffi/${inner}.ts`);
    }
  }
});

test("one file knows which system this is", () => {
  for (const file of files) {
    if (file === "ffi/abi.ts") continue;
    // Naming it in a message is no decision.
    assert(!/Deno\.build\.\w+\s*[!=]==/.test(codeOf(file)), `${file} decides by the system`);
  }
});

test("every test of the library runs under the guard", () => {
  for (const file of namesIn("tests").filter((file) => file.endsWith("_test.ts"))) {
    if (unguarded.some((name) => file.endsWith(`/${name}`))) continue;
    assert(importedBy(file).includes("tests/support/guard.ts"), `${file} imports no guard`);
    assert(!codeOf(file).includes("Deno" + ".test("), `${file} calls Deno.test itself`);
  }
});

test("the parser of these tests finds imports and ignores comments", () => {
  const source = `
    /** import "doc"; UnsafePointer */
    import { a } from "./a.ts"; // import "comment"; dlopen
    import type { B } from "../b.ts";
    export { c, type D } from "./c.ts";
    export type { E } from "./e.ts";
    export * from "./star.ts";
    import {
      f,
      g,
    } from "./lines.ts";
    import "./side-effect.ts";
    const lazy = await import("./lazy.ts");
    type T = import("./typed.ts").T;
    const url = "https://example.com/dlopen"; import h from "npm:h";
  `;
  const code = withoutComments(source);
  assertEquals(specifiersIn(code), [
    "./a.ts",
    "../b.ts",
    "./c.ts",
    "./e.ts",
    "./star.ts",
    "./lines.ts",
    "./side-effect.ts",
    "./lazy.ts",
    "./typed.ts",
    "npm:h",
  ]);
  assert(!code.includes("UnsafePointer"));
  assertEquals(code.match(/dlopen/g)?.length, 1);
});

function namesIn(directory: string): string[] {
  return [...Deno.readDirSync(new URL(directory, root))].flatMap(({ name, isDirectory }) => {
    const path = `${directory}/${name}`;
    if (isDirectory) return namesIn(path);
    return name.endsWith(".ts") ? [path] : [];
  });
}

/** The floor's entry that a file belongs to: the longest that its path begins with. */
function roomOf(file: string): string {
  const rooms = floors.flat().filter((room) => file.startsWith(room));
  assert(rooms.length > 0, `${file} is in no room`);
  return rooms.reduce((longest, room) => room.length > longest.length ? room : longest);
}

function floorOf(file: string): number {
  const room = roomOf(file);
  return floors.findIndex((floor) => floor.includes(room));
}

/** The files that `file` imports, from the root of the project on. */
function importedBy(file: string): string[] {
  return importsOf(file).filter((specifier) => specifier.startsWith(".")).map((specifier) =>
    new URL(specifier, new URL(file, root)).href.slice(root.href.length)
  );
}

const codes = new Map<string, string>();

/** A file without its comments. */
function codeOf(file: string): string {
  const known = codes.get(file);
  if (known !== undefined) return known;
  const code = withoutComments(Deno.readTextFileSync(new URL(file, root)));
  codes.set(file, code);
  return code;
}

function withoutComments(source: string): string {
  return source.replaceAll(/\/\*[^]*?\*\//g, "").replaceAll(/(^|\s)\/\/.*$/gm, "$1");
}

function importsOf(file: string): string[] {
  return specifiersIn(codeOf(file));
}

/** What `code` imports in any of the ways: types, re-exports and imports at run time too. */
function specifiersIn(code: string): string[] {
  const forms = /\b(?:from|import)\s*\(?\s*(["'`])([^"'`\n]+)\1/g;
  return Array.from(code.matchAll(forms), ([, , specifier]) => specifier);
}

/** The files that `file` needs, however far down. */
function reachedFrom(file: string, reached: Set<string> = new Set()): Set<string> {
  for (const imported of importedBy(file)) {
    if (reached.has(imported)) continue;
    reached.add(imported);
    reachedFrom(imported, reached);
  }
  return reached;
}
