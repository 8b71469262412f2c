/**
 * A shell script under a systemd of its own, for the tests of `doctor`.
 *
 * `WITH_SYSTEMD` names the program that boots one in namespaces: it runs its arguments there, shows the directory
 * `SHARE` under the same path inside, ends everything after `LIMIT` seconds, and exits with 77, and a reason on
 * stdout, where that cannot be done.
 *
 * @module
 */

import { Directory } from "../support/directory.ts";

const root = new URL("../../", import.meta.url).pathname;
const tool = Deno.env.get("WITH_SYSTEMD");

/** The reason why no systemd can be booted here; undefined if one can. */
export const missing: string | undefined = tool === undefined
  ? "WITH_SYSTEMD does not name the program that boots a systemd"
  : await trial(tool);

async function trial(tool: string): Promise<string | undefined> {
  const { code, stdout } = await new Deno.Command(tool, { args: ["true"] }).output();
  return code === 0 ? undefined : `${tool}: ${new TextDecoder().decode(stdout).trim()}`;
}

/** A directory that is seen inside, with the library, the programs of the tests, and deno. */
export class Shared extends Directory {
  constructor() {
    super();
    for (const name of ["ffi", "lib", "tests/programs", "tests/support"]) {
      copy(`${root}${name}`, this.join(name));
    }
    Deno.copyFileSync(`${root}mod.ts`, this.join("mod.ts"));
    // The program itself may be under /tmp, which is another one inside.
    Deno.copyFileSync(Deno.execPath(), this.join("deno"));
  }

  /** Runs a shell script inside, in this directory; throws when it fails. */
  async run(script: string, limit = 60): Promise<void> {
    const env = { SHARE: this.path, LIMIT: String(limit) };
    const args = ["sh", "-euc", `cd ${this.path}\n${script}`];
    const { code, stderr } = await new Deno.Command(tool!, { args, env }).output();
    if (code === 0) return;
    throw new Error(`The script exits with ${code}: ${new TextDecoder().decode(stderr)}`);
  }

  /** The text of a file that the script has written. */
  read(name: string): string {
    return Deno.readTextFileSync(this.join(name));
  }
}

function copy(from: string, to: string): void {
  Deno.mkdirSync(to, { recursive: true });
  for (const { name, isDirectory } of Deno.readDirSync(from)) {
    if (isDirectory) copy(`${from}/${name}`, `${to}/${name}`);
    else Deno.copyFileSync(`${from}/${name}`, `${to}/${name}`);
  }
}
