import { assert, assertEquals, assertNotStrictEquals, assertThrows } from "@std/assert";
import type { MetaValue } from "../../lib/wire/gob.ts";
import { decode } from "../../lib/wire/gob_decode.ts";
import { encode } from "../../lib/wire/gob_encode.ts";
import {
  assertGobError,
  decodeObject,
  decodes,
  fromHex,
  gobWithValue,
  hexOf,
  metaDefinition,
  toHex,
  withLength,
} from "./gob_bytes.ts";

Deno.test("decode() names the byte at which it fails", () => {
  const bytes = encode([["port", 8000]]);
  assertGobError(bytes.subarray(0, -1), "at byte 21: a length of 19, but 18 bytes are left");
  assertGobError(new Uint8Array(), "at byte 0: unexpected end of the bytes");
  assertGobError(
    gobWithValue(withLength(hexOf("int8")) + "04" + "04" + "00" + "fe0258"),
    "at byte 36: 300 ",
  );
});

Deno.test("decode() reads every type name that Go predefines, and lists of each", () => {
  const kinds: [string[], string, string, MetaValue][] = [
    [["bool"], "02", "01", true],
    [["int", "int8", "int16", "int32", "int64"], "04", "07", -4],
    [["uint", "uint8", "uint16", "uint32", "uint64", "uintptr"], "06", "04", 4],
    [["float32", "float64"], "08", "fef83f", 1.5],
    [["string"], "0c", "0161", "a"],
  ];
  for (const [names, id, hex, value] of kinds) {
    for (const name of names) {
      const scalar = withLength(hexOf(name)) + id + withLength("00" + hex);
      assertEquals(decodeObject(gobWithValue(scalar)), { v: value }, name);
      if (name === "uint8") continue;
      const define = withLength(`ff83020102ff840001${id}0000`);
      const list = withLength(hexOf(`[]${name}`)) + "ff84" + withLength(`0002${hex}${hex}`);
      assertEquals(
        decodeObject(fromHex(define + toHex(gobWithValue(list)))),
        { v: [value, value] },
        `[]${name}`,
      );
    }
  }
});

Deno.test("decode() refuses numbers outside the range of their Go type", () => {
  const one = (name: string, id: string, hex: string) =>
    gobWithValue(withLength(hexOf(name)) + id + withLength("00" + hex));
  assertEquals(decodeObject(one("int8", "04", "fffe")), { v: 127 });
  assertGobError(one("int8", "04", "fe0100"), "128 is out of range");
  assertEquals(decodeObject(one("int16", "04", "feffff")), { v: -32768 });
  assertGobError(one("int16", "04", "fd010000"), "32768 is out of range");
  assertEquals(decodeObject(one("uint32", "06", "fcffffffff")), { v: 4294967295 });
  assertGobError(one("uint32", "06", "fb0100000000"), "4294967296 is out of range");
  assertEquals(decodeObject(one("int64", "04", "f8ffffffffffffffff")), { v: -(2n ** 63n) });
  assertEquals(decodeObject(one("float32", "08", "fef07f")), { v: Infinity });
  assertGobError(one("float32", "08", "fef07e"), "out of range");
});

Deno.test("decode() refuses a type name that does not fit the definition", () => {
  assertGobError(
    gobWithValue(withLength(hexOf("[]uint8")) + "0c" + "0400026162"),
    `the Go type "[]uint8" does not fit`,
  );
  assertGobError(
    gobWithValue(withLength(hexOf("[]int")) + "ff82" + "020000"),
    `the Go type "[]int" does not fit`,
  );
  assertGobError(
    gobWithValue(withLength(hexOf("map[string]interface {}")) + "0c" + "020000"),
    `the Go type "map[string]interface {}" does not fit`,
  );
  assertGobError(
    gobWithValue(withLength(hexOf("complex128")) + "0e" + "03000000"),
    `"complex128" is not supported`,
  );
});

Deno.test("decode() skips the definitions of every kind of type", () => {
  const unused = [
    "ff8301" + "0102ff8400" + "0104" + "0106" + "0000", // [3]int, id 66
    "ff8503" + "0101015301ff8600" + "0101" + "010141010400" + "0000", // struct S{A int}, id 67
    "ff8705" + "0102ff8800" + "0000", // GobEncoder, id 68
    "ff8906" + "0102ff8a00" + "0000", // BinaryMarshaler, id 69
    "ff8b07" + "0102ff8c00" + "0000", // TextMarshaler, id 70
  ];
  const bytes = fromHex(unused.map(withLength).join("") + toHex(encode([["foo", "bar"]])));
  assertEquals(decodeObject(bytes), { foo: "bar" });
});

