/**
 * The protocol that each client of an HTTP server speaks.
 *
 * @module
 */

/**
 * The protocol of a connection. Deno does not expose the version of a request: a request that has a Host
 * header, and no header that HTTP/2 forbids, may be of either version.
 */
export type Protocol = "HTTP/1" | "HTTP/1 or 2" | "HTTP/2" | "WebSocket";

/** The number of clients at which the disconnected clients are first removed. */
const firstPrune = 1000;

/** Options of {@linkcode ClientProtocols}. */
interface ClientProtocolsOptions {
  /** The address that Deno puts into the URL of a request that names no host. */
  fallbackAddress: Deno.Addr;
  /** Lists the connected clients; absent on a system without epoll, which cannot list them. */
  connectedClients?: () => ReadonlySet<string | undefined>;
}

/** The protocols of the clients of one server, by their {@linkcode clientKey}. */
export class ClientProtocols {
  readonly #protocols = new Map<string, Protocol>();
  /** The end of the authority in the URL of a request that names no host. */
  readonly #fallbackPort: string;
  readonly #connectedClients: ClientProtocolsOptions["connectedClients"];
  #pruneAt = firstPrune;

  constructor({ fallbackAddress, connectedClients }: ClientProtocolsOptions) {
    this.#fallbackPort = "port" in fallbackAddress ? `:${fallbackAddress.port}/` : "no port";
    this.#connectedClients = connectedClients;
  }

  /** The protocol of a client; undefined before its first request was noted. */
  get(client: string): Protocol | undefined {
    return this.#protocols.get(client);
  }

  /** Sets the protocol of a client. */
  set(client: string, protocol: Protocol): void {
    this.#protocols.set(client, protocol);
  }

  /** Notes the protocol of a client by its request; removes disconnected clients now and then. */
  note(client: string, request: Request): void {
    this.#protocols.set(client, this.protocolOf(request));
    if (this.#protocols.size > this.#pruneAt) this.#prune();
  }

  /** Forgets every client. */
  clear(): void {
    this.#protocols.clear();
  }

  /** The protocol of a request, by the headers that only one version of HTTP may have. */
  protocolOf({ headers, url }: Request): Protocol {
    // RFC 9113, 8.2.2: HTTP/2 has no connection-specific headers.
    if (headers.has("connection") || headers.has("transfer-encoding")) return "HTTP/1";
    if (headers.has("host")) return "HTTP/1 or 2";
    // HTTP/2 names the host in :authority; HTTP/1.0 need not name one.
    const authority = url.slice(0, url.indexOf("/", "https://".length) + 1);
    return authority.endsWith(this.#fallbackPort) ? "HTTP/1" : "HTTP/2";
  }

  #prune(): void {
    // Without a list of connected clients all are forgotten: each is noted again at its next request.
    if (!this.#connectedClients) return this.#protocols.clear();
    const connected = this.#connectedClients();
    for (const client of this.#protocols.keys()) {
      if (!connected.has(client)) this.#protocols.delete(client);
    }
    this.#pruneAt = Math.max(firstPrune, 2 * this.#protocols.size);
  }
}

/** The symbol under which Deno keeps the internals of a Request: not part of its public interface. */
let innerRequest: symbol | undefined;

/**
 * Whether a request is certainly HTTP/1: a header name has a capital letter, which HTTP/2 forbids (RFC 9113,
 * 8.2.1). Deno keeps the case of header names from 2.8.3 on; before, it closes an HTTP/1 connection itself
 * behind an answer with `Connection: close`.
 */
export function hasHttp1HeaderNames(request: Request): boolean {
  try {
    innerRequest ??= Object.getOwnPropertySymbols(request)
      .find(({ description }) => description === "request");
    const { headerList } =
      (request as unknown as Record<symbol, { headerList: [string, string][] }>)[
        innerRequest!
      ];
    return headerList.some(([name]) => /[A-Z]/.test(name));
  } catch {
    // Another version of Deno may keep the headers elsewhere: the version of HTTP stays uncertain.
    return false;
  }
}
