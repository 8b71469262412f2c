/**
 * What `start()` is called with: checked before anything is opened, for what is wrong is to be known at the first
 * start, and not in the restart that needs it.
 *
 * @module
 */

import { quoted } from "../../ffi/quote.ts";
import { formatPath, packUnix } from "../../ffi/sockaddr.ts";
import { checkDrainOptions } from "../http/drain.ts";
import { maxServiceName } from "./protocol.ts";
import { checkDuration } from "../time.ts";
import type { StartOptions } from "./generation.ts";

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

/** What each option has to be. */
const kinds: Record<keyof StartOptions, string> = {
  readyTimeout: "a number of milliseconds",
  probation: "a number of milliseconds",
  peerTimeout: "a number of milliseconds",
  exitTimeout: "a number of milliseconds, or false",
  drainTimeout: "a number of milliseconds",
  forceCloseAfter: "a number of milliseconds",
  stopOn: 'a list of signals, such as ["SIGTERM"]',
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

/** Whether a value is of a kind; a kind that is not here is that of numbers of milliseconds. */
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

/** @throws {TypeError | RangeError} When there is no such option, or its value is none. */
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
  for (const name of ["readyTimeout", "probation", "peerTimeout"] as const) {
    checkDuration(name, options[name] ?? 0);
  }
  if (exitTimeout !== false) checkDuration("exitTimeout", exitTimeout ?? 0);
  if (options.probation === Infinity) throw new RangeError("A probation has an end");
  if (service === undefined || service.length > 0 && service.length <= maxServiceName) return;
  throw new RangeError(
    `Cannot start a generation: \`service\` is ${kinds.service}, not of ${service.length}`,
  );
}
