/**
 * Programs that are started with descriptors, as by a service manager.
 *
 * @module
 */

import { programPath } from "./child.ts";
import { succeeds } from "./succeeds.ts";

/** Whether `activate.py` and `service_manager.py` run here. */
export const hasPython: boolean = await succeeds([
  "python3",
  "-c",
  "import socket; socket.send_fds",
]);

/** A command that executes the rest of the command line with descriptors: the arguments are those of `activate.py`. */
export function activated(...args: string[]): string[] {
  return ["python3", programPath("activate.py"), ...args, "--"];
}
