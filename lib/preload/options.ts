/**
 * The options of a preloaded generation, from the environment: those of `start()`, and when it is ready.
 *
 * @module
 */

import { currentVariable, environment, toBinary } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { checkStartOptions, type StartOptions } from "../generation/options.ts";
import type { Logger } from "../logger.ts";
import { runtime } from "../runtime.ts";

/** The options of a preloaded generation. */
export interface PreloadOptions {
  /** The control path; undefined for one of its own. */
  control: string | undefined;
  /** Whether the program itself calls `ready()`. */
  isExplicit: boolean;
  /** Milliseconds without a further listener after which the generation is ready, though it has not got all inherited ones. */
  settle: number;
  /** Options of `start()`. */
  start: StartOptions;
}

/** The variables with a duration in milliseconds, and their options. */
const durations: Record<string, keyof StartOptions> = {
  GRACEFUL_READY_TIMEOUT: "readyTimeout",
  GRACEFUL_PROBATION: "probation",
  GRACEFUL_PEER_TIMEOUT: "peerTimeout",
  GRACEFUL_EXIT_TIMEOUT: "exitTimeout",
  GRACEFUL_STOP_DELAY: "stopDelay",
  GRACEFUL_DRAIN_TIMEOUT: "drainTimeout",
  GRACEFUL_FORCE_CLOSE_AFTER: "forceCloseAfter",
};

/** The others. */
const others = [
  "GRACEFUL",
  "GRACEFUL_CONTROL",
  "GRACEFUL_READY",
  "GRACEFUL_SETTLE",
  "GRACEFUL_STOP_ON",
  "GRACEFUL_RESTART_ON",
  "GRACEFUL_RESTART_AS_MAIN",
  "GRACEFUL_SERVICE",
  "GRACEFUL_MODE",
  "GRACEFUL_INHERIT_FROM",
  "GRACEFUL_LOG",
];

/** The names of all variables that are read here. */
export const preloadVariables: readonly string[] = [...others, ...Object.keys(durations)];

/** Those that the library sets itself. */
const ownVariables = ["GRACEFUL_TOKEN", "GRACEFUL_OUTPUT"];

/** Milliseconds of `settle`. */
const defaultSettle = 1000;

const levels = ["debug", "info", "warn", "error"] as const;

/**
 * Reads the options; `--env-file` sets variables after the start of the process.
 *
 * @throws {TypeError | RangeError} When a variable has a value of another kind; the message names it.
 */
export function readOptions(
  read: (name: string) => string | undefined = currentVariable,
): PreloadOptions {
  const get = (name: string) => read(name) || undefined;
  oneOf(get, "GRACEFUL", ["off"]);
  const start: StartOptions = {
    stopOn: signals(get, "GRACEFUL_STOP_ON") ?? ["SIGTERM", "SIGINT"],
    restartOn: signals(get, "GRACEFUL_RESTART_ON"),
    service: checked(get, "GRACEFUL_SERVICE", "service", (name) => name),
    inheritFrom: get("GRACEFUL_INHERIT_FROM"),
    mode: octal(get, "GRACEFUL_MODE"),
    restartAsMain: flag(get, "GRACEFUL_RESTART_AS_MAIN"),
    logger: logger(oneOf(get, "GRACEFUL_LOG", levels)),
  };
  for (const [name, option] of Object.entries(durations)) {
    const value = checked(
      get,
      name,
      option,
      (text) => option === "exitTimeout" && text === "false" ? false : milliseconds(name, text),
    );
    if (value !== undefined) Object.assign(start, { [option]: value });
  }
  const { stopOn = [], restartOn = [] } = start;
  const both = restartOn.find((signal) => stopOn.includes(signal));
  if (both) {
    throw new TypeError(
      `The variable GRACEFUL_RESTART_ON has ${both}, which stops the service: set GRACEFUL_STOP_ON to other signals, ` +
        'or to "none"',
    );
  }
  const settle = get("GRACEFUL_SETTLE");
  return {
    control: get("GRACEFUL_CONTROL"),
    isExplicit: oneOf(get, "GRACEFUL_READY", ["explicit"]) !== undefined,
    settle: settle === undefined ? defaultSettle : milliseconds("GRACEFUL_SETTLE", settle),
    start,
  };
}

/** The variables of the environment that look like one of these, and are none. */
export function unknownVariables(): string[] {
  const names = [...environment()?.keys() ?? []];
  const known = [...preloadVariables, ...ownVariables].map((name) =>
    toBinary(new TextEncoder().encode(name))
  );
  return names.filter((name) => name.startsWith("GRACEFUL_") && !known.includes(name));
}

type Get = (name: string) => string | undefined;

function wrong(name: string, value: string, wanted: string): TypeError {
  return new TypeError(`The variable ${name} is ${quoted(value)}: it has to be ${wanted}`);
}

/** Reads an option of `start()`; its error is that of `start()`, with the variable. */
function checked<T>(
  get: Get,
  name: string,
  option: keyof StartOptions,
  read: (text: string) => T,
): T | undefined {
  const text = get(name);
  if (text === undefined) return undefined;
  const value = read(text);
  try {
    checkStartOptions({ [option]: value });
  } catch (error) {
    (error as Error).message = `The variable ${name} is ${quoted(text)}. ${
      (error as Error).message
    }`;
    throw error;
  }
  return value;
}

function milliseconds(name: string, value: string): number {
  if (/^(\d+(\.\d+)?|Infinity)$/.test(value)) return Number(value);
  throw wrong(name, value, 'a number of milliseconds, such as "5000"');
}

function flag(get: Get, name: string): boolean | undefined {
  const value = oneOf(get, name, ["true", "false", "1", "0"]);
  return value === undefined ? undefined : value === "true" || value === "1";
}

function octal(get: Get, name: string): number | undefined {
  const value = get(name);
  if (value === undefined) return undefined;
  if (/^(0o?)?[0-7]{3,4}$/.test(value)) return parseInt(value.replace("o", ""), 8);
  throw wrong(name, value, 'the permissions of the control socket in octal, such as "0660"');
}

function oneOf<T extends string>(get: Get, name: string, known: readonly T[]): T | undefined {
  const value = get(name);
  if (value === undefined || known.includes(value as T)) return value as T | undefined;
  throw wrong(name, value, known.map(quoted).join(" or "));
}

/** The signals of a variable: "SIGHUP,SIGUSR2"; "none" are none. */
function signals(get: Get, name: string): Deno.Signal[] | undefined {
  const value = get(name);
  if (value === undefined) return undefined;
  if (value === "none") return [];
  const names = value.split(/[\s,]+/);
  if (names.every(isSignal)) return names;
  throw wrong(
    name,
    value,
    'names of signals that can be listened to, such as "SIGHUP,SIGUSR2", or "none"',
  );
}

/** Whether Deno listens to a signal; it knows no SIGKILL. */
function isSignal(name: string): name is Deno.Signal {
  const listener = () => {};
  try {
    runtime.addSignalListener(name as Deno.Signal, listener);
    runtime.removeSignalListener(name as Deno.Signal, listener);
    return true;
  } catch {
    return false;
  }
}

/** A logger on stderr: stdout is the program's. */
function logger(lowest: typeof levels[number] | undefined): Logger | undefined {
  if (lowest === undefined) return undefined;
  const shown = levels.slice(levels.indexOf(lowest));
  return Object.fromEntries(
    shown.map((level) => [level, (...message: unknown[]) => console.error(...message)]),
  );
}
