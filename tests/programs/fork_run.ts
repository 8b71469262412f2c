/**
 * Starts the words of its arguments by node's `fork()`, and prints the message and the exit code of the child.
 *
 * @module
 */

import { fork } from "node:child_process";

const [script, ...args] = Deno.args;
const child = fork(script, args, { execPath: Deno.execPath(), execArgv: ["run", "-A"] });
child.on("message", (message: unknown) => {
  console.log(`message: ${message}`);
  child.disconnect();
});
child.on("exit", (code: number) => console.log(`exit: ${code}`));
