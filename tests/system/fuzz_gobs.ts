/**
 * Damaged gobs, and the check of what the gob decoder makes of them.
 *
 * @module
 */

import type { MetaValue } from "../../lib/wire/gob.ts";
import { encode } from "../../lib/wire/gob_encode.ts";
import { GobError, Meta } from "../../mod.ts";
import { Chance } from "../support/chance.ts";
import { joined } from "../support/raw.ts";
import { equalBytes, errorName, type Outcome } from "./fuzz_converse.ts";

/** A gob, or a damaged one. */
export interface GobCase {
  kinds: string[];
  bytes: Uint8Array<ArrayBuffer>;
  /** The value whose encoding the bytes are, where it is known. */
  value?: { [key: string]: MetaValue };
}

/** The gob of this seed and index: a new one, or one of `correct`, and mutations of it. */
export function makeGob(seed: number, index: number, correct: readonly Uint8Array[]): GobCase {
  // ~seed: another stream of numbers than that of the conversation of this seed and index.
  const chance = new Chance(~seed, index);
  const kinds: string[] = [];
  const value = chance.percent(30) ? anyObject(chance, 0) : undefined;
  let bytes = new Uint8Array(value ? encode(Object.entries(value)) : chance.of(correct));
  for (let left = chance.of([0, 1, 1, 1, 2, 2, 3, 4, 6]); left > 0 && bytes.length > 0; left--) {
    const kind = chance.of(gobMutationNames);
    kinds.push(kind);
    bytes = gobMutations[kind](chance, bytes, correct);
  }
  return kinds.length > 0 ? { kinds, bytes } : { kinds: ["gob correct"], bytes, value };
}

/** Lists in lists, deeper than the encoder allows. */
function deepGob(depth: number): Uint8Array<ArrayBuffer> {
  const whole = encode(Object.entries({ a: [1] }));
  const name = new TextEncoder().encode("[]interface {}");
  // Type definitions, each with its length; then type 65 and a map of one entry.
  const definitions = whole.slice(0, 1 + whole[0] + 1 + whole[1 + whole[0]]);
  const head = [0xff, 0x82, 0, 1, 1, "a".charCodeAt(0)];
  const list = [name.length, ...name, 0xff, 0x84, 1, 0, 1];
  const value = Uint8Array.from([...head, ...Array(depth).fill(list).flat(), 0]);
  const length = new Uint8Array(5);
  length[0] = 256 - 4;
  new DataView(length.buffer).setUint32(1, value.length);
  return joined(definitions, length, value);
}

type GobMutation = (
  chance: Chance,
  bytes: Uint8Array<ArrayBuffer>,
  correct: readonly Uint8Array[],
) => Uint8Array<ArrayBuffer>;

const gobMutations: Record<string, GobMutation> = {
  "gob bit": (chance, bytes) => {
    bytes[chance.below(bytes.length)] ^= 1 << chance.below(8);
    return bytes;
  },
  "gob byte": (chance, bytes) => {
    bytes[chance.below(bytes.length)] = chance.of([0, 1, 2, 63, 64, 127, 128, 247, 248, 254, 255]);
    return bytes;
  },
  "gob length": (chance, bytes) => {
    const at = chance.below(bytes.length);
    const size = chance.between(1, 8);
    const length = Uint8Array.of(256 - size, ...chance.bytes(size));
    if (chance.percent(50)) length.fill(255, 1);
    return joined(bytes.slice(0, at), length, bytes.slice(at + 1));
  },
  "gob cut": (chance, bytes) => bytes.slice(0, chance.below(bytes.length)),
  "gob delete": (chance, bytes) => {
    const at = chance.below(bytes.length);
    return joined(bytes.slice(0, at), bytes.slice(at + chance.between(1, 8)));
  },
  "gob insert": (chance, bytes) => {
    const at = chance.between(0, bytes.length);
    return joined(bytes.slice(0, at), chance.bytes(chance.between(1, 8)), bytes.slice(at));
  },
  "gob repeat": (chance, bytes) => {
    const at = chance.below(bytes.length);
    const end = Math.min(bytes.length, at + chance.between(1, 64));
    return joined(bytes.slice(0, end), bytes.slice(at));
  },
  "gob depth": (chance) => deepGob(chance.of([98, 99, 100, 101, 102, 3000])),
  "gob splice": (chance, bytes, correct) => {
    const other = chance.of(correct);
    return joined(
      bytes.slice(0, chance.between(0, bytes.length)),
      other.slice(chance.between(0, other.length)),
    );
  },
};

const gobMutationNames = Object.keys(gobMutations);

/** Every name that `kinds` of a gob may hold. */
export const gobKinds: string[] = ["gob correct", ...gobMutationNames];

