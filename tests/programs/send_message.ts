/**
 * Sends a message to the parent, which has started it by node's `fork()`, and ends with 7 when that has hung up.
 *
 * @module
 */

import process from "node:process";

if (!process.send) Deno.exit(3);
process.on("disconnect", () => Deno.exit(7));
process.send("hello");
