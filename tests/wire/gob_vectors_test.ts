/**
 * The golden vectors of Go's encoding/gob, in both directions.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { GobError } from "../../lib/errors.ts";
import { decode } from "../../lib/wire/gob_decode.ts";
import { Chance } from "../support/chance.ts";
import {
  assertGobError,
  decodeObject,
  decodes,
  encodeObject,
  fromHex,
  hexOf,
  toHex,
} from "./gob_bytes.ts";
import {
  canonicalValues,
  decodedOnly,
  definedInsideValue,
  encodedValues,
  goldenBytes,
  goldens,
  goldenValues,
  tolerances,
} from "./gob_vectors.ts";

for (const golden of goldens.filter(({ name }) => name in goldenValues)) {
  const { name, go } = golden;

  Deno.test(`decode() reads Go's ${go} (${name})`, () => {
    assertEquals(decodeObject(goldenBytes(golden)), goldenValues[name]);
  });

  if (decodedOnly.has(name)) continue;
  const value = encodedValues[name] ?? goldenValues[name];

  if (definedInsideValue.has(name)) {
    Deno.test(`encode() and decode() return the value of Go's ${go} (${name})`, () => {
      assertEquals(decodeObject(encodeObject(value)), goldenValues[name]);
    });
  } else {
    Deno.test(`encode() returns the same bytes as Go for ${go} (${name})`, () => {
      const bytes = encodeObject(value);
      assertEquals(toHex(bytes.subarray(0, golden.hex!.length / 2)), golden.hex);
      assertEquals(bytes.length, golden.length);
    });
  }
}

Deno.test("every golden vector has a value, but for those that Go or decode() refuses", () => {
  const others = goldens.map(({ name }) => name).filter((name) => !(name in goldenValues));
  assertEquals(others, [
    "nil_pointer",
    "map_string_string_unregistered",
    "struct_unregistered",
    "struct_registered",
  ]);
});

for (const { name, hex, go, canonical } of tolerances) {
  if (canonical === null) {
    Deno.test(`decode() refuses, as Go does: ${name}`, () => {
      assert(go.startsWith("error"));
      assertThrows(() => decode(fromHex(hex)), GobError, "Cannot decode gob: at byte ");
    });
  } else {
    Deno.test(`decode() accepts, as Go does: ${name}`, () => {
      assertEquals(decodeObject(fromHex(hex)), canonicalValues[canonical]);
    });
  }
}

Deno.test("decode() names the struct type that it refuses", () => {
  const { hex } = goldens.find(({ name }) => name === "struct_registered")!;
  assertGobError(fromHex(hex!), `the Go type "main.S" is not supported`);
});

Deno.test("decode() reads a map whose type a Go program has registered under its own name", () => {
  const { hex } = goldens.find(({ name }) => name === "nested_meta_registered")!;
  assertStringIncludes(hex!, hexOf("github.com/gobwas/graceful.Meta"));
  assertEquals(decodeObject(fromHex(hex!)), { v: { a: 1 } });
});

Deno.test("decode() refuses a golden vector that is cut at any byte", () => {
  for (const golden of goldens.filter(({ hex }) => hex)) {
    const bytes = goldenBytes(golden);
    // Cuts in the middle of the long string are all alike: every 97th is enough.
    for (let end = 0; end < bytes.length; end += end > 200 && end < bytes.length - 200 ? 97 : 1) {
      assert(!decodes(bytes.subarray(0, end)), `${golden.name} cut at ${end}`);
    }
  }
});

Deno.test("decode() returns or throws a GobError when one byte of a vector is wrong", () => {
  const chance = new Chance(67, 0);
  const start = performance.now();
  for (const vector of [...goldens, ...tolerances]) {
    if (!vector.hex) continue;
    const bytes = "canonical" in vector ? fromHex(vector.hex) : goldenBytes(vector);
    for (let round = 0; round < 3000; round++) {
      const mutated = bytes.slice();
      mutated[chance.below(bytes.length)] = chance.below(256);
      decodes(mutated);
    }
  }
  assert(performance.now() - start < 60_000);
});
