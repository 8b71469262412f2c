/**
 * The files that a generation has open for its program, and hands over.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { fileStatus, pathStatus } from "../../ffi/file.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { fdFile } from "../native/file.ts";
import { fileDescriptor } from "../native/file_descriptor.ts";
import type { Inheritance } from "./inheritance.ts";
import type { OfferedResource } from "./resources.ts";
import { whenClosed } from "./when_closed.ts";

/** Open files: for each path the file that was opened last. */
export class OpenFiles implements Disposable {
  /** Duplicates of their descriptors, by path. */
  readonly #descriptors = new Map<string, Fd>();

  /** Opens the file at `path`, or goes on with the inherited one. */
  open(path: string, options: Deno.OpenOptions, inheritance: Inheritance): Deno.FsFile {
    using undo = new DisposableStack();
    const file = undo.use(inheritedFile(path, inheritance) ?? Deno.openSync(path, options));
    const fd = undo.use(fileDescriptor(file));
    const previous = this.#descriptors.get(path);
    if (previous) this.#forget(path, previous);
    this.#descriptors.set(path, fd);
    whenClosed(file, () => this.#forget(path, fd));
    undo.move();
    return file;
  }

  #forget(path: string, fd: Fd): void {
    if (this.#descriptors.get(path) === fd) this.#descriptors.delete(path);
    fd[Symbol.dispose]();
  }

  /** The files to hand over. */
  offered(): OfferedResource[] {
    return Array.from(this.#descriptors, ([key, fd]) => ({ item: { kind: "file", key }, fd }));
  }

  /** The path of each file. */
  paths(): string[] {
    return [...this.#descriptors.keys()];
  }

  /** Closes the duplicates; the files stay the program's. */
  [Symbol.dispose](): void {
    for (const fd of this.#descriptors.values()) fd[Symbol.dispose]();
  }
}

/** The inherited file, unless another file is at its path by now: a log was rotated. */
function inheritedFile(path: string, inheritance: Inheritance): Deno.FsFile | undefined {
  using fd = inheritance.take("file", path)?.fd;
  if (!fd) return undefined;
  const status = pathStatus(path);
  const { dev, ino } = fileStatus(fd.raw);
  return status && (status.dev !== dev || status.ino !== ino) ? undefined : fdFile(fd);
}
