/**
 * The command that `restart()` starts: the program, the arguments and the directory of this process, by the names with
 * which it was started. A symbolic link among them that was changed since leads to the next release.
 *
 * @module
 */

import { isProgram, linksIn, pathStatus, readLink } from "../../ffi/file.ts";
import { commandLine, variable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { HandoverError } from "../errors.ts";
import type { Logger } from "../logger.ts";

/** A program and its arguments; a field that is absent is as this process was started. */
export interface Command {
  /** The program: a path, or a name to look for in `PATH`. @default {that of this process} */
  program?: string;
  /** Its arguments. @default {those of this process, and none of another program} */
  args?: string[];
  /** The directory that it starts in. @default {the directory in which this process was started, by the same name} */
  cwd?: string;
  /**
   * Variables that are added to those that this process was started with, or replace them. Changes of the environment
   * since then, by `Deno.env` or `--env-file`, do not reach the next generation: pass such variables here. Names are of
   * letters, digits and "_".
   */
  env?: Record<string, string>;
}

/** A command with all of its fields. */
export interface CompleteCommand extends Command {
  program: string;
  args: string[];
  /** Whether the next generation gets `cwd` as PWD, and uses that name for its own restarts. */
  isCwdNamed: boolean;
}

/** A symbolic link through which this process may have entered its directory. */
interface Link {
  /** The directory, through the link. */
  path: string;
  /** The link itself. */
  link: string;
}

/** The directory that this process was started in. */
interface Directory {
  /** Its name; undefined where /proc has none. */
  path: string | undefined;
  /** Whether the process has entered it by that name: after a deploy, the name leads to the next release. */
  isNamed: boolean;
  /** The links that lead there, of which the right one is not known. */
  links: Link[];
  /** Whether the command has names that are relative to it. */
  isNeeded: boolean;
}

/** The command with which this process was started. */
export class OwnCommand {
  readonly #program: string | undefined;
  readonly #args: string[] | undefined;
  readonly #directory: Directory;
  readonly #logger: Logger;
  /** Whether the program has set `process.title`, which overwrites the arguments. */
  readonly #isRenamed: boolean;

  /** Reads the command. To be called early: the program may change its directory, and a deploy may change links. */
  constructor(logger: Logger) {
    this.#logger = logger;
    const [name, ...args] = commandLine("self") ?? [];
    const named = programNamed(name);
    this.#isRenamed = named === undefined && isOverwritten(args);
    if (name !== undefined && !this.#isRenamed) this.#args = args;
    this.#program = named ?? readLink("/proc/self/exe")?.replace(deleted, "");
    // A program without a slash is looked for in PATH, not in the directory.
    const words = this.#program?.includes("/") ? [this.#program, ...args] : args;
    this.#directory = ownDirectory(words, logger);
  }

  /** Warns when the arguments, or the name of the directory, are not known, with advice. */
  warn({ program, args, cwd }: Command = {}): void {
    if (program !== undefined) return;
    if (this.#isRenamed && args === undefined) {
      this.#logger.warn?.(`restart() cannot start the next generation: ${renamed}`);
    }
    if (cwd === undefined) this.#warnOfDirectory();
  }

  #warnOfDirectory(): void {
    const { path, isNamed, links, isNeeded } = this.#directory;
    if (path === undefined || isNamed || !isNeeded) return;
    const names = links.map(({ path }) => quoted(path)).join(", ");
    const isRelease = links.length === 0 && isNamedAsRelease(path);
    if (links.length === 0 && !isRelease) return;
    this.#logger.warn?.(
      `restart() starts the next generation in ${
        quoted(path)
      }, even if another release is the current ` +
        `one by then: ${
          isRelease ? "no symbolic link that leads there was found" : `${names} lead there`
        }, and PWD does not name it. ${howToName}`,
    );
  }

  /**
   * Fills in the fields that are absent.
   *
   * @throws {HandoverError} When a link that led to the directory has changed, and it is not known whether it was used.
   * @throws {Deno.errors.NotFound} When the directory is gone, and the command has names that are relative to it.
   * @throws {Deno.errors.NotSupported} When the command of this process cannot be read.
   */
  complete({ program, args, cwd, env }: Command = {}): CompleteCommand {
    const isUnknown = this.#program === undefined || args === undefined && this.#args === undefined;
    if (program === undefined && isUnknown) {
      throw new Deno.errors.NotSupported(
        `Cannot read the command that this process was started with: ${
          this.#isRenamed ? renamed : "/proc is not mounted; name the `program` to restart with"
        }`,
      );
    }
    const isOwn = program === undefined && args === undefined;
    const command = {
      program: program ?? this.#program!,
      args: args ?? (program === undefined ? this.#args! : []),
      env,
    };
    if (cwd !== undefined) return { ...command, cwd, isCwdNamed: cwd.startsWith("/") };
    const { path, isNamed, links, isNeeded } = this.#directory;
    if (path === undefined) return { ...command, isCwdNamed: false };
    const start = `Cannot start ${quoted(command.program)}`;
    const moved = links.find(({ path: name }) => !isSame(pathStatus(name), pathStatus(path)));
    if (isOwn && isNeeded && moved) {
      throw new HandoverError(
        `${start}: ${quoted(moved.link)} led to ${
          quoted(path)
        }, in which this process was started, and ` +
          `does not any more, so that another release may be meant. ${howToName}`,
      );
    }
    if (pathStatus(path)?.kind === "directory") {
      return { ...command, cwd: path, isCwdNamed: isNamed };
    }
    if (!isOwn || isNeeded) {
      const target = readLink(path);
      const why = target === undefined
        ? "the directory in which this process was started is gone"
        : `it is a symbolic link to ${quoted(target)}, where there is no directory`;
      throw new Deno.errors.NotFound(
        `${start} in ${quoted(path)}: ${why}, and the command has names that are relative to it. ` +
          "Create it again, or set the option `command: { cwd }` or absolute names",
      );
    }
    this.#logger.warn?.(
      `The directory ${
        quoted(path)
      }, in which this process was started, is gone: the next generation ` +
        'starts in "/". Set the option `command: { cwd }` to have it start elsewhere',
    );
    return { ...command, cwd: "/", isCwdNamed: true };
  }
}

