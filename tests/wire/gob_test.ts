import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { GobError } from "../../lib/errors.ts";
import { decode, encode, type MetaValue } from "../../lib/wire/gob.ts";

interface Golden {
  name: string;
  go: string;
  hex?: string;
  length?: number;
}

interface Tolerance {
  name: string;
  hex: string;
  go: string;
  canonical: string | null;
}

const vectors: { gob: Golden[]; gob_decoder_tolerance: Tolerance[] } = JSON.parse(
  Deno.readTextFileSync(new URL("../data/vectors.json", import.meta.url)),
);

/** What each golden vector decodes to. */
const goldenValues: Record<string, { [key: string]: MetaValue }> = {
  empty: {},
  nil_map: {},
  foo_bar: { foo: "bar" },
  foo_bar_baz_1: { foo: "bar", baz: 1 },
  string_utf8: { v: "\u017c\u00f3\u0142\u0107 \u{1f48e}" },
  string_nul: { v: "a\0b" },
  string_127: { v: "s".repeat(127) },
  string_128: { v: "s".repeat(128) },
  string_70000: { v: "s".repeat(70000) },
  int_0: { v: 0 },
  int_neg1: { v: -1 },
  int_63: { v: 63 },
  int_neg64: { v: -64 },
  int_neg65: { v: -65 },
  int_128: { v: 128 },
  int_neg129: { v: -129 },
  int_2p53: { v: 2n ** 53n },
  int_max: { v: 2n ** 63n - 1n },
  int8_neg128: { v: -128 },
  int16: { v: -300 },
  int64: { v: -5 },
  uint_0: { v: 0 },
  uint_128: { v: 128 },
  uint8: { v: 255 },
  uint32: { v: 4294967295 },
  uint64_max: { v: 2n ** 64n - 1n },
  bool_true: { v: true },
  bool_false: { v: false },
  float64_neg0: { v: -0 },
  float64_1: { v: 1 },
  float64_1_5: { v: 1.5 },
  float64_pi: { v: Math.PI },
  float64_nan: { v: NaN },
  float32_0_1: { v: Math.fround(0.1) },
  bytes: { v: new Uint8Array([0, 1, 2, 255]) },
  bytes_empty: { v: new Uint8Array() },
  strings_empty: { v: [] },
  ints: { v: [1, -1, 300] },
  float64s: { v: [1.5] },
  bools: { v: [true, false] },
  strings_and_ints: { s: ["a"], i: [1] },
  nil_value: { v: null },
  pointer_to_int: { v: 5 },
  nested_map_registered: { v: { a: 1 } },
  nested_map_registered_empty: { v: {} },
  nested_map_with_strings: { v: { a: ["x"] } },
  nested_meta_registered: { v: { a: 1 } },
  slice_any_registered: { v: ["a", 1, null] },
  strings_after_other_types: { v: ["a"] },
};

/** Where the value to encode is not the decoded one: a bigint gives Go's int64. */
const encoded: Record<string, { [key: string]: MetaValue }> = {
  int_2p53: { v: 2 ** 53 },
  int64: { v: -5n },
};

/** Go types that no TypeScript value is encoded as. */
const decodedOnly = new Set([
  "int_max",
  "int8_neg128",
  "int16",
  "uint_0",
  "uint_128",
  "uint8",
  "uint32",
  "float64_1",
  "float32_0_1",
]);

/** Values of user types: Go defines these in the middle of the value, we do in front of it. */
const definedElsewhere = new Set([
  "strings_empty",
  "ints",
  "float64s",
  "bools",
  "strings_and_ints",
  "nested_map_registered",
  "nested_map_registered_empty",
  "nested_map_with_strings",
  "nested_meta_registered",
  "slice_any_registered",
  "strings_after_other_types",
]);

