/**
 * The sockets of a node server that do not speak HTTP any more; each WebSocket among them gets a Close frame when the
 * generation drains.
 *
 * @module
 */

import type { ClosableWebSocket, WebSockets } from "../http/websockets.ts";
import { Clients } from "./clients.ts";
import { bySymbol, type HttpSocket, type ListeningServer } from "./node_objects.ts";

/** The sockets of one server, and the generation's WebSockets: those of the generation in which it listens now. */
interface Upgrades {
  readonly upgraded: Clients;
  webSockets: WebSockets;
}

/** A server that is closed may listen again. */
const known = new WeakMap<ListeningServer, Upgrades>();

/**
 * Collects the clients of a server that speak another protocol, after an upgrade or CONNECT, and adds the WebSockets among
 * them to `webSockets`.
 */
export function upgradesOf(
  server: ListeningServer,
  webSockets: WebSockets,
): Clients {
  const before = known.get(server);
  const upgrades = before ?? { upgraded: new Clients(), webSockets };
  upgrades.webSockets = webSockets;
  if (!before) {
    known.set(server, upgrades);
    for (const event of ["upgrade", "connect"]) collect(server, event, upgrades);
  }
  return upgrades.upgraded;
}

/** Listens to an event while the program does: without a listener, node takes the request for another one. */
function collect(server: ListeningServer, event: string, upgrades: Upgrades): void {
  const collected = ({ headers }: { headers: { upgrade?: string } }, socket: HttpSocket) => {
    upgrades.upgraded.add(socket);
    const isWebSocket = event === "upgrade" && /^websocket$/i.test(headers.upgrade ?? "");
    if (isWebSocket) upgrades.webSockets.add(new UpgradedSocket(socket));
  };
  let isListening = false;
  const update = (hasOthers: boolean) => {
    if (isListening === hasOthers) return;
    isListening = hasOthers;
    if (hasOthers) server.prependListener(event, collected);
    else server.removeListener(event, collected);
  };
  update(server.listenerCount(event) > 0);
  server.on("newListener", (added: string) => {
    if (added === event) update(true);
  });
  server.on("removeListener", (removed: string) => {
    if (removed === event) update(server.listenerCount(event) > 1);
  });
}

/** A WebSocket of npm:ws, which keeps its object at the socket; of another library, whose sockets get the bare frame. */
class UpgradedSocket implements ClosableWebSocket {
  readonly #socket: HttpSocket;
  /** Whether a Close frame was sent. */
  #isClosed = false;

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
    this.#isClosed = object !== undefined || this.#socket.writable && !isRelayed(this.#socket);
    if (object) object.close(code, reason);
    // A library writes each frame as a whole in one turn of the event loop: this is between two frames.
    else if (this.#isClosed) this.#socket.write(closeFrame(code, reason));
  }

  addEventListener(event: "close", listener: () => void): void {
    this.#socket.once(event, listener);
  }

  /** Else the connection ends when the library of the program gives up: npm:ws does after 30 s. */
  drop(): void {
    if (this.#isClosed) this.#socket.destroySoon?.();
  }
}

/**
 * Whether the program passes the bytes of a socket on to another one, as a proxy does: what it writes are parts of frames, and
 * a frame between them would break the stream.
 */
function isRelayed({ _readableState }: HttpSocket): boolean {
  return _readableState?.pipes?.some((target) => "destroySoon" in target) ?? false;
}

/** A Close frame of a server (RFC 6455, 5.5.1); the reason has 123 bytes at most. */
function closeFrame(code: number, reason: string): Uint8Array {
  const text = new TextEncoder().encode(reason);
  return Uint8Array.of(0x88, 2 + text.length, code >> 8, code & 0xff, ...text);
}
