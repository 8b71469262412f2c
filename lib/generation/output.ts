/**
 * The output of a generation that `restart()` has started.
 *
 * 1. Its predecessor reads its stdout and stderr from pipes and forwards them to its own: an error of the restart quotes
 *    the last lines of stderr ({@linkcode forward}).
 * 2. The predecessor also passes on its own streams, as two inherited descriptors that `GRACEFUL_OUTPUT` names
 *    ({@linkcode OutputCopies}), and in the offer.
 * 3. `start()` opens the read ends of the pipes as well: the end of the predecessor then does not make a write fail
 *    with EPIPE ({@linkcode holdOutputPipes}).
 * 4. With the offer stdout is redirected to the stream of the predecessor; stderr when the predecessor has ended
 *    ({@linkcode redirectStream}).
 * 5. Then the read ends are closed. Processes that this generation has started meanwhile still write to the pipes: a
 *    copying process reads them from here on ({@linkcode releaseOutputPipes}).
 *
 * The streams of the first generation are so those of every later one.
 *
 * @module
 */

import { dup, Fd, isWritable, replace } from "../../ffi/fd.ts";
import { openReadEnd, openToWrite, statusOf } from "../../ffi/file.ts";
import { isBroken } from "../../ffi/poll.ts";
import { currentVariable, openDescriptors, variable } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import { DisposableStack } from "../disposable_stack.ts";
import type { Logger } from "../logger.ts";
import { defaultPath, outputVariable, ownToken } from "./environment.ts";

/** The least descriptor that no shell uses for a redirection of its own (POSIX, "Redirection"). */
const leastCopy = 10;

/** Duplicates of stdout and stderr of this process that a process started meanwhile inherits. */
export class OutputCopies implements Disposable {
  readonly #copies: Fd[] = [];
  /** The value of GRACEFUL_OUTPUT: "1:COPY:DEVICE:INODE" for each, separated by spaces. */
  readonly value: string;

  /** Duplicates both, as far as they are open. */
  constructor() {
    const copies: string[] = [];
    for (const raw of [1, 2]) {
      const status = statusOf(raw);
      if (!status) continue;
      const copy = new Fd(dup(raw, leastCopy));
      this.#copies.push(copy);
      replace(raw, copy.raw, { keptOnExec: true });
      copies.push([raw, copy.raw, status.dev, status.ino].join(":"));
    }
    this.value = copies.join(" ");
  }

