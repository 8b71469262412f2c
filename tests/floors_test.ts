import { assert, assertEquals } from "@std/assert";
import { test } from "./guard.ts";

/**
 * The library from the ground up: a file imports only from floors below its own. Files on one floor
 * do not know each other.
 */
const floors: string[][] = [
  ["ffi/quote.ts", "ffi/struct.ts", "ffi/time.ts"],
  ["ffi/abi.ts"],
  ["ffi/system.ts"],
  ["ffi/libc.ts"],
  ["ffi/errno.ts"],
  ["ffi/fd.ts"],
  ["ffi/file.ts", "ffi/sockaddr.ts"],
  ["ffi/socket.ts", "ffi/message.ts", "ffi/proc.ts", "ffi/diag.ts"],
  ["ffi/poll.ts"],
  [
    "lib/disposable_stack.ts",
    "lib/draining.ts",
    "lib/errors.ts",
    "lib/logger.ts",
    "lib/place.ts",
    "lib/reserve.ts",
    "lib/serve_address.ts",
    "lib/watch.ts",
    "lib/websockets.ts",
  ],
  [
    "lib/gob.ts",
    "lib/wire.ts",
    "lib/frame.ts",
    "lib/capture.ts",
    "lib/command.ts",
    "lib/main_process.ts",
  ],
  ["lib/meta.ts", "lib/alarm.ts", "lib/serving.ts"],
  ["lib/conn.ts", "lib/donor.ts"],
  ["lib/listener.ts"],
  ["lib/descriptor.ts"],
  ["lib/adopt.ts"],
  ["lib/gate.ts", "lib/http.ts", "lib/response.ts"],
  ["lib/handler.ts", "lib/drain.ts"],
  ["lib/client.ts", "lib/server.ts", "lib/send.ts", "lib/channel.ts"],
  [
    "lib/inheritance.ts",
    "lib/kept.ts",
    "lib/successor.ts",
    "lib/phase.ts",
    "lib/predecessor.ts",
    "lib/lock.ts",
  ],
  ["lib/resources.ts"],
  ["lib/deno_resources.ts"],
  ["lib/restart.ts"],
  ["lib/options.ts"],
  ["lib/start.ts"],
  ["lib/rehearsal.ts", "lib/cli.ts"],
  ["mod.ts"],
];

/** Bytes and nothing else: neither the Deno namespace nor ffi. */
const pure = [
  "ffi/quote.ts",
  "lib/errors.ts",
  "lib/frame.ts",
  "lib/gob.ts",
  "lib/place.ts",
  "lib/wire.ts",
  "lib/meta.ts",
];

/** Tests of pure functions, which open nothing that the guard could count. */
const unguarded = [
  "struct_test.ts",
  "quote_test.ts",
  "disposable_stack_test.ts",
  "gob_test.ts",
  "meta_test.ts",
  "frame_test.ts",
];

const root = new URL("../", import.meta.url);
const files = [...["ffi", "lib"].flatMap((directory) => namesIn(directory)), "mod.ts"].sort();

test("every file of the library has its floor", () => {
  assertEquals(floors.flat().sort(), files);
});

for (const file of files) {
  test(`${file} imports from the floors below only, by relative paths`, () => {
    const floor = floorOf(file);
    for (const specifier of importsOf(file)) {
      assert(/^\.\.?\/[\w./]+\.ts$/.test(specifier), `${file} imports "${specifier}"`);
      const imported = new URL(specifier, new URL(file, root)).href.slice(root.href.length);
      assert(files.includes(imported), `${file} imports ${imported}, which is not the library's`);
      assert(
        floorOf(imported) < floor,
        `${file} is on floor ${floor}, ${imported} on floor ${floorOf(imported)}`,
      );
    }
  });
}

test("the protocol's own files know neither Deno nor ffi", () => {
  for (const file of pure) {
    const code = codeOf(file);
    assert(!/\bDeno\b/.test(code), `${file} uses Deno`);
    const others = importsOf(file).map((specifier) =>
      new URL(specifier, new URL(file, root)).href.slice(root.href.length)
    ).filter((imported) => !pure.includes(imported));
    assertEquals(others, [], file);
  }
});

test("the client and the server never import each other", () => {
  assert(!reachedFrom("lib/client.ts").has("lib/server.ts"));
  assert(!reachedFrom("lib/server.ts").has("lib/client.ts"));
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

test("nobody outside ffi/ sees a pointer, a layout or an errno number", () => {
  for (const file of files.filter((file) => !file.startsWith("ffi/"))) {
    const code = codeOf(file);
    for (const word of ["UnsafePointer", "UnsafeFnPointer", "UnsafeCallback", "dlopen", "errno"]) {
      assert(!code.includes(word), `${file} uses ${word}`);
    }
    for (const inner of ["struct", "abi", "libc", "errno"]) {
      assert(!importsOf(file).includes(`../ffi/${inner}.ts`), `${file} imports ffi/${inner}.ts`);
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
  for (const { name } of Deno.readDirSync(new URL("tests/", root))) {
    if (!name.endsWith("_test.ts") || unguarded.includes(name)) continue;
    const code = codeOf(`tests/${name}`);
    assert(importsOf(`tests/${name}`).includes("./guard.ts"), `${name} does not import guard.ts`);
    assert(!code.includes("Deno" + ".test("), `${name} calls Deno.test itself`);
  }
});

test("the eyes of these tests see what they are to find", () => {
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
  return Array.from(
    Deno.readDirSync(new URL(directory, root)),
    ({ name }) => `${directory}/${name}`,
  );
}

function floorOf(file: string): number {
  const floor = floors.findIndex((floor) => floor.includes(file));
  assert(floor >= 0, `${file} has no floor`);
  return floor;
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
  for (const specifier of importsOf(file)) {
    const imported = new URL(specifier, new URL(file, root)).href.slice(root.href.length);
    if (reached.has(imported)) continue;
    reached.add(imported);
    reachedFrom(imported, reached);
  }
  return reached;
}
