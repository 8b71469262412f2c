/**
 * Other versions of Deno, installed from npm into a cache, for the tests that run on them.
 *
 * @module
 */

/**
 * The first and the last release of Deno 2 that the library is known to work on, and one of each minor
 * version between; of 2.8 two: 2.8.3, a patch release, replaced the HTTP/1 server.
 */
export const versions = [
  "2.0.6",
  "2.1.14",
  "2.2.15",
  "2.3.7",
  "2.4.4",
  "2.5.6",
  "2.6.8",
  "2.7.14",
  "2.8.2",
  "2.8.3",
  "2.9.6",
];

const emulatedVersion = "2.9.5";
/** What the Deno for aarch64 is called. */
export const emulated = `${emulatedVersion} aarch64`;

/** How to start a Deno; or why it cannot be installed. */
export type Runtime = { command: string[] } | { skipped: string };

/** The directory that keeps the installed versions from one run to the next. */
export function cacheDirectory(): string {
  const base = Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME")}/.cache`;
  return `${base}/graceful-matrix`;
}

/** A Deno of this version, for this machine's processor. */
export async function installDeno(version: string): Promise<Runtime> {
  if (version === Deno.version.deno) return { command: [Deno.execPath()] };
  const processor = Deno.build.arch === "aarch64" ? "arm64" : "x64";
  return await installed(version, `deno@${version}`, processor);
}

/** A Deno for aarch64, under qemu-user on any other processor. */
export async function installEmulatedDeno(): Promise<Runtime> {
  const deno = await installed(
    emulated.replace(" ", "-"),
    `@deno/linux-arm64-glibc@${emulatedVersion}`,
    "arm64",
  );
  if ("skipped" in deno || Deno.build.arch === "aarch64") return deno;
  const skipped = await installEmulator();
  if (skipped !== undefined) return { skipped };
  return { command: ["qemu-aarch64", "-L", sysroot, ...deno.command] };
}

/** Runs a program to its end; gives its error message if it failed. */
export async function errorOf(program: string, ...args: string[]): Promise<string | undefined> {
  try {
    const env = { NO_COLOR: "1" };
    const command = new Deno.Command(program, { args, env, stdout: "null" });
    const { success, stderr } = await command.output();
    if (success) return undefined;
    const lines = new TextDecoder().decode(stderr).trim().split("\n");
    // npm, apt-get and Deno print the cause first, and where to read more about it last.
    return lines.find((line) => /^(npm error (?!code)|E:|error: )/.test(line)) ?? lines.at(-1);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return `${program} is not installed`;
    throw error;
  }
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * The program in an npm package. It is installed in a temporary directory and renamed: the cache never
 * has half of a package, and several runs may install the same one at the same time.
 */
async function installed(
  name: string,
  spec: string,
  processor: "x64" | "arm64",
): Promise<Runtime> {
  const cache = cacheDirectory();
  const directory = `${cache}/${name}`;
  const program = `${directory}/node_modules/@deno/linux-${processor}-glibc/deno`;
  if (exists(program)) return { command: [program] };
  await Deno.mkdir(cache, { recursive: true });
  const temporary = await Deno.makeTempDir({ dir: cache });
  try {
    // --force: without it npm refuses a package for another processor.
    const flags = ["--force", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"];
    const failed = await errorOf("npm", "install", "--prefix", temporary, ...flags, spec);
    if (failed !== undefined) return { skipped: `npm install ${spec}: ${failed}` };
    await remove(directory);
    await Deno.rename(temporary, directory);
  } catch (error) {
    // rename(2) fails when another run has installed the same package meanwhile.
    if (!exists(program)) throw error;
  } finally {
    await remove(temporary);
  }
  return exists(program) ? { command: [program] } : { skipped: `${spec} holds no ${program}` };
}

async function remove(directory: string): Promise<void> {
  try {
    await Deno.remove(directory, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

const sysroot = "/usr/aarch64-linux-gnu";

/** Installs the emulator and the C libraries of its processor; gives the reason if it cannot. */
async function installEmulator(): Promise<string | undefined> {
  const libraries = ["libc.so.6", "libgcc_s.so.1"].map((name) => `${sysroot}/lib/${name}`);
  const complete = libraries.every(exists);
  if (complete && await errorOf("qemu-aarch64", "--version") === undefined) return undefined;
  const packages = ["qemu-user", "libc6-arm64-cross", "libgcc-s1-arm64-cross"];
  if (Deno.uid() !== 0) return `only root can install ${packages.join(", ")}`;
  const install = ["install", "-y", "--no-install-recommends", ...packages];
  return await errorOf("apt-get", "update") ?? await errorOf("apt-get", ...install);
}
