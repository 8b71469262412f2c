/**
 * Starts a generation for a program that knows nothing of it, before the program itself is loaded.
 *
 * Deno runs the event loop to its end between this and the program: whatever waits here must not keep the process running.
 *
 * @module
 */

import { currentVariable, removeVariable } from "../../ffi/proc.ts";
import { listed, quoted } from "../../ffi/quote.ts";
import { checkPath, type Settings, withDefaults } from "../generation/options.ts";
import { preloadKey, startWith } from "../generation/start.ts";
import { printError } from "../logger.ts";
import { ownControlPath, serviceName } from "./control_path.ts";
import { whyInert } from "./inert.ts";
import { type PreloadOptions, preloadVariables, readOptions, unknownVariables } from "./options.ts";
import { isOff } from "./permissions.ts";
import { type Preloaded, PreloadedProgram } from "./preloaded_program.ts";

/** Makes the program restartable, unless it is not to be. */
export async function preload(): Promise<void> {
  const global = globalThis as unknown as Record<symbol, Preloaded | undefined>;
  if (global[preloadKey] || isOff()) return;
  const inert = whyInert();
  if (inert) {
    if (inert.warning) printError(inert.warning);
    return;
  }
  const options = readOptions();
  const path = options.control ?? ownControlPath();
  checkPath(path);
  const settings = settingsOf(options, path);
  warnOfUnknownVariables(settings);
  // These are for the next generation alone, which has the environment of the start: the processes that this one starts are
  // other programs.
  removeVariable("GRACEFUL_CONTROL");
  const isAutoServe = currentVariable("DENO_AUTO_SERVE") !== undefined;
  removeVariable("DENO_AUTO_SERVE");
  const generation = await startWith(path, {
    ...settings,
    isPreloaded: true,
    // The signals and the exit are the program's too: `PreloadedProgram` decides.
    stopOn: [],
    restartOn: [],
    exitTimeout: false,
  });
  const program = new PreloadedProgram(generation, settings, { ...options, isAutoServe });
  global[preloadKey] = program;
  program.begin();
}

/** The options of `start()`, with the defaults of a preloaded program. */
function settingsOf({ control, start }: PreloadOptions, path: string): Settings {
  const given = Object.entries(start).filter(([, value]) => value !== undefined);
  return withDefaults({
    service: serviceName(),
    // A terminal sends SIGHUP when it is closed.
    restartOn: Deno.stdin.isTerminal() ? [] : ["SIGHUP"],
    ...control === undefined && { command: { env: { GRACEFUL_CONTROL: path } } },
    ...Object.fromEntries(given),
  });
}

function warnOfUnknownVariables({ logger }: Settings): void {
  const unknown = unknownVariables();
  if (unknown.length === 0) return;
  logger.warn?.(
    `The environment has ${
      listed(unknown.map(quoted))
    }, which the preload module does not know; it knows ${preloadVariables.join(", ")}`,
  );
}
