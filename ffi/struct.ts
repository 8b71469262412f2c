/**
 * C's layout rule: fields in order, each at the next multiple of its alignment, the whole rounded up
 * to the largest (System V ABI, "Aggregates and Unions"). No offset is typed by hand.
 *
 * @module
 */

/** `bytes(n)` is `unsigned char[n]`. */
export interface Bytes {
  readonly bytes: number;
}

/**
 * The kind of a field. `u16be` and `u32be` are in network byte order; `usize` is `size_t`, as a number; `pointer`
 * takes the bytes that it points at.
 */
export type Field =
  | "u8"
  | "i16"
  | "u16"
  | "u16be"
  | "i32"
  | "u32"
  | "u32be"
  | "i64"
  | "u64"
  | "usize"
  | "pointer"
  | Bytes
  // deno-lint-ignore no-explicit-any -- a struct of any fields may be nested
  | Struct<any>;

/** Names and kinds, in the order of C's declaration. */
export type Fields = Readonly<Record<string, Field>>;

/** The value of a field for `pack`. */
export type Packed<F extends Field> = F extends "i64" | "u64" ? bigint
  : F extends "pointer" ? Uint8Array<ArrayBuffer> | null
  : F extends Bytes ? Uint8Array
  : F extends Struct<infer G> ? Values<G>
  : number;

/** The value of a field from `read`; a pointer is its address. */
export type Read<F extends Field> = F extends "i64" | "u64" | "pointer" ? bigint
  : F extends Bytes | Struct<Fields> ? Uint8Array
  : number;

/** Values by field name; absent fields are zero. */
export type Values<F extends Fields> = { readonly [K in keyof F]?: Packed<F[K]> };

/** Gives the address of a buffer; the struct layer itself knows no pointers. */
export type AddressOf = (bytes: Uint8Array<ArrayBuffer>) => bigint;

/** An immutable layout. */
export interface Struct<F extends Fields> {
  readonly size: number;
  readonly align: number;
  readonly fields: F;
  /** Bytes from the start of the struct to `field`. */
  offset(field: keyof F): number;
  /** A new buffer; `addressOf` is needed when a pointer field has a value. */
  pack(values: Values<F>, addressOf?: AddressOf): Uint8Array<ArrayBuffer>;
  /** The field of the struct that starts at byte `at` of `bytes`. */
  read<K extends keyof F>(bytes: Uint8Array, field: K, at?: number): Read<F[K]>;
}

/** `unsigned char[length]`. */
export function bytes(length: number): Bytes {
  return { bytes: length };
}

const scalarSizes = {
  u8: 1,
  i16: 2,
  u16: 2,
  u16be: 2,
  i32: 4,
  u32: 4,
  u32be: 4,
  i64: 8,
  u64: 8,
  usize: 8,
  pointer: 8,
} as const;

// Deno keeps a buffer alive while it is an argument, not what that buffer points at.
const pointedAt = new WeakMap<Uint8Array, Uint8Array[]>();

/** Describes a struct of `fields`, in the order of C; `maxAlign` is `#pragma pack`: no field is aligned to more. */
export function struct<const F extends Fields>(
  fields: F,
  { maxAlign = 8 }: { maxAlign?: 1 | 2 | 4 | 8 } = {},
): Struct<F> {
  return new LaidOut(fields, maxAlign);
}

/** Where the fields of a struct are. */
interface Layout {
  readonly offsets: ReadonlyMap<string, number>;
  readonly size: number;
  readonly align: number;
}

function layOut(fields: Fields, maxAlign: number): Layout {
  const offsets = new Map<string, number>();
  let end = 0;
  let align = 1;
  for (const [name, field] of Object.entries(fields)) {
    const fieldAlign = Math.min(alignOf(field), maxAlign);
    end = roundUp(end, fieldAlign);
    offsets.set(name, end);
    end += sizeOf(field);
    align = Math.max(align, fieldAlign);
  }
  return { offsets, size: roundUp(end, align), align };
}

/** A struct that is laid out when it is first used: a process uses a few of them. */
class LaidOut<const F extends Fields> implements Struct<F> {
  readonly fields: F;
  readonly #maxAlign: number;
  #laidOut: Layout | undefined;