function anyObject(chance: Chance, depth: number): { [key: string]: MetaValue } {
  const entries = Array.from(
    { length: chance.between(0, 4) },
    (_, i) => [chance.of(["name", "", "1", "__proto__", `k${i}`]), anyValue(chance, depth + 1)],
  );
  return Object.fromEntries(entries);
}

function anyValue(chance: Chance, depth: number): MetaValue {
  const kind = chance.below(depth > 4 ? 9 : 12);
  switch (kind) {
    case 0:
      return null;
    case 1:
      return chance.percent(50);
    case 2:
      return chance.of([0, -0, 1, -1, 63, 64, -64, -65, 2 ** 53, -(2 ** 63), 2 ** 63, 1e300]);
    case 3:
      return chance.of([0.5, NaN, Infinity, -Infinity, 5e-324, 1.7e308]);
    case 4:
      return BigInt.asIntN(64, BigInt(chance.below(2 ** 32)) << BigInt(chance.below(40)));
    case 5:
      return 2n ** 64n - 1n - BigInt(chance.below(2 ** 32));
    case 6:
      return chance.of(["", "a", "\u0142\u{1f48e}", "\0", "\ud800", "long ".repeat(40)]);
    case 7:
      return chance.bytes(chance.between(0, 20));
    case 8:
      return Array.from({ length: chance.between(0, 5) }, (_, i) => `item ${i}`);
    case 9:
    case 10:
      return Array.from({ length: chance.between(0, 4) }, () => anyValue(chance, depth + 1));
    default:
      return anyObject(chance, depth);
  }
}

const goGobs: Uint8Array[] = [];

/** The gobs that Go has made: the short ones of the golden vectors. */
export function gobSeeds(): Uint8Array[] {
  if (goGobs.length > 0) return goGobs;
  const vectors: { gob: { hex?: string }[]; gob_decoder_tolerance: { hex: string }[] } = JSON.parse(
    Deno.readTextFileSync(new URL("../data/vectors.json", import.meta.url)),
  );
  for (const { hex } of [...vectors.gob, ...vectors.gob_decoder_tolerance]) {
    if (hex && hex.length <= 2000) goGobs.push(Uint8Array.fromHex(hex));
  }
  return goGobs;
}

/** Decodes bytes that may be a gob with `from`, and checks the result. */
export function decodeGob(
  { bytes, value }: Pick<GobCase, "bytes" | "value">,
  from: (bytes: Uint8Array) => Meta = Meta.from,
): Outcome {
  const problems: string[] = [];
  const copy = bytes.slice();
  const start = performance.now();
  let end = "gob ok";
  let meta: Meta | undefined;
  try {
    meta = from(bytes);
  } catch (error) {
    end = errorName(error);
    if (!(error instanceof GobError)) problems.push(wordsOf(error));
  }
  if (value && !(meta && sameValue(meta, value))) {
    problems.push("the decoded value is not the encoded one");
  }
  try {
    if (meta) problems.push(...unsettled(meta, from));
  } catch (error) {
    problems.push(`encoding and decoding it again fails: ${wordsOf(error)}`);
  }
  if (!equalBytes(copy, bytes)) problems.push("the decoder changed the bytes");
  const took = performance.now() - start;
  if (took > 5000) problems.push(`decoding took ${took} ms`);
  return { end, delivered: 0, problems };
}

/**
 * Encodes and decodes twice: a float64 that is an integer beyond 2^53 becomes an int at the first encoding,
 * which is decoded as a bigint; from then on the encoding has to stay the same.
 */
function unsettled(meta: Meta, from: (bytes: Uint8Array) => Meta): string[] {
  const problems: string[] = [];
  const again = from(meta.encode());
  const settled = again.encode();
  if (!equalBytes(settled, from(settled).encode())) problems.push("its encoding changes each time");
  if (!sameValue(meta, again)) problems.push("its encoding is that of another value");
  return problems;
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}

/** Whether two values are the same, where integers may have become bigints. */
function sameValue(a: unknown, b: unknown): boolean {
  if (typeof a === "number" || typeof a === "bigint") {
    if (typeof a === typeof b) return Object.is(a, b);
    // deno-lint-ignore eqeqeq -- a number and a bigint
    return (typeof b === "number" || typeof b === "bigint") && a == b;
  }
  // UTF-8 has no lone surrogates: they become U+FFFD.
  if (typeof a === "string") return typeof b === "string" && a === b.toWellFormed();
  if (a instanceof Uint8Array) return b instanceof Uint8Array && equalBytes(a, b);
  if (typeof a !== "object" || a === null) return a === b;
  if (typeof b !== "object" || b === null) return false;
  const [x, y] = [a, b].map((value) =>
    value instanceof Map ? [...value.entries()] : Object.entries(value)
  );
  return Array.isArray(a) === Array.isArray(b) && x.length === y.length &&
    x.every(([key, value], i) => key === y[i][0] && sameValue(value, y[i][1]));
}
