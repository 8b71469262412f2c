/**
 * Makes a program restartable that knows nothing of it: its servers and listeners are those of a generation, which a SIGHUP
 * or `cli.ts restart` replaces by the next one without losing a request.
 *
 *     deno run -A --preload https://example.com/graceful/lib/auto.ts main.ts
 *
 * `cli.ts run main.ts` starts a program so. It takes Deno 2.4 or later, and Linux; elsewhere the program runs as without it.
 * Options come from the environment: the table is in lib/README.md, "No code".
 *
 * @module
 */

import { printError } from "./logger.ts";
import { preload } from "./preload/preload.ts";

try {
  await preload();
} catch (error) {
  // Its message says what to do; where it was thrown does not.
  printError(`Cannot start the program so that it can be restarted: ${(error as Error).message}`);
  Deno.exit(1);
}
