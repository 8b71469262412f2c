/**
 * One timer of lib/event_loop/timer.ts, with as many free descriptors as the argument says.
 *
 * @module
 */

import { closeAll, dup } from "../../ffi/fd.ts";
import { later } from "../../lib/event_loop/timer.ts";

const [what] = Deno.args;

/** Takes every number that is left. */
function occupy(): number[] {
  const taken: number[] = [];
  for (;;) {
    try {
      taken.push(dup(0));
    } catch {
      return taken;
    }
  }
}

if (what === "end") {
  later(60_000, () => console.log("called"));
  console.log("begun");
} else {
  const taken = occupy();
  if (what === "one descriptor") closeAll(taken.splice(0, 1));
  const keeper = setInterval(() => {}, 1000);
  later(10, () => {
    console.log("called");
    clearInterval(keeper);
  });
  console.log("begun");
}
