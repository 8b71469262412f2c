/**
 * The paths of unix sockets that a preloaded program removes: before it listens, because a killed process leaves its path
 * behind; and when it ends. Neither may remove the path of another generation.
 *
 * @module
 */

/** What is known of the paths. */
export interface SocketPathsHost {
  /** Whether a path leads to a socket that the program has inherited, and not asked for yet. */
  isInherited(path: string): boolean;
  /** Whether the next generation has the sockets of this one. */
  isReplaced(): boolean;
}

/** Keeps paths that the program is about to listen at again, or that are the next generation's. */
export class SocketPaths {
  readonly #host: SocketPathsHost;
  readonly #own = new Set<string>();

  constructor(host: SocketPathsHost) {
    this.#host = host;
  }

  /** Notes that the program listens at a path. */
  add(path: string): void {
    this.#own.add(absolute(path));
  }

  /** Replaces `Deno.remove` and `Deno.removeSync`, which node:fs calls too. */
  install(): void {
    const { remove, removeSync } = Deno;
    Deno.remove = async (path, options) => {
      if (!this.#isKept(path)) await remove(path, options);
    };
    Deno.removeSync = (path, options) => {
      if (!this.#isKept(path)) removeSync(path, options);
    };
  }

  #isKept(given: string | URL): boolean {
    const path = given instanceof URL ? decodeURIComponent(given.pathname) : String(given);
    return this.#host.isInherited(path) || this.#host.isReplaced() && this.#own.has(absolute(path));
  }
}

function absolute(path: string): string {
  return path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
}
