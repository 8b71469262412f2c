/**
 * Gobs in hexadecimal, for the tests of the encoder and the decoder.
 *
 * @module
 */

import { assert, assertInstanceOf, assertStringIncludes, assertThrows } from "@std/assert";
import { GobError } from "../../lib/errors.ts";
import type { MetaValue } from "../../lib/wire/gob.ts";
import { decode } from "../../lib/wire/gob_decode.ts";
import { encode } from "../../lib/wire/gob_encode.ts";

/** The message that defines Meta, for gobs written by hand. */
export const metaDefinition = "14ff81040101044d65746101ff8200010c01100000";

export function fromHex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function toHex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function hexOf(text: string): string {
  return toHex(new TextEncoder().encode(text));
}

/** Bytes in hexadecimal, after their number as a byte: at most 127. */
export function withLength(hex: string): string {
  const length = hex.length / 2;
  assert(length < 128);
  return length.toString(16).padStart(2, "0") + hex;
}

/** The gob of a map with one key, "v", whose interface value has these bytes. */
export function gobWithValue(valueHex: string): Uint8Array {
  return fromHex(metaDefinition + withLength("ff8200010176" + valueHex));
}

export function encodeObject(object: { [key: string]: MetaValue }): Uint8Array {
  return encode(Object.entries(object));
}

export function decodeObject(bytes: Uint8Array): { [key: string]: MetaValue } {
  return Object.fromEntries(decode(bytes));
}

/** Whether decode() returns instead of throwing a GobError; any other error fails the test. */
export function decodes(bytes: Uint8Array): boolean {
  try {
    decode(bytes);
    return true;
  } catch (error) {
    assertInstanceOf(error, GobError);
    return false;
  }
}

export function assertGobError(bytes: Uint8Array, message: string): void {
  assertStringIncludes(assertThrows(() => decode(bytes), GobError).message, message);
}
