/**
 * The sockets of a node server that were upgraded to WebSockets, each of which gets a Close frame when the generation drains.
 *
 * @module
 */

import type { ClosableWebSocket, WebSockets } from "../http/websockets.ts";
import { bySymbol, type HttpSocket, type ListeningServer } from "./node_objects.ts";

/** Collects the upgraded sockets of a server, and adds the WebSockets among them to `webSockets`. */
export function upgradesOf(
  server: ListeningServer,
  webSockets: WebSockets,
): ReadonlySet<HttpSocket> {
  const upgraded = new Set<HttpSocket>();
  const onUpgrade = ({ headers }: { headers: { upgrade?: string } }, socket: HttpSocket) => {
    upgraded.add(socket);
    socket.once("close", () => upgraded.delete(socket));
    if (/^websocket$/i.test(headers.upgrade ?? "")) webSockets.add(new UpgradedSocket(socket));
  };
  // A listener changes what node does with requests for an upgrade: it is added beside one of the program.
  if (server.listenerCount("upgrade") > 0) server.prependListener("upgrade", onUpgrade);
  else {
    const onNewListener = (event: string) => {
      if (event !== "upgrade") return;
      server.removeListener("newListener", onNewListener);
      server.prependListener("upgrade", onUpgrade);
    };
    server.on("newListener", onNewListener);
  }
  return upgraded;
}

/** A WebSocket of npm:ws, which keeps its object at the socket; of another library, whose sockets get the bare frame. */
class UpgradedSocket implements ClosableWebSocket {
  readonly #socket: HttpSocket;

  constructor(socket: HttpSocket) {
    this.#socket = socket;
  }

  get #object(): Pick<WebSocket, "close" | "bufferedAmount"> | undefined {
    const object = bySymbol<WebSocket>(this.#socket, "websocket");
    return typeof object?.close === "function" ? object : undefined;
  }

  get bufferedAmount(): number {
    return this.#object?.bufferedAmount ?? this.#socket.writableLength;
  }

  close(code: number, reason: string): void {
    const object = this.#object;
    if (object) object.close(code, reason);
    // A library writes each frame as a whole in one turn of the event loop: this is between two frames.
    else if (this.#socket.writable) this.#socket.write(closeFrame(code, reason));
  }

  addEventListener(event: "close", listener: () => void): void {
    this.#socket.once(event, listener);
  }
}

/** A Close frame of a server (RFC 6455, 5.5.1); the reason has 123 bytes at most. */
function closeFrame(code: number, reason: string): Uint8Array {
  const text = new TextEncoder().encode(reason);
  return Uint8Array.of(0x88, 2 + text.length, code >> 8, code & 0xff, ...text);
}