  constructor(fields: F, maxAlign: number) {
    this.fields = fields;
    this.#maxAlign = maxAlign;
  }

  get #layout(): Layout {
    return this.#laidOut ??= layOut(this.fields, this.#maxAlign);
  }

  get size(): number {
    return this.#layout.size;
  }

  get align(): number {
    return this.#layout.align;
  }

  offset(field: keyof F): number {
    const at = this.#layout.offsets.get(field as string);
    if (at === undefined) throw new TypeError(`No field "${String(field)}" in this struct`);
    return at;
  }

  pack(values: Values<F>, addressOf?: AddressOf): Uint8Array<ArrayBuffer> {
    const packed = new Uint8Array(this.size);
    const view = new DataView(packed.buffer);
    for (const name of Object.keys(values)) {
      const value = values[name];
      if (value === undefined || value === null) continue;
      const at = this.offset(name);
      const field: Field = this.fields[name];
      if (field === "pointer") {
        if (!addressOf) throw new TypeError(`Cannot pack pointer "${name}" without addressOf`);
        const target = value as Uint8Array<ArrayBuffer>;
        view.setBigUint64(at, addressOf(target), true);
        pointedAt.set(packed, [...pointedAt.get(packed) ?? [], target]);
      } else if (typeof field === "string") {
        writeScalar(view, at, field, value as number | bigint);
      } else {
        const part = "bytes" in field
          ? value as Uint8Array
          : field.pack(value as Values<Fields>, addressOf);
        if (part.length > sizeOf(field)) {
          throw new RangeError(
            `Cannot pack ${part.length} bytes into "${name}", which holds ${sizeOf(field)}`,
          );
        }
        packed.set(part, at);
        const kept = pointedAt.get(part);
        if (kept) pointedAt.set(packed, [...pointedAt.get(packed) ?? [], ...kept]);
      }
    }
    return packed;
  }

  read<K extends keyof F>(from: Uint8Array, name: K, at = 0): Read<F[K]> {
    const field: Field = this.fields[name];
    const start = at + this.offset(name);
    if (typeof field !== "string") {
      return from.subarray(start, start + sizeOf(field)) as Read<F[K]>;
    }
    const view = new DataView(from.buffer, from.byteOffset, from.byteLength);
    return readScalar(view, start, field) as Read<F[K]>;
  }
}

function sizeOf(field: Field): number {
  if (typeof field === "string") return scalarSizes[field];
  return "bytes" in field ? field.bytes : field.size;
}

function alignOf(field: Field): number {
  if (typeof field === "string") return scalarSizes[field];
  return "bytes" in field ? 1 : field.align;
}

function roundUp(n: number, to: number): number {
  return Math.ceil(n / to) * to;
}

type Scalar = Extract<Field, string>;

function writeScalar(view: DataView, at: number, field: Scalar, value: number | bigint): void {
  switch (field) {
    case "u8":
      return view.setUint8(at, Number(value));
    case "i16":
      return view.setInt16(at, Number(value), true);
    case "u16":
      return view.setUint16(at, Number(value), true);
    case "u16be":
      return view.setUint16(at, Number(value), false);
    case "i32":
      return view.setInt32(at, Number(value), true);
    case "u32":
      return view.setUint32(at, Number(value), true);
    case "u32be":
      return view.setUint32(at, Number(value), false);
    case "i64":
      return view.setBigInt64(at, BigInt(value), true);
    default:
      return view.setBigUint64(at, BigInt(value), true);
  }
}

function readScalar(view: DataView, at: number, field: Scalar): number | bigint {
  switch (field) {
    case "u8":
      return view.getUint8(at);
    case "i16":
      return view.getInt16(at, true);
    case "u16":
      return view.getUint16(at, true);
    case "u16be":
      return view.getUint16(at, false);
    case "i32":
      return view.getInt32(at, true);
    case "u32":
      return view.getUint32(at, true);
    case "u32be":
      return view.getUint32(at, false);
    case "i64":
      return view.getBigInt64(at, true);
    case "usize":
      return Number(view.getBigUint64(at, true));
    default:
      return view.getBigUint64(at, true);
  }
}
