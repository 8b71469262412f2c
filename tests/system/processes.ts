/**
 * Processes as seen from outside: found by an argument of their command line, for a service starts its
 * next generations itself, and they are not children of the test.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";

/** The processes that have not ended and one of whose arguments fulfils `matches`. */
export function processesWith(matches: (argument: string) => boolean): number[] {
  const found = Array.from(Deno.readDirSync("/proc"), ({ name }) => Number(name));
  return found.filter((pid) => pid > 0 && argumentsOf(pid).some(matches));
}

/** The arguments of a process; none when it has ended, waited for or not (proc(5), "cmdline"). */
export function argumentsOf(pid: number): string[] {
  return readProc(`${pid}/cmdline`)?.split("\0") ?? [];
}

/** A file of /proc; undefined when the process has gone, which may happen between two calls. */
export function readProc(name: string): string | undefined {
  try {
    return Deno.readTextFileSync(`/proc/${name}`);
  } catch (error) {
    // Deno has no class for ESRCH, and sets no `code` on every version.
    const { message } = error as Error;
    if (error instanceof Deno.errors.NotFound || message.includes("os error 3)")) return undefined;
    throw error;
  }
}

/** Sends a signal; does nothing when the process has gone. */
export function sendSignal(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Kills the processes that `find` finds, until it finds none. */
export async function killAll(find: () => number[]): Promise<void> {
  for (let left; (left = find()).length > 0; await pause(20)) {
    for (const pid of left) sendSignal(pid, "SIGKILL");
  }
}

/** Calls `each` with every line of a stream, to its end. */
export async function readLines(
  stream: ReadableStream<Uint8Array>,
  each: (line: string) => void,
): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    lines.forEach(each);
  }
  if (rest) each(rest);
}
