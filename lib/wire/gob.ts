/**
 * The values of a meta, Go's type ids, and limits: shared by the encoder and the decoder of gobs.
 *
 * A gob is the format of Go's encoding/gob: a sequence of messages, which are definitions of types and
 * then one value. A meta is a `map[string]interface{}`. Its values are of the types that Go receives in
 * such a map without further registration, and lists and maps of them.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

/**
 * A value in a meta, and the Go type that it travels as:
 *
 * - `null`: nil; `boolean`: bool; `string`: string
 * - a `number` that is an integer within 64 bits: int; any other number, `-0` too: float64
 * - `bigint`: int64, or uint64 if it is too large for int64
 * - `Uint8Array`: []uint8
 * - an array of strings, or an empty array: []string
 * - any other array: []interface {}, and a plain object: map[string]interface {}. A Go peer reads
 *   these two only if it has called `gob.Register` for them.
 *
 * Values from Go arrive as the same kinds. An integer beyond `Number.MAX_SAFE_INTEGER` arrives as a
 * bigint, so a list of integers may hold numbers and bigints. Strings are UTF-8 on the wire: an unpaired
 * surrogate is sent as U+FFFD, and an invalid byte is received as U+FFFD.
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

/** The ids that encoding/gob predefines (type.go, `tBool` and those after it). */
export const BOOL = 1;
export const INT = 2;
export const UINT = 3;
export const FLOAT = 4;
export const BYTES = 5;
export const STRING = 6;
export const INTERFACE = 8;

/** The first id that a stream may define. */
export const FIRST_USER_ID = 64;

/** How many levels of lists and maps a value may have. */
export const MAX_DEPTH = 100;
