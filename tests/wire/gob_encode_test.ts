import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import type { MetaValue } from "../../lib/wire/gob.ts";
import { encode } from "../../lib/wire/gob_encode.ts";
import { decodeObject, hexOf, metaDefinition, toHex, withLength } from "./gob_bytes.ts";

Deno.test("encode() sends an unpaired surrogate as U+FFFD", () => {
  assertEquals(decodeObject(encode([["v", "a\ud83d"]])), { v: "a\ufffd" });
});

Deno.test("encode() chooses the Go type by the value", () => {
  const types: [MetaValue, string][] = [
    [1, "int"],
    [-1.5, "float64"],
    [-0, "float64"],
    [Infinity, "float64"],
    [-(2 ** 63), "int"],
    [2 ** 63, "float64"],
    [1n, "int64"],
    [-(2n ** 63n), "int64"],
    [2n ** 63n, "uint64"],
    [["a", "b"], "[]string"],
    [[], "[]string"],
    [["a", 1], "[]interface {}"],
    [[1, 2], "[]interface {}"],
    [[["a"]], "[]interface {}"],
    [{}, "map[string]interface {}"],
    [Object.create(null), "map[string]interface {}"],
  ];
  for (const [value, type] of types) {
    assertStringIncludes(toHex(encode([["v", value]])), "0176" + withLength(hexOf(type)), type);
  }
});

Deno.test("encode() writes each definition once, before the value", () => {
  const bytes = encode([["a", ["x"]], ["b", { c: ["y"], d: [1, ["z"]] }], ["e", ["w"]]]);
  const definitions = [
    "ff83020102ff8400010c0000", // []string, id 66
    "ff85040102ff8600010c01100000", // map[string]interface {}, id 67
    "ff87020102ff880001100000", // []interface {}, id 68
  ];
  const start = metaDefinition + definitions.map(withLength).join("");
  assertEquals(toHex(bytes).slice(0, start.length), start);
});

Deno.test("encode() names the path of a value without a Go type", () => {
  class S {}
  const refused: [unknown, string][] = [
    [new S(), `Cannot encode meta["v"]: an instance of S`],
    [new Map(), `Cannot encode meta["v"]: an instance of Map`],
    [new Date(), `Cannot encode meta["v"]: an instance of Date`],
    [new Uint16Array(1), `Cannot encode meta["v"]: an instance of Uint16Array`],
    [undefined, `Cannot encode meta["v"]: undefined`],
    [() => 1, `Cannot encode meta["v"]: a function`],
    [Symbol(), `Cannot encode meta["v"]: a symbol`],
    [2n ** 64n, `Cannot encode meta["v"]: a bigint of more than 64 bits`],
    [-(2n ** 63n) - 1n, `Cannot encode meta["v"]: a bigint of more than 64 bits`],
    [{ a: [1, { "b.c": undefined }] }, `Cannot encode meta["v"]["a"][1]["b.c"]: undefined`],
    [["a", undefined], `Cannot encode meta["v"][1]: undefined`],
    [new Array(1), `Cannot encode meta["v"][0]: undefined`],
  ];
  for (const [value, message] of refused) {
    assertThrows(() => encode([["v", value as MetaValue]]), TypeError, message);
  }
  const keys = new Map([[1, "a"]]) as unknown as Map<string, MetaValue>;
  assertThrows(() => encode(keys), TypeError, "Cannot encode meta: a key is a number");
});

Deno.test("encode() refuses a value that contains itself", () => {
  const cycle: { [key: string]: MetaValue } = {};
  cycle.self = cycle;
  const list: MetaValue[] = [];
  list.push([list]);
  assertThrows(() => encode([["v", cycle]]), TypeError, `meta["v"]: nested deeper than 100 levels`);
  assertThrows(() => encode([["v", list]]), TypeError, `meta["v"]: nested deeper than 100 levels`);
});
