/**
 * Replaces the program of this process.
 *
 * @module
 */

import { check } from "./errno.ts";
import { cString, libc, StringArray } from "./libc.ts";
import { currentVariable, setVariable, variable } from "./proc.ts";

/**
 * Deno removes this variable from its environment when it starts: it is the descriptor with which node's `fork()` of
 * the parent talks to this process, and the descriptor stays open.
 */
const channelVariable = "NODE_CHANNEL_FD";

/**
 * Replaces the program of this process (execve(2)). The process number, the directory, the environment with its changes
 * by Deno's `--env-file`, ignored signals, and descriptors without FD_CLOEXEC stay: Deno sets that flag on all of its own.
 *
 * @param program The path of the program.
 * @param args Its arguments, its name first.
 * @param variables Environment variables that are added or replaced.
 * @throws {Error} The error of execve(2), such as `Deno.errors.NotFound`; this program goes on.
 */
export function replaceProcess(
  program: string,
  args: readonly string[],
  variables: Readonly<Record<string, string>> = {},
): never {
  const channel = variable(channelVariable);
  if (channel !== undefined && currentVariable(channelVariable) === undefined) {
    setVariable(channelVariable, channel);
  }
  for (const [name, value] of Object.entries(variables)) setVariable(name, value);
  const argv = new StringArray(args.map((arg) => new TextEncoder().encode(arg)));
  check(
    libc().execv(cString(program), argv.pointers),
    `Cannot replace this process by ${JSON.stringify(program)}`,
  );
  throw new Error("execve(2) has returned without an error");
}
