/**
 * The meta that travels with a descriptor: a map of names to values, or any bytes.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { GobError } from "../errors.ts";
import type { MetaValue } from "./gob.ts";
import { decode } from "./gob_decode.ts";
import { describe, encode } from "./gob_encode.ts";

export type { MetaValue };

/**
 * Names and values that travel with a descriptor; a Go peer reads them as a `graceful.Meta`.
 *
 * ```ts
 * import { Meta } from "@graceful/deno";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = new Meta({ name: "http", port: 8000 }).encode();
 * assertEquals(Meta.from(bytes).get("port"), 8000);
 * ```
 */
export class Meta extends Map<string, MetaValue> {
  /** Creates a meta from the properties of an object, or from entries. */
  constructor(
    entries: { [key: string]: MetaValue } | Iterable<readonly [string, MetaValue]> = [],
  ) {
    super(isIterable(entries) ? entries : Object.entries(entries));
  }

  /**
   * Decodes a received meta. Throws a {@linkcode GobError} for bytes that are not a gob of a map, and for
   * `null` or no bytes: the sender sent no meta.
   */
  static from(bytes: Uint8Array | null): Meta {
    if (bytes === null || bytes.length === 0) {
      throw new GobError("Cannot read a meta: none was sent with this descriptor");
    }
    return new Meta(decode(bytes));
  }

  /** The bytes to send; throws a `TypeError` that names a value without a Go type. */
  encode(): Uint8Array {
    return encode(this);
  }

  /** A plain object for `JSON.stringify`: bigints become strings, bytes become arrays of numbers. */
  toJSON(): { [key: string]: unknown } {
    return jsonObject(this);
  }
}

/**
 * A meta to send: bytes, an object whose `encode()` returns bytes, as a {@linkcode Meta}, or `null` for
 * no meta.
 */
export type MetaLike = Uint8Array | { encode(): Uint8Array } | null;

const noBytes = new Uint8Array();

/**
 * The bytes of a meta, empty for no meta. Throws a `TypeError` if `meta` is not a {@linkcode MetaLike},
 * or if its `encode()` returns anything but bytes.
 */
export function metaBytes(meta: MetaLike | undefined): Uint8Array {
  if (meta === null || meta === undefined) return noBytes;
  if (meta instanceof Uint8Array) return meta;
  if (typeof meta.encode !== "function") {
    throw new TypeError(
      `Cannot send ${describe(meta)} as a meta: pass a Meta, a Uint8Array or null`,
    );
  }
  const bytes = meta.encode();
  if (bytes instanceof Uint8Array) return bytes;
  throw new TypeError(
    `Cannot send ${describe(meta)} as a meta: its encode() returned ${describe(bytes)}, not bytes`,
  );
}

function isIterable(
  entries: { [key: string]: MetaValue } | Iterable<readonly [string, MetaValue]>,
): entries is Iterable<readonly [string, MetaValue]> {
  return Symbol.iterator in entries;
}

function jsonObject(entries: Iterable<readonly [string, MetaValue]>): { [key: string]: unknown } {
  return Object.fromEntries([...entries].map(([key, value]) => [key, jsonValue(value)]));
}

function jsonValue(value: MetaValue): unknown {
  if (typeof value === "bigint") return String(value);
  if (value instanceof Uint8Array) return [...value];
  if (Array.isArray(value)) return value.map(jsonValue);
  if (typeof value === "object" && value !== null) return jsonObject(Object.entries(value));
  return value;
}
