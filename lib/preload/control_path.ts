/**
 * Where the control socket of a preloaded program is, and what its service is called.
 *
 * @module
 */

import { pathStatus, readLink } from "../../ffi/file.ts";
import { effectiveUser } from "../../ffi/peer.ts";
import { argumentsOfDeno, identify, variable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { checkPath } from "../generation/options.ts";
import { maxServiceName } from "../generation/protocol.ts";

/**
 * A control path of this process's own: a second start of the program is another service, and takes nothing over. Its
 * directory is the user's alone (XDG Base Directory Specification; systemd: /run/user/UID), or one in that of temporary
 * files.
 *
 * @throws {Deno.errors.PermissionDenied} When another user has made the directory.
 */
export function ownControlPath(): string {
  const { pid, started } = identify(Deno.pid);
  const path = `${directory()}/graceful-${pid}-${started}.sock`;
  try {
    checkPath(path);
  } catch (error) {
    (error as Error).message += `; ${advice}`;
    throw error;
  }
  return path;
}

function directory(): string {
  const user = effectiveUser();
  const given = [variable("XDG_RUNTIME_DIR"), `/run/user/${user}`];
  const own = given.find((path) => path?.startsWith("/") && isPrivate(path, user));
  return own ?? temporary(user);
}

/** Whether a directory is the user's, and no other user can write there. */
function isPrivate(path: string, user: number): boolean {
  const status = pathStatus(path);
  return status?.kind === "directory" && status.uid === user && (status.mode & 0o022) === 0;
}

function temporary(user: number): string {
  const path = `${variable("TMPDIR") || "/tmp"}/graceful-${user}`;
  // Looked at first: the first error of a process takes Deno 10 ms to make.
  if (pathStatus(path) === undefined) makeDirectory(path);
  // Not a link: another user could have made one to a directory of this user.
  if (isPrivate(path, user) && readLink(path) === undefined) return path;
  throw new Deno.errors.PermissionDenied(
    `Cannot make the control socket in ${
      quoted(path)
    }: user ${user} is not its only owner; remove it, or ${advice} of that user`,
  );
}

const advice = "set GRACEFUL_CONTROL to a path in a writable directory";

function makeDirectory(path: string): void {
  try {
    Deno.mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    // Another program was faster.
    if (error instanceof Deno.errors.AlreadyExists) return;
    // As in a container whose file system is read-only.
    (error as Error).message = `Cannot make the control socket: ${
      (error as Error).message
    }; ${advice}`;
    throw error;
  }
}

/**
 * The name of the service of a program, from its command: another program at the same control path is refused. What names
 * a release in the path is left out, so that the next release is the same service.
 */
export function serviceName(args: string[] = argumentsOfDeno(), directory?: string): string {
  const name = scriptOf(args, directory).split("/").map((part) => isRelease(part) ? "*" : part)
    .join("/");
  return name.slice(-maxServiceName) || "deno";
}

/** The program in the arguments of Deno: the last of them, behind which are its own. */
function scriptOf(args: string[], directory?: string): string {
  const script = args.at(-1) ?? "";
  if (script.startsWith("/") || /^[a-z][a-z\d+.-]*:/i.test(script)) return script;
  return `${directory ?? readLink("/proc/self/cwd")}/${script.replace(/^(\.\/)+/, "")}`;
}

/** Whether a part of a path names one of several releases: a number, version, date or hash. */
function isRelease(part: string): boolean {
  return /^(v|r|release|build|deploy)?[-_.]?\d[\d._-]*$/i.test(part) ||
    /^[0-9a-f]{7,64}$/.test(part);
}