const canonicalValues: Record<string, { [key: string]: MetaValue }> = {
  "map{666f6f=string:626172}": { foo: "bar" },
  "map{666f6f=string:42415a}": { foo: "BAZ" },
  "map{76=string:626172}": { v: "bar" },
  "map{76=bool:true}": { v: true },
  "map{76=[]string[61]}": { v: ["a"] },
  "map{76=map{666f6f=string:626172}}": { v: { foo: "bar" } },
  "map{76=[]any[nil,int:7]}": { v: [null, 7] },
};

/** Meta's definition as a message, for gobs made by hand. */
const definition = "14ff81040101044d65746101ff8200010c01100000";

function fromHex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function toHex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function hexOf(text: string): string {
  return toHex(new TextEncoder().encode(text));
}

/** The length of some hex as one byte of hex, and the hex. */
function counted(hex: string): string {
  const length = hex.length / 2;
  assert(length < 128);
  return length.toString(16).padStart(2, "0") + hex;
}

/** A gob of one key "v" that holds what the hex says. */
function gobOf(interfaceHex: string): Uint8Array {
  return fromHex(definition + counted("ff8200010176" + interfaceHex));
}

function encodeObject(object: { [key: string]: MetaValue }): Uint8Array {
  return encode(Object.entries(object));
}

function decodeObject(bytes: Uint8Array): { [key: string]: MetaValue } {
  return Object.fromEntries(decode(bytes));
}

/** The bytes of a golden vector; one that is cut is made again by encoding. */
function goldenBytes({ name, hex, length }: Golden): Uint8Array {
  const bytes = fromHex(hex!);
  return bytes.length === length ? bytes : encodeObject(goldenValues[name]);
}

/** Numbers from 0 up to a limit, the same ones for the same seed (a linear congruence). */
function randomFrom(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * limit);
  };
}

function randomString(random: (limit: number) => number): string {
  const alphabet = ["a", "", "\0", "\u00e9", "\ufeff", "\u{1f48e}", "__proto__", "s".repeat(130)];
  return Array.from({ length: random(4) }, () => alphabet[random(alphabet.length)]).join("");
}

function randomValue(random: (limit: number) => number, depth: number): MetaValue {
  const bits = BigInt(random(2 ** 32)) << 32n | BigInt(random(2 ** 32));
  switch (random(depth > 0 ? 12 : 9)) {
    case 0:
      return null;
    case 1:
      return random(2) === 1;
    case 2:
      return random(300) - 150;
    case 3:
      return Number(BigInt.asIntN(1 + random(64), bits));
    case 4:
      return new Float64Array(new BigUint64Array([bits]).buffer)[0];
    case 5:
      return BigInt.asIntN(1 + random(64), bits);
    case 6:
      return BigInt.asUintN(1 + random(64), bits);
    case 7:
      return randomString(random);
    case 8:
      return Uint8Array.from({ length: random(200) }, () => random(256));
    case 9:
      return Array.from({ length: random(4) }, () => randomString(random));
    case 10:
      return Array.from({ length: random(4) }, () => randomValue(random, depth - 1));
    default:
      return randomObject(random, depth - 1);
  }
}

function randomObject(
  random: (limit: number) => number,
  depth: number,
): { [key: string]: MetaValue } {
  return Object.fromEntries(
    Array.from({ length: random(5) }, () => [randomString(random), randomValue(random, depth)]),
  );
}

/** The value as it comes back: integers are bigints exactly where a number is not safe. */
function arriving(value: MetaValue): MetaValue {
  if (typeof value === "bigint") {
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  if (typeof value === "number") {
    const isInt = Number.isInteger(value) && value >= -(2 ** 63) && value < 2 ** 63;
    return isInt && !Number.isSafeInteger(value) ? BigInt(value) : value;
  }
  if (Array.isArray(value)) return value.map(arriving);
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, arriving(item)]));
}

/** Whether the bytes decode; any failure but a GobError is a failure of the test. */
function decodes(bytes: Uint8Array): boolean {
  try {
    decode(bytes);
    return true;
  } catch (error) {
    assertInstanceOf(error, GobError);
    return false;
  }
}

function assertGobError(bytes: Uint8Array, message: string): void {
  assertStringIncludes(assertThrows(() => decode(bytes), GobError).message, message);
}

