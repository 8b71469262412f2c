/**
 * Files to send and receive: the file that a descriptor is open on identifies the descriptor.
 *
 * @module
 */

import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { fileDescriptor } from "../../lib/native/file_descriptor.ts";
import type { Fd } from "../../mod.ts";
import { Directory } from "../support/directory.ts";

/** The names of the files in a {@linkcode Files}. */
export const fileNames = ["a", "b", "c", "d", "e", "f", "g"];

/** The name of the file that a descriptor is open on. */
export function nameOf(fd: Fd): string {
  const path = describeDescriptor(fd.raw) ?? "";
  return path.slice(path.lastIndexOf("/") + 1);
}

/** A directory with small files of different content, and a path for a socket. */
export class Files extends Directory {
  readonly socket: string = this.join("app.sock");
  readonly #kept = new Map<string, Fd>();

  constructor() {
    super();
    for (const name of fileNames) Deno.writeTextFileSync(this.join(name), this.content(name));
  }

  content(name: string): string {
    return `content of ${name}`;
  }

  open(name: string): Deno.FsFile {
    return Deno.openSync(this.join(name));
  }

  /** A new descriptor of a file, which the caller closes. */
  descriptor(name: string): Fd {
    using file = this.open(name);
    return fileDescriptor(file);
  }

  /** The number of a descriptor of a file that stays open to the end of the block. */
  kept(name: string): number {
    const known = this.#kept.get(name);
    if (known) return known.raw;
    const fd = this.descriptor(name);
    this.#kept.set(name, fd);
    return fd.raw;
  }

  /** The number of descriptors of these files in this process. */
  held(): number {
    return openDescriptors().filter((raw) => describeDescriptor(raw)?.startsWith(`${this.path}/`))
      .length;
  }

  override [Symbol.dispose](): void {
    for (const fd of this.#kept.values()) fd.close();
    super[Symbol.dispose]();
  }
}
