/**
 * The arguments of `cli.ts run` and `cli.ts serve`, and the command line of Deno that they stand for.
 *
 * @module
 */

import { type CommandLine, type Flag, FlagError, isPermission, split } from "./deno_flags.ts";

/** The two commands. */
export type RunCommand = "run" | "serve";

/** The texts of `cli.ts run --help` and `cli.ts serve --help`. */
export const usages: Readonly<Record<RunCommand, string>> = {
  run:
    `Runs a program that need not know of this library, so that it restarts without losing a request.

Usage: deno run -A cli.ts run [flags of deno run] SCRIPT [arguments]

The process becomes \`deno run --preload=auto.ts SCRIPT arguments\` by execve(2), with the auto.ts beside cli.ts. So its
number stays, and import.meta.main is true in SCRIPT: a path, a URL or a specifier (npm:, jsr:). Deno 2.4 or later.

  flags       those of deno run. Without a permission flag (-A, --allow-net, --deny-run, ...) the program gets -A, as
              cli.ts itself has it
  -h, --help  prints this text

SIGHUP restarts the program, and so does \`cli.ts restart PATH\` if it was started with GRACEFUL_CONTROL=PATH.

Exits with the code of the program; with 1 when it cannot be started, 2 for a wrong argument.`,
  serve:
    `Serves a program with \`export default { fetch }\`, so that it restarts without losing a request.

Usage: deno run -A cli.ts serve [--port PORT] [--host HOST] [flags of deno run] SCRIPT [arguments]

The process becomes \`deno run --preload=auto.ts SCRIPT arguments\` by execve(2), as with \`cli.ts run\`. The variables
DENO_AUTO_SERVE=1 and DENO_SERVE_ADDRESS=tcp:HOST:PORT have it serve: deno serve ignores --preload. Deno 2.4 or later.

  --port PORT  the TCP port; 0 for a free one (default: 8000)
  --host HOST  an address, or a name that has one (default: 0.0.0.0). Without --port and --host, DENO_SERVE_ADDRESS
               stays as it is, if it is set
  flags        those of deno run. Without a permission flag (-A, --allow-net, --deny-run, ...) the program gets -A, as
               cli.ts itself has it; with one, it needs --allow-net=HOST:PORT too
  -h, --help   prints this text

--parallel is refused: its threads would take over from each other. --open is refused: cli.ts is gone when the program
listens.

SIGHUP restarts the program, and so does \`cli.ts restart PATH\` if it was started with GRACEFUL_CONTROL=PATH.

Exits with the code of the program; with 1 when it cannot be started, 2 for a wrong argument.`,
};

/** The parts of the process that the command line depends on. */
export interface RunContext {
  /** The preload module: a path or a URL. */
  preload: string;
  /** Whether this process has all permissions. */
  isAllAllowed: boolean;
  /** Whether DENO_SERVE_ADDRESS is set. */
  isServeAddressSet: boolean;
  /** Finds the IP address of a host's name. */
  lookUp(hostname: string): string;
}

/** What the process becomes. */
export interface DenoCommand {
  /** The arguments of Deno. */
  args: string[];
  /** Variables that are added to the environment. */
  variables: Record<string, string>;
  /** The flag that has Deno watch files, such as "--watch": the program is not restartable then. */
  watch: string | undefined;
}

/**
 * Reads the words behind `run` or `serve`; undefined for `--help`.
 *
 * @throws {FlagError}
 */
export function parseRun(
  command: RunCommand,
  words: readonly string[],
  context: RunContext,
): DenoCommand | undefined {
  const line = split(words);
  const named = (...names: string[]) =>
    line.flags.flatMap((flag) => flag.names).find((name) => names.includes(name));
  if (named("--help", "-h")) return undefined;
  checkFlags(command, named);
  const script = checkedScript(command, line);
  if (!line.flags.some(isPermission) && !context.isAllAllowed) {
    throw new FlagError(
      `The permissions of the program are missing: name them behind ${command}, such as ` +
        `"${command} -A"; cli.ts itself has not all of them, which the program would get otherwise`,
    );
  }
  const forDeno = line.flags.filter(({ names }) => !["--port", "--host"].includes(names[0]));
  return {
    args: [
      "run",
      // In front of the preload modules of the program: they may make servers.
      `--preload=${context.preload}`,
      ...line.flags.some(isPermission) ? [] : ["-A"],
      ...forDeno.flatMap(({ words }) => words),
      script,
      ...line.args,
    ],
    variables: command === "serve"
      ? { DENO_AUTO_SERVE: "1", ...serveAddress(line.flags, context) }
      : {},
    watch: named("--watch", "--hmr", "--watch-hmr"),
  };
}

/** @param named Finds one of these flags. */
function checkFlags(
  command: RunCommand,
  named: (...names: string[]) => string | undefined,
): void {
  if (named("--parallel")) {
    throw new FlagError(
      "--parallel is not supported: its threads would take over the listener from each other. " +
        "Start one service a port, behind a load balancer",
    );
  }
  if (command === "serve" && named("--open")) {
    throw new FlagError(
      "--open is not supported: cli.ts is gone when the program listens. Open the address in a browser",
    );
  }
  const misplaced = command === "run" ? named("--port", "--host") : undefined;
  if (misplaced) throw new FlagError(`${misplaced} is a flag of serve: serve ${misplaced} ...`);
}

function checkedScript(command: RunCommand, { script }: CommandLine): string {
  if (!script) throw new FlagError(`The script is missing: ${command} main.ts`);
  if (script === "-") {
    throw new FlagError(
      "The script has to be a file or a URL, not stdin: the next generation reads it again",
    );
  }
  const [, host, port] = /^(.*):(\d+)$/s.exec(script) ?? [];
  if (command === "serve" && port !== undefined) {
    throw new FlagError(
      `${script} is no script: write serve ${
        host && `--host ${host} `
      }--port ${port} in front of the script`,
    );
  }
  return script;
}

/** The variable for the address of the first server (the source of Deno, `ext/http/00_serve.ts`). */
function serveAddress(flags: Flag[], context: RunContext): Record<string, string> {
  const last = (name: string) => flags.findLast(({ names }) => names[0] === name);
  const [host, port] = [last("--host"), last("--port")];
  if (!host && !port && context.isServeAddressSet) return {};
  return {
    DENO_SERVE_ADDRESS: `tcp:${toIp(host ? host.value : "0.0.0.0", context)}:${
      toPort(port ? port.value : "8000")
    }`,
  };
}

function toPort(value: string | undefined): number {
  const port = /^\d{1,5}$/.test(value ?? "") ? Number(value) : NaN;
  if (port <= 65535) return port;
  throw new FlagError(`--port takes a number from 0 to 65535, not ${orNothing(value)}`);
}

/** Deno takes an IP address alone in DENO_SERVE_ADDRESS, and listens on a random port for anything else. */
function toIp(value: string | undefined, { lookUp }: RunContext): string {
  if (!value || /[\s/]/.test(value)) {
    throw new FlagError(`--host takes an address or a name, not ${orNothing(value)}`);
  }
  const host = value.replace(/^\[(.*)\]$/, "$1");
  if (URL.canParse(`http://[${host}]`)) return `[${host}]`;
  const isIpv4 = /^(\d+\.){3}\d+$/.test(host) && URL.parse(`http://${host}`)?.hostname === host;
  const ip = isIpv4 ? host : lookUp(host);
  return ip.includes(":") ? `[${ip}]` : ip;
}

function orNothing(value: string | undefined): string {
  return value ? JSON.stringify(value) : "nothing";
}
