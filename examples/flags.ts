/**
 * The flags of the examples. A flag has the type of its default.
 *
 * @module
 */

import { parseArgs } from "node:util";

type Value = string | number | boolean;

/** `5000` is inferred as the type 5000: it stands for any number. */
type Flags<T> = {
  [K in keyof T]: T[K] extends number ? number : T[K] extends string ? string : boolean;
};

/**
 * Parses the flags of this process. `--help` prints the usage and ends the process; a wrong flag ends it
 * with exit code 2. Numbers are whole and not negative.
 */
export function parseFlags<T extends Record<string, Value>>(usage: string, defaults: T): Flags<T> {
  const options: Record<string, { type: "string" | "boolean" }> = { help: { type: "boolean" } };
  for (const [name, value] of Object.entries(defaults)) {
    options[name] = { type: typeof value === "boolean" ? "boolean" : "string" };
  }
  const flags: Record<string, Value> = { ...defaults };
  try {
    const { help, ...given } = parseArgs({ options }).values as Record<string, Value>;
    if (help) {
      console.log(usage);
      Deno.exit();
    }
    for (const [name, value] of Object.entries(given)) {
      flags[name] = typeof defaults[name] === "number" ? wholeNumber(name, String(value)) : value;
    }
  } catch (error) {
    fail(usage, (error as Error).message);
  }
  return flags as Flags<T>;
}

/** Prints what is wrong, and ends the process with exit code 2. */
export function fail(usage: string, message: string): never {
  console.error(`${message}\n\n${usage}`);
  Deno.exit(2);
}

function wholeNumber(name: string, value: string): number {
  // The longest timer of Deno; and the highest port.
  const most = name === "port" ? 65_535 : 2 ** 31 - 1;
  if (/^\d+$/.test(value) && Number(value) <= most) return Number(value);
  throw new Error(`--${name} takes a number up to ${most}, not "${value}"`);
}
