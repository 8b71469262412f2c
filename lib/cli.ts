/**
 * The command line of a service: runs a program as one, shows its status, restarts it, stops it, or holds it.
 *
 *     deno run -A lib/cli.ts status /run/app.sock
 *
 * @module
 */

import { pathStatus } from "../ffi/file.ts";
import { hasEnded, identifyIn, variable } from "../ffi/proc.ts";
import { escaped, quoted } from "../ffi/quote.ts";
import { formatPath } from "../ffi/sockaddr.ts";
import { noDescriptors } from "../ffi/system.ts";
import { longestPause, pause } from "./time.ts";
import { doctor } from "./doctor/command.ts";
import { Channel } from "./generation/channel.ts";
import { connect } from "./unix/conn.ts";
import { HandoverError } from "./errors.ts";
import { hold } from "./hold/hold.ts";
import type { Frame, GenerationStatus } from "./generation/protocol.ts";
import { printError } from "./logger.ts";
import { besideMain, runProgram } from "./preload/command.ts";

const usage =
  `Runs a program as a service; shows the status of a service, restarts it, stops it, or holds it.

Usage: deno run -A cli.ts COMMAND PATH [options]

  run SCRIPT    runs a program that need not know of this library: see run --help
  serve SCRIPT  serves a program with \`export default { fetch }\`: see serve --help
  status PATH   shows the generation that runs, its sockets, and what it keeps
  restart PATH  starts the next generation, and waits until its probation is over
  stop PATH     drains the service, and waits until its process has ended
  hold PATH -- COMMAND...
                starts the service, and starts it again when it dies: see hold --help
  doctor [PATH | UNIT]  examines the service and its systemd unit: see doctor --help

PATH is the control socket: the path with which the service calls start().

  --json             prints the status as JSON
  --timeout SECONDS  how long to wait (default: status 10, restart and stop for ever); a restart or stop
                     goes on after that
  -h, --help         prints this text

Exits with 0 on success, 1 on failure, 2 for a wrong argument, 3 when no service runs at PATH.`;

const commands = ["status", "restart", "stop"] as const;

/** The arguments of the command line. */
interface Request {
  command: typeof commands[number];
  path: string;
  json: boolean;
  /** Ends all waits, after `--timeout`. */
  signal: AbortSignal;
}

class UsageError extends Error {}

/** Runs the command line; resolves to the exit code. */
async function main(args: string[]): Promise<number> {
  const [command, ...rest] = args;
  if (command === "hold") return await hold(rest);
  if (command === "doctor") return await doctor(rest);
  try {
    if (command === "run" || command === "serve") {
      return runProgram(command, rest, besideMain("auto.ts", import.meta.url));
    }
    if (args.includes("--help") || args.includes("-h")) {
      print(usage);
      return 0;
    }
    const request = parse(args);
    const unsupported = noDescriptors();
    if (unsupported) {
      throw new Error(
        `Cannot connect to a service at ${
          formatPath(request.path)
        }: on this system services have no ` +
          `control socket: ${unsupported.message}. End its process by SIGTERM or Ctrl-C, and start it anew`,
      );
    }
    using channel = await open(request);
    if (!channel) return 3;
    if (request.command === "status") return await status(channel, request);
    if (request.command === "restart") return await restart(channel, request);
    return await stop(channel, request);
  } catch (error) {
    if (error instanceof UsageError) {
      printError(`${error.message}\nSee --help`);
      return 2;
    }
    printError((error as Error).message);
    return 1;
  }
}

function parse(args: string[]): Request {
  let json = false;
  let seconds: number | undefined;
  const words: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const [name, value] = args[i].split(/=(.*)/s);
    if (name === "--json") json = true;
    else if (name === "--timeout") seconds = toSeconds(value ?? args[++i]);
    else if (name.startsWith("-")) throw new UsageError(`There is no option ${name}`);
    else words.push(args[i]);
  }
  const [command, path, ...rest] = words;
  if (!commands.some((known) => known === command)) {
    throw new UsageError(command ? `There is no command "${command}"` : "A command is missing");
  }
  if (!path) throw new UsageError("The path of the control socket is missing");
  if (/^[a-z][a-z\d+.-]*:\/\//i.test(path)) {
    throw new UsageError(
      `The control socket has a path, such as /run/app.sock, and no URL: ${path}`,
    );
  }
  if (rest.length > 0) throw new UsageError(`There is one path too many: "${rest[0]}"`);
  if (json && command !== "status") throw new UsageError("--json is for status");
  seconds ??= command === "status" ? 10 : Infinity;
  const signal = command === "status"
    ? expiring(
      seconds,
      `The service at ${formatPath(path)} has not answered`,
      ": its process hangs, was stopped (SIGSTOP), or has no descriptor left; see its log",
    )
    : expiring(seconds, "Not done");
  return { command: command as Request["command"], path, json, signal };
}

