/**
 * Has a server of node listen on a socket that was received from another process.
 *
 * @module
 */

import { closeAll, type Fd, rawOf, setNonblocking } from "../../ffi/fd.ts";
import { acceptQueueLength } from "../../ffi/socket_options.ts";
import { lookAfter } from "../event_loop/nonblocking_guard.ts";
import { listenerKind } from "../native/kind.ts";
import { remember } from "../native/registry.ts";
import { checkNodeServer, type ListeningServer } from "./node_objects.ts";

/** The length of the accept queue without a `backlog`, as that of node; a longer one of the sender stays. */
const nodeBacklog = 511;

/**
 * Has a server listen on `fd`, which is the server's from then on. It accepts at once, and emits "listening" in the next
 * tick, as with `listen(port)`.
 *
 * @param path The path that `address()` gives, of a unix socket.
 * @throws {TypeError} When it listens already.
 * @throws {UnsupportedRuntimeError} Before Deno 2.8.
 */
export function listenOn(server: ListeningServer, fd: Fd, path?: string): void {
  checkNodeServer(server);
  if (server._handle) throw new TypeError("Cannot listen: this server of node listens already");
  listenerKind(rawOf(fd));
  const backlog = Math.max(nodeBacklog, acceptQueueLength(fd.raw) ?? 0);
  lookAfter(fd, fd.raw);
  setNonblocking(fd.raw, true);
  if (path !== undefined) server._pipeName = path;
  const raw = fd.take();
  try {
    server._listen2(null, null, null, backlog, raw, 0);
  } finally {
    if (!server._handle) closeAll([raw]);
  }
  if (!server._handle) {
    throw new Deno.errors.NotSupported(
      `Cannot listen: node's server of Deno ${Deno.version.deno} does not take descriptor ${raw}`,
    );
  }
  if (path !== undefined) replaceFchmod(server, path);
  remember(server, raw);
}

/**
 * Gives a handle that was made of a descriptor, and does not know its path, the `fchmod` that `listen()` calls for
 * `readableAll` (1) and `writableAll` (2).
 */
function replaceFchmod({ _handle: handle }: ListeningServer, path: string): void {
  handle!.fchmod = (rights) => {
    const added = (rights & 1 ? 0o444 : 0) | (rights & 2 ? 0o222 : 0);
    Deno.chmodSync(path, Deno.statSync(path).mode! & 0o777 | added);
    return 0;
  };
}
