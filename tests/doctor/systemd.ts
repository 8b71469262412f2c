/**
 * A shell script under a systemd of its own, for the tests of `doctor`.
 *
 * @module
 */

import { Directory } from "../support/directory.ts";
import { Systemd } from "../support/systemd.ts";

const root = new URL("../../", import.meta.url).pathname;

/** The directory of {@linkcode Shared}, as it is seen inside. */
export const inside = "/srv/shared";

/** A directory that is seen inside, with the library, the programs of the tests, and deno. */
export class Shared extends Directory {
  constructor() {
    super();
    for (const name of ["ffi", "lib", "tests/programs", "tests/support"]) {
      copy(`${root}${name}`, this.join(name));
    }
    Deno.copyFileSync(`${root}mod.ts`, this.join("mod.ts"));
    Deno.copyFileSync(Deno.execPath(), this.join("deno"));
  }

  /** Runs a shell script inside, in this directory; throws when it fails. */
  async run(script: string): Promise<void> {
    await using systemd = await Systemd.boot({ binds: { [inside]: this.path } });
    const { code, stderr } = await systemd.run("sh", "-euc", `cd ${inside}\n${script}`);
    if (code !== 0) throw new Error(`The script exits with ${code}: ${stderr}`);
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
