/**
 * Closes a server of node in place of the program, which may close it later.
 *
 * @module
 */

import type { ListeningServer } from "./node_objects.ts";

/**
 * Closes a server by `close`, its own or another one of node. The next `close()` of the program calls back without an error,
 * as it does in a process that no other one follows: a listener of SIGTERM may exit with a failure otherwise.
 */
export function closeForProgram(
  server: ListeningServer,
  close: ListeningServer["close"] = server.close,
  done?: () => void,
): void {
  const isListening = Boolean(server._handle);
  close.call(server, done);
  if (!isListening) return;
  const { close: ofProgram } = server;
  const value: ListeningServer["close"] = (done) => {
    Object.defineProperty(server, "close", { value: ofProgram, configurable: true });
    if (server._handle) return ofProgram.call(server, done);
    // Node emits it again.
    if (typeof done === "function") server.once("close", () => done());
    return ofProgram.call(server);
  };
  Object.defineProperty(server, "close", { value, configurable: true });
}
