/**
 * The command that hold starts, and its environment: that of systemd.exec(5).
 *
 * @module
 */

import { spawn } from "../../ffi/child_process.ts";
import { isProgram, pathStatus } from "../../ffi/file.ts";
import { environment, toBinary, variable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { findProgram } from "../generation/command.ts";
import {
  defaultPath,
  outputVariable,
  tokenVariable,
  type Variables,
} from "../generation/environment.ts";
import { listenVariables } from "../systemd/listen_fds.ts";
import { notifyVariable } from "../systemd/notify.ts";

/**
 * The shell puts its own number, which the command gets with exec, into the variables: posix_spawn(3) tells the number only
 * when the process runs.
 */
const withListeners = 'export SYSTEMD_EXEC_PID=$$ LISTEN_PID=$$; exec "$@"';
const without = 'export SYSTEMD_EXEC_PID=$$; exec "$@"';

/** Variables of the process of hold that are for that alone, or belong to another service. */
const ownVariables = [
  ...listenVariables,
  notifyVariable,
  tokenVariable,
  outputVariable,
  "FDSTORE",
  "MAINPID",
  "PIDFILE",
  "SYSTEMD_EXEC_PID",
  "WATCHDOG_PID",
  "WATCHDOG_USEC",
];

/** A command, and where it speaks to hold. */
export class HeldCommand {
  readonly #words: readonly [string, ...string[]];
  readonly #variables: Variables;

  constructor(
    words: readonly [string, ...string[]],
    { path, notifySocket, pidFile }: { path: string; notifySocket: string; pidFile: string },
  ) {
    this.#words = words;
    const variables = new Map(environment("self", "Cannot read the environment") ?? []);
    for (const name of ownVariables) variables.delete(name);
    const encode = (text: string) => toBinary(new TextEncoder().encode(text));
    variables.set(notifyVariable, encode(notifySocket));
    variables.set("PIDFILE", encode(pidFile));
    // For the preload module: other programs name the path themselves.
    variables.set("GRACEFUL_CONTROL", encode(path));
    variables.set("INVOCATION_ID", crypto.randomUUID().replaceAll("-", ""));
    this.#variables = variables;
  }

  /** @throws {Error} When there is no such program. */
  check(): void {
    const [program] = this.#words;
    const path = findProgram(program, variable("PATH") ?? defaultPath);
    if (path === undefined) {
      throw new Deno.errors.NotFound(`Cannot start ${quoted(program)}: there is no such program`);
    }
    if (!isProgram(path)) {
      throw new Deno.errors.PermissionDenied(
        `Cannot start ${quoted(program)}: it is no program that may run`,
      );
    }
    if (pathStatus("/bin/sh") === undefined) {
      throw new Deno.errors.NotFound(
        `Cannot start ${quoted(program)}: it is started through /bin/sh, and there is none`,
      );
    }
  }

  /** Starts it with the descriptors, which stay the caller's; gives its process id. */
  start({ raws, names }: { raws: number[]; names: string[] }): number {
    const env = new Map(this.#variables);
    if (raws.length > 0) {
      env.set("LISTEN_FDS", String(raws.length));
      env.set("LISTEN_FDNAMES", toBinary(new TextEncoder().encode(names.join(":"))));
    }
    const script = raws.length > 0 ? withListeners : without;
    const args = ["sh", "-c", script, "sh", ...this.#words];
    return spawn("/bin/sh", { args, env, descriptors: raws });
  }

  /** The command in words, for the log. */
  toString(): string {
    return this.#words.map((word) => /^[\w./:=@%+,-]+$/.test(word) ? word : quoted(word)).join(" ");
  }
}