function toSeconds(value: string | undefined): number {
  const seconds = Number(value || NaN);
  if (seconds > 0) return seconds;
  throw new UsageError(
    `--timeout takes seconds, not ${value === undefined ? "nothing" : `"${value}"`}`,
  );
}

/** A signal that is aborted after so many seconds, and does not keep the process running. */
function expiring(seconds: number, what: string, why = ""): AbortSignal {
  const controller = new AbortController();
  if (seconds === Infinity) return controller.signal;
  const timer = setTimeout(() => {
    controller.abort(new Error(`${what} after ${seconds} s${why}`));
  }, Math.min(1000 * seconds, longestPause));
  Deno.unrefTimer(timer);
  return controller.signal;
}

/** Connects to the service; prints an error and returns undefined when none runs. */
async function open({ path, signal }: Request): Promise<Channel | undefined> {
  try {
    return new Channel(await connect(path, { signal }));
  } catch (error) {
    const { NotFound, ConnectionRefused, PermissionDenied } = Deno.errors;
    if (error instanceof NotFound) {
      printError(
        `No service runs at ${formatPath(path)}: there is no such path. ` +
          "(A service whose control path was removed puts it back within 10 s)",
      );
      return undefined;
    }
    if (error instanceof ConnectionRefused) {
      if (pathStatus(path)?.kind !== "socket") throw new Error(`${formatPath(path)} is no socket`);
      printError(`The service at ${formatPath(path)} has died; the next start takes its path`);
      return undefined;
    }
    if (error instanceof PermissionDenied) {
      throw new Error(`The service at ${formatPath(path)} is another user's: ${error.message}`);
    }
    throw error;
  }
}

/** Sends a request, and receives its answer. @throws {Error} When the service refuses, or hangs up before. */
async function ask(channel: Channel, { command, path, signal }: Request): Promise<Frame> {
  await channel.tell({ type: command });
  const what = `The process that listens at ${formatPath(path)}`;
  const answer = await channel.receive({ signal }).catch((error) => {
    if (!(error instanceof HandoverError)) throw error;
    const why = `it speaks another protocol: ${error.message}`;
    throw new Error(`${what} is no generation of a service: ${why}`);
  });
  if (!answer) {
    throw new Error(`${what} hung up: it was ended just now, or is no generation of a service`);
  }
  if (answer.type === "refused") throw new Error(`${what} refuses: ${answer.reason}`);
  return answer;
}

async function status(channel: Channel, request: Request): Promise<number> {
  const answer = await ask(channel, request);
  if (answer.type !== "report") throw new Error(`It answered with "${answer.type}"`);
  print(request.json ? toJson(answer.status) : describe(answer.status));
  return 0;
}

/** Prints the answer of a command, which fails without it. */
function print(text: string): void {
  try {
    console.log(text);
  } catch (error) {
    // The reader has closed the pipe, as in `status | head -1`: that is no error.
    if (error instanceof Deno.errors.BrokenPipe) return;
    throw new Error(`Cannot write to stdout: ${(error as Error).message}`);
  }
}

/** Prints what was done, on stderr if stdout fails: that failure does not make the command fail. */
function report(text: string): void {
  try {
    print(text);
  } catch {
    printError(text);
  }
}

/** Also escapes the control characters that JSON.stringify leaves: a terminal would interpret them. */
function toJson(status: GenerationStatus): string {
  return JSON.stringify(status, null, 2).split("\n").map(escaped).join("\n");
}

