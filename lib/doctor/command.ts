/**
 * The command `doctor` of the command line.
 *
 * @module
 */

import { escaped } from "../../ffi/quote.ts";
import { printError } from "../logger.ts";
import { diagnose, type Diagnosis } from "./doctor.ts";
import { ownTarget, type Target, targetOf } from "./target.ts";

/** The text of `doctor --help`. */
export const doctorUsage =
  `Examines a service, and prints what would fail in a restart, a stop or a crash.

Usage: deno run -A cli.ts doctor [PATH | UNIT] [options]

  PATH  the control socket, the path with which the service calls start(); its systemd unit is found
  UNIT  a systemd unit, such as app.service or app@a; its control socket is found, if that is possible
  Without an argument, the unit that this process is in.

It changes nothing, and asks the service for its status alone. Each finding is a line:

  ok       as it should be
  note     worth knowing, or not examined
  warning  some failure, or some restart, loses requests
  problem  the service is not reached, or does not survive a restart

  --json             prints the findings, and what they are about, as JSON
  --timeout SECONDS  how long to wait for the service and for systemctl (default: 10)
  -h, --help         prints this text

Exits with 0 for nothing but ok and notes, 1 for warnings or problems, 2 for a wrong argument, or if
it cannot examine.`;

class UsageError extends Error {}

interface Request {
  target: Target;
  json: boolean;
  seconds: number;
}

/** Runs `doctor`; resolves to the exit code. */
export async function doctor(args: string[]): Promise<number> {
  try {
    if (args.includes("--help") || args.includes("-h")) {
      print(doctorUsage);
      return 0;
    }
    const { target, json, seconds } = parse(args);
    const diagnosis = await diagnose(target, 1000 * seconds);
    print(json ? toJson(diagnosis) : describe(diagnosis));
    return diagnosis.findings.every(({ level }) => level === "ok" || level === "note") ? 0 : 1;
  } catch (error) {
    const { message } = error as Error;
    printError(error instanceof UsageError ? `${message}\nSee doctor --help` : message);
    return 2;
  }
}

function parse(args: string[]): Request {
  let json = false;
  let seconds = 10;
  const words: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const [name, value] = args[i].split(/=(.*)/s);
    if (name === "--json") json = true;
    else if (name === "--timeout") {
      seconds = Number((value ?? args[++i]) || NaN);
      if (!(seconds > 0)) throw new UsageError("--timeout takes a number of seconds");
    } else if (name.startsWith("-")) throw new UsageError(`There is no option ${name}`);
    else words.push(args[i]);
  }
  const [word, ...rest] = words;
  if (rest.length > 0) throw new UsageError(`There is one argument too many: "${rest[0]}"`);
  if (word === "" || word?.includes("\0")) throw new UsageError("The path or unit is empty");
  if (word?.endsWith(".socket") && !word.includes("/")) {
    throw new UsageError(`"${word}" is a socket unit: give the service, or the control socket`);
  }
  const target = word === undefined ? ownTarget() : targetOf(word);
  if (target) return { target, json, seconds };
  throw new UsageError("This process is in no systemd service: give a control socket, or a unit");
}

/** Prints to stdout; a reader that has closed the pipe, as in `doctor | head -1`, is no error. */
function print(text: string): void {
  try {
    console.log(text);
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

function describe({ findings }: Diagnosis): string {
  return findings.map(({ level, about, text, advice }) =>
    escaped(`${level.padEnd(8)} ${about}: ${text}${advice === undefined ? "" : `. ${advice}`}`)
  ).join("\n");
}

/** Also escapes the control characters that JSON.stringify leaves: a terminal would interpret them. */
function toJson(diagnosis: Diagnosis): string {
  return JSON.stringify(diagnosis, null, 2).split("\n").map(escaped).join("\n");
}
