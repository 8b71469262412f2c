/**
 * Sends a message to the parent, which has started it by node's `fork()`.
 *
 * @module
 */

import process from "node:process";

process.send?.("hello", undefined, undefined, () => Deno.exit(7));
if (!process.send) Deno.exit(3);
