/**
 * Cleanup of a function that has several steps: undone in reverse order unless all of them succeed.
 *
 * @module
 */

/**
 * The part of the language's `DisposableStack` that is used here: Deno has that from 2.2 on.
 *
 * @example
 * ```ts
 * import { DisposableStack } from "./disposable_stack.ts";
 *
 * function listenTwice(): Deno.Listener[] {
 *   using unfinished = new DisposableStack();
 *   const options = { hostname: "127.0.0.1", port: 0 };
 *   const listeners = [1, 2].map(() => unfinished.use(Deno.listen(options)));
 *   // If a step before this throws, both are closed.
 *   unfinished.move();
 *   return listeners;
 * }
 *
 * for (const listener of listenTwice()) listener.close();
 * ```
 */
export class DisposableStack implements Disposable {
  #undoing: (() => void)[] = [];

  /** Adds a resource to dispose of; gives it back. */
  use<T extends Disposable>(value: T): T {
    this.defer(() => value[Symbol.dispose]());
    return value;
  }

  /** Adds a function to call. */
  defer(undo: () => void): void {
    this.#undoing.push(undo);
  }

  /** Moves everything to a new stack: disposing of this one has no effect then. */
  move(): DisposableStack {
    const other = new DisposableStack();
    other.#undoing = this.#undoing;
    this.#undoing = [];
    return other;
  }

  /** Undoes everything, the last addition first; an error does not stop that. */
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
