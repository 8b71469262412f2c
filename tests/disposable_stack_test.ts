import { assertEquals, assertThrows } from "@std/assert";
import { DisposableStack } from "../lib/disposable_stack.ts";

/** A stack of the numbers 1 to 3, and what was undone of it. */
function stackOfThree(): { stack: DisposableStack; undone: number[] } {
  const stack = new DisposableStack();
  const undone: number[] = [];
  for (const each of [1, 2, 3]) stack.defer(() => undone.push(each));
  return { stack, undone };
}

Deno.test("a stack disposes of its resources from the last to the first, once", () => {
  const { stack, undone } = stackOfThree();
  stack[Symbol.dispose]();
  stack[Symbol.dispose]();
  assertEquals(undone, [3, 2, 1]);
});

Deno.test("use() returns its argument, and the stack disposes of it", () => {
  let disposed = 0;
  const value = { [Symbol.dispose]: () => void disposed++ };
  {
    using stack = new DisposableStack();
    assertEquals(stack.use(value), value);
  }
  assertEquals(disposed, 1);
});

Deno.test("moved resources are disposed of by the other stack alone", () => {
  const { stack, undone } = stackOfThree();
  const other = stack.move();
  stack[Symbol.dispose]();
  assertEquals(undone, []);
  other[Symbol.dispose]();
  assertEquals(undone, [3, 2, 1]);
});

Deno.test("a resource that throws does not keep the others from being disposed of", () => {
  const { stack, undone } = stackOfThree();
  stack.defer(() => {
    throw new Error("cannot be undone");
  });
  assertThrows(() => stack[Symbol.dispose](), Error, "cannot be undone");
  assertEquals(undone, [3, 2, 1]);
});
