/**
 * The golden vectors of Go's encoding/gob (`tests/data/vectors.json`), and their values in TypeScript.
 *
 * @module
 */

import vectors from "../data/vectors.json" with { type: "json" };
import type { MetaValue } from "../../lib/wire/gob.ts";
import { encodeObject, fromHex } from "./gob_bytes.ts";

/** A gob that Go encoded; `hex` holds its first bytes only if it is long. */
export interface Golden {
  name: string;
  go: string;
  hex?: string;
  length?: number;
}

/** A gob that Go does not encode, and the result of Go's decoder: null if that refuses it. */
export interface Tolerance {
  name: string;
  hex: string;
  go: string;
  canonical: string | null;
}

export const goldens: Golden[] = vectors.gob;
export const tolerances: Tolerance[] = vectors.gob_decoder_tolerance;

/** The value that each golden vector decodes to. */
export const goldenValues: Record<string, { [key: string]: MetaValue }> = {
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

/** The values to encode that differ from the decoded ones: a bigint is encoded as Go's int64. */
export const encodedValues: Record<string, { [key: string]: MetaValue }> = {
  int_2p53: { v: 2 ** 53 },
  int64: { v: -5n },
};

/** The vectors of Go types that encode() never uses. */
export const decodedOnly = new Set([
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

/** The vectors with a type that Go defines inside the value: encode() defines all types before the value. */
export const definedInsideValue = new Set([
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

/** The values of the tolerated gobs, by the text in which the Go program printed them. */
export const canonicalValues: Record<string, { [key: string]: MetaValue }> = {
  "map{666f6f=string:626172}": { foo: "bar" },
  "map{666f6f=string:42415a}": { foo: "BAZ" },
  "map{76=string:626172}": { v: "bar" },
  "map{76=bool:true}": { v: true },
  "map{76=[]string[61]}": { v: ["a"] },
  "map{76=map{666f6f=string:626172}}": { v: { foo: "bar" } },
  "map{76=[]any[nil,int:7]}": { v: [null, 7] },
};

/** The bytes of a golden vector; encode() restores the rest of a long one. */
export function goldenBytes({ name, hex, length }: Golden): Uint8Array {
  const bytes = fromHex(hex!);
  return bytes.length === length ? bytes : encodeObject(goldenValues[name]);
}
