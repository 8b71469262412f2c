/**
 * Asks systemd for the properties of a unit (systemctl(1)).
 *
 * @module
 */

import { escaped } from "../../ffi/quote.ts";
import { expiring, unlessAborted } from "../time.ts";
import type { ServiceOf } from "./processes.ts";
import { parseProperties, propertyNames, type UnitProperties } from "./unit.ts";

/** systemctl(1) is not there, or does not answer. */
export class UnitError extends Error {}

/**
 * Asks systemd for the properties of a unit, in one call.
 *
 * @throws {UnitError} When it cannot be asked.
 */
export async function showUnit(
  { unit, isOfUser }: ServiceOf,
  timeout: number,
): Promise<UnitProperties> {
  const args = [
    ...isOfUser ? ["--user"] : [],
    ...["show", "--no-pager", `--property=${propertyNames.join()}`, "--", unit],
  ];
  const attempt = `Cannot ask systemd for ${escaped(unit)}`;
  using late = expiring(timeout, () => new UnitError(`${attempt}: no answer in ${timeout} ms`));
  const { signal } = late;
  let output: Deno.CommandOutput;
  try {
    const env = { LC_ALL: "C", SYSTEMD_COLORS: "0", SYSTEMD_LOG_LEVEL: "err" };
    const command = new Deno.Command("systemctl", { args, env, stdin: "null", signal });
    // It ends with its pipes, which a child of a script called systemctl may keep open.
    output = await unlessAborted(command.output(), signal);
  } catch (error) {
    if (error === signal.reason) throw error;
    if (error instanceof Deno.errors.NotFound) {
      throw new UnitError(`${attempt}: there is no systemctl`);
    }
    if (error instanceof Deno.errors.NotCapable) {
      throw new UnitError(`${attempt}: that needs --allow-run=systemctl, and --allow-env`);
    }
    throw new UnitError(`${attempt}: ${(error as Error).message}`);
  }
  signal.throwIfAborted();
  if (output.success) return parseProperties(new TextDecoder().decode(output.stdout));
  const [why] = new TextDecoder().decode(output.stderr).trim().split("\n");
  throw new UnitError(`${attempt}: ${escaped(why || `systemctl exits with ${output.code}`)}`);
}
