/**
 * The environment of the process that `restart()` starts: the one that this process was started with, the `env` of the
 * command, and two variables of this library. The shell that becomes the process has inherited the environment that
 * this process has now, and gets the commands that change it to that.
 *
 * @module
 */

import { environment, fromBinary, toBinary, variable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import type { Logger } from "../logger.ts";
import { listenVariables } from "../systemd/listen_fds.ts";

/** The variable with the token of the restart that has started a process. */
export const tokenVariable = "GRACEFUL_TOKEN";

/** The variable with the descriptors of the predecessor's output: see `output.ts`. */
export const outputVariable = "GRACEFUL_OUTPUT";

/** Where a shell looks for programs without PATH (confstr(3), _CS_PATH). */
export const defaultPath = "/bin:/usr/bin";

/** The variables that a shell sets itself for its processes. */
const shellVariables = ["_", "SHLVL"];

/** An environment: of each variable the bytes, a character each. */
export type Variables = ReadonlyMap<string, string>;

/** The token of the restart that has started this process; undefined when none has. */
export function ownToken(): string | undefined {
  return variable(tokenVariable);
}

/** @throws {TypeError} When /bin/sh does not pass on one of the variables. */
export function checkVariables(env: Record<string, string> = {}, attempt: string): void {
  for (const [name, value] of Object.entries(env)) {
    const reason = !isName(name)
      ? 'the name of a variable is of letters, digits and "_"'
      : typeof value !== "string" || value.includes("\0")
      ? "the value of a variable is a string without NUL"
      : undefined;
    if (reason) throw new TypeError(`${attempt} with ${quoted(name)} in \`env\`: ${reason}`);
  }
}

/** The environment of the new process: the started one, changed by `env`. */
export function wantedEnvironment(started: Variables, env: Record<string, string>): Variables {
  const wanted = new Map(started);
  for (const name of [...shellVariables, ...listenVariables]) wanted.delete(name);
  const encoder = new TextEncoder();
  for (const [name, value] of Object.entries(env)) {
    wanted.set(name, toBinary(encoder.encode(value)));
  }
  return wanted;
}

/**
 * Empty values for the variables with which Deno refuses to start a program under `--allow-run=/bin/sh`: the shell sets
 * them again from the environment that this process was started with.
 */
export function emptiedLoaderVariables(started: Variables | undefined): Record<string, string> {
  const names = [...started?.keys() ?? []].filter((name) => /^(LD|DYLD)_/i.test(name));
  return Object.fromEntries(names.map((name) => [name, ""]));
}

/**
 * The shell commands that turn the environment of the process `shell` into the wanted one. They mention only the
 * differences: all other variables pass as they are, also those that are not UTF-8.
 *
 * @param isComplete Whether variables that are not wanted are removed.
 */
export function environmentCommands(
  shell: number,
  wanted: Variables,
  isComplete: boolean,
  logger: Logger,
): string {
  if (!isComplete) {
    logger.warn?.(
      "The next generation gets the environment that this process has now, not the one that it was started " +
        "with: /proc/self/environ cannot be read. Where /proc is mounted, a program file with capabilities " +
        "of its own is the reason: give them by the service manager instead",
    );
  }
  const current = environment(shell) ?? new Map<string, string>();
  const commands: string[] = [];
  const lost: string[] = [];
  for (const [name, value] of wanted) {
    if (current.get(name) === value) continue;
    if (isName(name)) commands.push(`command export ${name}=${inQuotes(value)}\n`);
    else lost.push(name);
  }
  for (const name of current.keys()) {
    if (isComplete && !wanted.has(name) && isName(name)) commands.push(`unset ${name}\n`);
  }
  if (lost.length > 0) {
    const names = lost.map(toText).sort().map(quoted).join(", ");
    logger.error?.(
      `The next generation does not get these environment variables: ${names}; ` +
        'it is started through /bin/sh, which passes on names of letters, digits and "_" alone. Rename them, ' +
        "or start the next generation by other means",
    );
  }
  return commands.join("");
}

/** Whether a shell accepts it as the name of a variable (POSIX, "Name"), and does not set it itself. */
function isName(name: string): boolean {
  return /^[A-Za-z_]\w*$/.test(name) && !shellVariables.includes(name);
}

/** As one word of a shell command. */
function inQuotes(value: string): string {
  return `'${value.replaceAll("'", "'\\''")}'`;
}

/** Decodes bytes that are a character each. */
export function toText(binary: string): string {
  return new TextDecoder().decode(fromBinary(binary));
}
