/**
 * Encodes a meta as Go's encoding/gob does: the definitions of all types that it uses, then the map.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import {
  BOOL,
  BYTES,
  FLOAT,
  INT,
  INTERFACE,
  MAX_DEPTH,
  type MetaValue,
  STRING,
  UINT,
} from "./gob.ts";

/** The id that a Go process gives to Meta if it is the first type that the process encodes. */
const META_ID = 65;

const utf8 = new TextEncoder();

/**
 * Encodes a map so that Go's encoding/gob reads it into a `map[string]interface{}`.
 *
 * Throws a `TypeError` that names the path of a value that is not a {@linkcode MetaValue}, or that is
 * nested deeper than 100 levels, as a value that contains itself is.
 */
export function encode(values: Iterable<readonly [string, MetaValue]>): Uint8Array {
  const used: DefinedName[] = [];
  const map = encodeMap([...values], [], used);
  return concat([
    encodeDefinition(META_ID, "Meta", [STRING, INTERFACE]),
    ...used.map((name) => encodeDefinition(idOf(name, used), "", definedTypes[name])),
    encodeMessage([encodeInt(META_ID), [0], map]),
  ]);
}

type Part = Uint8Array | number[];
type Path = readonly (string | number)[];
type DefinedName = keyof typeof definedTypes;

/** The types without a predefined id, with the ids of their elements, or of their keys and elements. */
const definedTypes = {
  "[]string": [STRING],
  "[]interface {}": [INTERFACE],
  "map[string]interface {}": [STRING, INTERFACE],
};

/** The id of a defined type; types get ids in the order of their first use. */
function idOf(name: DefinedName, used: DefinedName[]): number {
  if (!used.includes(name)) used.push(name);
  return META_ID + 1 + used.indexOf(name);
}

/**
 * A message that defines a type: Go's struct wireType. A struct is its non-zero fields, each after the
 * distance of its number from the previous field's, then 0.
 */
function encodeDefinition(id: number, name: string, elements: number[]): Uint8Array {
  const kind = elements.length === 1 ? 2 : 4; // the fields SliceT and MapT of Go's wireType
  const common = name === "" ? [[2], encodeInt(id)] : [[1], encodeString(name), [1], encodeInt(id)];
  const types = elements.flatMap((type) => [[1], encodeInt(type)]);
  return encodeMessage([encodeInt(-id), [kind, 1], ...common, [0], ...types, [0, 0]]);
}

function encodeMap(
  entries: (readonly [string, MetaValue])[],
  path: Path,
  used: DefinedName[],
): Uint8Array {
  const parts = entries.flatMap(([key, value]) => {
    if (typeof key !== "string") throw unencodable(path, `a key is ${describe(key)}`);
    return [encodeString(key), encodeInterface(value, [...path, key], used)];
  });
  return concat([encodeUint(entries.length), ...parts]);
}

/** A value of an interface type: the name of its concrete type, the type's id, a byte count, the value. */
function encodeInterface(value: MetaValue, path: Path, used: DefinedName[]): Part {
  if (path.length > MAX_DEPTH) {
    throw unencodable(path.slice(0, 1), `nested deeper than ${MAX_DEPTH} levels`);
  }
  if (value === null) return [0];
  const [name, id, body] = encodeConcrete(value, path, used);
  return concat([encodeString(name), encodeInt(id), encodeUint(body.length + 1), [0], body]);
}

function encodeConcrete(value: unknown, path: Path, used: DefinedName[]): [string, number, Part] {
  if (typeof value === "boolean") return ["bool", BOOL, [Number(value)]];
  if (typeof value === "string") return ["string", STRING, encodeString(value)];
  if (typeof value === "number") {
    const isInt = Number.isInteger(value) && value >= -(2 ** 63) && value < 2 ** 63;
    if (isInt && !Object.is(value, -0)) return ["int", INT, encodeInt(value)];
    return ["float64", FLOAT, encodeFloat(value)];
  }
  if (typeof value === "bigint") {
    if (value === BigInt.asIntN(64, value)) return ["int64", INT, encodeInt(value)];
    if (value === BigInt.asUintN(64, value)) return ["uint64", UINT, encodeUint(value)];
    throw unencodable(path, "a bigint of more than 64 bits");
  }
  if (value instanceof Uint8Array) return ["[]uint8", BYTES, encodeBytes(value)];
  if (Array.isArray(value)) {
    const items = [...value]; // a hole becomes undefined, which has no Go type
    const name = items.every((item) => typeof item === "string") ? "[]string" : "[]interface {}";
    const id = idOf(name, used);
    const parts = name === "[]string"
      ? items.map(encodeString)
      : items.map((item, i) => encodeInterface(item, [...path, i], used));
    return [name, id, concat([encodeUint(items.length), ...parts])];
  }
  if (isPlainObject(value)) {
    const name = "map[string]interface {}";
    return [name, idOf(name, used), encodeMap(Object.entries(value), path, used)];
  }
  throw unencodable(path, describe(value));
}

function encodeUint(value: bigint | number): number[] {
  if (value < 128) return [Number(value)];
  const bytes: number[] = [];
  for (let rest = BigInt(value); rest > 0n; rest >>= 8n) bytes.unshift(Number(rest & 255n));
  return [256 - bytes.length, ...bytes];
}

function encodeInt(value: bigint | number): number[] {
  const int = BigInt(value);
  return encodeUint(int < 0n ? ~int << 1n | 1n : int << 1n);
}

function encodeFloat(value: number): number[] {
  // The bits of Go's NaN, which differ from those that setFloat64() writes.
  if (Number.isNaN(value)) return encodeUint(0x01_00_00_00_00_00_f8_7fn);
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value, true);
  return encodeUint(view.getBigUint64(0));
}

function encodeString(string: string): Uint8Array {
  return encodeBytes(utf8.encode(string));
}

function encodeBytes(bytes: Uint8Array): Uint8Array {
  return concat([encodeUint(bytes.length), bytes]);
}

function encodeMessage(parts: Part[]): Uint8Array {
  return encodeBytes(concat(parts));
}

function concat(parts: Part[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function isPlainObject(value: unknown): value is { [key: string]: MetaValue } {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function unencodable(path: Path, reason: string): TypeError {
  const keys = path.map((key) => `[${JSON.stringify(key)}]`).join("");
  return new TypeError(`Cannot encode meta${keys}: ${reason}`);
}

/** A value's kind, for an error's message: "undefined", "a number", "an instance of Date". */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value !== "object") return `a ${typeof value}`;
  return `an instance of ${value.constructor?.name || "an unnamed class"}`;
}
