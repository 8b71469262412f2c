/**
 * Decodes a meta from Go's encoding/gob: a map from strings to values of predefined types, and of lists and
 * maps of them. Their definitions come before the map or, as Go writes them, inside it.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { quoted } from "../../ffi/quote.ts";
import { GobError } from "../errors.ts";
import {
  BOOL,
  BYTES,
  FIRST_USER_ID,
  FLOAT,
  INT,
  INTERFACE,
  MAX_DEPTH,
  type MetaValue,
  STRING,
  UINT,
} from "./gob.ts";

/** The longest name of a type: encoding/gob refuses longer ones too. */
const MAX_NAME_LENGTH = 1024;

/** Made at the first use: the first one of a process takes 0.1 ms. */
let utf8: TextDecoder | undefined;

/**
 * Decodes a `map[string]interface{}` that Go's encoding/gob or `encode()` made.
 *
 * As in Go, the last of equal keys counts, and bytes after the map are ignored. Byte slices are copies.
 * Throws a {@linkcode GobError} that names the byte and the reason for anything else, and for types that
 * are not supported, such as structs.
 */
export function decode(bytes: Uint8Array): Map<string, MetaValue> {
  const reader = new Reader(bytes);
  const type = readType(reader, false);
  if (type !== mapOf(STRING, INTERFACE)) throw reader.error("not a map of strings to interfaces");
  readSingleton(reader);
  return readMap(reader, 0);
}

/** Reads gob's primitives from a sequence of messages. */
class Reader {
  /** The types that the stream has defined, by id. */
  readonly types = new Map<number, string>();
  readonly #bytes: Uint8Array;
  #at = 0;
  /** The end of the current message. */
  #end = 0;
  /** The start of the primitive that was read last: the byte that an error names. */
  #start = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isAtMessageEnd(): boolean {
    return this.#at === this.#end;
  }

  error(reason: string): GobError {
    return new GobError(`Cannot decode gob: at byte ${this.#start}: ${reason}`);
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

  /** A length and that many bytes; returns a view of them, not a copy. */
  bytes(): Uint8Array {
    return this.#take(this.#length(this.#end));
  }

  string(): string {
    utf8 ??= new TextDecoder("utf-8", { ignoreBOM: true });
    return utf8.decode(this.bytes());
  }

  /**
   * A number of elements: at most as many as bytes are left in all messages, since each element takes a
   * byte or more.
   */
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
    if (length > this.#end - this.#at) throw this.error("unexpected end of the bytes");
    return this.#bytes.subarray(this.#at, this.#at += length);
  }
}

// Types are compared as strings. A predefined type is its id; a list or a map is made of the ids of its
// keys and elements, without its own id and name: those differ between Go programs.

function sliceOf(element: number): string {
  return `[]${element}`;
}

function mapOf(key: number, element: number): string {
  return `map[${key}]${element}`;
}

/** Reads any definitions, then the id of a value; returns the value's type. */
function readType(reader: Reader, inInterface: boolean): string {
  while (true) {
    if (reader.isAtMessageEnd) reader.nextMessage();
    const id = reader.id();
    if (id >= 0) return reader.types.get(id) ?? String(id);
    if (-id < FIRST_USER_ID || reader.types.has(-id)) {
      throw reader.error(`type ${-id} is defined already`);
    }
    reader.types.set(-id, readDefinition(reader));
    if (reader.isAtMessageEnd) continue;
    if (!inInterface) throw reader.error("bytes after a definition, in its message");
    reader.uint(); // the byte count of the value that Go's encoder interrupted for the definition
  }
}

/** Reads Go's struct wireType, which has a field for each kind of type, one of them set. */
function readDefinition(reader: Reader): string {
  let type = "opaque";
  let key = 0;
  const common = () => readStruct(reader, [() => reader.string(), () => reader.id()]);
  const opaque = () => {
    type = "opaque"; // the format of its values is known to the type's own encoder only
    readStruct(reader, [common]);
  };
  readStruct(reader, [
    () => readStruct(reader, [common, () => reader.id(), () => reader.int()]), // array
    () => readStruct(reader, [common, () => type = sliceOf(reader.id())]), // slice
    () => readStruct(reader, [common, () => readList(reader, common)]), // struct
    () =>
      // map
      readStruct(reader, [
        common,
        () => key = reader.id(),
        () => type = mapOf(key, reader.id()),
      ]),
    opaque, // GobEncoder
    opaque, // BinaryMarshaler
    opaque, // TextMarshaler
  ]);
  return type;
}

function readStruct(reader: Reader, fields: (() => unknown)[]): void {
  let field = -1;
  while (true) {
    const distance = reader.uint();
    if (distance === 0) return;
    if (distance >= fields.length - field) throw reader.error("an unknown field");
    field += Number(distance);
    fields[field]();
  }
}

/**
 * Reads a count and that many elements. `read` must consume a byte or more, or throw: otherwise a large
 * count alone, without elements, keeps the decoder busy.
 */
function readList<T>(reader: Reader, read: () => T): T[] {
  const list: T[] = [];
  for (let left = reader.count(); left > 0; left--) list.push(read());
  return list;
}

/** Reads the 0 that precedes every value that is not a struct. */
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
  // A Go program registers its own map types under any name, for example graceful's Meta.
  const concrete = known ?? anyMap;
  if (type !== concrete.type) {
    const reason = known ? "does not fit its definition" : "is not supported";
    throw reader.error(`the Go type ${quoted(name)} ${reason}`);
  }
  reader.uint(); // the byte count, which Go gets wrong if definitions interrupt the value
  readSingleton(reader);
  return concrete.read(reader, depth);
}

/** A type that an interface value names: its definition, and the function that reads its values. */
interface Concrete {
  type: string;
  read(reader: Reader, depth: number): MetaValue;
}

const anyMap: Concrete = {
  type: mapOf(STRING, INTERFACE),
  // Unlike an assignment, fromEntries() makes "__proto__" an ordinary property.
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
  // Replaces the entry from withSlice("uint8"): on the wire []uint8 is a predefined type, not a slice.
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
