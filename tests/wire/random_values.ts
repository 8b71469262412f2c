/**
 * Random values of a meta.
 *
 * @module
 */

import type { MetaValue } from "../../lib/wire/gob.ts";
import type { Chance } from "../support/chance.ts";

export function randomString(chance: Chance): string {
  const alphabet = ["a", "", "\0", "\u00e9", "\ufeff", "\u{1f48e}", "__proto__", "s".repeat(130)];
  return Array.from({ length: chance.below(4) }, () => alphabet[chance.below(alphabet.length)])
    .join("");
}

export function randomValue(chance: Chance, depth: number): MetaValue {
  const bits = BigInt(chance.below(2 ** 32)) << 32n | BigInt(chance.below(2 ** 32));
  switch (chance.below(depth > 0 ? 12 : 9)) {
    case 0:
      return null;
    case 1:
      return chance.below(2) === 1;
    case 2:
      return chance.below(300) - 150;
    case 3:
      return Number(BigInt.asIntN(1 + chance.below(64), bits));
    case 4:
      return new Float64Array(new BigUint64Array([bits]).buffer)[0];
    case 5:
      return BigInt.asIntN(1 + chance.below(64), bits);
    case 6:
      return BigInt.asUintN(1 + chance.below(64), bits);
    case 7:
      return randomString(chance);
    case 8:
      return Uint8Array.from({ length: chance.below(200) }, () => chance.below(256));
    case 9:
      return Array.from({ length: chance.below(4) }, () => randomString(chance));
    case 10:
      return Array.from({ length: chance.below(4) }, () => randomValue(chance, depth - 1));
    default:
      return randomObject(chance, depth - 1);
  }
}

export function randomObject(
  chance: Chance,
  depth: number,
): { [key: string]: MetaValue } {
  return Object.fromEntries(
    Array.from(
      { length: chance.below(5) },
      () => [randomString(chance), randomValue(chance, depth)],
    ),
  );
}
