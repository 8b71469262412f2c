/**
 * The descriptor store of the service manager, as far as one generation keeps it (FDSTORE=1, sd_pid_notify_with_fds(3)): its
 * sockets come back from there after a crash.
 *
 * @module
 */

import { socketCookie } from "../../ffi/socket_options.ts";
import type { Notifier } from "../systemd/notifier.ts";
import { type StoredSocket, storeName } from "../systemd/store_name.ts";
import type { OfferedResource, Resources } from "./resources.ts";

/** Milliseconds for which the manager may take to close a socket that it was told to remove. */
const removalTime = 5000;

/** The stores of the generations of this process. */
const here = new Set<DescriptorStore>();

/** The sockets of one generation in the store. */
export class DescriptorStore {
  readonly #resources: Resources;
  readonly #notifier: Notifier;
  /** The sockets in the store: their cookies, and their names, of which several may have the same. */
  readonly #stored: Map<bigint, string>;
  /** When a socket was taken out of the store. */
  #removedAt = -Infinity;

  /** @param stored The sockets that are in the store already. */
  constructor(resources: Resources, notifier: Notifier, stored: Map<bigint, string>) {
    this.#resources = resources;
    this.#notifier = notifier;
    this.#stored = stored;
    here.add(this);
  }

  /** Leaves the sockets to the next start. */
  end(): void {
    here.delete(this);
  }

  /**
   * Puts the sockets into the store, and takes out those that the generation has not, or has closed. A socket unit keeps its
   * own. It ends early where the manager does not read, and is to be called again when that does.
   */
  update(): void {
    const offered = this.#resources.offered().filter(({ item }) =>
      (item.kind === "listener" || item.kind === "datagram") && !item.activated
    );
    const named = ({ item, fd }: OfferedResource) => ({
      name: storeName(item as StoredSocket),
      fd,
    });
    const wanted = new Map(offered.map((each) => [socketCookie(each.fd.raw), named(each)]));
    this.#leaveToOthers(wanted);
    const gone = [...this.#stored].filter(([cookie, name]) => wanted.get(cookie)?.name !== name);
    for (const name of new Set(gone.map(([, name]) => name))) {
      if (!this.#notifier.send(`FDSTOREREMOVE=1\nFDNAME=${name}`)) return;
      this.#removedAt = performance.now();
      // All that have that name are taken out.
      for (const [cookie, each] of this.#stored) if (each === name) this.#stored.delete(cookie);
    }
    for (const [cookie, { name, fd }] of wanted) {
      if (this.#stored.has(cookie)) continue;
      // Without FDPOLL=0 systemd closes a descriptor that reports an error.
      if (!this.#notifier.send(`FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`, [fd])) return;
      this.#stored.set(cookie, name);
    }
  }

  /** What another service of this process may have asked for is that one's to take out. */
  #leaveToOthers(wanted: ReadonlyMap<bigint, unknown>): void {
    const others = [...here].filter((each) => each !== this);
    for (const cookie of this.#stored.keys()) {
      const isShared = !wanted.has(cookie) && others.some((other) => other.#stored.has(cookie));
      if (isShared) this.#stored.delete(cookie);
    }
  }

  /** Whether the manager may be about to close a socket that was taken out of the store. */
  get isRemoving(): boolean {
    return performance.now() < this.#removedAt + removalTime;
  }
}
