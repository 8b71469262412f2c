/**
 * A service in a process of its own, with the generations that it starts.
 *
 * @module
 */

import { killAllWith } from "../../ffi/proc.ts";
import { expiring, unlessAborted } from "../../lib/time.ts";
import { Child } from "./child.ts";

/** The first generation as a {@linkcode Child}; with it ends every process that it has started, directly or not. */
export class Generations extends Child {
  readonly #mark: string;

  /** Starts `fixture`, as a {@linkcode Child} does. */
  constructor(
    fixture: string,
    args: string[] = [],
    options: ConstructorParameters<typeof Child>[2] = {},
  ) {
    const mark = crypto.randomUUID();
    super(fixture, args, { ...options, env: { ...options.env, TEST_MARK: mark } });
    this.#mark = mark;
  }

  /** Reads lines until one matches; gives that one. What does not come in a long time fails the test. */
  async until(wanted: RegExp): Promise<string> {
    using late = expiring(20_000, () => new Error(`No line matches ${wanted}`));
    for (;;) {
      const said = await unlessAborted(this.line(), late.signal);
      if (wanted.test(said)) return said;
    }
  }

  /** The number in the next line of that name. */
  async number(name: string): Promise<number> {
    return Number((await this.until(new RegExp(`^${name}: \\d+$`))).slice(name.length + 2));
  }

  /** Ends them without asking. */
  override async [Symbol.asyncDispose](): Promise<void> {
    killAllWith(`TEST_MARK=${this.#mark}`);
    await super[Symbol.asyncDispose]();
  }
}