const howToName =
  "Start the service with PWD set to the right name (systemd: Environment=PWD=/srv/app/current), " +
  "name the script by an absolute path, or set the option `command: { cwd }`";

const renamed =
  "the program has set process.title, which overwrites its arguments (proc(5), cmdline); set that after " +
  "start(), or set the option `command: { args }`";

/**
 * Whether a title has overwritten the arguments, and these are the rest: `process.title` of Deno 2.7.14 does that, and
 * fills the rest with NUL; a long title leaves none. Only a compiled program is started without arguments.
 */
function isOverwritten(args: string[]): boolean {
  const { standalone } = Deno.build as { standalone?: boolean };
  return args.every((arg) => arg === "") && (args.length > 0 || !standalone);
}

/** The mark of the kernel on the name of a removed file (fs/d_path.c). */
const deleted = / \(deleted\)$/;

/** The name by which this program was started, if it leads to the file of the running program. */
export function programNamed(name: string | undefined): string | undefined {
  if (!name) return undefined;
  const path = findProgram(name, variable("PATH"));
  return path && isSame(pathStatus(path), pathStatus("/proc/self/exe")) ? name : undefined;
}

/** Finds a program by the rules of a shell (POSIX, "Command Search and Execution"). */
export function findProgram(
  name: string,
  path: string | undefined,
  cwd?: string,
): string | undefined {
  const from = (file: string) =>
    cwd === undefined || file.startsWith("/") ? file : `${cwd}/${file}`;
  if (name.includes("/")) return pathStatus(from(name)) && from(name);
  for (const directory of path?.split(":") ?? []) {
    const file = from(`${directory || "."}/${name}`);
    if (isProgram(file)) return file;
  }
  return undefined;
}

