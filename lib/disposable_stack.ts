/**
 * What has to be undone unless all goes well.
 *
 * @module
 */

/**
 * As much of the language's `DisposableStack` as is used here, for Deno has that from 2.2 on.
 *
 * @example
 * ```ts
 * import { DisposableStack } from "./disposable_stack.ts";
 *
 * function listenTwice(): Deno.Listener[] {
 *   using unfinished = new DisposableStack();
 *   const options = { hostname: "127.0.0.1", port: 0 };
 *   const listeners = [1, 2].map(() => unfinished.use(Deno.listen(options)));
 *   // Neither stays open if something before this throws.
 *   unfinished.move();
 *   return listeners;
 * }
 *
 * for (const listener of listenTwice()) listener.close();
 * ```
 */
export class DisposableStack implements Disposable {
  #undoing: (() => void)[] = [];

  /** Will dispose of this. */
  use<T extends Disposable>(value: T): T {
    this.defer(() => value[Symbol.dispose]());
    return value;
  }

  /** Will call this. */
  defer(undo: () => void): void {
    this.#undoing.push(undo);
  }

  /** Gives all to another stack: what this one is disposed of no longer undoes. */
  move(): DisposableStack {
    const other = new DisposableStack();
    other.#undoing = this.#undoing;
    this.#undoing = [];
    return other;
  }

  /** Undoes everything, the last first; also what comes after something that throws. */
  [Symbol.dispose](): void {
    const undo = this.#undoing.pop();
    if (!undo) return;
    try {
      undo();
    } finally {
      this[Symbol.dispose]();
    }
  }
}
