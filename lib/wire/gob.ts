/**
 * Go's encoding/gob for one type: `map[string]interface{}`, the type of a meta.
 *
 * A gob is a sequence of messages: definitions of types, then a value. It has the types
 * that every Go program can receive in such a map, and lists and maps of any of them.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { quoted } from "../../ffi/quote.ts";
import { GobError } from "../errors.ts";

/**
 * The values of a meta, and the Go type of each:
 *
 * - `null`: nil; `boolean`: bool; `string`: string
 * - a `number` that is an integer within 64 bits: int; any other number, `-0` too: float64
 * - `bigint`: int64, or uint64 where int64 is too small
 * - `Uint8Array`: []uint8
 * - an array of strings, or an empty array: []string
 * - any other array: []interface {}, and a plain object: map[string]interface {}. A Go peer reads
 *   these two only if it has called `gob.Register` for them.
 *
 * Values from Go arrive as the same kinds; an integer beyond `Number.MAX_SAFE_INTEGER` is a
 * bigint, so a list of integers may hold both. Strings are UTF-8 on the wire: an unpaired
 * surrogate is sent, and an invalid byte is received, as U+FFFD.
 */
export type MetaValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | MetaValue[]
  | { [key: string]: MetaValue };

const BOOL = 1;
const INT = 2;
const UINT = 3;
const FLOAT = 4;
const BYTES = 5;
const STRING = 6;
const INTERFACE = 8;

const FIRST_USER_ID = 64;
/** The id that a fresh Go process gives to Meta. */
const META_ID = 65;

const MAX_DEPTH = 100;
/** The limit of Go for the name of a type. */
const MAX_NAME_LENGTH = 1024;

const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * Encodes a map so that Go's encoding/gob reads it into a `map[string]interface{}`.
 *
 * Throws a `TypeError` that names the place of a value that is no {@linkcode MetaValue}, or is
 * nested deeper than 100 levels, as a value that contains itself.
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

/** The types that need a definition: lists by the type of their elements, maps by two. */
const definedTypes = {
  "[]string": [STRING],
  "[]interface {}": [INTERFACE],
  "map[string]interface {}": [STRING, INTERFACE],
};

/** Ids are given in the order of first use. */
function idOf(name: DefinedName, used: DefinedName[]): number {
  if (!used.includes(name)) used.push(name);
  return META_ID + 1 + used.indexOf(name);
}

/** A struct: each field follows the difference of its number to that of the last one; 0 ends it. */
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

/** A value of an interface type follows the name of its type. */
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
    const items = [...value]; // a hole becomes undefined, which is refused
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
  // Go and JavaScript write different bits for NaN.
  if (Number.isNaN(value)) return encodeUint(0x01_00_00_00_00_00_f8_7fn);
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value, true);
  return encodeUint(view.getBigUint64(0));
}