/** The directory of this process. @param words The program and the arguments with which it was started. */
function ownDirectory(words: string[], logger: Logger): Directory {
  const here = pathStatus("/proc/self/cwd");
  const actual = readLink("/proc/self/cwd");
  const unnamed = { isNamed: false, links: [], isNeeded: words.some(isRelative) };
  // proc(5): "(unreachable)" is put before a directory outside of the root of this process.
  if (!here || !actual?.startsWith("/")) return { ...unnamed, path: undefined };
  const pwd = variable("PWD");
  if (pwd?.startsWith("/") && isSame(pathStatus(pwd), here)) {
    return { ...unnamed, path: pwd, isNamed: true };
  }
  if (deleted.test(actual)) return { ...unnamed, path: actual.replace(deleted, "") };
  const above = ancestors(actual);
  const named = linksAmong(absoluteIn(words), above);
  if (named === "directory") return { ...unnamed, path: actual, isNamed: true };
  const links = named.length > 0 ? named : linksBeside(above);
  if (links.length !== 1) return { ...unnamed, path: actual, links };
  const [{ path }] = links;
  logger.info?.(
    `restart() starts the next generation in ${quoted(path)}: PWD does not name ` +
      `${quoted(actual)}, and that is the one symbolic link that leads there`,
  );
  return { ...unnamed, path, isNamed: true };
}

/** Whether a word of a command names a file in the directory of this process. */
function isRelative(word: string): boolean {
  // Without a name, Deno reads ".env".
  if (word === "--env-file" || word === "--env") return pathStatus(".env") !== undefined;
  const values = word.startsWith("-") ? word.split(/=(.*)/s)[1] ?? "" : word;
  return values.split(",").some((value) =>
    value !== "" && !/^(\/|[a-z][a-z0-9+.-]+:)/i.test(value) && pathStatus(value) !== undefined
  );
}

/** The absolute paths in the words of a command: "--config=/srv/app/deno.json" has one. */
function absoluteIn(words: string[]): string[] {
  return words.flatMap((word) => word.split(/[=,]/)).filter((path) => path.startsWith("/"));
}

/** The directory of this process, or one above it. */
interface Ancestor {
  path: string;
  status: Identity | undefined;
  /** The path from it to the directory of this process: "/sub". */
  rest: string;
}

/** The directory itself, and those above it without the root: links in the root belong to the system. */
function ancestors(directory: string): Ancestor[] {
  const above: Ancestor[] = [];
  for (let path = directory; path !== ""; path = path.slice(0, path.lastIndexOf("/"))) {
    if (path === "/") break;
    above.push({ path, status: pathStatus(path), rest: directory.slice(path.length) });
  }
  return above;
}

/**
 * The links that these paths go through, and that lead to one of these directories; "directory" when a path goes through
 * the first of them by its own name: the service then stays with one release.
 */
function linksAmong(paths: string[], above: Ancestor[]): Link[] | "directory" {
  const links = new Map<string, Link>();
  for (const path of paths) {
    for (let name = path; name !== ""; name = name.slice(0, name.lastIndexOf("/"))) {
      if (name === above[0]?.path) return "directory";
      if (above.some((ancestor) => ancestor.path === name)) break;
      const found = linkTo(name, above);
      if (!found) continue;
      links.set(found.path, found);
      break;
    }
  }
  return [...links.values()];
}

/** The number of names that are looked at in one of the directories above. */
const mostNames = 2000;

/** The links in the directories above that lead to one of them: "/srv/app/current" for "/srv/app/releases/1". */
function linksBeside(above: Ancestor[]): Link[] {
  const found: Link[] = [];
  for (const [i, { path }] of above.entries()) {
    // The directories between this one and that of the process.
    const below = above.slice(0, i);
    if (below.length === 0) continue;
    for (const name of linksIn(path, mostNames) ?? []) {
      const link = linkTo(`${path}/${name}`, below);
      if (link && !below.some((ancestor) => ancestor.path === link.link)) found.push(link);
    }
  }
  return found;
}

function linkTo(link: string, above: Ancestor[]): Link | undefined {
  const status = pathStatus(link);
  const target = status && above.find((ancestor) => isSame(ancestor.status, status));
  return target && { link, path: link + target.rest };
}

/** Whether a path looks like one of several releases: a number, version, date or hash, or a directory for them. */
function isNamedAsRelease(path: string): boolean {
  return path.split("/").some((name) =>
    /^(v|r|release|build|deploy)?[-_.]?\d[\d._-]*$/i.test(name) || /^[0-9a-f]{7,64}$/.test(name) ||
    /^(releases|versions|deployments|builds)$/i.test(name)
  );
}

type Identity = { dev: bigint; ino: bigint };

function isSame(a: Identity | undefined, b: Identity | undefined): boolean {
  return a !== undefined && b !== undefined && a.dev === b.dev && a.ino === b.ino;
}
