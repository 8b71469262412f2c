/**
 * A service in a process of its own, and the generations that it starts.
 *
 * @module
 */

import { killAllWith } from "../../ffi/proc.ts";
import { expiring, unlessAborted } from "../../lib/time.ts";
import { Child } from "./child.ts";

/** The first generation as a {@linkcode Child}; the end of its block kills every process that it started, directly or not. */
export class Generations extends Child {
  readonly #mark: string;

  /** Starts a program, as {@linkcode Child} does. */
  constructor(
    name: string,
    args: string[] = [],
    options: ConstructorParameters<typeof Child>[2] = {},
  ) {
    const mark = crypto.randomUUID();
    super(name, args, { ...options, env: { ...options.env, TEST_MARK: mark } });
    this.#mark = mark;
  }

  /** As {@linkcode Child.until}; throws after 20 s. */
  override async until(wanted: string | RegExp): Promise<string> {
    using late = expiring(20_000, () => new Error(`No line matches ${wanted}`));
    return await unlessAborted(super.until(wanted), late.signal);
  }

  /** The number in the next line of that name. */
  async number(name: string): Promise<number> {
    return Number((await this.until(new RegExp(`^${name}: \\d+$`))).slice(name.length + 2));
  }

  /** Kills all generations with SIGKILL. */
  override async [Symbol.asyncDispose](): Promise<void> {
    killAllWith(`TEST_MARK=${this.#mark}`);
    await super[Symbol.asyncDispose]();
  }
}
