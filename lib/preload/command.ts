/**
 * `cli.ts run` and `cli.ts serve`: the process becomes `deno run` of an unchanged program, with a preload module in
 * front of it. Importing the program instead would make it another module than the main one of its process, and starting
 * it as a child would add a process that shells, service managers and containers wait for.
 *
 * @module
 */

import { replaceProcess } from "../../ffi/exec.ts";
import { pathStatus, readLink } from "../../ffi/file.ts";
import { argumentsOfDeno, commandLine, variable } from "../../ffi/proc.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { findProgram, programNamed } from "../generation/command.ts";
import { isServeAddressSet } from "../http/serve_address.ts";
import { printError } from "../logger.ts";
import { runtime } from "../runtime.ts";
import { FlagError } from "./deno_flags.ts";
import { type DenoCommand, parseRun, type RunCommand, usages } from "./run_options.ts";

/**
 * Replaces this process by the program.
 *
 * @param words Those behind the command.
 * @param preload The preload module: a path or a URL.
 * @returns The exit code, when the process was not replaced.
 */
export function runProgram(command: RunCommand, words: string[], preload: string): number {
  try {
    const program = parseRun(command, words, {
      preload,
      isAllAllowed: isAllAllowed(),
      isServeAddressSet: isServeAddressSet(),
      lookUp,
    });
    if (!program) {
      console.log(usages[command]);
      return 0;
    }
    check(command, program);
    if (program.watch) {
      printError(
        `${program.watch}: Deno restarts the program after a change, without a handover: requests may fail`,
      );
    }
    const { file, name } = ownProgram();
    replaceProcess(file, [name, ...program.args], program.variables);
  } catch (error) {
    const { message } = error as Error;
    const isUsage = error instanceof FlagError;
    printError(isUsage ? `${message}\nSee ${command} --help` : message);
    return isUsage ? 2 : 1;
  }
}

/** @throws {Deno.errors.NotSupported} Where this process cannot become the program. */
function check(command: RunCommand, program: DenoCommand): void {
  if (/^2\.[0-3]\./.test(Deno.version.deno)) {
    throw new Deno.errors.NotSupported(
      `${command} needs Deno 2.4 or later: Deno ${Deno.version.deno} has no --preload`,
    );
  }
  const { standalone } = Deno.build as { standalone?: boolean };
  const reason = standalone
    ? "it is compiled, and has no Deno to start"
    : noDescriptors() && `execve(2) is called on Linux x86_64 and aarch64 alone`;
  if (reason) {
    throw new Deno.errors.NotSupported(
      `This cli.ts cannot become the program: ${reason}. Start it by: ${inWords(program)}`,
    );
  }
}

/** The command for a shell. */
function inWords({ args, variables }: DenoCommand): string {
  const settings = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  return [...settings, "deno", ...args].map((word) =>
    /^[\w./:=@%+,[\]-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
  ).join(" ");
}

/** Whether this process has all permissions: `-A`, which `import` and others of later versions are part of. */
function isAllAllowed(): boolean {
  const names = ["read", "write", "net", "env", "sys", "run", "ffi"] as const;
  return names.every((name) => {
    const { state, partial } = Deno.permissions.querySync({ name });
    return state === "granted" && !partial;
  });
}

/** The address on which a server of that host's name listens: Deno resolves names when it listens. */
function lookUp(hostname: string): string {
  try {
    const listener = runtime.listen({ hostname, port: 0 });
    listener.close();
    return listener.addr.hostname;
  } catch (error) {
    throw new Error(
      `Cannot serve on --host ${JSON.stringify(hostname)}: ${(error as Error).message}`,
      { cause: error },
    );
  }
}

/** The Deno that runs this: its file, and the name by which it was started, by which a restart finds a later release. */
function ownProgram(): { file: string; name: string } {
  const name = programNamed(commandLine("self")?.[0]);
  const named = name && findProgram(name, variable("PATH"));
  const file = named || readLink("/proc/self/exe") || Deno.execPath();
  return { file, name: name || file };
}

/**
 * Names a module beside the main one in the way in which that was named on the command line: a relative path, or one
 * through a link to the current release, leads to the next release after a deploy. A URL otherwise.
 *
 * @param main The URL of the main module.
 */
export function besideMain(file: string, main: string): string {
  const url = new URL(`./${file}`, main);
  if (url.protocol !== "file:" || noDescriptors()) return url.href;
  const path = argumentsOfDeno().at(-1)?.replace(/[^/]*$/, file) ?? "";
  const [named, actual] = [pathStatus(path), pathStatus(decodeURIComponent(url.pathname))];
  return named && actual && named.dev === actual.dev && named.ino === actual.ino ? path : url.href;
}
