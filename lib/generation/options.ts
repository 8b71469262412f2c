/**
 * The options of `start()`: their defaults, and the checks that are made before anything is opened. An option that is
 * wrong is an error of the first start, and not of the restart that needs it.
 *
 * @module
 */

import { quoted } from "../../ffi/quote.ts";
import { formatPath, packUnix } from "../../ffi/sockaddr.ts";
import { checkDrainOptions, type DrainOptions } from "../http/drain.ts";
import { guarded, type Logger } from "../logger.ts";
import { checkDuration } from "../time.ts";
import { type PeerCheck, sameUserOrRoot } from "../unix/peer.ts";
import type { Command } from "./command.ts";
import { maxServiceName } from "./protocol.ts";

/** Options of {@linkcode start}. Durations are in milliseconds. */
export interface StartOptions extends DrainOptions {
  /**
   * The time from the offer to the successor's `ready()`. For a process that `restart()` starts it is the time from
   * its start on, over all its tries: a program may fail, and call `start()` again. @default {60_000}
   */
  readyTimeout?: number;
  /**
   * The time after `ready()` in which the predecessor stands by: if this generation ends within it, the predecessor
   * accepts again. The predecessor refuses more than five minutes, unless its own is as long. @default {5000}
   */
  probation?: number;
  /**
   * The time in which the other generation has to answer, or to read or send another byte: a large state may take
   * longer as a whole. Also the time for which another process may hold the lock of the control path, a file beside it
   * that exists while the path is bound or removed. @default {10_000}
   */
  peerTimeout?: number;
  /**
   * The time in which the process has to end by itself after its generation was replaced by another process, or
   * stopped by a signal or the command line: a timer or an open connection keeps it running. Then the library logs that,
   * and exits with `Deno.exitCode` or 0. It does not exit where the program has called `stop()`, or the generation was
   * rolled back; while another generation runs in the process, the time begins when that one ends. `false`: never.
   * @default {10_000}
   */
  exitTimeout?: number | false;
  /**
   * Signals that stop the service gracefully; the second one of a kind ends the process at once. Before `ready()` the
   * process exits: it has no client yet. @default {["SIGTERM", "SIGINT"], as far as the system has them}
   */
  stopOn?: Deno.Signal[];
  /**
   * The time for which this generation goes on accepting after a signal of `stopOn`, or `stop` of the command line: a
   * load balancer sends requests until it has noticed, by {@linkcode Generation.health} or otherwise. Answers have
   * `Connection: close` then. It ends early when another process takes over, or the program calls `stop()`, which has
   * no delay; so has a stop before `ready()`, and one of a generation that was replaced. @default {0}
   */
  stopDelay?: number;
  /** Signals that call `restart()`. @default {none} */
  restartOn?: Deno.Signal[];
  /** The command that `restart()` starts, as far as it differs from that of this process. */
  command?: Command;
  /**
   * Whether `restart()` replaces a process the end of which ends its successor: process 1 of a container or the
   * process that process 1 waits for, and the main process of a systemd unit. Set it where that process goes on after
   * its generation has ended. @default {false}
   */
  restartAsMain?: boolean;
  /**
   * The control socket of a plain `serve()`, here or in the Go library: where no generation runs yet, the first
   * one inherits its listeners. The server has sent all of them when its stream ends, or pauses for half a second; when
   * they are served it is sent "ready", and the connection is closed. `allow` is asked about it.
   */
  inheritFrom?: string;
  /**
   * The name of the service: a generation of another name is refused with the code "ERR_HANDOVER_SERVICE". A generation
   * without a name follows any, and is followed by any: a release may introduce a name. @default {none}
   */
  service?: string;
  /** Permissions of the control socket. @default {0o600} */
  mode?: number;
  /**
   * Called with the credentials of the process at the other end of each connection: a client of the control socket, the
   * generation that runs, and the server at `inheritFrom`. A process that is refused is sent nothing, and
   * nothing is received from it. @default {processes of the same user, and of root}
   */
  allow?: PeerCheck;
  /** Gets each step of a handover, with its duration. @default {the console: warnings and errors alone} */
  logger?: Logger;
  /** Ends the wait for the generation that runs: `start()` rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** The defaults of {@linkcode StartOptions}. */
const defaults = {
  readyTimeout: 60_000,
  probation: 5000,
  peerTimeout: 10_000,
  exitTimeout: 10_000,
  stopDelay: 0,
  drainTimeout: 60_000,
  forceCloseAfter: 30_000,
  restartAsMain: false,
  allow: sameUserOrRoot,
};

/** The options of a generation, with every default and a logger that never throws. */
export type Settings =
  & Omit<StartOptions, keyof typeof defaults | "logger">
  & Required<Pick<StartOptions, keyof typeof defaults>>
  & {
    logger: Logger;
    /**
     * Whether the preload module has started the generation: its program does not know of it, makes its sockets when it
     * likes, and alone decides how long the process runs.
     */
    isPreloaded?: true;
  };

/** Gives the options with every default. */
export function withDefaults(options: StartOptions): Settings {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return { ...defaults, ...Object.fromEntries(given), logger: guarded(options.logger) };
}

/** @throws {TypeError | RangeError} When `path` cannot be that of a control socket. */
export function checkPath(path: unknown): asserts path is string {
  if (path instanceof URL || typeof path === "string" && /^[a-z][a-z\d+.-]*:\/\//i.test(path)) {
    throw new TypeError(
      `Cannot start at ${quoted(String(path))}: the control socket has a path, such as ` +
        `"/run/app.sock", and no URL; give the \`pathname\` of a file URL`,
    );
  }
  if (typeof path !== "string" || path === "") {
    const what = path === "" ? "empty" : path === null ? "null" : `of type ${typeof path}`;
    throw new TypeError(
      `Cannot start a generation: the path of its control socket is ${what}, where one such as ` +
        '"/run/app.sock" belongs; if it is read from the environment or an argument, set that',
    );
  }
  const attempt = `Cannot start at ${formatPath(path)}`;
  if (path.startsWith("\0")) {
    throw new TypeError(
      `${attempt}: an abstract name has no owner, and every user could take it; give a path, such as ` +
        '"/run/app.sock"',
    );
  }
  packUnix(path, attempt);
}

/** The kind of each option, as an error names it. */
const kinds: Record<keyof StartOptions, string> = {
  readyTimeout: "a number of milliseconds",
  probation: "a number of milliseconds",
  peerTimeout: "a number of milliseconds",
  exitTimeout: "a number of milliseconds, or false",
  drainTimeout: "a number of milliseconds",
  forceCloseAfter: "a number of milliseconds",
  stopOn: 'a list of signals, such as ["SIGTERM"]',
  stopDelay: "a number of milliseconds",
  restartOn: 'a list of signals, such as ["SIGHUP"]',
  command: "an object with `program`, `args`, `cwd` or `env`",
  restartAsMain: "true or false",
  inheritFrom: "a path",
  service: `a name of 1 to ${maxServiceName} characters`,
  mode: "a number, such as 0o600",
  allow: "a function",
  logger: "an object with `debug`, `info`, `warn` or `error`, such as console",
  signal: "an AbortSignal",
};

/** Whether a value is of the kind of its option; durations are checked as numbers below. */
const fits: { [Option in keyof StartOptions]: (value: unknown) => boolean } = {
  stopOn: isList,
  restartOn: isList,
  command: isObject,
  restartAsMain: (value) => typeof value === "boolean",
  inheritFrom: (value) => typeof value === "string",
  service: (value) => typeof value === "string",
  mode: (value) => Number.isInteger(value) && (value as number) >= 0,
  allow: (value) => typeof value === "function",
  logger: isObject,
  signal: (value) => value instanceof AbortSignal,
};

function isList(value: unknown): boolean {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @throws {TypeError | RangeError} When an option does not exist, or has a value of another kind. */
export function checkStartOptions(options: StartOptions): void {
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(kinds, name)) {
      const known = Object.keys(kinds).join(", ");
      throw new TypeError(
        `Cannot start a generation: there is no option ${quoted(name)}; there is ${known}`,
      );
    }
    const option = name as keyof StartOptions;
    if (value === undefined || (fits[option]?.(value) ?? true)) continue;
    const what = typeof value === "string" ? quoted(value) : typeof value;
    throw new TypeError(
      `Cannot start a generation: \`${name}\` is ${kinds[option]}, not ${what}`,
    );
  }
  const { stopOn = [], restartOn = [], service, exitTimeout } = options;
  const both = restartOn.find((signal) => stopOn.includes(signal));
  if (both) {
    throw new TypeError(
      `Cannot start a generation: ${both} is in \`stopOn\` and in \`restartOn\`; it can do one of the two`,
    );
  }
  checkDrainOptions(options);
  for (const name of ["readyTimeout", "probation", "peerTimeout", "stopDelay"] as const) {
    checkDuration(name, options[name] ?? 0);
  }
  if (exitTimeout !== false) checkDuration("exitTimeout", exitTimeout ?? 0);
  if (options.probation === Infinity) throw new RangeError("A probation has an end");
  if (options.stopDelay === Infinity) {
    throw new RangeError("stopDelay has an end: no signal would stop the service otherwise");
  }
  if (service === undefined || service.length > 0 && service.length <= maxServiceName) return;
  throw new RangeError(
    `Cannot start a generation: \`service\` is ${kinds.service}, not of ${service.length}`,
  );
}
