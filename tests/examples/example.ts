/**
 * An example that is started again and again, as a user does.
 *
 * @module
 */

import { Child } from "../support/child.ts";

/** An example; its generations are killed at the end of the block. */
export class Example implements AsyncDisposable {
  readonly #children = new AsyncDisposableStack();

  constructor(
    readonly file: string,
    readonly args: string[],
    readonly env: Record<string, string> = {},
  ) {}

  /** Starts a generation; resolves when it serves, with the line that it has printed. */
  async start(): Promise<{ child: Child; line: string }> {
    const child = new Child(`../../examples/${this.file}`, this.args, { env: this.env });
    this.#children.use(child);
    for (;;) {
      const line = await child.line();
      if (/^(generation|process) \d+ at /.test(line)) return { child, line };
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#children.disposeAsync();
  }
}
