/**
 * The addresses that were in use when a generation asked for them. A program that tries one port after the other ends at
 * another one than the first: its next generation has to end at the same, even if the first is free by then.
 *
 * @module
 */

import type { Generation } from "../generation/generation.ts";
import { type AnyListenAddress, keyOf } from "../generation/inheritance.ts";

/** The name under which the next generation gets them. */
const keptName = "graceful: addresses in use";

/** The addresses at which this generation or its predecessor got AddrInUse. */
export class AddressesInUse {
  readonly #generation: Generation;
  readonly #keys: Set<string>;

  /** Takes those of the previous generation. */
  constructor(generation: Generation) {
    this.#generation = generation;
    const kept = generation.take(keptName);
    const text = kept instanceof Uint8Array ? new TextDecoder().decode(kept) : "[]";
    this.#keys = new Set(JSON.parse(text) as string[]);
    this.#keep();
  }

  /** Whether an address was in use. */
  has(address: AnyListenAddress): boolean {
    return this.#keys.has(keyOf(address));
  }

  /** Notes that an address is in use. */
  add(address: AnyListenAddress): void {
    if (this.#keys.size >= most) return;
    this.#keys.add(keyOf(address));
    this.#keep();
  }

  /** Notes that the generation has an address. */
  delete(address: AnyListenAddress): void {
    this.#keys.delete(keyOf(address));
  }

  #keep(): void {
    if (this.#keys.size === 0) return;
    this.#generation.keep(
      keptName,
      () => new TextEncoder().encode(JSON.stringify([...this.#keys])),
    );
  }
}

/** A program that looks for a port among all of them has lost its way. */
const most = 1000;