for (const golden of vectors.gob.filter(({ name }) => name in goldenValues)) {
  const { name, go } = golden;

  Deno.test(`decode() reads Go's ${go} (${name})`, () => {
    assertEquals(decodeObject(goldenBytes(golden)), goldenValues[name]);
  });

  if (decodedOnly.has(name)) continue;
  const value = encoded[name] ?? goldenValues[name];

  if (definedElsewhere.has(name)) {
    Deno.test(`encode() makes what decodes as Go's ${go} does (${name})`, () => {
      assertEquals(decodeObject(encodeObject(value)), goldenValues[name]);
    });
  } else {
    Deno.test(`encode() makes the same bytes as Go of ${go} (${name})`, () => {
      const bytes = encodeObject(value);
      assertEquals(toHex(bytes.subarray(0, golden.hex!.length / 2)), golden.hex);
      assertEquals(bytes.length, golden.length);
    });
  }
}

Deno.test("every golden vector has its test", () => {
  const others = vectors.gob.map(({ name }) => name).filter((name) => !(name in goldenValues));
  assertEquals(others, [
    "nil_pointer",
    "map_string_string_unregistered",
    "struct_unregistered",
    "struct_registered",
  ]);
});

for (const { name, hex, go, canonical } of vectors.gob_decoder_tolerance) {
  if (canonical === null) {
    Deno.test(`decode() refuses as Go does: ${name}`, () => {
      assert(go.startsWith("error"));
      assertThrows(() => decode(fromHex(hex)), GobError, "Cannot decode gob: at byte ");
    });
  } else {
    Deno.test(`decode() accepts as Go does: ${name}`, () => {
      assertEquals(decodeObject(fromHex(hex)), canonicalValues[canonical]);
    });
  }
}

Deno.test("decode() names a struct type that Go sends", () => {
  const { hex } = vectors.gob.find(({ name }) => name === "struct_registered")!;
  assertGobError(fromHex(hex!), `the Go type "main.S" is not known here`);
});

Deno.test("decode() says at which byte it failed", () => {
  const bytes = encode([["port", 8000]]);
  assertGobError(bytes.subarray(0, -1), "at byte 21: a length of 19, but 18 bytes are left");
  assertGobError(new Uint8Array(), "at byte 0: the bytes end here, more are expected");
  assertGobError(gobOf(counted(hexOf("int8")) + "04" + "04" + "00" + "fe0258"), "at byte 36: 300 ");
});

Deno.test("decode() reads every name that a Go receiver knows, and lists of each", () => {
  const kinds: [string[], string, string, MetaValue][] = [
    [["bool"], "02", "01", true],
    [["int", "int8", "int16", "int32", "int64"], "04", "07", -4],
    [["uint", "uint8", "uint16", "uint32", "uint64", "uintptr"], "06", "04", 4],
    [["float32", "float64"], "08", "fef83f", 1.5],
    [["string"], "0c", "0161", "a"],
  ];
  for (const [names, id, hex, value] of kinds) {
    for (const name of names) {
      const scalar = counted(hexOf(name)) + id + counted("00" + hex);
      assertEquals(decodeObject(gobOf(scalar)), { v: value }, name);
      if (name === "uint8") continue;
      const define = counted(`ff83020102ff840001${id}0000`);
      const list = counted(hexOf(`[]${name}`)) + "ff84" + counted(`0002${hex}${hex}`);
      assertEquals(
        decodeObject(fromHex(define + toHex(gobOf(list)))),
        { v: [value, value] },
        `[]${name}`,
      );
    }
  }
});

