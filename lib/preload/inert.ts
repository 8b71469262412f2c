/**
 * Where the preload module does nothing: a test, a REPL or a run that is repeated at each change has nothing to hand over.
 *
 * @module
 */

import { argumentsOfDeno, currentVariable, denoSubcommand } from "../../ffi/proc.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { checkPermissions, mayUseLibrary } from "./permissions.ts";

/** The subcommands whose programs are no services. */
const inertSubcommands = ["test", "bench", "repl", "eval", "jupyter", "coverage", "doc", "task"];

/** Why the program runs as without the preload module. */
export interface Inert {
  /** What to print; nothing where the user expects no restart. */
  warning?: string;
}

/**
 * Gives why nothing is to be done; undefined where the program is to be restartable.
 *
 * @throws {Deno.errors.NotCapable} When flags are missing.
 */
export function whyInert(): Inert | undefined {
  const unsupported = noDescriptors();
  if (unsupported) {
    return {
      warning: `${unsupported.message}: the program runs as without the preload module`,
    };
  }
  // The rest is read by the C library.
  if (!mayUseLibrary()) checkPermissions();
  const args = argumentsOfDeno();
  if (currentVariable("GRACEFUL") === "off") return {};
  if (inertSubcommands.includes(denoSubcommand() ?? "")) return {};
  if (args.some((arg) => arg.startsWith("--watch") || arg.startsWith("--hmr"))) return {};
  if (typeof (globalThis as { WorkerGlobalScope?: unknown }).WorkerGlobalScope === "function") {
    return {
      warning: "A worker cannot be handed over: its sockets stay with this process, and the next " +
        "generation finds their addresses in use. Listen in the main thread",
    };
  }
  if (denoSubcommand() === "serve" && args.includes("--parallel")) {
    return {
      warning:
        "`deno serve --parallel` cannot be handed over: each of its threads would take over from " +
        "the others. The program runs as without the preload module; run it without --parallel",
    };
  }
  checkPermissions();
  return undefined;
}