  /** Closes the duplicates of this process. */
  [Symbol.dispose](): void {
    for (const copy of this.#copies) copy[Symbol.dispose]();
  }
}

/**
 * Takes the descriptors that GRACEFUL_OUTPUT names, so that processes of this one do not inherit them. A descriptor
 * that is open on another file is left alone: the variable was inherited through a process that had closed it.
 */
function takeOutputCopies(): Map<number, Fd> {
  const copies = new Map<number, Fd>();
  for (const named of variable(outputVariable)?.split(" ") ?? []) {
    const [raw, copy, dev, ino] = named.split(":").map(Number);
    const status = Number.isInteger(copy) ? statusOf(copy) : undefined;
    if (status === undefined || Number(status.dev) !== dev || Number(status.ino) !== ino) continue;
    using inherited = new Fd(copy);
    copies.set(raw, inherited.dup());
  }
  return copies;
}

/** A pipe from stdout or stderr of this process to its predecessor. */
interface OutputPipe {
  /** Its inode. */
  ino: bigint;
  /** The read end that this process has opened. */
  readEnd: number;
  /** The other descriptors of this process for the write end; set by `redirectStream`. */
  duplicates?: number[];
  /** The predecessor's own stream, if it was inherited. */
  copy?: Fd;
}

/** The pipes of this process by 1 and 2, from `holdOutputPipes` to `releaseOutputPipes`. */
let pipes: Map<number, OutputPipe> | undefined;

/**
 * Opens the read ends of the pipes to the predecessor, if `restart()` has started this process: the end of the
 * predecessor is no error for a write then. Up to Deno 2.6 `console.log()` throws that error, and the program ends.
 */
export function holdOutputPipes(): void {
  if (pipes || ownToken() === undefined) return;
  pipes = new Map();
  const copies = takeOutputCopies();
  for (const raw of [1, 2]) {
    const readEnd = openReadEnd(raw);
    const copy = copies.get(raw);
    const ino = statusOf(raw)?.ino;
    if (readEnd !== undefined && ino !== undefined) pipes.set(raw, { ino, readEnd, copy });
    else copy?.[Symbol.dispose]();
  }
}

/**
 * Redirects stdout (1) or stderr (2) of this process to the file of `target`: the stream of the program and of the
 * processes that it starts, and the duplicates of Deno: one for `Deno.stdout` or `Deno.stderr` (ext/io,
 * `STDOUT_HANDLE`), and two for each worker.
 */
export function redirectStream(raw: number, target: Fd): void {
  replace(target.raw, raw, { keptOnExec: true });
  const pipe = pipes?.get(raw);
  if (!pipe) return;
  findDuplicates(pipes!);
  for (const duplicate of pipe.duplicates!) {
    if (statusOf(duplicate)?.ino === pipe.ino) replace(target.raw, duplicate);
  }
}

/**
 * Finds the duplicates of both streams, once. A worker that is made later may still write to a pipe: the copying process
 * of `releaseOutputPipes` reads that.
 */
function findDuplicates(pipes: Map<number, OutputPipe>): void {
  const all = [...pipes];
  if (all.every(([, { duplicates }]) => duplicates)) return;
  const writers = openDescriptors().filter((each) => each > 2 && isWritable(each));
  const isShared = all.length > 1 && all[0][1].ino === all[1][1].ino;
  for (const [raw, pipe] of all) {
    const found = writers.filter((each) => statusOf(each)?.ino === pipe.ino);
    // After a shell's "2>&1" they are one pipe: Deno duplicates stdout first.
    pipe.duplicates = isShared ? found.filter((_, i) => i % 2 === raw - 1) : found;
  }
}

/**
 * Closes the read ends of `holdOutputPipes` after the predecessor has ended. A stream that still leads to a pipe without
 * another reader is redirected to the predecessor's own stream, or to /dev/null. Other processes that write to a pipe
 * have inherited it from this one, or are between this one and its predecessor: a process copies their output to the
 * stream until they have ended.
 */
export async function releaseOutputPipes(logger: Logger): Promise<void> {
  await Promise.all(startCopyingAll(logger));
}

function startCopyingAll(logger: Logger): Promise<void>[] {
  using readEnds = new DisposableStack();
  const abandoned: { readEnd: Fd; raw: number }[] = [];
  for (const [raw, pipe] of pipes ?? []) {
    using own = pipe.copy;
    const readEnd = readEnds.use(new Fd(pipe.readEnd));
    if (statusOf(raw)?.ino !== pipe.ino) {
      abandoned.push({ readEnd, raw });
      continue;
    }
    readEnd.close();
    if (!isBroken(raw)) continue;
    const again = openReadEnd(raw);
    using target = own?.dup() ?? new Fd(openToWrite("/dev/null"));
    redirectStream(raw, target);
    if (again !== undefined) abandoned.push({ readEnd: readEnds.use(new Fd(again)), raw });
  }
  pipes?.clear();
  // All are looked at before the first process starts: until its exec has closed its descriptors (O_CLOEXEC), which may
  // be after the return of posix_spawn(3), it is a reader and a writer of the pipes as well.
  return abandoned.filter(({ readEnd }) => isUsed(readEnd.raw))
    .map(({ readEnd, raw }) => startCopying(readEnd, raw, logger));
}

/** Whether a pipe has a writer, or unread bytes (poll(2), POLLHUP; ioctl_tty(2), FIONREAD). */
function isUsed(readEnd: number): boolean {
  return !isBroken(readEnd) || unreadBytes(readEnd) > 0;
}

/**
 * Copies from descriptor "$0" to descriptor "$1", which is stdout or stderr of this shell, until the last writer has
 * closed its end. The loop is an orphan: this process neither waits for it nor ends it. It ignores the signals to all
 * processes of a terminal or of a service (systemd.kill(5)): it ends with the writers, which get them. A disk that is
 * full for a while (ENOSPC) ends cat, and must not end the writers. Without cat or sleep the loop would have no end and
 * no pause.
 */
const copyScript = `
[ "/proc/self/fd/$0" -ef "/proc/self/fd/$1" ] && exit
command -v cat >/dev/null && command -v sleep >/dev/null || exit
trap "" HUP INT QUIT TERM
until cat <"/proc/self/fd/$0" >&$1 2>/dev/null; do sleep 1 || exit; done &`;

/** Starts a process that copies a pipe to stdout (1) or stderr (2) of this process; logs why it cannot. */
async function startCopying(readEnd: Fd, raw: number, logger: Logger): Promise<void> {
  const name = raw === 1 ? "stdout" : "stderr";
  const lost =
    `Processes that this one has started write to a pipe in place of its ${name}, which has no reader ` +
    "now that the previous generation has ended: they end at their next write";
  try {
    const { state } = Deno.permissions.querySync({ name: "run", command: "/bin/sh" });
    if (state !== "granted") {
      logger.warn?.(
        `${lost}. Run the service with --allow-run=/bin/sh, or start them after ready()`,
      );
      return;
    }
    using inherited = new Fd(dup(readEnd.raw, leastCopy));
    replace(readEnd.raw, inherited.raw, { keptOnExec: true });
    // The PATH of a service may be without the directories of the system.
    const path = [currentVariable("PATH"), defaultPath].filter(Boolean).join(":");
    const shell = new Deno.Command("/bin/sh", {
      args: ["-c", copyScript, String(inherited.raw), String(raw)],
      cwd: "/",
      clearEnv: true,
      env: { PATH: path },
      stdin: "null",
      stdout: raw === 1 ? "inherit" : "null",
      stderr: raw === 2 ? "inherit" : "null",
    }).spawn();
    if (!(await shell.status).success) {
      logger.error?.(
        `${lost}. No cat and sleep are in ${quoted(path)}: add their directory to PATH`,
      );
    }
  } catch (error) {
    logger.error?.(`${lost}, because no process can be started that copies it`, error);
  }
}

/**
 * Forwards the output of a child to a stream of this process, to its end.
 *
 * @param note Called with each piece of text.
 * @param first Bytes that were read before.
 */
export async function forward(
  from: ReadableStreamDefaultReader<Uint8Array>,
  to: typeof Deno.stdout,
  note: (text: string) => void,
  first?: Uint8Array,
): Promise<void> {
  const decoder = new TextDecoder();
  let isWritable = true;
  for (let chunk = first; chunk || (chunk = (await from.read()).value); chunk = undefined) {
    note(decoder.decode(chunk, { stream: true }));
    try {
      for (let rest = chunk; isWritable && rest.length > 0;) {
        rest = rest.subarray(await to.write(rest));
      }
    } catch {
      // The reader of this process's output has closed it: go on reading, or the child would block.
      isWritable = false;
    }
  }
}