function encodeString(string: string): Uint8Array {
  return encodeBytes(utf8Encoder.encode(string));
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

function unencodable(path: Path, what: string): TypeError {
  const place = path.map((key) => `[${JSON.stringify(key)}]`).join("");
  return new TypeError(`Cannot encode meta${place}: ${what}`);
}

/** Names a value that is not what it should be, for an error's message. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value !== "object") return `a ${typeof value}`;
  return `an instance of ${value.constructor?.name || "an unnamed class"}`;
}

/**
 * Decodes a `map[string]interface{}` that Go's encoding/gob, or {@linkcode encode}, has encoded.
 *
 * As in Go, the last of equal keys counts and bytes after the map are ignored. Byte slices are
 * copies. Throws a {@linkcode GobError} that names the place and the reason for all other bytes, and for other types,
 * such as structs.
 */
export function decode(bytes: Uint8Array): Map<string, MetaValue> {
  const reader = new Reader(bytes);
  const type = readType(reader, false);
  if (type !== mapOf(STRING, INTERFACE)) throw reader.error("not a map of strings to interfaces");
  readSingleton(reader);
  return readMap(reader, 0);
}

/** Gob's primitives, read from one message after the other. */
class Reader {
  /** The types that the stream has defined, by id. */
  readonly types = new Map<number, string>();
  readonly #bytes: Uint8Array;
  #at = 0;
  /** The end of the current message. */
  #end = 0;
  /** The start of the last primitive, for errors. */
  #start = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get messageEnded(): boolean {
    return this.#at === this.#end;
  }

  error(what: string): GobError {
    return new GobError(`Cannot decode gob: at byte ${this.#start}: ${what}`);
  }

  nextMessage(): void {
    this.#end = this.#bytes.length;
    const length = this.#length(this.#end);
    this.#end = this.#at + length;
  }

  uint(bits = 64): number | bigint {
    const value = this.#uint();
    return this.#inRange(value, BigInt.asUintN(bits, value));
  }

  int(bits = 64): number | bigint {
    const uint = this.#uint();
    const value = uint & 1n ? ~(uint >> 1n) : uint >> 1n;
    return this.#inRange(value, BigInt.asIntN(bits, value));
  }

  id(): number {
    return Number(this.int(32));
  }

  float(): number {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, this.#uint());
    return view.getFloat64(0, true);
  }

  /** The next bytes with their length in front; a view, not a copy. */
  bytes(): Uint8Array {
    return this.#take(this.#length(this.#end));
  }

  string(): string {
    return utf8Decoder.decode(this.bytes());
  }

  /** The number of elements that follow: each takes a byte or more, though perhaps in later messages. */
  count(): number {
    return this.#length(this.#bytes.length);
  }

  #uint(): bigint {
    this.#start = this.#at;
    const [first] = this.#take(1);
    if (first < 128) return BigInt(first);
    if (first < 256 - 8) throw this.error("an integer of more than 8 bytes");
    return this.#take(256 - first).reduce((value, byte) => value << 8n | BigInt(byte), 0n);
  }

  #inRange(value: bigint, wrapped: bigint): number | bigint {
    if (value !== wrapped) throw this.error(`${value} is out of range`);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  #length(end: number): number {
    const length = this.uint();
    const left = end - this.#at;
    if (length > left) throw this.error(`a length of ${length}, but ${left} bytes are left`);
    return Number(length);
  }

  #take(length: number): Uint8Array {
    if (length > this.#end - this.#at) throw this.error("the bytes end here, more are expected");
    return this.#bytes.subarray(this.#at, this.#at += length);
  }
}

// A type is compared as a string: a predefined one is its id, the others are made of their
// elements' ids, whatever id and name they have themselves.

function sliceOf(element: number): string {
  return `[]${element}`;
}

function mapOf(key: number, element: number): string {
  return `map[${key}]${element}`;
}

/** The type of the next value, after the definitions that may stand in front of it. */
function readType(reader: Reader, inInterface: boolean): string {
  while (true) {
    if (reader.messageEnded) reader.nextMessage();
    const id = reader.id();
    if (id >= 0) return reader.types.get(id) ?? String(id);
    if (-id < FIRST_USER_ID || reader.types.has(-id)) {
      throw reader.error(`type ${-id} is defined already`);
    }
    reader.types.set(-id, readDefinition(reader));
    if (reader.messageEnded) continue;
    if (!inInterface) throw reader.error("the message goes on after the definition");
    reader.uint(); // the byte count of the value that the definition interrupted
  }
}

/** Go's struct wireType: of its fields, one for each kind of type, one is set. */
function readDefinition(reader: Reader): string {
  let type = "opaque";
  let key = 0;
  const common = () => readStruct(reader, [() => reader.string(), () => reader.id()]);
  const opaque = () => {
    type = "opaque"; // values are whatever the type's own encoder makes
    readStruct(reader, [common]);
  };
  readStruct(reader, [
    () => readStruct(reader, [common, () => reader.id(), () => reader.int()]), // array
    () => readStruct(reader, [common, () => type = sliceOf(reader.id())]),
    () => readStruct(reader, [common, () => readList(reader, common)]), // struct
    () =>
      readStruct(reader, [
        common,
        () => key = reader.id(),
        () => type = mapOf(key, reader.id()),
      ]),
    opaque,
    opaque,
    opaque,
  ]);
  return type;
}

