/**
 * The words of a `deno run` or `deno serve` command line: flags, the script, its arguments.
 *
 * @module
 */

/** One word of flags, with the word behind it if that is its value. */
export interface Flag {
  /** "--allow-net"; of several letters in one word, as in `-RN`, each: "-R", "-N". */
  names: string[];
  /** The value behind "=", or in the next word. */
  value: string | undefined;
  /** The words themselves. */
  words: string[];
}

/** The parts of a command line. */
export interface CommandLine {
  /** Those in front of the script. */
  flags: Flag[];
  /** The path, URL or specifier of the program; undefined when no word is left for it. */
  script: string | undefined;
  /** The arguments of the program. */
  args: string[];
}

/** A wrong argument. */
export class FlagError extends Error {}

/** Flags whose value may be the next word (`deno run` and `deno serve` with `--help=full`, Deno 2.4 to 2.9). */
const withValue = new Set([
  "--cert",
  "--conditions",
  "--config",
  "--cpu-prof-dir",
  "--cpu-prof-interval",
  "--cpu-prof-name",
  "--ext",
  "--host",
  "--import",
  "--import-map",
  "--inspect-publish-uid",
  "--location",
  "--log-level",
  "--min-dep-age",
  "--minimum-dependency-age",
  "--node-modules-linker",
  "--port",
  "--preload",
  "--require",
  "--seed",
  "-L",
  "-c",
]);

/** Its value is the next word, unless that is a flag. */
const withOptionalValue = "--lock";

/** Flags without a value, or with one behind "=" alone. */
const withoutValue = new Set([
  "--cached-only",
  "--check",
  "--coverage",
  "--cpu-prof",
  "--cpu-prof-flamegraph",
  "--cpu-prof-md",
  "--env",
  "--env-file",
  "--frozen",
  "--frozen-lockfile",
  "--help",
  "--hmr",
  "--inspect",
  "--inspect-brk",
  "--inspect-wait",
  "--no-check",
  "--no-clear-screen",
  "--no-code-cache",
  "--no-config",
  "--no-lock",
  "--no-npm",
  "--no-prompt",
  "--no-remote",
  "--node-modules-dir",
  "--open",
  "--parallel",
  "--permission-set",
  "--quiet",
  "--reload",
  "--unsafely-ignore-certificate-errors",
  "--use-env-proxy",
  "--v8-flags",
  "--vendor",
  "--watch",
  "--watch-exclude",
  "--watch-hmr",
]);

/** The letters of flags without a value, or with one behind "=" alone. */
const letters = "AEINPRSWhqr";

/**
 * Splits the words as Deno does. Words behind the script are the program's, `--` in front of the script is dropped:
 * Deno 2.9 does not take it there.
 *
 * @throws {FlagError} When a flag is not known, and the next word may be its value or the script.
 */
export function split(words: readonly string[]): CommandLine {
  const flags: Flag[] = [];
  let i = 0;
  for (; i < words.length && words[i].startsWith("-") && words[i] !== "-"; i++) {
    const word = words[i];
    if (word === "--") {
      i++;
      break;
    }
    const flag = word.startsWith("--") ? longFlag(word) : shortFlags(word);
    flags.push(flag);
    const next = words[i + 1];
    if (flag.value !== undefined || next === undefined) continue;
    const name = flag.names.at(-1)!;
    const isNextFlag = next.startsWith("-");
    if (withValue.has(name) || name === withOptionalValue && !isNextFlag) {
      flag.value = next;
      flag.words.push(next);
      i++;
    } else if (!isNextFlag && !isWithoutValue(name)) {
      throw new FlagError(
        `${name} is not known here, and may take ${JSON.stringify(next)} as its value: ` +
          `write ${name}=VALUE, or "--" in front of the script`,
      );
    }
  }
  const [script, ...args] = words.slice(i);
  return { flags, script, args };
}

function longFlag(word: string): Flag {
  const [name, value] = word.split(/=(.*)/s);
  return { names: [name], value, words: [word] };
}

/** Reads "-A", "-RN", "-R=/etc", "-cdeno.json". */
function shortFlags(word: string): Flag {
  const names: string[] = [];
  for (let at = 1; at < word.length; at++) {
    const name = `-${word[at]}`;
    names.push(name);
    const rest = word.slice(at + 1);
    if (rest.startsWith("=")) return { names, value: rest.slice(1), words: [word] };
    if (withValue.has(name) && rest) return { names, value: rest, words: [word] };
  }
  return { names, value: undefined, words: [word] };
}

function isWithoutValue(name: string): boolean {
  return withoutValue.has(name) || /^--(allow|deny|ignore|unstable)-/.test(name) ||
    /^-\w$/.test(name) && letters.includes(name[1]);
}

/** Whether a flag grants or refuses a permission, or names a set of permissions. */
export function isPermission({ names }: Flag): boolean {
  return names.some((name) =>
    /^-[AEINPRSW]$/.test(name) || name === "--permission-set" ||
    /^--(allow|deny|ignore)-/.test(name) && name !== "--allow-scripts"
  );
}
