/**
 * Which users may connect to a control socket, and the files beside it.
 *
 * @module
 */

import { type FileStatus, pathStatus, readDirectory, readLink, readText } from "../../ffi/file.ts";
import { isRunning, lockHolder } from "../../ffi/proc.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { isBound } from "../../ffi/socket.ts";
import { type Finding, note, ok, problem } from "./finding.ts";
import { describeOwner, describeProcess } from "./processes.ts";

/** The findings about the mode of the socket, and the directories of its absolute path. */
export function accessFindings(
  path: string,
  file: Pick<FileStatus, "uid" | "gid" | "mode">,
): Finding[] {
  const findings: Finding[] = [];
  const target = readLink(path);
  if (target !== undefined) {
    findings.push(
      note("socket", `${formatPath(path)} is a symbolic link to ${formatPath(target)}`),
    );
  }
  const owner = file.uid === 0 ? "root" : `${describeOwner("user", file.uid)}, root`;
  const mode = octal(file.mode);
  const directories = directoriesOf(path);
  const closed = directories.find(({ mode }) => (mode & 0o001) === 0);
  // connect(2) takes the permission to write (unix(7)).
  const others = file.mode & 0o002
    ? closed ? `and users that ${formatPath(closed.path)} admits` : "and every other user"
    : file.mode & 0o020
    ? `and ${describeOwner("group", file.gid)}`
    : "";
  const may = `${formatPath(path)} has mode ${mode}: ${owner} ${others}`.trimEnd();
  const text = `${may} may connect`;
  findings.push(
    others === "" ? ok("socket", text) : note("socket", `${text}, as far as \`allow\` admits them`),
  );
  const open = directories.find(({ mode }) => (mode & 0o1002) === 0o002);
  if (open) {
    const text = `Every user may replace files in ${formatPath(open.path)}, which has mode ` +
      `${octal(open.mode)}, and take the path of the service`;
    const advice = `Run \`chmod o-w ${formatPath(open.path)}\``;
    findings.push(problem("socket", text, advice));
  } else if (directories[0].mode & 0o002) {
    const text =
      `Every user may create files in ${formatPath(directories[0].path)}: a process of ` +
      "another user may take the path while the service is down, and cleaners remove old files";
    const advice = "Write RuntimeDirectory=app into [Service], and start at /run/app/app.sock";
    findings.push(note("socket", text, advice));
  }
  return findings;
}

/** The directories of a path, the nearest first. */
function directoriesOf(path: string): { path: string; mode: number }[] {
  const found: { path: string; mode: number }[] = [];
  for (let end = path.lastIndexOf("/"); end >= 0; end = path.lastIndexOf("/", end - 1)) {
    const directory = path.slice(0, end) || "/";
    const status = pathStatus(directory);
    if (status) found.push({ path: directory, mode: status.mode });
    if (end === 0) break;
  }
  return found;
}

/** The findings about files beside the socket that processes which have ended have left. */
export function besideFindings(path: string): Finding[] {
  const end = path.lastIndexOf("/");
  const [directory, base] = [path.slice(0, end) || "/", path.slice(end + 1)];
  let names: string[];
  try {
    names = readDirectory(directory, `Cannot list ${formatPath(directory)}`).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    return [note("files", (error as Error).message)];
  }
  return names.filter((name) => name.startsWith(`${base}.`)).map((name) => {
    const beside = `${path}.${name.slice(base.length + 1)}`;
    return leftFile(beside, name.slice(base.length + 1));
  }).filter((each) => each !== undefined);
}

/** The finding about a file beside the socket, if it is one of the library's. */
function leftFile(path: string, suffix: string): Finding | undefined {
  const status = pathStatus(path);
  if (!status) return undefined;
  const at = formatPath(path);
  const remove = `Run \`rm ${at}\``;
  if (suffix === "lock") {
    if (status.kind !== "regular") {
      const text = `The lock ${at} is a ${status.kind}: no generation can bind or remove the path`;
      return problem("files", text, "Move it away");
    }
    const holder = lockHolder(status);
    if (holder === undefined) {
      return note("files", `${at} is left of a process that was killed: the next one locks it`);
    }
    const text = `${describeProcess(holder)} has locked ${at}: others wait for \`peerTimeout\``;
    return note("files", text.replace(/^p/, "P"));
  }
  if (suffix === "pid") {
    const pid = Number(readText(path)?.trim() || NaN);
    if (isRunning(pid)) return undefined;
    return note("files", `${at} names a process that has ended`, remove);
  }
  // The name beside the path that a socket is bound to before it is moved, and the socket of a manager.
  if (status.kind !== "socket" || suffix !== "notify" && !/^[0-9a-f]{8}$/.test(suffix)) {
    return undefined;
  }
  return isBound(path)
    ? undefined
    : note("files", `${at} is the socket of a process that has ended`, remove);
}

function octal(mode: number): string {
  return `0${mode.toString(8).padStart(3, "0")}`;
}
