/**
 * What `restart()` starts: the program, the arguments and the directory of this process, by the names that
 * they had when it was started, so that a name that leads elsewhere by now leads to the next release.
 *
 * @module
 */

import { isProgram, linksIn, pathStatus, readLink } from "../../ffi/file.ts";
import { commandLine, variable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { HandoverError } from "../errors.ts";
import type { Logger } from "../logger.ts";

/** A program and its arguments; what is absent is as this process was started. */
export interface Command {
  /** The program: a path, or a name to look for in `PATH`. @default {that of this process} */
  program?: string;
  /** Its arguments. @default {those of this process, and none of another program} */
  args?: string[];
  /**
   * The directory that it starts in. @default {that in which this process was started, by the name that it
   * had}
   */
  cwd?: string;
  /**
   * Variables beside those that this process was started with, or in their place. What the program, or
   * `--env-file`, has made of its environment since does not reach the next generation: a variable that the
   * program has set does so through this alone. Names are of letters, digits and "_".
   */
  env?: Record<string, string>;
}

/** A command with nothing left to say. */
export interface CompleteCommand extends Command {
  program: string;
  args: string[];
  /** Whether `cwd` is the name to go by at later restarts: PWD says it to the next generation. */
  isCwdNamed: boolean;
}

/** A symbolic link by which a directory may have been entered. */
interface Link {
  /** The directory, through the link. */
  path: string;
  /** The link itself. */
  link: string;
}

/** The directory that this process was started in. */
interface Directory {
  /** Its name; undefined where /proc does not tell it. */
  path: string | undefined;
  /** Whether a next release is found by that name. */
  isNamed: boolean;
  /** Where several links lead there, it is not known which one it was entered by. */
  links: Link[];
  /** Whether the command means something else in another directory. */
  isNeeded: boolean;
}

/** How this process was started. */
export class OwnCommand {
  readonly #program: string | undefined;
  readonly #args: string[] | undefined;
  readonly #directory: Directory;
  readonly #logger: Logger;
  /** Whether the program has set `process.title` before, which takes the place of the arguments. */
  readonly #isRenamed: boolean;

  /** Reads it: early, for the program may go to another directory, and names may lead elsewhere later. */
  constructor(logger: Logger) {
    this.#logger = logger;
    const [name, ...args] = commandLine("self") ?? [];
    const named = programNamed(name);
    this.#isRenamed = named === undefined && isOverwritten(args);
    if (name !== undefined && !this.#isRenamed) this.#args = args;
    this.#program = named ?? readLink("/proc/self/exe")?.replace(deleted, "");
    // A program that is looked for in PATH is no name in the directory.
    const words = this.#program?.includes("/") ? [this.#program, ...args] : args;
    this.#directory = ownDirectory(words, logger);
  }

  /** Says what to set, where it is not known what to start, or in a directory of which name. */
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
      }, also when another release is the current ` +
        `one by then: ${
          isRelease ? "no symbolic link that leads there was found" : `${names} lead there`
        }, and PWD does not say by which name this process entered it. ${howToName}`,
    );
  }

  /**
   * What is to be started now.
   *
   * @throws {HandoverError} When it cannot be told which directory is meant.
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
  "Start the service with PWD set to the name that is meant (systemd: Environment=PWD=/srv/app/current), " +
  "name the script by an absolute path, or set the option `command: { cwd }`";

const renamed =
  "the program has set process.title, which takes the place of its arguments (proc(5), cmdline); set that after " +
  "start(), or set the option `command: { args }`";

/**
 * Whether these are the rest of the arguments in whose place Deno has written a title: process.title of 2.7.14 does
 * that, and fills up with NUL; a long one leaves none. Only a compiled program is started without arguments.
 */
function isOverwritten(args: string[]): boolean {
  const { standalone } = Deno.build as { standalone?: boolean };
  return args.every((arg) => arg === "") && (args.length > 0 || !standalone);
}

/** How the kernel marks the name of what was removed (fs/d_path.c). */
const deleted = / \(deleted\)$/;

/** The name that this program was started by, if it leads to the file of the running program. */
function programNamed(name: string | undefined): string | undefined {
  if (!name) return undefined;
  const path = findProgram(name, variable("PATH"));
  return path && isSame(pathStatus(path), pathStatus("/proc/self/exe")) ? name : undefined;
}

/** Where a program is, by the rules of a shell (POSIX, "Command Search and Execution"). */
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

/** The directory of this process, which was started with these words. */
function ownDirectory(words: string[], logger: Logger): Directory {
  const here = pathStatus("/proc/self/cwd");
  const actual = readLink("/proc/self/cwd");
  const unnamed = { isNamed: false, links: [], isNeeded: words.some(isRelative) };
  // proc(5): "(unreachable)" is put before a directory outside of the root of this process.
  if (!here || !actual?.startsWith("/")) return { ...unnamed, path: undefined };
  const entered = variable("PWD");
  if (entered?.startsWith("/") && isSame(pathStatus(entered), here)) {
    return { ...unnamed, path: entered, isNamed: true };
  }
  if (deleted.test(actual)) return { ...unnamed, path: actual.replace(deleted, "") };
  const above = ancestors(actual);
  const said = linksAmong(absoluteIn(words), above);
  if (said === "directory") return { ...unnamed, path: actual, isNamed: true };
  const links = said.length > 0 ? said : linksOnTheWay(above);
  if (links.length !== 1) return { ...unnamed, path: actual, links };
  const [{ path }] = links;
  logger.info?.(
    `restart() starts the next generation in ${
      quoted(path)
    }: PWD does not say by which name this process ` +
      `entered ${quoted(actual)}, and that is the one symbolic link that leads there`,
  );
  return { ...unnamed, path, isNamed: true };
}

/** Whether a word of a command names something in the directory of this process. */
function isRelative(word: string): boolean {
  // Deno reads ".env" where no name is given.
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

/** A directory on the way to that of this process. */
interface Ancestor {
  path: string;
  status: Identity | undefined;
  /** What leads from it to the directory of this process: "/sub". */
  rest: string;
}

/** The directory itself, and those above it but for the root: the links there are the system's own. */
function ancestors(directory: string): Ancestor[] {
  const above: Ancestor[] = [];
  for (let path = directory; path !== ""; path = path.slice(0, path.lastIndexOf("/"))) {
    if (path === "/") break;
    above.push({ path, status: pathStatus(path), rest: directory.slice(path.length) });
  }
  return above;
}

/**
 * The links among the beginnings of these paths that lead to one of these directories; "directory" where a path goes
 * through the first of them by its own name, as a service does that is to stay with one release.
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

/** The most names that are looked at in one of the directories above. */
const mostNames = 2000;

/** The links beside the way to a directory that lead to a part of it: of "/srv/app/releases/1", "/srv/app/current". */
function linksOnTheWay(above: Ancestor[]): Link[] {
  const found: Link[] = [];
  for (const [i, { path }] of above.entries()) {
    // What it has below it on the way.
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
  const led = status && above.find((ancestor) => isSame(ancestor.status, status));
  return led && { link, path: link + led.rest };
}

/**
 * Whether a directory is named as one of several releases: by a number, a version, a date or a hash, or in a
 * directory for them.
 */
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
