/**
 * WebSockets of a generation, whose clients are told when it leaves.
 *
 * @module
 */

/** The sockets that are open. */
export class WebSockets {
  readonly #open = new Set<WebSocket>();
  /** Set when they are to be closed. */
  #leaving: { until: number; code: number; reason: string } | undefined;

  /** As `Deno.upgradeWebSocket`. */
  upgrade(request: Request, options?: Deno.UpgradeWebSocketOptions): Deno.WebSocketUpgrade {
    const upgrade = Deno.upgradeWebSocket(request, options);
    const { socket } = upgrade;
    this.#open.add(socket);
    socket.addEventListener("close", () => this.#open.delete(socket));
    if (this.#leaving) socket.addEventListener("open", () => this.#closeSoon(socket));
    return upgrade;
  }

  /**
   * Closes all, and those that are still to come, with a code and a reason; spread over so many
   * milliseconds, for their clients will connect elsewhere.
   */
  leave(spread: number, code: number, reason: string): void {
    this.#leaving = { until: performance.now() + spread, code, reason };
    for (const socket of this.#open) this.#closeSoon(socket);
  }

  #closeSoon(socket: WebSocket): void {
    const { until, code, reason } = this.#leaving!;
    const left = Math.max(0, until - performance.now());
    const timer = setTimeout(() => socket.close(code, reason), Math.random() * left);
    socket.addEventListener("close", () => clearTimeout(timer));
  }
}