Deno.test("decode() keeps integers to the range of their Go type", () => {
  const one = (name: string, id: string, hex: string) =>
    gobOf(counted(hexOf(name)) + id + counted("00" + hex));
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

Deno.test("decode() refuses a name that does not fit its definition", () => {
  assertGobError(
    gobOf(counted(hexOf("[]uint8")) + "0c" + "0400026162"),
    `the Go type "[]uint8" does not fit`,
  );
  assertGobError(
    gobOf(counted(hexOf("[]int")) + "ff82" + "020000"),
    `the Go type "[]int" does not fit`,
  );
  assertGobError(
    gobOf(counted(hexOf("map[string]interface {}")) + "0c" + "020000"),
    `the Go type "map[string]interface {}" does not fit`,
  );
  assertGobError(
    gobOf(counted(hexOf("complex128")) + "0e" + "03000000"),
    `"complex128" is not known`,
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
  const bytes = fromHex(unused.map(counted).join("") + toHex(encode([["foo", "bar"]])));
  assertEquals(decodeObject(bytes), { foo: "bar" });
});

Deno.test("decode() reads a value that Go defines in pieces, inside a list inside a map", () => {
  // map[string]interface{}{"v": []interface{}{[]string{"a"}, true}}, the order of Go's encoder
  const bytes = fromHex(
    definition +
      counted("ff8200010176" + counted(hexOf("[]interface {}")) + "ff83020102ff840001100000") +
      counted(
        "ff84" + "30" + "0002" + counted(hexOf("[]string")) + "ff85020102ff8600010c0000",
      ) +
      counted("ff86" + "04" + "00010161" + counted(hexOf("bool")) + "02" + "020001"),
  );
  assertEquals(decodeObject(bytes), { v: [["a"], true] });
});

Deno.test("decode() reads a map of a type that only Go programs know", () => {
  const { hex } = vectors.gob.find(({ name }) => name === "nested_meta_registered")!;
  assertStringIncludes(hex!, hexOf("github.com/gobwas/graceful.Meta"));
  assertEquals(decodeObject(fromHex(hex!)), { v: { a: 1 } });
});

Deno.test("decode() makes __proto__ a property like any other", () => {
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
  assertEquals(decodeObject(gobOf(counted(hexOf("string")) + "0c" + "040002ff61")), {
    v: "\ufffda",
  });
  assertEquals(decodeObject(encode([["v", "\ufeffa"]])), { v: "\ufeffa" });
});

Deno.test("encode() sends an unpaired surrogate as U+FFFD", () => {
  assertEquals(decodeObject(encode([["v", "a\ud83d"]])), { v: "a\ufffd" });
});

Deno.test("encode() picks the Go type by the value", () => {
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
    assertStringIncludes(toHex(encode([["v", value]])), "0176" + counted(hexOf(type)), type);
  }
});

Deno.test("encode() puts every definition in front, once", () => {
  const bytes = encode([["a", ["x"]], ["b", { c: ["y"], d: [1, ["z"]] }], ["e", ["w"]]]);
  const definitions = [
    "ff83020102ff8400010c0000", // []string, id 66
    "ff85040102ff8600010c01100000", // map[string]interface {}, id 67
    "ff87020102ff880001100000", // []interface {}, id 68
  ];
  const start = definition + definitions.map(counted).join("");
  assertEquals(toHex(bytes).slice(0, start.length), start);
});

Deno.test("encode() names the place of a value without a Go type", () => {
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

Deno.test("encode() throws for a value that contains itself", () => {
  const cycle: { [key: string]: MetaValue } = {};
  cycle.self = cycle;
  const list: MetaValue[] = [];
  list.push([list]);
  assertThrows(() => encode([["v", cycle]]), TypeError, `meta["v"]: nested deeper than 100 levels`);
  assertThrows(() => encode([["v", list]]), TypeError, `meta["v"]: nested deeper than 100 levels`);
});

Deno.test("decode() takes the nesting that encode() allows, and no more", () => {
  function nest(levels: number): MetaValue {
    let value: MetaValue = 1;
    for (let level = 0; level < levels; level++) value = level % 2 === 0 ? [value] : { v: value };
    return value;
  }
  assertEquals(decodeObject(encode([["v", nest(99)]])), { v: nest(99) });
  assertThrows(() => encode([["v", nest(100)]]), TypeError, "nested deeper");

  // Maps of the id that is defined already: the shortest way down there is.
  const level = counted(hexOf("M")) + "ff82" + "00" + "0001" + "00";
  const body = "ff82000100" + level.repeat(100_000) + "00";
  const length = (body.length / 2).toString(16).padStart(8, "0");
  assertGobError(fromHex(definition + "fc" + length + body), "nested deeper than 100 levels");
});

Deno.test("decode() returns the values that encode() was given", () => {
  const random = randomFrom(65);
  for (let round = 0; round < 5000; round++) {
    const object = randomObject(random, 4);
    assertEquals(decodeObject(encodeObject(object)), arriving(object));
  }
});

Deno.test("encode() makes the same bytes again of decoded values", () => {
  const random = randomFrom(66);
  for (let round = 0; round < 1000; round++) {
    const bytes = encode([["v", arriving(randomString(random))], ["n", random(2 ** 32)]]);
    assertEquals(encode(decode(bytes)), bytes);
  }
});

Deno.test("decode() believes no length and no count", () => {
  const lengths = ["7f", "ffff", "fcffffffff", "f87fffffffffffffff", "f8ffffffffffffffff"];
  for (const length of lengths) {
    const hostile = [
      length, // of a message
      definition + counted("ff8200" + length), // of a map
      definition + counted("ff820001" + length), // of a key
      definition + counted("ff8200010176" + length), // of a name
      counted(`ff83020102ff8400010c0000`) + definition + // of a list
      counted("ff8200010176" + counted(hexOf("[]string")) + "ff84" + "7f" + "00" + length),
      definition + counted("ff8200010176" + counted(hexOf("string")) + "0c" + "7f00" + length),
      counted("ff8303010153" + length), // of a struct's fields
    ];
    for (const hex of hostile) {
      assert(!decodes(fromHex(hex)), hex);
      assert(!decodes(fromHex(hex + "00".repeat(50))), hex);
    }
  }
});

Deno.test("decode() is not kept busy by definitions that only count", () => {
  // Structs that end right after the count of their fields, each as large as the whole input.
  const definitions = Array.from({ length: 50_000 }, (_, i) => {
    const id = (2 * (64 + i) - 1).toString(16).padStart(8, "0");
    return counted(`fc${id}` + "03" + "02" + "fd080000");
  });
  const start = performance.now();
  assert(!decodes(fromHex(definitions.join(""))));
  assert(performance.now() - start < 10_000);
});

Deno.test("decode() refuses a vector that is cut anywhere", () => {
  for (const golden of vectors.gob.filter(({ hex }) => hex)) {
    const bytes = goldenBytes(golden);
    // Of the long string every cut is alike but the first and the last.
    for (let end = 0; end < bytes.length; end += end > 200 && end < bytes.length - 200 ? 97 : 1) {
      assert(!decodes(bytes.subarray(0, end)), `${golden.name} cut at ${end}`);
    }
  }
});

Deno.test("decode() returns or throws a GobError for every wrong byte", () => {
  const random = randomFrom(67);
  const start = performance.now();
  for (const vector of [...vectors.gob, ...vectors.gob_decoder_tolerance]) {
    if (!vector.hex) continue;
    const bytes = "canonical" in vector ? fromHex(vector.hex) : goldenBytes(vector);
    for (let round = 0; round < 3000; round++) {
      const mutated = bytes.slice();
      mutated[random(bytes.length)] = random(256);
      decodes(mutated);
    }
  }
  assert(performance.now() - start < 60_000);
});

Deno.test("decode() returns or throws a GobError for several wrong bytes, missing and added ones", () => {
  const random = randomFrom(68);
  for (let round = 0; round < 20_000; round++) {
    let bytes = [...encodeObject(randomObject(random, 3))];
    for (let change = random(8); change >= 0; change--) {
      const at = random(bytes.length + 1);
      bytes = [
        ...bytes.slice(0, at),
        ...Array.from({ length: random(3) }, () => random(256)),
        ...bytes.slice(at + random(3)),
      ];
    }
    decodes(new Uint8Array(bytes));
  }
});
