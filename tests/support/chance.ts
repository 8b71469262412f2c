/**
 * Chance that can be repeated: numbers that are a function of a seed and an index.
 *
 * @module
 */

/** Numbers that are the same whenever the seed and the index are. */
export class Chance {
  #state: number;

  constructor(seed: number, index: number) {
    // Both steps are one to one: the streams of one seed all begin with different states.
    this.#state = scattered(scattered(seed >>> 0) ^ index) || 1;
  }

  /** A number from 0 up to, and without, 1. */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return scattered(x) / 2 ** 32;
  }

  /** An integer from 0 up to, and without, `n`. */
  below(n: number): number {
    return Math.floor(this.next() * n);
  }

  /** An integer from `least` to `most`. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  /** True in `percent` of the cases. */
  percent(percent: number): boolean {
    return this.below(1000) < percent * 10;
  }

  /** One element of `list`. */
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }

  /** `length` bytes of any value. */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}

/** A 32-bit number in which every bit depends on every bit of `n`; no two `n` give the same. */
function scattered(n: number): number {
  n = Math.imul(n ^ n >>> 16, 0x21f0aaad);
  n = Math.imul(n ^ n >>> 15, 0x735a2d97);
  return (n ^ n >>> 15) >>> 0;
}