Deno.test("decode() reads definitions that Go writes inside a value: of a list in a list in a map", () => {
  // map[string]interface{}{"v": []interface{}{[]string{"a"}, true}}, as Go's encoder writes it
  const bytes = fromHex(
    metaDefinition +
      withLength(
        "ff8200010176" + withLength(hexOf("[]interface {}")) + "ff83020102ff840001100000",
      ) +
      withLength(
        "ff84" + "30" + "0002" + withLength(hexOf("[]string")) + "ff85020102ff8600010c0000",
      ) +
      withLength("ff86" + "04" + "00010161" + withLength(hexOf("bool")) + "02" + "020001"),
  );
  assertEquals(decodeObject(bytes), { v: [["a"], true] });
});

Deno.test("decode() returns __proto__ as an ordinary property", () => {
  const nested = Object.fromEntries([["__proto__", { polluted: true }]]);
  const { v } = decodeObject(encode([["v", nested], ["__proto__", "own"]])) as { v: object };
  assertEquals(Object.getPrototypeOf(v), Object.prototype);
  assertEquals(Object.entries(v), [["__proto__", { polluted: true }]]);
  assertEquals((v as { polluted?: boolean }).polluted, undefined);
  assertEquals(decode(encode([["__proto__", "own"]])).get("__proto__"), "own");
});

Deno.test("decode() copies byte slices out of its input", () => {
  const gob = encode([["v", new Uint8Array([1, 2, 3])]]);
  const bytes = decode(gob).get("v") as Uint8Array;
  assertNotStrictEquals(bytes.buffer, gob.buffer);
  gob.fill(0);
  assertEquals(bytes, new Uint8Array([1, 2, 3]));
});

Deno.test("decode() replaces invalid UTF-8 and keeps a byte order mark", () => {
  assertEquals(decodeObject(gobWithValue(withLength(hexOf("string")) + "0c" + "040002ff61")), {
    v: "\ufffda",
  });
  assertEquals(decodeObject(encode([["v", "\ufeffa"]])), { v: "\ufeffa" });
});

Deno.test("decode() accepts the nesting that encode() allows, and no more", () => {
  function nest(levels: number): MetaValue {
    let value: MetaValue = 1;
    for (let level = 0; level < levels; level++) value = level % 2 === 0 ? [value] : { v: value };
    return value;
  }
  assertEquals(decodeObject(encode([["v", nest(99)]])), { v: nest(99) });
  assertThrows(() => encode([["v", nest(100)]]), TypeError, "nested deeper");

  // Maps of the type that is defined already: the fewest bytes for each level.
  const level = withLength(hexOf("M")) + "ff82" + "00" + "0001" + "00";
  const body = "ff82000100" + level.repeat(100_000) + "00";
  const length = (body.length / 2).toString(16).padStart(8, "0");
  assertGobError(fromHex(metaDefinition + "fc" + length + body), "nested deeper than 100 levels");
});

Deno.test("decode() refuses lengths and counts beyond its input", () => {
  const lengths = ["7f", "ffff", "fcffffffff", "f87fffffffffffffff", "f8ffffffffffffffff"];
  for (const length of lengths) {
    const hostile = [
      length, // of a message
      metaDefinition + withLength("ff8200" + length), // of a map
      metaDefinition + withLength("ff820001" + length), // of a key
      metaDefinition + withLength("ff8200010176" + length), // of a name
      withLength(`ff83020102ff8400010c0000`) + metaDefinition + // of a list
      withLength("ff8200010176" + withLength(hexOf("[]string")) + "ff84" + "7f" + "00" + length),
      metaDefinition +
      withLength("ff8200010176" + withLength(hexOf("string")) + "0c" + "7f00" + length),
      withLength("ff8303010153" + length), // of a struct's fields
    ];
    for (const hex of hostile) {
      assert(!decodes(fromHex(hex)), hex);
      assert(!decodes(fromHex(hex + "00".repeat(50))), hex);
    }
  }
});

Deno.test("decode() ends soon on definitions with large counts and no elements", () => {
  // Structs that end after the count of their fields, which is as large as the input.
  const definitions = Array.from({ length: 50_000 }, (_, i) => {
    const id = (2 * (64 + i) - 1).toString(16).padStart(8, "0");
    return withLength(`fc${id}` + "03" + "02" + "fd080000");
  });
  const start = performance.now();
  assert(!decodes(fromHex(definitions.join(""))));
  assert(performance.now() - start < 10_000);
});
