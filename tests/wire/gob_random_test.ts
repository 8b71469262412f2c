/**
 * Random values through the encoder and the decoder, and random damage to their gobs.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import type { MetaValue } from "../../lib/wire/gob.ts";
import { decode } from "../../lib/wire/gob_decode.ts";
import { encode } from "../../lib/wire/gob_encode.ts";
import { Chance } from "../support/chance.ts";
import { decodeObject, decodes, encodeObject } from "./gob_bytes.ts";
import { randomObject, randomString } from "./random_values.ts";

/** The value that decode() returns for it: an integer is a bigint exactly if it is not safe as a number. */
function asReceived(value: MetaValue): MetaValue {
  if (typeof value === "bigint") {
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  if (typeof value === "number") {
    const isInt = Number.isInteger(value) && value >= -(2 ** 63) && value < 2 ** 63;
    return isInt && !Number.isSafeInteger(value) ? BigInt(value) : value;
  }
  if (Array.isArray(value)) return value.map(asReceived);
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, asReceived(item)]));
}

Deno.test("decode() returns the value that encode() was called with", () => {
  const chance = new Chance(65, 0);
  for (let round = 0; round < 5000; round++) {
    const object = randomObject(chance, 4);
    assertEquals(decodeObject(encodeObject(object)), asReceived(object));
  }
});

Deno.test("encode() returns the same bytes again for a decoded value", () => {
  const chance = new Chance(66, 0);
  for (let round = 0; round < 1000; round++) {
    const bytes = encode([["v", asReceived(randomString(chance))], ["n", chance.below(2 ** 32)]]);
    assertEquals(encode(decode(bytes)), bytes);
  }
});

Deno.test("decode() returns or throws a GobError when bytes are wrong, missing or added", () => {
  const chance = new Chance(68, 0);
  for (let round = 0; round < 20_000; round++) {
    let bytes = [...encodeObject(randomObject(chance, 3))];
    for (let change = chance.below(8); change >= 0; change--) {
      const at = chance.below(bytes.length + 1);
      bytes = [
        ...bytes.slice(0, at),
        ...Array.from({ length: chance.below(3) }, () => chance.below(256)),
        ...bytes.slice(at + chance.below(3)),
      ];
    }
    decodes(new Uint8Array(bytes));
  }
});