/** The status in words: a line for each socket and kept value. */
function describe(
  { service, generation, pid, since, state, sockets, kept, moreKept, predecessor }:
    GenerationStatus,
): string {
  const lines = [
    ...service === undefined ? [] : [`service     ${quoted(service)}`],
    `generation  ${generation}, process ${pid}, ${state}`,
    `since       ${new Date(since).toISOString()} (${duration(Date.now() - since)})`,
    ...sockets.map(({ kind, address, connections, name, elsewhere }) =>
      [
        `${kind === "datagram" ? "datagrams " : "listens   "}  ${escaped(address)}`,
        ...name === undefined ? [] : [quoted(name)],
        ...kind === "datagram" ? [] : [count(connections, "connection")],
        ...elsewhere ? ["in another network namespace"] : [],
      ].join(", ")
    ),
    ...kept.map((name) => `keeps       ${quoted(name)}`),
  ];
  if (moreKept) lines.push(`keeps       ${moreKept} more`);
  if (predecessor) {
    const { pid, generation, connections } = predecessor;
    lines.push(
      `previous    generation ${generation}, process ${pid}, ${count(connections, "connection")}`,
    );
  }
  return lines.join("\n");
}

function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

/** Such as "3 d 4 h" or "12 min 3 s". */
function duration(milliseconds: number): string {
  const units: [string, number][] = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.max(0, Math.floor(milliseconds / 1000));
  const parts: string[] = [];
  for (const [name, seconds] of units) {
    const n = Math.floor(rest / seconds);
    rest %= seconds;
    if (n > 0) parts.push(`${n} ${name}`);
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}

async function restart(channel: Channel, request: Request): Promise<number> {
  const words = "Waiting for the next generation to start, and for the end of its probation";
  // As ExecReload= of a unit that is stopped meanwhile: systemd calls the unit failed if this ends by the signal.
  if (variable("MAINPID") !== undefined) {
    Deno.addSignalListener("SIGTERM", () => {
      printError("SIGTERM: not waiting for the restart any more");
      Deno.exit(0);
    });
  }
  const answer = await withProgress(words, request, () => ask(channel, request));
  if (answer.type === "done") {
    report(`generation ${answer.generation} runs, process ${answer.pid}`);
    return 0;
  }
  if (answer.type !== "failed") throw new Error(`It answered with "${answer.type}"`);
  printError(`The restart failed: ${answer.message}`);
  return 1;
}

async function stop(channel: Channel, request: Request): Promise<number> {
  const words = "Waiting for the service to drain";
  const { generation, pid, process } = await withProgress(words, request, async () => {
    const answer = await ask(channel, request);
    if (answer.type !== "done") throw new Error(`It answered with "${answer.type}"`);
    const process = identifyIn(answer.namespace, answer.pid);
    // The service hangs up when its generation has stopped.
    while (await channel.receive({ signal: request.signal }));
    return { ...answer, process };
  });
  const stopped = `generation ${generation} has stopped`;
  if (process === undefined) {
    report(`${stopped}; whether its process ${pid} has ended cannot be seen from here`);
    return 0;
  }
  const otherwise = `${stopped}, and its process ${pid} has not ended yet`;
  await withProgress(`Waiting for process ${pid} to end: ${stopped}`, request, async () => {
    while (!hasEnded(process)) await pause(endInterval, request.signal);
  }, otherwise);
  report(`${stopped}, and its process ${pid} has ended`);
  return 0;
}

/** Milliseconds between two looks at whether a process has ended. */
const endInterval = 50;

/**
 * Shows the progress of a wait. A timeout ends the wait, not the restart or stop.
 *
 * @param otherwise The end of the message of a timeout.
 */
async function withProgress<T>(
  words: string,
  { command, signal }: Request,
  wait: () => Promise<T>,
  otherwise = `the ${command} goes on without being waited for`,
): Promise<T> {
  using _progress = new Progress(words);
  try {
    return await wait();
  } catch (error) {
    if (error !== signal.reason) throw error;
    throw new Error(`${signal.reason.message}: ${otherwise}`);
  }
}

/** Shows a wait on stderr: on one line of a terminal each second, in a log every five seconds. */
class Progress implements Disposable {
  readonly #terminal = Deno.stderr.isTerminal();
  readonly #began = performance.now();
  readonly #timer: ReturnType<typeof setInterval>;
  #isShown = false;

  constructor(what: string) {
    this.#timer = setInterval(() => {
      const seconds = Math.round((performance.now() - this.#began) / 1000);
      this.#show(
        this.#terminal ? `\r${what} (${seconds} s so far)` : `${what} (${seconds} s so far)\n`,
      );
    }, this.#terminal ? 1000 : 5000);
  }

  #show(text: string): void {
    this.#isShown = true;
    try {
      Deno.stderr.writeSync(new TextEncoder().encode(text));
    } catch {
      // The disk is full, or the terminal closed: the wait goes on.
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    // Clears the line for the result.
    if (this.#isShown && this.#terminal) this.#show("\r\x1b[K");
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
