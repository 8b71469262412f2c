/**
 * `lib/cli.ts` in a process of its own.
 *
 * @module
 */

import { Child } from "./child.ts";

/** Runs a command of `lib/cli.ts`, such as `status PATH`, to its end. */
export async function cli(
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  await using child = new Child("../../lib/cli.ts", args);
  const { code, stdout, stderr } = await child.ended();
  return { code, stdout: stdout.join("\n"), stderr };
}