function readStruct(reader: Reader, fields: (() => unknown)[]): void {
  let field = -1;
  while (true) {
    const distance = reader.uint();
    if (distance === 0) return;
    if (distance >= fields.length - field) throw reader.error("a field that is not known");
    field += Number(distance);
    fields[field]();
  }
}

/** The reader of an element has to consume a byte or more: otherwise a count alone would keep it busy. */
function readList<T>(reader: Reader, read: () => T): T[] {
  const list: T[] = [];
  for (let left = reader.count(); left > 0; left--) list.push(read());
  return list;
}

/** The 0 in front of every value that is not a struct. */
function readSingleton(reader: Reader): void {
  if (reader.uint() !== 0) throw reader.error("a value that does not start with 0");
}

function readMap(reader: Reader, depth: number): Map<string, MetaValue> {
  return new Map(
    readList(reader, () => [reader.string(), readInterface(reader, depth + 1)] as const),
  );
}

function readInterface(reader: Reader, depth: number): MetaValue {
  if (depth > MAX_DEPTH) throw reader.error(`nested deeper than ${MAX_DEPTH} levels`);
  const name = reader.string();
  if (name === "") return null;
  if (name.length > MAX_NAME_LENGTH) throw reader.error("the name of a type is too long");
  const type = readType(reader, true);
  const known = concreteTypes.get(name);
  // Go programs register map types of their own under any name, as graceful's Meta.
  const concrete = known ?? anyMap;
  if (type !== concrete.type) {
    const why = known ? "does not fit this definition" : "is not known here";
    throw reader.error(`the Go type ${quoted(name)} ${why}`);
  }
  reader.uint(); // the byte count, which is wrong where a definition came in between
  readSingleton(reader);
  return concrete.read(reader, depth);
}

/** Reads the value behind the name of a type. */
interface Concrete {
  type: string;
  read(reader: Reader, depth: number): MetaValue;
}

const anyMap: Concrete = {
  type: mapOf(STRING, INTERFACE),
  // Not by an assignment: "__proto__" is a property like any other.
  read: (reader, depth) => Object.fromEntries(readMap(reader, depth)),
};

const concreteTypes = new Map<string, Concrete>([
  ["map[string]interface {}", anyMap],
  ["[]interface {}", {
    type: sliceOf(INTERFACE),
    read: (reader, depth) => readList(reader, () => readInterface(reader, depth + 1)),
  }],
  ...withSlice("bool", BOOL, (reader) => reader.uint() !== 0),
  ...withSlice("string", STRING, (reader) => reader.string()),
  ...withSlice("float64", FLOAT, (reader) => reader.float()),
  ...withSlice("float32", FLOAT, readFloat32),
  ...withSlice("int", INT, (reader) => reader.int()),
  ...withSlice("uint", UINT, (reader) => reader.uint()),
  ...withSlice("uintptr", UINT, (reader) => reader.uint()),
  ...[8, 16, 32, 64].flatMap((bits) => [
    ...withSlice(`int${bits}`, INT, (reader) => reader.int(bits)),
    ...withSlice(`uint${bits}`, UINT, (reader) => reader.uint(bits)),
  ]),
  // Replaces the entry of withSlice for uint8: on the wire it is no slice.
  ["[]uint8", { type: String(BYTES), read: (reader) => new Uint8Array(reader.bytes()) }],
]);

function withSlice(
  name: string,
  id: number,
  read: (reader: Reader) => MetaValue,
): [string, Concrete][] {
  return [
    [name, { type: String(id), read }],
    [`[]${name}`, { type: sliceOf(id), read: (reader) => readList(reader, () => read(reader)) }],
  ];
}

function readFloat32(reader: Reader): number {
  const value = reader.float();
  const float32 = Math.fround(value);
  if (Number.isFinite(value) === Number.isFinite(float32)) return float32;
  throw reader.error(`${value} is out of range`);
}
