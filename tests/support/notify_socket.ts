/**
 * A service manager's socket, in the process of the test.
 *
 * @module
 */

import { closeAll, closeRaw } from "../../ffi/fd.ts";
import { IncomingMessage, wouldBlock } from "../../ffi/message.ts";
import { bindUnixDatagram } from "../../ffi/socket.ts";
import { Sockets } from "./raw.ts";

/** A message to the manager. */
export interface Notification {
  text: string;
  /** The cookies of the sockets that came along; 0 for a descriptor of another kind. */
  cookies: bigint[];
}

/** Sets NOTIFY_SOCKET to a socket of its own, until the end of its block. */
export class NotifySocket implements Disposable {
  #raw: number | undefined;

  /** @param path "\0" in the beginning is an abstract name. */
  constructor(path: string) {
    this.#raw = bindUnixDatagram(path, "Cannot be a service manager");
    Deno.env.set("NOTIFY_SOCKET", path.replace(/^\0/, "@"));
  }

  /** The messages that have arrived since the last call. */
  received(): Notification[] {
    const incoming = new IncomingMessage(8192);
    const messages: Notification[] = [];
    for (let n; (n = incoming.receive(this.#raw!)) !== wouldBlock;) {
      const descriptors = [...incoming.descriptors.subarray(0, incoming.count)];
      const text = new TextDecoder().decode(incoming.data.subarray(0, n));
      messages.push({ text, cookies: descriptors.map(Sockets.cookie) });
      closeAll(descriptors);
    }
    return messages;
  }

  /** Ends the manager; the variable stays. */
  close(): void {
    if (this.#raw !== undefined) closeRaw(this.#raw);
    this.#raw = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
    Deno.env.delete("NOTIFY_SOCKET");
  }
}
